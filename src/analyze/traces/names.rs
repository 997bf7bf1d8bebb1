//! Operations whose names hold ids, brought to one name.

/// Words by which programs name their handlers of errors: spans of these come with failures and go with them.
const ERROR_WORDS: &[&str] = &["error", "exception", "fallback", "failure"];

/// The operation without what differs from request to request: numbers, UUIDs and long hexadecimal words between separators
/// become `*`, a query goes.
pub(super) fn pattern(operation: &str) -> String {
    let operation = operation.split_once('?').map_or(operation, |(path, _)| path);
    let mut out = String::with_capacity(operation.len());
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        if is_id(word) {
            if !out.ends_with("*") {
                out.push('*');
            }
        } else {
            out.push_str(word);
        }
        word.clear();
    };
    for c in operation.chars() {
        if c.is_alphanumeric() || (c == '-' && !word.is_empty()) {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

fn is_id(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits > 0 && (word.bytes().all(|b| b.is_ascii_digit() || b == b'-') || (word.len() >= 8 && hex(word)))
}

/// Whether an operation is by its name a handler of errors.
pub(super) fn handles_errors(operation: &str) -> bool {
    let lower = operation.to_ascii_lowercase();
    ERROR_WORDS.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_and_versions_stay() {
        assert_eq!(pattern("GET /api/v1/users/0815?x=1"), "GET /api/v1/users/*");
        assert_eq!(pattern("/o/6f9619ff-8b86-d011-b42d-00cf4fc964ff/items"), "/o/*/items");
        assert_eq!(pattern("Trip2Controller.left-pad"), "Trip2Controller.left-pad");
        assert_eq!(pattern("SELECT a.decade"), "SELECT a.decade");
        assert!(handles_errors("BasicErrorHandler.handle") && !handles_errors("GET /items"));
    }
}
