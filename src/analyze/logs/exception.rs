//! Stack traces: what was thrown at the root, and where.

use super::join::{is_exception_head, is_frame};

/// What a stack trace comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exception {
    /// The exception at the root: `java.net.ConnectException`; `panic` for Go, empty where only frames are there.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// The innermost frame that is not the language's own, without its line number.
    pub frame: String,
}

/// The exception that the lines of an entry hold, if they hold one. In a chain of causes the root counts: the last `Caused by` of
/// Java, the innermost `--->` of .NET, the first traceback of a chain in Python.
pub fn exception(lines: &[&str]) -> Option<Exception> {
    if lines.len() < 2 {
        return None;
    }
    let caused = lines.iter().rposition(|line| line.trim_start().starts_with("Caused by: "));
    let (at, head) = match caused {
        Some(at) => (at, lines.get(at)?.trim_start().trim_start_matches("Caused by: ")),
        None => {
            let at = lines.iter().position(|line| is_exception_head(line))?;
            (at, *lines.get(at)?)
        }
    };
    // .NET joins inner exceptions by arrows in one line.
    let head = head.rsplit(" ---> ").next().unwrap_or(head);
    let head = head.trim_start_matches("Exception in thread ").trim();
    let (kind, message) = head.split_once(": ").unwrap_or((head.trim_end_matches(':'), ""));
    let kind = kind.rsplit('"').next().unwrap_or(kind).trim();
    let python = lines.iter().any(|line| line.trim_start().starts_with("File \""));
    let frames: Vec<&str> = if python {
        // Python's innermost frame stands last, above the exception.
        lines.iter().take(at).rev().copied().filter(|line| is_frame(line)).collect()
    } else {
        let below = lines.iter().skip(at + 1).copied().take_while(|line| !line.starts_with("Caused by: "));
        let mut frames: Vec<&str> = below.filter(|line| is_frame(line)).collect();
        if frames.is_empty() {
            frames = lines.iter().copied().filter(|line| is_frame(line)).collect();
        }
        frames
    };
    let own = frames.iter().find(|frame| !is_runtime(frame)).or(frames.first());
    Some(Exception {
        kind: kind.to_owned(),
        message: message.trim().to_owned(),
        frame: own.map(|frame| without_line(frame)).unwrap_or_default(),
    })
}

/// Whether a frame belongs to a language's own library or to a well-known framework.
fn is_runtime(frame: &str) -> bool {
    const OWN: &[&str] = &[
        "at java.",
        "at javax.",
        "at jdk.",
        "at sun.",
        "at jakarta.",
        "at org.springframework.",
        "at org.apache.",
        "at com.zaxxer.",
        "at System.",
        "at Microsoft.",
        "/site-packages/",
        "/usr/lib/python",
        "/usr/local/lib/python",
        "node:internal",
        "node_modules",
        "/usr/local/go/src/",
        "runtime/",
    ];
    OWN.iter().any(|own| frame.contains(own))
}

/// The frame without `at ` and without its line number: a fix elsewhere in the file must not make a new error of it.
fn without_line(frame: &str) -> String {
    let frame = frame.trim().trim_start_matches("at ");
    let frame = frame.split(" +0x").next().unwrap_or(frame);
    let out: String = match frame.split_once(", line ") {
        Some((file, tail)) => {
            let function = tail.split_once(", ").map(|(_, f)| format!(" {f}")).unwrap_or_default();
            format!("{file}{function}")
        }
        None => {
            let digits = |c: char| c.is_ascii_digit() || c == ':' || c == ')';
            let cut = frame.trim_end_matches(digits);
            if cut.len() < frame.len() && frame.ends_with(')') { format!("{cut})") } else { cut.to_owned() }
        }
    };
    crate::analyze::finding::cut(&out, 160).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Exception> {
        exception(&text.lines().collect::<Vec<_>>())
    }

    #[test]
    fn the_last_cause_is_the_root() {
        let e = read("x ERROR failed\norg.x.OuterException: outer\n\tat com.shop.pay.Client.fetch(Client.java:57)\n\tat java.base/java.lang.Thread.run(Thread.java:1)\nCaused by: java.net.ConnectException: Connection refused\n\t... 3 more").unwrap();
        assert_eq!(
            (e.kind.as_str(), e.message.as_str()),
            ("java.net.ConnectException", "Connection refused")
        );
        assert_eq!(e.frame, "com.shop.pay.Client.fetch(Client.java)");
    }

    #[test]
    fn python_names_its_innermost_frame() {
        let e = read("Traceback (most recent call last):\n  File \"/app/main.py\", line 12, in <module>\n    a()\n  File \"/app/settings.py\", line 33, in load\n    raise X\nRuntimeError: missing X").unwrap();
        assert_eq!((e.kind.as_str(), e.message.as_str()), ("RuntimeError", "missing X"));
        assert!(e.frame.contains("settings.py") && e.frame.contains("in load"), "{}", e.frame);
    }

    #[test]
    fn lines_without_a_stack_are_none() {
        assert!(read("just a line").is_none());
        assert!(read("head\n  indented").is_none());
    }
}
