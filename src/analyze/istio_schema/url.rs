//! URLs as Go's `net/url` reads them, which is what Istio asks of them.

/// The scheme in small letters, empty where there is none; `None` where the text is no URL. `request` is whether it has to stand
/// for itself, as in the first line of a request: with a scheme, or as an absolute path.
pub(super) fn scheme(text: &str, request: bool) -> Option<String> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) || request && text.is_empty() {
        return None;
    }
    let text = match text.split_once('#').filter(|_| !request) {
        Some((text, fragment)) if escaped(fragment) => text,
        Some(_) => return None,
        None => text,
    };
    let (scheme, rest) = head(text)?;
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Some(scheme);
        }
        let first = rest.split('/').next().unwrap_or_default();
        return (!request && !first.contains(':') && escaped(rest)).then_some(scheme);
    }
    let authority =
        rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !request && !rest.starts_with("///"));
    let path = match authority {
        Some(authority) => {
            let end = authority.find('/').unwrap_or(authority.len());
            let (authority, path) = authority.split_at(end);
            if !is_authority(authority) {
                return None;
            }
            path
        }
        None => rest,
    };
    escaped(path).then_some(scheme)
}

/// What stands before the first colon, if it can be a scheme.
fn head(text: &str) -> Option<(String, &str)> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return None,
            ':' => {
                let (scheme, rest) = text.split_at(at);
                return Some((scheme.to_ascii_lowercase(), rest.get(1..).unwrap_or_default()));
            }
            _ => break,
        }
    }
    Some((String::new(), text))
}

/// Whether each percent sign stands before two hexadecimal digits.
fn escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        rest.as_bytes().first_chunk::<2>().is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    })
}

/// A host with or without a port and what stands before an at sign.
fn is_authority(text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').map_or(("", text), |(user, host)| (user, host));
    // Brackets are those of a mask: credentials are masked on their way in.
    let of_user = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@[]".contains(c);
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) => (name, port),
            None => return false,
        },
        None => host.rfind(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let of_host =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"".contains(c);
    let port =
        port.strip_prefix(':').map_or(port.is_empty(), |port| port.bytes().all(|byte| byte.is_ascii_digit()));
    user.chars().all(of_user) && escaped(user) && port && name.chars().all(|c| of_host(c) || c == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_of_urls_and_of_what_is_none() {
        for (text, request, expected) in [
            ("https://a.example/x", false, Some("https")),
            ("HTTPS://a.example", false, Some("https")),
            ("http://[::1]:80/", false, Some("http")),
            ("http://a:b@c.example:8080/x?y#z", false, Some("http")),
            ("https://[redacted:url-credentials]@c.example/x", false, Some("https")),
            ("a.example", false, Some("")),
            ("a.example", true, None),
            ("/a", true, Some("")),
            ("registry:5000/image:1", true, Some("registry")),
            ("10.0.0.1:80", false, None),
            ("https://a.example:x/", false, None),
            ("https://a b.example", false, None),
            ("https://a.example/a b", false, Some("https")),
            ("https://a.example/%zz", false, None),
            ("https://[::1", false, None),
            (":", false, None),
            ("", true, None),
            ("", false, Some("")),
            ("a\n", false, None),
        ] {
            assert_eq!(scheme(text, request).as_deref(), expected, "{text}");
        }
    }
}
