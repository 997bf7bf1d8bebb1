//! What a proxy puts in for operators such as `%REQ(x-user)%` in the values of headers that a route adds.

use super::headers::{self, Carried};

/// What a value comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// No text at all, which adds no header.
    Nothing,
    /// This text; an empty one is what blanks alone come to, whose header is there.
    Is(String),
    /// Nobody can tell from configuration; the operator that says so, as it is written.
    Undecided(String),
}

impl Value {
    /// What was put together, as whoever receives it reads it.
    fn of(whole: &str, read: &str) -> Self {
        if whole.is_empty() { Value::Nothing } else { Value::Is(read.to_owned()) }
    }
}

/// A request as the operators see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The Host header.
    pub authority: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// `HTTP/1.1` or `HTTP/2`, where that is known.
    pub protocol: Option<&'static str>,
    /// The route's name.
    pub route: String,
    /// The headers.
    pub headers: Carried,
}

/// An answer on its way back, as the operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Whether it comes from behind the proxy, which has no code of an answer that it gives itself yet when it changes headers.
    pub upstream: bool,
    /// The response flags, where they are known; `-` for none.
    pub flags: Option<&'static str>,
    /// What Envoy calls the reason of the answer, where that is known.
    pub details: Option<&'static str>,
}

impl Reply {
    /// From behind the proxy. Failures may have been tried again, which leaves flags.
    pub fn upstream(status: u16) -> Self {
        let flags = (status < 400).then_some("-");
        Reply { status, upstream: true, flags, details: Some("via_upstream") }
    }

    /// A proxy's own, with the flag that the twin knows of it.
    pub fn own(status: u16, flag: &str) -> Self {
        let (flags, details) = match flag {
            "UH" => (Some("UH"), Some("no_healthy_upstream")),
            "NC" => (Some("NC"), Some("cluster_not_found")),
            // A fault's delay before it has a flag of its own.
            "FI" => (None, Some("fault_filter_abort")),
            _ => (None, None),
        };
        Reply { status, upstream: false, flags, details }
    }

    /// What a route answers itself: a redirect, a direct response.
    pub fn direct(status: u16) -> Self {
        Reply { status, upstream: false, flags: Some("-"), details: Some("direct_response") }
    }
}

/// Operators that stand for a part of something and need to be told which.
const ABOUT: &[&str] =
    &["REQ", "RESP", "TRAILER", "ENVIRONMENT", "FILTER_STATE", "DYNAMIC_METADATA", "METADATA", "QUERY_PARAM"];
/// Operators that stand for one thing, and take neither an argument nor a length.
const BARE: &[&str] = &[
    "PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_FLAGS",
    "ROUTE_NAME",
    "DURATION",
    "BYTES_SENT",
    "BYTES_RECEIVED",
];

/// A part of a value.
enum Piece<'v> {
    Text(&'v str),
    Operator { written: &'v str, name: &'v str, argument: &'v str, most: Option<usize> },
}

/// Why Envoy takes no route table with this value in it; none where it does.
pub fn refused(value: &str) -> Option<String> {
    match pieces(value) {
        Err(at) => {
            Some(format!("{value:?} has a % at {at} that begins no operator (a plain one is written %%)"))
        }
        Ok(pieces) => pieces.iter().find_map(|piece| match piece {
            Piece::Operator { written, name, .. } if !known(name) => {
                Some(format!("{written} is no operator"))
            }
            Piece::Operator { name, argument, .. } if ABOUT.contains(name) && argument.is_empty() => {
                Some(format!("{name} says not of what: %{name}(…)%"))
            }
            Piece::Operator { written, name, .. } if BARE.contains(name) && written != name => {
                Some(format!("{name} takes nothing beside it, and {written} says more"))
            }
            _ => None,
        }),
    }
}

/// The parts of a value; where the percent sign stands that begins none.
fn pieces(value: &str) -> Result<Vec<Piece<'_>>, usize> {
    let mut out = vec![];
    let mut rest = value;
    while let Some((text, after)) = rest.split_once('%') {
        if !text.is_empty() {
            out.push(Piece::Text(text));
        }
        if let Some(after) = after.strip_prefix('%') {
            out.push(Piece::Text("%"));
            rest = after;
            continue;
        }
        let (piece, after) = operator(after).ok_or(value.len() - after.len() - 1)?;
        out.push(piece);
        rest = after;
    }
    if !rest.is_empty() {
        out.push(Piece::Text(rest));
    }
    Ok(out)
}

/// An operator, behind its first percent sign: a name, an argument in parentheses, a length.
fn operator(text: &str) -> Option<(Piece<'_>, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, rest) = text.split_at_checked(end).filter(|(name, _)| !name.is_empty())?;
    // What stands in parentheses may hold percent signs and parentheses: the first closing one that fits is the end.
    let ends = |from: &str| -> Option<(Option<usize>, usize)> {
        let (most, after) = match from.strip_prefix(':') {
            Some(number) => {
                let digits = number.find(|c: char| !c.is_ascii_digit())?;
                (Some(number.get(..digits)?.parse().ok()?), number.get(digits..)?)
            }
            None => (None, from),
        };
        after.starts_with('%').then(|| (most, text.len() - after.len() + 1))
    };
    let piece = |argument, (most, end): (Option<usize>, usize)| {
        let written = text.get(..end - 1)?;
        Some((Piece::Operator { written, name, argument, most }, text.get(end..)?))
    };
    let Some(inside) = rest.strip_prefix('(') else { return piece("", ends(rest)?) };
    inside
        .match_indices(')')
        .find_map(|(at, _)| Some((inside.get(..at)?, ends(inside.get(at + 1..)?)?)))
        .and_then(|(argument, found)| piece(argument, found))
}

/// Whether Envoy has an operator of that name; those of extensions that Istio does not load are none.
fn known(name: &str) -> bool {
    const FAMILIES: &[&str] = &[
        "BYTES_",
        "PACKETS_",
        "UPSTREAM_",
        "DOWNSTREAM_",
        "REQUEST_",
        "RESPONSE_",
        "START_TIME",
        "EMIT_TIME",
        "TLS_",
        "DYNAMIC_METADATA",
        "FILTER_STATE",
        "QUERY_PARAM",
        "GRPC_STATUS",
        "CUSTOM_FLAGS",
    ];
    const NAMES: &[&str] = &[
        "ACCESS_LOG_TYPE",
        "CEL",
        "CLUSTER_METADATA",
        "COMMON_DURATION",
        "CONNECTION_ID",
        "CONNECTION_TERMINATION_DETAILS",
        "DURATION",
        "ENVIRONMENT",
        "FILTER_CHAIN_NAME",
        "HOSTNAME",
        "LOCAL_REPLY_BODY",
        "METADATA",
        "PATH",
        "PROTOCOL",
        "REQ",
        "REQUESTED_SERVER_NAME",
        "RESP",
        "ROUND_TRIP_DURATION",
        "ROUNDTRIP_DURATION",
        "ROUTE_NAME",
        "SPAN_ID",
        "STREAM_ID",
        "TRACE_ID",
        "TRAILER",
        "UNIQUE_ID",
        "VIRTUAL_CLUSTER_NAME",
    ];
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// What a value comes to: in a request, or in an answer whose headers are `reply`'s second part.
pub fn put_in(value: &str, asked: &Asked, reply: Option<(Reply, &Carried)>) -> Value {
    if !value.contains('%') {
        return Value::of(value, value);
    }
    let Ok(pieces) = pieces(value) else { return Value::Undecided(value.to_owned()) };
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Operator { written, name, argument, most } => {
                let said = one(name, argument, asked, reply);
                let said = said.and_then(|said| match most {
                    Some(most) if said.len() > most => said.get(..most).map(str::to_owned),
                    _ => Some(said),
                });
                match said {
                    Some(said) => out.push_str(&said),
                    None => return Value::Undecided(format!("%{written}%")),
                }
            }
        }
    }
    // Blanks around a value are none of it to whoever receives it.
    Value::of(&out, out.trim_matches([' ', '\t']))
}

/// What one operator comes to; none where that is not known.
fn one(name: &str, argument: &str, asked: &Asked, reply: Option<(Reply, &Carried)>) -> Option<String> {
    let text = |text: &str| Some(text.to_owned());
    match (name, reply) {
        ("REQ", _) => either(argument, |name| match name {
            ":method" => Some(asked.method.clone()),
            ":path" => Some(asked.path.clone()),
            ":authority" | "host" => Some(asked.authority.clone()),
            ":scheme" => text(asked.scheme),
            name => asked.headers.tell(name, sets_itself),
        }),
        // A request has no answer yet.
        ("RESP" | "RESPONSE_CODE_DETAILS", None) => text(""),
        ("RESPONSE_CODE", None) => text("0"),
        ("RESPONSE_FLAGS", None) => text("-"),
        ("RESP", Some((reply, own))) => either(argument, |name| match name {
            ":status" => Some(reply.status.to_string()),
            // What else a backend sends is not told.
            name if reply.upstream => headers::get(&own.known, name).and_then(|_| own.tell(name, |_| false)),
            name => own.tell(name, |name| matches!(name, "content-length" | "content-type")),
        }),
        ("RESPONSE_CODE", Some((reply, _))) => {
            Some(if reply.upstream { reply.status } else { 0 }.to_string())
        }
        ("RESPONSE_CODE_DETAILS", Some((reply, _))) => reply.details.map(str::to_owned),
        ("RESPONSE_FLAGS", Some((reply, _))) => reply.flags.map(str::to_owned),
        ("PROTOCOL", _) => asked.protocol.map(str::to_owned),
        ("ROUTE_NAME", _) => text(&asked.route),
        _ => None,
    }
}

/// `main?other`: the other header where the main one is missing.
fn either(argument: &str, find: impl Fn(&str) -> Option<String>) -> Option<String> {
    let argument = argument.to_ascii_lowercase();
    let (main, other) = argument.split_once('?').unwrap_or((&argument, ""));
    match find(main)? {
        missing if missing.is_empty() && !other.is_empty() => find(other),
        found => Some(found),
    }
}

/// Headers of a request that a client's program or the proxy itself sends, whatever the question says.
fn sets_itself(name: &str) -> bool {
    const OWN: &[&str] = &[
        "accept",
        "accept-encoding",
        "accept-language",
        "b3",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "expect",
        "forwarded",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-request-id",
    ];
    OWN.contains(&name) || ["x-envoy-", "x-forwarded-", "x-b3-"].iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked() -> Asked {
        let headers =
            [("X-User", "alice"), ("x-tier", "gold")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Asked {
            method: "GET".into(),
            path: "/a?x=7".into(),
            authority: "shop.example.com".into(),
            scheme: "http",
            protocol: Some("HTTP/1.1"),
            route: "first".into(),
            headers: Carried::of(headers),
        }
    }

    fn is(value: &str, reply: Option<Reply>) -> String {
        let own = Carried::of([("x-from".to_owned(), "backend".to_owned())].into());
        let empty = Carried::default();
        let reply = reply.map(|reply| (reply, if reply.upstream { &own } else { &empty }));
        match put_in(value, &asked(), reply) {
            Value::Nothing => String::new(),
            Value::Is(text) => text,
            Value::Undecided(operator) => format!("? {operator}"),
        }
    }

    #[test]
    fn what_a_request_says_is_put_in() {
        for (value, said) in [
            ("plain", "plain"),
            ("100%%", "100%"),
            ("%PROTOCOL% %REQ(x-none)%", "HTTP/1.1"),
            ("a%%b[%REQ(x-user)%][%REQ(x-none)%]", "a%b[alice][]"),
            ("%REQ(X-NONE?X-USER)%", "alice"),
            ("%REQ(x-user):3%", "ali"),
            (
                "%REQ(:path)% %REQ(:authority)% %REQ(:method)% %REQ(:scheme)%",
                "/a?x=7 shop.example.com GET http",
            ),
            ("%PROTOCOL% %ROUTE_NAME%", "HTTP/1.1 first"),
            ("%RESPONSE_CODE%%RESPONSE_FLAGS%%RESP(x-from)%", "0-"),
            ("%DURATION% ms", "? %DURATION%"),
            ("%START_TIME(%s.%3f)%", "? %START_TIME(%s.%3f)%"),
            ("%REQ(user-agent)%", "? %REQ(user-agent)%"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "? %DOWNSTREAM_REMOTE_ADDRESS%"),
        ] {
            assert_eq!(is(value, None), said, "{value}");
        }
    }

    #[test]
    fn blanks_alone_are_a_value_and_nothing_is_none() {
        assert_eq!(put_in("%REQ(x-none)% %REQ(x-none)%", &asked(), None), Value::Is(String::new()));
        for nothing in ["", "%REQ(x-none)%", "%REQ(x-none)%%REQ(x-none)%"] {
            assert_eq!(put_in(nothing, &asked(), None), Value::Nothing, "{nothing}");
        }
    }

    #[test]
    fn a_proxys_own_answer_has_no_code_yet_and_the_backends_has() {
        let value = "%RESPONSE_CODE% %RESP(:status)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %RESP(x-from)%";
        assert_eq!(is(value, Some(Reply::upstream(200))), "200 200 - via_upstream backend");
        assert_eq!(is(value, Some(Reply::own(503, "UH"))), "0 503 UH no_healthy_upstream");
        assert_eq!(is(value, Some(Reply::own(503, "NC"))), "0 503 NC cluster_not_found");
        assert_eq!(is(value, Some(Reply::direct(418))), "0 418 - direct_response");
        assert_eq!(is("%RESPONSE_FLAGS%", Some(Reply::own(503, "UC"))), "? %RESPONSE_FLAGS%");
        assert_eq!(is("%RESP(x-other)%", Some(Reply::upstream(200))), "? %RESP(x-other)%");
    }

    #[test]
    fn what_envoy_takes_no_table_with_is_said() {
        for value in [
            "100%",
            "%foo%",
            "%REQ(x-user)",
            "%REQ(x):%",
            "50 % of it",
            "%HTTP_CODE%",
            "%%%",
            "%REQ%",
            "%REQ()%",
            "%PROTOCOL:2%",
            "%RESPONSE_CODE(x)%",
        ] {
            assert!(refused(value).is_some(), "{value}");
        }
        for value in
            ["", "plain", "100%%", "%REQ(x)%", "%REQ(x?y):12%", "%START_TIME(%s.%3f)%", "%RESPONSE_CODE%"]
        {
            assert_eq!(refused(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm_and_plain_text_stays(text in "[%A-Z(x):?3é ]{0,40}", plain in "[a-z ()]{1,20}") {
            let _ = (refused(&text), put_in(&text, &asked(), None));
            prop_assert_eq!(put_in(&plain, &asked(), None), Value::Is(plain.clone()));
            let doubled = plain.replace(' ', "%%");
            prop_assert_eq!(put_in(&doubled, &asked(), None), Value::Is(plain.replace(' ', "%")));
        }
    }
}
