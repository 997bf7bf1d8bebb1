//! Logs of containers, line by line.

use jiff::Timestamp;
use serde::Deserialize;
use std::borrow::Cow;

use super::access_format::AccessFormat;
use super::access_log::{self, AccessRecord};
use super::time;

/// Which of its two outputs a container wrote a line to: lines of one never continue lines of the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    /// Nothing says: `kubectl logs` merges both.
    #[default]
    Merged,
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line of a log, without the timestamp that the container runtime put before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogLine {
    /// When the runtime took it; `None` where the line carries no time.
    pub time: Option<Timestamp>,
    /// The text, without terminal colours. Bytes that are no UTF-8 stand as U+FFFD.
    pub text: String,
    /// Where the container wrote it, as far as the runtime's own format tells.
    pub output: Output,
}

/// The log of one container, or of its previous instance.
#[derive(Debug, Clone)]
pub struct LogStream {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Whether this is the instance before the current one.
    pub previous: bool,
    /// Its lines in order, without those that are access records.
    pub lines: Vec<LogLine>,
    /// The lines that are records of Envoy's access log.
    pub access: Vec<AccessRecord>,
    /// Whether its beginning or its end is missing.
    pub truncated: bool,
}

/// A line longer than this is cut: it is data, not something that anybody wrote to be read. Runtimes cut lines into pieces of
/// 16 KiB, so a stack trace within a JSON line has several of them.
const MAX_LINE: usize = 256 * 1024;

impl LogStream {
    /// Reads the bytes of a log: as `kubectl logs --timestamps` prints them, or as the runtime keeps them on the node (CRI's
    /// `TIME stdout F text`, or Docker's JSON lines), with lines that it cut put together again. Lines without a timestamp keep
    /// their order.
    pub fn read(
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
        bytes: &[u8],
        truncated: bool,
    ) -> Self {
        let mut stream = LogStream {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            previous,
            lines: vec![],
            access: vec![],
            truncated,
        };
        let format = Format::of(bytes);
        let mut open: [Option<Piece>; 2] = [None, None];
        for line in bytes.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            match format {
                Format::Plain => {
                    let (at, rest) = split_timestamp(line.get(..MAX_LINE).unwrap_or(line));
                    stream.push(at, rest, Output::Merged);
                }
                Format::Cri | Format::Docker => {
                    let piece = if format == Format::Cri { cri(line) } else { docker(line) };
                    let Some(piece) = piece else {
                        stream.push(None, line.get(..MAX_LINE).unwrap_or(line), Output::Merged);
                        continue;
                    };
                    let [out, err] = &mut open;
                    let slot = if piece.output == Output::Err { err } else { out };
                    let (partial, whole) = (piece.partial, Piece::joined(slot.take(), piece));
                    if partial {
                        *slot = Some(whole);
                    } else {
                        stream.push(whole.time, &whole.text, whole.output);
                    }
                }
            }
        }
        for piece in open.into_iter().flatten() {
            stream.push(piece.time, &piece.text, piece.output);
        }
        stream
    }

    /// Takes the lines that have this format of an access log out of the others.
    pub fn take_access(&mut self, format: &AccessFormat) {
        let lines = std::mem::take(&mut self.lines);
        for line in lines {
            match format.parse(&line.text, line.time) {
                Some(record) => self.access.push(record),
                None => self.lines.push(line),
            }
        }
        self.access.sort_by_key(|record| record.start);
    }

    fn push(&mut self, time: Option<Timestamp>, text: &[u8], output: Output) {
        if text.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(text);
        match access_log::parse(&text, time) {
            Some(record) => self.access.push(record),
            None => {
                let text = match text {
                    text if !text.contains('\u{1b}') => text.into_owned(),
                    text => without_colours(&text).into_owned(),
                };
                self.lines.push(LogLine { time, text, output });
            }
        }
    }
}

/// How the bytes of a log are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Text, with or without a timestamp before each line.
    Plain,
    /// `TIME stdout|stderr P|F text`.
    Cri,
    /// `{"log":"text\n","stream":"stdout","time":"TIME"}`.
    Docker,
}

impl Format {
    /// What the first line shows; a file has one format.
    fn of(bytes: &[u8]) -> Self {
        let first = bytes.split(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
        if cri(first).is_some() {
            Format::Cri
        } else if first.starts_with(b"{\"log\":") && docker(first).is_some() {
            Format::Docker
        } else {
            Format::Plain
        }
    }
}

/// A line, or a piece of one, as a runtime keeps it.
struct Piece {
    time: Option<Timestamp>,
    output: Output,
    partial: bool,
    text: Vec<u8>,
}

impl Piece {
    /// Two pieces of one line, as far as a line may go.
    fn joined(before: Option<Piece>, mut piece: Piece) -> Piece {
        match before {
            None => {
                piece.text.truncate(MAX_LINE);
                piece
            }
            Some(mut whole) => {
                let room = MAX_LINE.saturating_sub(whole.text.len());
                whole.text.extend_from_slice(piece.text.get(..room).unwrap_or(&piece.text));
                whole
            }
        }
    }
}

fn cri(line: &[u8]) -> Option<Piece> {
    let (time, rest) = split_timestamp(line);
    time?;
    let (output, rest) = match rest.split_at_checked(7)? {
        (b"stdout ", rest) => (Output::Out, rest),
        (b"stderr ", rest) => (Output::Err, rest),
        _ => return None,
    };
    // Tags are joined by colons; the first says whether the line goes on.
    let (partial, rest) = match rest.split_first()? {
        (b'P', rest) => (true, rest),
        (b'F', rest) => (false, rest),
        _ => return None,
    };
    let text = match rest.first() {
        None => rest,
        Some(b' ') => rest.get(1..)?,
        Some(b':') => rest.get(memchr::memchr(b' ', rest)? + 1..)?,
        Some(_) => return None,
    };
    Some(Piece { time, output, partial, text: text.to_vec() })
}

fn docker(line: &[u8]) -> Option<Piece> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let whole = line.log.strip_suffix('\n');
    let text = whole.unwrap_or(&line.log);
    Some(Piece {
        time: time::parse(&line.time),
        output: if line.stream == "stderr" { Output::Err } else { Output::Out },
        partial: whole.is_none(),
        text: text.strip_suffix('\r').unwrap_or(text).as_bytes().to_vec(),
    })
}

/// The text without terminal colours (`ESC [ … m`) that a logger left in.
pub fn without_colours(line: &str) -> Cow<'_, str> {
    if !line.contains('\u{1b}') {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out.push_str(before);
        rest = after.strip_prefix('[').map_or(after, |code| {
            code.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, tail)| tail)
        });
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The runtime's timestamp before the first blank, where there is one.
fn split_timestamp(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let Some(blank) = memchr::memchr(b' ', line.get(..40).unwrap_or(line)) else {
        return (None, line);
    };
    let Some((head, tail)) = line.split_at_checked(blank) else { return (None, line) };
    // A year and a `T` at their places: cheaper than a failed parse on every line.
    if head.get(4) != Some(&b'-') || head.get(10) != Some(&b'T') {
        return (None, line);
    }
    match std::str::from_utf8(head).ok().and_then(time::parse) {
        Some(at) => (Some(at), tail.get(1..).unwrap_or_default()),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_split_off_and_bad_bytes_survive() {
        let log = LogStream::read(
            "n",
            "p",
            "c",
            false,
            b"2026-11-21T10:00:00.5Z hello\nplain line\n2026-11-21T10:00:01Z \xff\n",
            false,
        );
        assert_eq!(log.lines.len(), 3);
        assert_eq!(log.lines[0].text, "hello");
        assert_eq!(log.lines[0].time.unwrap().to_string(), "2026-11-21T10:00:00.5Z");
        assert_eq!(log.lines[1].time, None);
        assert_eq!(log.lines[2].text, "\u{fffd}");
    }

    fn read(text: &str) -> Vec<(Output, String)> {
        let log = LogStream::read("n", "p", "c", false, text.as_bytes(), false);
        log.lines.into_iter().map(|line| (line.output, line.text)).collect()
    }

    #[test]
    fn lines_that_the_runtime_cut_are_whole_again_each_output_by_itself() {
        let text = "2026-11-21T10:00:00.1Z stdout P {\"level\":\"er\n2026-11-21T10:00:00.2Z stderr F other\n\
                    2026-11-21T10:00:00.3Z stdout F ror\"}\n2026-11-21T10:00:00.4Z stdout P:x the end is missing\n";
        assert_eq!(
            read(text),
            [
                (Output::Err, "other".to_owned()),
                (Output::Out, "{\"level\":\"error\"}".to_owned()),
                (Output::Out, "the end is missing".to_owned())
            ]
        );
    }

    #[test]
    fn lines_of_docker_end_where_their_text_does() {
        let text = r#"{"log":"first ","stream":"stdout","time":"2026-11-21T10:00:00Z"}
{"log":"half\n","stream":"stdout","time":"2026-11-21T10:00:01Z"}
{"log":"\u001b[31mred\u001b[0m\r\n","stream":"stderr","time":"2026-11-21T10:00:02Z"}
no json
"#;
        let expected = [(Output::Out, "first half"), (Output::Err, "red"), (Output::Merged, "no json")];
        assert_eq!(read(text), expected.map(|(output, text)| (output, text.to_owned())));
    }

    #[test]
    fn words_that_look_like_a_runtime_format_are_words() {
        let text = "2026-11-21T10:00:00Z stdout is full\n2026-11-21T10:00:00Z {\"log\":1}\n";
        assert_eq!(
            read(text).into_iter().map(|(_, text)| text).collect::<Vec<_>>(),
            ["stdout is full", "{\"log\":1}"]
        );
        assert!(read("{\"log\":\"x\"}").first().is_some_and(|(output, _)| *output == Output::Merged));
        let endless = format!("2026-11-21T10:00:00Z stdout P {}\n", "x".repeat(1 << 16)).repeat(9);
        assert_eq!(read(&endless)[0].1.len(), MAX_LINE);
    }
}
