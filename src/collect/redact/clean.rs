//! Dropping characters that are no text.

use std::borrow::Cow;

/// Drops control characters but line feed and tab, terminal escape sequences, and characters that change the direction
/// of text or break lines in some viewers only. Bytes that are no UTF-8 stay.
pub(super) fn clean(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(skip) = bytes.get(at..).and_then(first_suspect) {
        at += skip;
        let dropped = dropped(bytes.get(at..).unwrap_or_default());
        if dropped > 0 {
            let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
            out.extend_from_slice(bytes.get(copied..at).unwrap_or_default());
            copied = at + dropped;
        }
        at += dropped.max(1);
    }
    match out {
        None => Cow::Borrowed(bytes),
        Some(mut out) => {
            out.extend_from_slice(bytes.get(copied..).unwrap_or_default());
            Cow::Owned(out)
        }
    }
}

/// Bytes that are judged at a time: every byte that comes in is looked at here, and without a branch for each of them processors judge many at once.
const BLOCK: usize = 64;

/// The place of the first byte with which something that is dropped may begin.
fn first_suspect(bytes: &[u8]) -> Option<usize> {
    let holds = |block: &&[u8]| block.iter().fold(false, |any, byte| any | suspect(*byte));
    let (at, block) = bytes.chunks(BLOCK).enumerate().find(|(_, block)| holds(block))?;
    block.iter().position(|byte| suspect(*byte)).map(|within| at * BLOCK + within)
}

/// Whether something that is dropped may begin with this byte.
fn suspect(byte: u8) -> bool {
    let control = (byte < 0x20) & (byte != b'\n') & (byte != b'\t');
    control | (byte == 0x7f) | (byte == 0xc2) | (byte == 0xd8) | (byte == 0xe2) | (byte == 0xef)
}

/// How many bytes at the beginning are to be dropped.
fn dropped(bytes: &[u8]) -> usize {
    match bytes {
        [0x1b, b'[', rest @ ..] => {
            // CSI: parameters and intermediates, then one final byte.
            let body = rest.iter().position(|byte| !(0x20..=0x3f).contains(byte)).unwrap_or(rest.len());
            let last = rest.get(body).is_some_and(|byte| (0x40..=0x7e).contains(byte));
            2 + body + usize::from(last)
        }
        [0x1b, b']', rest @ ..] => {
            // OSC, up to BEL or ESC \; without an end only its introducer goes.
            let end = rest.iter().take(MAX_OSC).position(|byte| matches!(byte, 0x07 | 0x1b | b'\n'));
            match end.map(|end| (end, rest.get(end), rest.get(end + 1))) {
                Some((end, Some(0x07), _)) => 2 + end + 1,
                Some((end, Some(0x1b), Some(b'\\'))) => 2 + end + 2,
                _ => 2,
            }
        }
        [first, ..] if *first < 0x20 || *first == 0x7f => 1,
        // C1 controls.
        [0xc2, 0x80..=0x9f, ..] => 2,
        // U+061C Arabic letter mark.
        [0xd8, 0x9c, ..] => 2,
        // U+200E, U+200F, U+2028 … U+202E, U+2066 … U+2069.
        [0xe2, 0x80, 0x8e | 0x8f | 0xa8..=0xae, ..] | [0xe2, 0x81, 0xa6..=0xa9, ..] => 3,
        // U+FEFF byte order mark.
        [0xef, 0xbb, 0xbf, ..] => 3,
        _ => 0,
    }
}

/// A terminal title longer than this is none.
const MAX_OSC: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        String::from_utf8(clean(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn controls_colours_and_direction_go_and_text_stays() {
        assert_eq!(cleaned("a\tb\r\n\x07c\x7f"), "a\tb\nc");
        assert_eq!(cleaned("\x1b[1;31mERROR\x1b[0m x"), "ERROR x");
        assert_eq!(cleaned("\x1b]0;title\x07x \x1b]8;;http://a\x1b\\y"), "x y");
        assert_eq!(cleaned("\x1b]never ends\n"), "never ends\n");
        assert_eq!(cleaned("admin\u{202e}nimda\u{2066}\u{061c}\u{feff}\u{9b}"), "adminnimda");
        let plain = "größe → 3 ✓ 日本語 £ \u{1f600}";
        assert!(matches!(clean(plain.as_bytes()), Cow::Borrowed(_)));
        assert!(matches!(clean(b"\xff\xe2\x80 invalid"), Cow::Borrowed(_)));
        // Wherever it stands in a long text.
        for before in 0..2 * BLOCK + 2 {
            assert_eq!(
                cleaned(&format!("{}\x07{}", "a".repeat(before), "b".repeat(BLOCK))).len(),
                before + BLOCK
            );
        }
    }
}
