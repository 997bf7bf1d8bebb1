//! Stack traces: what was thrown at the root, and where, in the form of each language.

mod dotnet;
mod erlang;
mod go;
mod java;
mod node;
mod php;
mod python;
mod ruby;
mod rust;

use super::shape::{is_exception_head, is_frame};
use crate::analyze::finding::cut;

/// Whose stack it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// Java, Kotlin, Scala.
    #[default]
    Java,
    /// Go.
    Go,
    /// Python.
    Python,
    /// JavaScript.
    Node,
    /// C# and its like.
    DotNet,
    /// Rust.
    Rust,
    /// Ruby.
    Ruby,
    /// PHP.
    Php,
    /// Erlang and Elixir.
    Erlang,
}

/// What a stack trace comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exception {
    /// Whose it is.
    pub language: Language,
    /// The exception at the root: `java.net.ConnectException`; `panic` for Go and Rust.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// The innermost frame that is not the language's own, without its line number.
    pub frame: String,
    /// The types from the outermost to the root.
    pub chain: Vec<String>,
    /// The innermost frames that are not the language's own, without line numbers: three at most.
    pub frames: Vec<String>,
}

/// Reads the stack of one language, if the lines hold one.
type Reader = fn(&[&str]) -> Option<Exception>;

/// Frames that tell two errors apart.
const MAX_FRAMES: usize = 3;
/// Exceptions in one chain; a longer one repeats itself.
const MAX_CHAIN: usize = 16;
/// Bytes of a type's name and of a frame.
const MAX_NAME: usize = 160;
/// Bytes of a message.
const MAX_MESSAGE: usize = 1024;

impl Exception {
    /// What the same error has in common wherever and whenever it is thrown: its chain of types and its frames.
    pub fn fingerprint(&self) -> String {
        format!("{} | {}", self.chain.join(" < "), self.frames.join(" < "))
    }

    /// From the chain of `(type, message)`, outermost first, and the frames of its root, innermost first.
    fn new<'a>(
        language: Language,
        chain: impl IntoIterator<Item = (&'a str, &'a str)>,
        frames: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let mut chain: Vec<(&str, &str)> = chain.into_iter().collect();
        if chain.len() > MAX_CHAIN {
            chain.drain(1..=chain.len() - MAX_CHAIN);
        }
        let (kind, message) = chain.last().copied()?;
        let all: Vec<&str> = frames.into_iter().collect();
        let mut own: Vec<&str> =
            all.iter().copied().filter(|frame| !is_runtime(frame)).take(MAX_FRAMES).collect();
        if own.is_empty() {
            own.extend(all.first());
        }
        let frames: Vec<String> = own.into_iter().map(without_line).collect();
        Some(Exception {
            language,
            kind: cut(kind.trim(), MAX_NAME).to_owned(),
            message: cut(message.trim(), MAX_MESSAGE).to_owned(),
            frame: frames.first().cloned().unwrap_or_default(),
            chain: chain.iter().map(|(kind, _)| cut(kind.trim(), MAX_NAME).to_owned()).collect(),
            frames,
        })
    }
}

/// The exception that the lines of an entry hold, if they hold one. In a chain of causes the root counts: the last `Caused by` of
/// Java, the innermost `--->` of .NET and `[cause]` of Node, the first traceback of a chain in Python.
pub fn exception(lines: &[&str]) -> Option<Exception> {
    // A line alone is a stack only where its words leave no doubt.
    match lines {
        [] => return None,
        [line] => return rust::read(lines).or_else(|| php::read(lines)).filter(|_| line.len() > 16),
        _ => {}
    }
    let readers: [Reader; 9] = [
        go::read,
        python::read,
        rust::read,
        php::read,
        ruby::read,
        erlang::read,
        dotnet::read,
        node::read,
        java::read,
    ];
    readers.iter().find_map(|read| read(lines))
}

/// `type: message`; a type alone has no message.
fn head(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.split_once(": ") {
        Some((kind, message)) => (kind, message),
        None => (text.trim_end_matches(':'), ""),
    }
}

/// Whether a frame belongs to a language's own library or to a well-known framework.
fn is_runtime(frame: &str) -> bool {
    const OWN: &[&str] = &[
        "at java.",
        "at javax.",
        "at jdk.",
        "at sun.",
        "at jakarta.",
        "at kotlin.",
        "at kotlinx.",
        "at scala.",
        "at org.springframework.",
        "at org.apache.",
        "at org.hibernate.",
        "at org.postgresql.",
        "at com.zaxxer.",
        "at com.fasterxml.",
        "at io.netty.",
        "at io.grpc.",
        "at reactor.",
        "at System.",
        "at Microsoft.",
        "/site-packages/",
        "/dist-packages/",
        "/usr/lib/python",
        "/usr/local/lib/python",
        "<frozen ",
        "node:internal",
        "(node:",
        "node_modules",
        "/usr/local/go/src/",
        "/go/pkg/mod/",
        "/usr/lib/go",
        "runtime.",
        " core::",
        " std::",
        " tokio::",
        "rust_begin_unwind",
        "/rustc/",
        "/gems/",
        "/usr/local/lib/ruby",
        "/vendor/",
        "(stdlib",
        "(elixir",
        "gen_server",
        "proc_lib",
    ];
    OWN.iter().any(|own| frame.contains(own)) || frame.trim_start().starts_with("at java.base/")
}

/// The frame without `at ` and without its line number: a fix elsewhere in the file must not make a new error of it.
fn without_line(frame: &str) -> String {
    let frame = frame.trim().trim_end_matches(" {").trim_start_matches("at ");
    let frame = frame.split(" +0x").next().unwrap_or(frame);
    let out: String = match frame.split_once(", line ") {
        Some((file, tail)) => {
            let function = tail.split_once(", ").map(|(_, f)| format!(" {f}")).unwrap_or_default();
            format!("{file}{function}")
        }
        None => {
            let frame = frame.split(":line ").next().unwrap_or(frame);
            let open = frame.strip_suffix(')').unwrap_or(frame);
            let mut place = open;
            while let Some((before, number)) = place.rsplit_once(':')
                && number.bytes().all(|b| b.is_ascii_digit())
            {
                place = before;
            }
            if open.len() < frame.len() { format!("{place})") } else { place.to_owned() }
        }
    };
    cut(&out, MAX_NAME).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Exception> {
        exception(&text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>())
    }

    fn root(text: &str) -> (Language, String, String, String) {
        let e = read(text).unwrap_or_else(|| panic!("{text}"));
        (e.language, e.kind, e.message, e.frame)
    }

    #[test]
    fn the_root_of_each_language() {
        for (text, language, kind, message, frame) in [
            (
                "x ERROR failed\norg.x.OuterException: outer\n\tat com.shop.pay.Client.fetch(Client.java:57)\n\tat java.base/java.lang.Thread.run(Thread.java:1)\nCaused by: a.b.MiddleException: m\n\tat com.shop.A.b(A.java:1)\n\t... 9 more\nCaused by: java.net.ConnectException: Connection refused\n\t... 3 more",
                Language::Java,
                "java.net.ConnectException",
                "Connection refused",
                "com.shop.pay.Client.fetch(Client.java)",
            ),
            (
                "Exception in thread \"main\" java.lang.IllegalStateException: no row\n\tat shop.Main.main(Main.java:3)",
                Language::Java,
                "java.lang.IllegalStateException",
                "no row",
                "shop.Main.main(Main.java)",
            ),
            (
                "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nruntime.gopanic()\n\t/usr/local/go/src/runtime/panic.go:884 +0x213\nmain.load(...)\n\t/app/main.go:12\nmain.main()\n\t/app/main.go:30 +0x1d",
                Language::Go,
                "panic",
                "runtime error: index out of range [5] with length 3",
                "main.load /app/main.go",
            ),
            (
                "fatal error: concurrent map writes\n\ngoroutine 7 [running]:\nmain.(*Cache).Put(0xc0, {0x1})\n\t/app/cache.go:20 +0x1d",
                Language::Go,
                "fatal error",
                "concurrent map writes",
                "main.(*Cache).Put /app/cache.go",
            ),
            (
                "2026/11/21 10:00:00 http: panic serving 10.0.0.1:5000: no tariff\ngoroutine 9 [running]:\nnet/http.(*conn).serve.func1()\n\t/usr/local/go/src/net/http/server.go:1 +0x1\npanic({0x1, 0x2})\n\t/usr/local/go/src/runtime/panic.go:1\nmain.price()\n\t/app/price.go:4",
                Language::Go,
                "panic",
                "no tariff",
                "main.price /app/price.go",
            ),
            (
                "Traceback (most recent call last):\n  File \"/app/main.py\", line 12, in <module>\n    a()\n  File \"/app/settings.py\", line 33, in load\n    raise X\nKeyError: 'REGION'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"/app/main.py\", line 2, in g\nRuntimeError: failed",
                Language::Python,
                "KeyError",
                "'REGION'",
                "File \"/app/settings.py\" in load",
            ),
            (
                "ERROR:app:x\nTraceback (most recent call last):\n  File \"/app/a.py\", line 1, in f\n  File \"/usr/lib/python3/x.py\", line 2, in g\nshop.errors.NoStock",
                Language::Python,
                "shop.errors.NoStock",
                "",
                "File \"/app/a.py\" in f",
            ),
            (
                "/app/x.js:12\n    throw e;\n    ^\n\nTypeError: fetch failed\n    at node:internal/deps/undici:1:2\n    at async load (/app/load.js:3:9) {\n  [cause]: Error: connect ECONNREFUSED 10.0.0.1:8080\n      at TCPConnectWrap.afterConnect (node:net:1:2) {\n    errno: -111,\n    code: 'ECONNREFUSED'\n  }\n}",
                Language::Node,
                "Error",
                "connect ECONNREFUSED 10.0.0.1:8080",
                "async load (/app/load.js)",
            ),
            (
                "AggregateError [ECONNREFUSED]: \n    at internalConnectMultiple (node:net:1:2)\n    at f (/app/a.js:1:2) {\n  code: 'ECONNREFUSED',\n  address: '10.0.0.9',\n  port: 6379\n}",
                Language::Node,
                "AggregateError [ECONNREFUSED]",
                "ECONNREFUSED 10.0.0.9:6379",
                "f (/app/a.js)",
            ),
            (
                "Unhandled exception. System.Net.Http.HttpRequestException: Connection refused (payments:8080)\n ---> System.Net.Sockets.SocketException (111): Connection refused\n   at System.Net.Sockets.Socket.Connect()\n   --- End of inner exception stack trace ---\n   at Shop.Client.Fetch() in /src/Client.cs:line 3",
                Language::DotNet,
                "System.Net.Sockets.SocketException (111)",
                "Connection refused",
                "Shop.Client.Fetch() in /src/Client.cs",
            ),
            (
                "thread 'tokio-runtime-worker' (12) panicked at src/price.rs:12:5:\ncalled `Option::unwrap()` on a `None` value\nstack backtrace:\n   0: core::panicking::panic\n             at /rustc/abc/library/core/src/panicking.rs:1:5\n   1: shop::price::of\n             at ./src/price.rs:12:5\nnote: run with `RUST_BACKTRACE=full`",
                Language::Rust,
                "panic",
                "called `Option::unwrap()` on a `None` value",
                "shop::price::of",
            ),
            (
                "thread 'main' panicked at 'no config', src/main.rs:4:9",
                Language::Rust,
                "panic",
                "no config",
                "src/main.rs",
            ),
            (
                "/app/a.rb:12:in `load': no tariff (ArgumentError)\n\tfrom /app/b.rb:3:in `<main>'",
                Language::Ruby,
                "ArgumentError",
                "no tariff",
                "/app/a.rb in `load'",
            ),
            (
                "PHP Fatal error:  Uncaught RuntimeException: no tariff in /app/a.php:3\nStack trace:\n#0 /app/b.php(2): load()\n#1 {main}\n  thrown in /app/a.php on line 3",
                Language::Php,
                "RuntimeException",
                "no tariff",
                "/app/a.php",
            ),
            (
                "** Generic server <0.1.0> terminating \n** Last message in was go\n** When Server state == []\n** Reason for termination == \n** {badmatch,no_tariff}",
                Language::Erlang,
                "termination",
                "{badmatch,no_tariff}",
                "",
            ),
            (
                "10:00:00.000 [error] GenServer Shop terminating\n** (RuntimeError) no row\n    (stdlib 4.0) gen_server.erl:1: :gen_server.try/4\n    (shop 0.1.0) lib/a.ex:1: Shop.A.f/1",
                Language::Erlang,
                "RuntimeError",
                "no row",
                "(shop 0.1.0) lib/a.ex: Shop.A.f/1",
            ),
        ] {
            let expected = (language, kind.to_owned(), message.to_owned(), frame.to_owned());
            assert_eq!(root(text), expected, "{text}");
        }
    }

    #[test]
    fn the_same_error_elsewhere_in_the_file_has_the_same_fingerprint() {
        let text = |line: u32, id: u32| {
            format!(
                "ERROR order {id}\na.OuterException: order {id}\n\tat shop.A.b(A.java:{line})\n\tat shop.C.d(C.java:{line})\n\tat shop.E.f(E.java:1)\n\tat shop.G.h(G.java:{id})\nCaused by: a.InnerException: x\n\t... 3 more"
            )
        };
        let (a, b) = (read(&text(1, 2)).unwrap(), read(&text(40, 9)).unwrap());
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_eq!(a.chain, ["a.OuterException", "a.InnerException"]);
        assert_eq!(a.frames.len(), 3);
        let other = read(&text(1, 2).replace("A.b", "A.other")).unwrap();
        assert_ne!(a.fingerprint(), other.fingerprint());
    }

    #[test]
    fn lines_without_a_stack_are_none() {
        for text in
            ["just a line", "head\n  indented", "a.b.SomeException: x", "panic: is not allowed here", ""]
        {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn hostile_stacks_end() {
        let caused = "Caused by: a.B: c\n".repeat(2000);
        let e = read(&format!("a.HeadException: x\n\tat a.B.c(D.java:1)\n{caused}")).unwrap();
        assert!(e.chain.len() <= MAX_CHAIN);
        for text in [
            " ---> ",
            "goroutine 1 [\n\t.go:",
            "[cause]: ",
            "Traceback (most recent call last):\n",
            "x\n#0",
            ":in `",
            "** (",
            "panicked at '",
        ] {
            read(text);
            read(&format!("{text}\n{text}"));
        }
    }
}
