//! Logs of containers, line by line.

use jiff::Timestamp;

use super::access_log::{self, AccessRecord};
use super::time;

/// One line of a log, without the timestamp that the container runtime put before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the runtime took it; `None` where the line carries no time.
    pub time: Option<Timestamp>,
    /// The text. Bytes that are no UTF-8 stand as U+FFFD.
    pub text: String,
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

/// A line longer than this is cut: it is data, not something that anybody wrote to be read.
const MAX_LINE: usize = 16 * 1024;

impl LogStream {
    /// Reads the bytes of a log as `kubectl logs --timestamps` prints them; lines without a timestamp keep their order.
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
        for line in bytes.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let line = line.get(..MAX_LINE).unwrap_or(line);
            let (at, rest) = split_timestamp(line);
            let text = String::from_utf8_lossy(rest);
            match access_log::parse(&text, at) {
                Some(record) => stream.access.push(record),
                None => stream.lines.push(LogLine { time: at, text: text.into_owned() }),
            }
        }
        stream
    }
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
}
