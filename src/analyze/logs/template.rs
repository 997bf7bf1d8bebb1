//! The shape of a message: what varies from line to line is masked.

/// Messages are looked at up to this many bytes; what follows tells no two shapes apart.
const MAX_MESSAGE: usize = 512;

/// The message with numbers, identifiers, addresses and quoted text masked, so that two lines of one statement are equal.
pub fn template(message: &str) -> String {
    let message = crate::analyze::finding::cut(message, MAX_MESSAGE);
    let mut out = String::with_capacity(message.len());
    let mut word = String::new();
    let mut quote = None;
    for c in message.chars() {
        if let Some(open) = quote {
            if c == open {
                quote = None;
                out.push('*');
                out.push(c);
            }
            continue;
        }
        if matches!(c, '"' | '`') {
            flush(&mut word, &mut out);
            out.push(c);
            quote = Some(c);
        } else if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

/// Ends a word: masked where it holds a digit, but for a short word that begins with letters (`v1`, `IPv4`, `http2`).
fn flush(word: &mut String, out: &mut String) {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let name = word.starts_with(|c: char| c.is_alphabetic()) && digits <= 2 && word.len() <= 8;
    if digits == 0 || name {
        out.push_str(word);
    } else {
        // `10ms`, `1.5s` keep their unit: a time is not a size.
        let unit: String = word.chars().skip_while(|c| !c.is_alphabetic()).collect();
        let measured = word.starts_with(|c: char| c.is_ascii_digit())
            && unit.len() <= 3
            && unit.bytes().all(|b| b.is_ascii_alphabetic());
        out.push('*');
        if measured {
            out.push_str(&unit);
        }
    }
    word.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_masked() {
        let a = template("request 6f1c2b-77 for 10.0.0.1:80 took 12ms (total=1, waiting=3) \"abc\"");
        let b = template("request 8d1c2b-12 for 10.9.0.1:81 took 900ms (total=20, waiting=0) \"x y\"");
        assert_eq!(a, b);
        assert!(a.contains("took *ms"), "{a}");
    }

    #[test]
    fn words_stay() {
        assert_eq!(template("starting v1 on http2"), "starting v1 on http2");
        assert_ne!(template("cannot open file"), template("cannot close file"));
        assert_eq!(template(""), "");
    }
}
