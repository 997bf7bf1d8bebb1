//! Numbers, shares and times as a reader wants them.

use jiff::Timestamp;

/// A whole number with commas: `2,310`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its share: `457 of 2,310 requests (19.8 %)`.
pub fn share(count: u64, all: u64, what: &str) -> String {
    if all == 0 {
        return format!("{} {what}", number(count));
    }
    let percent = count as f64 * 100.0 / all as f64;
    let percent = if percent >= 99.95 || percent == 0.0 {
        format!("{percent:.0}")
    } else if percent < 0.1 {
        format!("{percent:.2}")
    } else {
        format!("{percent:.1}")
    };
    format!("{} of {} {what} ({percent} %)", number(count), number(all))
}

/// A count of things: `1 pod`, `2,310 pods`.
pub fn several(count: u64, what: &str) -> String {
    format!("{} {what}{}", number(count), if count == 1 { "" } else { "s" })
}

/// How often: `once`, `2,310 times`.
pub fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{} times", number(count)) }
}

/// A time of day in UTC: `14:02:11Z`.
pub fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}

/// Milliseconds as a reader says them: `450 ms`, `2.5 s`.
pub fn milliseconds(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        let text = format!("{:.2}", ms as f64 / 1000.0);
        format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A word of the cluster that has to stand in a sentence: only harmless characters of it, and no more than `limit`.
pub fn plain(text: &str, limit: usize) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || " -_./:,|{}[]()*@=".contains(c);
    text.chars().filter(|c| harmless(*c)).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(number(12), "12");
        assert_eq!((several(1, "pod"), several(1200, "pod")), ("1 pod".to_owned(), "1,200 pods".to_owned()));
        assert_eq!(share(457, 2310, "requests"), "457 of 2,310 requests (19.8 %)");
        assert_eq!(share(7, 7, "requests"), "7 of 7 requests (100 %)");
        assert_eq!(milliseconds(2500), "2.5 s");
        assert_eq!(milliseconds(45), "45 ms");
        assert_eq!(plain("a\u{202e}b\n<c>", 9), "abc");
    }
}
