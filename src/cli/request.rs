//! `meshscope request`: what the mesh does with a request, asked of a bundle or of plain YAML.

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::analyze::twin::answer::Answer;
use crate::analyze::twin::ask::{Ask, Named, Origin, Protocol, Request, Tls, place};
use crate::analyze::twin::{Twin, beyond};
use crate::collect::assemble::assemble;
use crate::collect::bundle;
use crate::report::walk;

/// Bytes of a file of requests: a million short ones.
const MAX_REQUESTS_BYTES: u64 = 256 << 20;

/// Say what the mesh does with a request, from a bundle or from plain Kubernetes YAML
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The request (`GET http://checkout.shop/pay`), then bundles, folders, archives or YAML files; `-` is standard input
    #[arg(value_name = "REQUEST|PATH")]
    words: Vec<String>,
    /// Where it comes from: NS/WORKLOAD, gateway:NS/NAME (a client outside, at that gateway) or an IP address
    #[arg(long, value_name = "SOURCE")]
    from: Option<String>,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Ask all requests of this JSON file instead, in one reading of the bundle
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "headers"])]
    requests: Option<PathBuf>,
    /// How to print the answers
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How to print answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A walk to read, step by step
    Text,
    /// The stable, versioned document
    Json,
}

impl Args {
    /// Reads, asks, prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (asks, paths) = match &self.requests {
            Some(file) => (read_requests(file)?, self.words.as_slice()),
            None => {
                let (line, paths) = self.words.split_first().context(
                    "nothing to ask: write the request first (meshscope request 'GET http://checkout.shop/pay' --from \
                     shop/frontend incident.tar.zst) or name a file of them with --requests",
                )?;
                let from = self.from.as_deref().context(
                    "where does the request come from? Name it with --from: NS/WORKLOAD, gateway:NS/NAME or an IP address",
                )?;
                (vec![read_one(line, from, &self.headers)?], paths)
            }
        };
        ensure!(
            !paths.is_empty(),
            "nothing to read: name a bundle, a folder of YAML, or - for standard input, after the request"
        );
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let snapshot = assemble(bundle::read(&paths)?);
        let twin = Twin::new(&snapshot);
        match self.output {
            Output::Json => print_json(asks.iter().map(|ask| twin.answer(ask))),
            Output::Text => {
                let colour = super::colour();
                let walks = asks.iter().map(|ask| {
                    let mut answer = twin.answer(ask);
                    beyond::tell(&snapshot, &mut answer);
                    walk::render(&title(ask), &answer, colour)
                });
                super::print(&walks.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

/// The document, answer by answer: a hundred thousand of them need not stand in memory at once.
fn print_json(answers: impl Iterator<Item = Answer>) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let write = || -> std::io::Result<()> {
        out.write_all(b"{\"version\":1,\"answers\":[")?;
        for (at, answer) in answers.enumerate() {
            out.write_all(if at == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut out, &answer)?;
        }
        out.write_all(b"\n]}\n")?;
        out.flush()
    };
    match write() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(super::Internal(format!("failed to write the output: {error}")).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The file of `--requests`.
fn read_requests(path: &Path) -> anyhow::Result<Vec<Ask>> {
    #[derive(serde::Deserialize)]
    struct Document {
        version: u32,
        requests: Vec<Ask>,
    }
    let name = path.display();
    let mut text = String::new();
    let file: Box<dyn Read> = if path == Path::new(bundle::STDIN) {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).with_context(|| format!("failed to open {name}"))?)
    };
    file.take(MAX_REQUESTS_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("failed to read {name}"))?;
    ensure!(
        text.len() as u64 <= MAX_REQUESTS_BYTES,
        "{name} is larger than {} MiB: ask in several files",
        MAX_REQUESTS_BYTES >> 20
    );
    let document: Document = serde_json::from_str(&text).with_context(|| {
        format!("failed to read {name}: expected {{\"version\": 1, \"requests\": [{{\"name\", \"from\", \"request\"}}]}}")
    })?;
    ensure!(document.version == 1, "{name} has version {}; this program reads version 1", document.version);
    let mut names = BTreeSet::new();
    for ask in &document.requests {
        ensure!(names.insert(&ask.name), "{name} has two requests named {:?}; names must differ", ask.name);
    }
    Ok(document.requests)
}

/// The request of the command line.
pub(super) fn read_one(line: &str, from: &str, headers: &[String]) -> anyhow::Result<Ask> {
    let mut request = read_line(line)?;
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("the header {header:?} has no colon: write -H 'x-user: beta'"))?;
        let (name, value) = (name.trim(), value.trim());
        ensure!(!name.is_empty(), "the header {header:?} has no name: write -H 'x-user: beta'");
        if name.eq_ignore_ascii_case("host") {
            request.port = request.port.or(Some(request.destination_port()));
            request.host = value.to_owned();
            continue;
        }
        let slot = request.headers.entry(name.to_owned()).or_default();
        *slot = if slot.is_empty() { value.to_owned() } else { format!("{slot},{value}") };
    }
    Ok(Ask { name: line.to_owned(), from: read_source(from)?, request })
}

/// `METHOD scheme://host:port/path`, the method and the path optional.
fn read_line(line: &str) -> anyhow::Result<Request> {
    let wanted = "write it as 'GET http://checkout.shop/pay', 'https://example.com/' or 'tcp://db.shop:5432'";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (method, url) = match words.as_slice() {
        [url] => (None, *url),
        [method, url] => (Some(*method), *url),
        _ => bail!("cannot read the request {line:?}: {wanted}"),
    };
    let (scheme, rest) =
        url.split_once("://").with_context(|| format!("the request {line:?} has no scheme: {wanted}"))?;
    let mut request = Request::default();
    (request.protocol, request.tls) = match scheme {
        "http" => (Protocol::Http, Tls::Plaintext),
        "https" => (Protocol::Http, Tls::Tls),
        "http2" => (Protocol::Http2, Tls::Plaintext),
        "grpc" => (Protocol::Grpc, Tls::Plaintext),
        "tcp" => (Protocol::Tcp, Tls::Plaintext),
        "tls" => (Protocol::Tcp, Tls::Tls),
        "udp" => (Protocol::Udp, Tls::Plaintext),
        "sctp" => (Protocol::Sctp, Tls::Plaintext),
        other => bail!(
            "the scheme {other:?} is unknown; http, https, http2, grpc, tcp, tls, udp and sctp are known"
        ),
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    ensure!(!authority.is_empty(), "the request {line:?} has no host: {wanted}");
    authority.clone_into(&mut request.host);
    request.path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    if request.protocol.is_http() {
        let default = if request.protocol == Protocol::Grpc { "POST" } else { "GET" };
        request.method = method.unwrap_or(default).to_ascii_uppercase();
    } else {
        ensure!(method.is_none(), "{scheme} has no methods: leave out {:?}", method.unwrap_or_default());
        ensure!(request.authority().1.is_some(), "the request {line:?} names no port: {wanted}");
    }
    Ok(request)
}

/// `NS/WORKLOAD`, `gateway:NS/NAME` or an address.
fn read_source(from: &str) -> anyhow::Result<Origin> {
    let named = |text: &str| match text.split('/').collect::<Vec<_>>().as_slice() {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Some(Named { namespace: (*namespace).to_owned(), kind: String::new(), name: (*name).to_owned() })
        }
        [namespace, kind, name] if !namespace.is_empty() && !kind.is_empty() && !name.is_empty() => {
            Some(Named {
                namespace: (*namespace).to_owned(),
                kind: (*kind).to_owned(),
                name: (*name).to_owned(),
            })
        }
        _ => None,
    };
    let source = match from.strip_prefix("gateway:") {
        Some(gateway) => named(gateway).map(Origin::Gateway),
        None if from.parse::<std::net::IpAddr>().is_ok() => Some(Origin::Ip(from.to_owned())),
        None => named(from).map(Origin::Workload),
    };
    source.with_context(|| {
        format!("cannot read the source {from:?}: write NS/WORKLOAD, NS/KIND/NAME, gateway:NS/NAME or an IP address")
    })
}

/// What was asked, for the first line of the walk.
fn title(ask: &Ask) -> String {
    format!("{}   from {}", ask.name, place(&ask.from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_request() {
        let request = read_line("post https://a.b:8443/pay?x=1").unwrap();
        assert_eq!(
            (request.method.as_str(), request.host.as_str(), request.path.as_str()),
            ("POST", "a.b:8443", "/pay?x=1")
        );
        assert_eq!((request.tls, request.destination_port()), (Tls::Tls, 8443));
        let tcp = read_line("tcp://db:5432").unwrap();
        assert_eq!((tcp.protocol, tcp.destination_port()), (Protocol::Tcp, 5432));
        assert_eq!(read_line("http://a?x").unwrap().path, "/?x");
        for wrong in
            ["", "GET", "GET a", "GET ftp://a", "GET http://", "tcp://a", "GET tcp://a:1", "GET http://a b"]
        {
            assert!(read_line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sources_are_told_apart() {
        assert_eq!(read_source("10.0.0.1").unwrap(), Origin::Ip("10.0.0.1".into()));
        assert!(matches!(read_source("gateway:a/b").unwrap(), Origin::Gateway(named) if named.name == "b"));
        assert!(
            matches!(read_source("a/Deployment/b").unwrap(), Origin::Workload(named) if named.kind == "Deployment")
        );
        for wrong in ["", "a", "a/", "gateway:a", "a/b/c/d"] {
            assert!(read_source(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_joined_and_the_host_is_one() {
        let headers = ["X-A: 1", "X-A: 2", "Host: b"].map(str::to_owned);
        let ask = read_one("GET http://a:8080/", "n/w", &headers).unwrap();
        assert_eq!(ask.request.headers.get("X-A").map(String::as_str), Some("1,2"));
        assert_eq!((ask.request.host.as_str(), ask.request.destination_port()), ("b", 8080));
        assert!(read_one("GET http://a/", "n/w", &["x".to_owned()]).is_err());
    }
}
