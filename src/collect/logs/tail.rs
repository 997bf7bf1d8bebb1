//! The newest part of a text that may be endless, in whole lines and bounded memory.

use std::collections::VecDeque;

use crate::collect::kubernetes::reader::LineSink;

/// How much longer a line may be while it is read than when it is kept: a secret that the cut would split is still
/// whole when it is redacted.
const READ_AHEAD: usize = 4;

/// Keeps the newest whole lines of what is pushed into it. Bytes need not be UTF-8, and a line may be endless.
#[derive(Debug)]
pub struct Tail {
    limit: usize,
    line_cap: usize,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    line: Vec<u8>,
    seen: u64,
    truncated: bool,
}

impl Tail {
    /// Keeps at most `limit` bytes, and of one line four times `line_bytes` until it is redacted.
    pub fn new(limit: usize, line_bytes: usize) -> Self {
        Tail {
            limit,
            line_cap: line_bytes.saturating_mul(READ_AHEAD).clamp(1, limit.max(1)),
            lines: VecDeque::new(),
            bytes: 0,
            line: vec![],
            seen: 0,
            truncated: false,
        }
    }

    /// Lines that were seen, kept or not.
    pub fn lines_seen(&self) -> u64 {
        self.seen
    }

    /// What was kept, each line with its break, and whether anything is missing.
    pub fn finish(mut self) -> (Vec<u8>, bool) {
        if !self.line.is_empty() {
            self.end_line();
        }
        let mut out = Vec::with_capacity(self.bytes);
        for line in &self.lines {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        (out, self.truncated)
    }

    fn add(&mut self, part: &[u8]) {
        let room = self.line_cap.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
        self.truncated |= part.len() > room;
    }

    fn end_line(&mut self) {
        self.seen += 1;
        let line = std::mem::take(&mut self.line);
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > self.limit {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len() + 1;
            self.truncated = true;
        }
    }
}

impl LineSink for Tail {
    fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (line, tail) = rest.split_at(at);
            self.add(line);
            self.end_line();
            rest = tail.get(1..).unwrap_or_default();
        }
        self.add(rest);
    }

    fn cut(&mut self) {
        self.truncated = true;
    }
}

/// Cuts each line to `cap` bytes, at the border of a character where there is one.
pub fn cut_lines(text: &[u8], cap: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let body = line.strip_suffix(b"\n").unwrap_or(line);
        match body.get(..cap) {
            Some(head) if body.len() > cap => {
                let mut end = head.len();
                // A character of UTF-8 has at most three bytes that continue it.
                while end + 3 > cap && end > 0 && body.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
                    end -= 1;
                }
                out.extend_from_slice(head.get(..end).unwrap_or(head));
                out.extend_from_slice("…\n".as_bytes());
            }
            _ => out.extend_from_slice(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tail(limit: usize, line: usize, chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut tail = Tail::new(limit, line);
        chunks.iter().for_each(|chunk| tail.push(chunk));
        tail.finish()
    }

    #[test]
    fn the_newest_whole_lines_stay() {
        assert_eq!(tail(8, 100, &[b"one\ntw", b"o\nthree\n"]), (b"three\n".to_vec(), true));
        assert_eq!(tail(100, 100, &[b"one\n", b"two"]), (b"one\ntwo\n".to_vec(), false));
        assert_eq!(tail(100, 100, &[]), (vec![], false));
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut endless = Tail::new(1 << 20, 10);
        for _ in 0..1000 {
            endless.push(&[b'x'; 1000]);
        }
        endless.push(b"\nlast\n");
        assert!(endless.line.capacity() < 1 << 10);
        let (text, truncated) = endless.finish();
        assert!(truncated && text.len() == 40 + 1 + 5, "{}", text.len());
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut_lines("aé\nab\n".as_bytes(), 2), "a…\nab\n".as_bytes());
        assert_eq!(cut_lines(b"\xff\xfe\xfd\n", 2), b"\xff\xfe\xe2\x80\xa6\n");
        assert!(cut_lines(&[0x80; 9], 4).len() < 9, "bytes that are no text are cut all the same");
    }

    proptest! {
        #[test]
        fn memory_and_output_stay_within_the_limit(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50), limit in 1usize..300, line in 1usize..100) {
            let mut tail = Tail::new(limit, line);
            let whole: Vec<u8> = chunks.concat();
            for chunk in &chunks {
                tail.push(chunk);
                prop_assert!(tail.bytes <= limit && tail.line.len() <= limit);
            }
            let (kept, truncated) = tail.finish();
            prop_assert!(kept.len() <= limit);
            if !truncated {
                let mut expected = whole.clone();
                if !expected.is_empty() && expected.last() != Some(&b'\n') { expected.push(b'\n'); }
                prop_assert_eq!(kept, expected);
            }
        }
    }
}
