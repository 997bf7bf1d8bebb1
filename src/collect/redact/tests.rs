use super::*;
use proptest::prelude::*;

fn redacted(text: &str) -> String {
    redact_text(text, &mut Counts::default()).into_owned()
}

#[test]
fn secrets_are_masked() {
    let cases = [
        ("login with password=hunter2 ok", "login with password=[redacted:password] ok"),
        ("DB_PASSWORD: \"hunter 2\", x", "DB_PASSWORD: \"[redacted:password]\", x"),
        (r#"{"clientSecret":"a\"b","x":1}"#, r#"{"clientSecret":"[redacted:secret]","x":1}"#),
        (r#"{\"apiKey\":\"abc\",\"x\":1}"#, r#"{\"apiKey\":\"[redacted:secret]\",\"x\":1}"#),
        (r#""token": 12345678, "a": 1"#, r#""token": [redacted:secret], "a": 1"#),
        (
            r#"{"name":"DB_PASSWORD","value":"x y"}"#,
            r#"{"name":"DB_PASSWORD","value":"[redacted:password]"}"#,
        ),
        (
            r#"{\"name\":\"API_TOKEN\",\"value\":\"x\"}"#,
            r#"{\"name\":\"API_TOKEN\",\"value\":\"[redacted:secret]\"}"#,
        ),
        ("GET /a?api_key=abc&b=1 200", "GET /a?api_key=[redacted:secret]&b=1 200"),
        ("jdbc:mysql://db/x?user=u&password=p", "jdbc:mysql://db/x?user=u&password=[redacted:password]"),
        ("Server=db;Uid=u;Pwd=p@ss;", "Server=db;Uid=u;Pwd=[redacted:password];"),
        ("postgres://app:p%40ss@db:5432/x", "postgres://app:[redacted:url-credentials]@db:5432/x"),
        ("redis://:hunter2@cache:6379", "redis://:[redacted:url-credentials]@cache:6379"),
        ("app:hunter2@tcp(db:3306)/x", "app:[redacted:url-credentials]@tcp(db:3306)/x"),
        (
            "https://0123456789abcdefABCD@git.example.com/x",
            "https://[redacted:url-credentials]@git.example.com/x",
        ),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted:authorization]"),
        (
            r#""authorization":"Basic dXNlcjpwYXNz","x""#,
            r#""authorization":"Basic [redacted:authorization]","x""#,
        ),
        ("got bearer abcDEF0123456789", "got bearer [redacted:authorization]"),
        ("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln y", "x [redacted:jwt] y"),
        ("key AKIAIOSFODNN7EXAMPLE used", "key [redacted:aws-key] used"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=[redacted:secret]"),
        ("push ghp_0123456789abcdefghijABCDEFGHIJ012345", "push [redacted:token]"),
        ("Cookie: session=abcdef; theme=dark", "Cookie: [redacted:cookie]"),
        ("user jane.doe+x@example.co.uk failed", "user [redacted:email] failed"),
        (
            "https://s3/x?X-Amz-Signature=0123456789abcdef0123&y=1",
            "https://s3/x?X-Amz-Signature=[redacted:signature]&y=1",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(redacted(text), expected);
        assert_eq!(redacted(expected), expected, "twice is once");
    }
}

#[test]
fn what_an_analysis_lives_on_stays() {
    let cases = [
        r#"[2026-11-21T10:00:00.123Z] "GET /pay?x=1 HTTP/1.1" 503 UF,URX upstream_reset_before_response_started{remote_connection_failure,delayed_connect_error:_111} - "delayed_connect_error:_111" 0 167 3 - "-" "Go-http-client/1.1" "8b1f1c5e-1c0f-9d7e-b7f8-0f9b6a1f2c3d" "checkout.shop:80" "10.0.0.7:8080" outbound|80|v2|checkout.shop.svc.cluster.local - 10.0.0.9:80 10.0.1.2:41234 - default"#,
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "x-request-id=8b1f1c5e-1c0f-9d7e-b7f8-0f9b6a1f2c3d trace_id=4bf92f3577b34da6a3ce929d0e0e4736",
        "image r.io/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "ReplicaSet checkout-7d9f8c6b5d pod checkout-7d9f8c6b5d-x2x9q",
        "dial tcp 10.0.0.1:8080: connect: connection refused to http://user-service:8080/path?mail=a",
        "http://a.b:8080/users/x@y and oci://registry:5000/x",
        "secret \"db-credentials\" not found",
        "MountVolume.SetUp failed for volume \"x\": secret not found",
        "password: invalid for user root",
        "token: expired",
        "repository does not exist or may require authorization: server message: insufficient_scope",
        "secretName: db, imagePullSecrets: [x], tokenPath=/var/run/secrets/tokens/istio-token",
        "PASSWORD_FILE=/run/secrets/db max_tokens=100 TOKENIZER_MODE=fast monkey=banana PWD=/app",
        "basic authentication is required, bearer of bad news",
        "getty@tty1.service started, spiffe://cluster.local/ns/shop/sa/checkout",
        "java.lang.Object@1b2c3d4e react@18.2.0 git@github.com:org/repo.git",
        "risk-assessment-for-something-quite-long task-0123456789",
        "3 passed, pass: 5 fail: 2, compass=north, key=value, keyword: x",
        "env DB_PASSWORD=$(SECRET) --token=${TOKEN}",
    ];
    for text in cases {
        assert_eq!(redacted(text), text);
    }
}

#[test]
fn private_keys_go_whole_even_over_lines_and_cut_off() {
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n".repeat(3);
    let key =
        format!("before\n-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----\nafter\n");
    assert_eq!(redacted(&key), "before\n[redacted:private-key]\nafter\n");
    let cut = format!("before\n-----BEGIN PRIVATE KEY-----\n{body}after all this\n");
    assert_eq!(redacted(&cut), "before\n[redacted:private-key]after all this\n");
    let escaped = r#"{"key":"-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\n","a":1}"#;
    assert_eq!(redacted(escaped), r#"{"key":"[redacted:private-key]\n","a":1}"#);
    let public = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    assert_eq!(redacted(public), public);
}

#[test]
fn counts_are_kept_per_kind() {
    let mut counts = Counts::default();
    let text = b"password=a b=c\nclean\npassword=b token=abc\n";
    let out = redact_bytes(text, &mut counts);
    assert_eq!(
        &out[..],
        b"password=[redacted:password] b=c\nclean\npassword=[redacted:password] token=[redacted:secret]\n"
    );
    assert_eq!(counts.iter().collect::<Vec<_>>(), [("password", 2), ("secret", 1)]);
    let mut sum = counts.clone();
    sum.add(&counts);
    assert_eq!(sum.total(), 6);
}

#[test]
fn names_beside_masks_are_no_secrets_and_masks_are_no_names() {
    for once in
        ["bearer passwordsecretpassword=[redacted:password]", "password=[redacted:password] =password"]
    {
        assert_eq!(redacted(once), once);
    }
    assert_eq!(
        redacted("a=[redacted:x] password=hunter5hunter"),
        "a=[redacted:x] password=[redacted:password]"
    );
}

#[test]
fn what_only_begins_like_a_mask_hides_nothing_from_the_rules() {
    for (text, masked) in [
        ("[redacted: password=hunter5hunter", "[redacted: password=[redacted:password]"),
        ("[redacted:x password=hunter5hunter", "[redacted:x password=[redacted:password]"),
        ("[redacted:none] password=hunter5hunter", "[redacted:none] password=[redacted:password]"),
        ("[redacted:password=hunter5hunter]", "[redacted:password=[redacted:password]"),
        ("password=a[redacted:b", "password=[redacted:password]"),
        ("password=\"a[redacted:b]\"", "password=\"[redacted:password]\""),
    ] {
        assert_eq!(redacted(text), masked);
    }
}

#[test]
fn clean_text_is_not_copied() {
    assert!(matches!(redact_bytes(b"nothing here\n", &mut Counts::default()), Cow::Borrowed(_)));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = redact_bytes(&bytes, &mut Counts::default());
    }

    #[test]
    fn redacting_twice_is_redacting_once(text in "(password|token|secret|key|bearer|\\[redacted:|\\[redacted:password\\]|\\]|://|@|[a-z0-9.:=/\"'\\\\ \\n{},@]){0,40}") {
        let once = redacted(&text);
        prop_assert_eq!(redacted(&once), once);
    }
}
