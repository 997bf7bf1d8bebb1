//! Status codes of gRPC in error texts, as each language prints them, and what they mean for a call.

use regex::Regex;
use std::sync::LazyLock;

use super::kind::Kind;

/// Names of the codes from 0 on, as Go, .NET and Rust write them; others write them in capitals with underscores.
const CODES: [&str; 17] = [
    "ok",
    "canceled",
    "unknown",
    "invalidargument",
    "deadlineexceeded",
    "notfound",
    "alreadyexists",
    "permissiondenied",
    "resourceexhausted",
    "failedprecondition",
    "aborted",
    "outofrange",
    "unimplemented",
    "internal",
    "unavailable",
    "dataloss",
    "unauthenticated",
];

/// Go: `code = Unavailable desc`; Java: `StatusRuntimeException: UNAVAILABLE: io exception`; Python: `StatusCode.UNAVAILABLE`; Node:
/// `14 UNAVAILABLE: …`; .NET: `StatusCode="Unavailable"`; Rust: `status: Unavailable, message`.
static CODE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?:code = (\w+) desc|Status(?:Runtime)?Exception: ([A-Z_]+)\b|StatusCode\.([A-Z_]+)\b|\b\d{1,2} ([A-Z_]{5,}): |StatusCode="(\w+)"|status: (\w+), message)"#,
    )
    .ok()
});

/// What a status code in a text says: where it stands, and `None` for a call that its own caller gave up, which is never
/// the cause of anything, and for codes that answer a question and fail nothing.
pub(super) fn code(text: &str) -> Option<(Option<Kind>, usize)> {
    // All of the forms hold one of these; most texts hold none.
    if !["code = ", "Status", "status: ", ": "].iter().any(|part| text.contains(part)) {
        return None;
    }
    let found = CODE.as_ref()?.captures(text)?;
    let name = (1..=6).find_map(|group| found.get(group))?.as_str().to_ascii_lowercase().replace('_', "");
    let name = if name == "cancelled" { "canceled" } else { &name };
    let number = CODES.iter().position(|known| *known == name).filter(|number| *number > 0)?;
    Some((kind(number), found.get(0)?.start()))
}

/// A code as what an HTTP client would have seen.
fn kind(code: usize) -> Option<Kind> {
    Some(match code {
        2 | 13 | 15 => Kind::Status(500),
        3 | 9 | 11 => Kind::Status(400),
        4 => Kind::Timeout,
        5 => Kind::Status(404),
        7 => Kind::Status(403),
        8 => Kind::Status(429),
        10 => Kind::Status(409),
        12 => Kind::Unimplemented,
        14 => Kind::Status(503),
        16 => Kind::Status(401),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_many_languages() {
        for (text, kind) in [
            ("rpc error: code = Unavailable desc = transport is closing", Some(Kind::Status(503))),
            ("io.grpc.StatusRuntimeException: RESOURCE_EXHAUSTED: quota", Some(Kind::Status(429))),
            (
                "<_InactiveRpcError of RPC that terminated with: status = StatusCode.DEADLINE_EXCEEDED",
                Some(Kind::Timeout),
            ),
            ("Error: 12 UNIMPLEMENTED: The server does not implement the method", Some(Kind::Unimplemented)),
            ("Status(StatusCode=\"PermissionDenied\", Detail=\"no\")", Some(Kind::Status(403))),
            ("status: Internal, message: \"no\"", Some(Kind::Status(500))),
            ("rpc error: code = Canceled desc = context canceled", None),
            ("Error: 1 CANCELLED: Call cancelled", None),
            ("rpc error: code = AlreadyExists desc = x", None),
        ] {
            assert_eq!(code(text).map(|(kind, _)| kind), Some(kind), "{text}");
        }
    }

    #[test]
    fn other_texts_have_no_code() {
        for text in ["404 NOT FOUND", "status: ok, message", "exit code = 3", "5 ITEMS: a", ""] {
            assert_eq!(code(text), None, "{text}");
        }
    }
}
