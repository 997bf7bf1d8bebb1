//! Node: frames below the error, then its fields in braces, among them the error that caused it.

use super::{Exception, Language, head, is_exception_head};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let ours = |line: &&str| {
        let frame = line.trim_start();
        frame.starts_with("at ")
            && (frame.contains("(node:")
                || frame.contains("at node:")
                || frame.contains(".js:")
                || frame.contains(".mjs:")
                || frame.contains(".ts:")
                || frame.contains(".cjs:"))
    };
    let first = lines.iter().position(&ours)?;
    let start = lines.iter().take(first).rposition(|line| is_exception_head(line) || is_head(line))?;
    let mut chain = vec![head(lines.get(start)?)];
    let mut root = first;
    for (at, line) in lines.iter().enumerate().skip(first) {
        if let Some((_, cause)) = line.split_once("[cause]: ") {
            chain.push(head(cause.trim_end_matches(" {")));
            root = at;
        }
    }
    let below = lines.iter().copied().skip(root).filter(|line| ours(line));
    let mut frames: Vec<&str> = below.collect();
    if frames.iter().all(|frame| super::is_runtime(frame)) {
        frames.extend(lines.iter().copied().take(root).filter(|line| ours(line)));
    }
    let (kind, message) = chain.pop()?;
    let message = match (message.trim().is_empty(), fields(lines.get(root..).unwrap_or_default())) {
        (true, Some(told)) => told,
        _ => message.to_owned(),
    };
    chain.push((kind, &message));
    Exception::new(Language::Node, chain, frames)
}

/// `Error: msg`, `Uncaught Error: msg`, `AggregateError [CODE]: `.
fn is_head(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("Uncaught ").unwrap_or(line);
    line.starts_with("Error: ") || line == "Error" || line.starts_with("Error [") || is_exception_head(line)
}

/// What the fields of an error without words say: its code and the address.
fn fields(lines: &[&str]) -> Option<String> {
    let field = |name: &str| {
        lines.iter().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix(": ")?;
            Some(value.trim_end_matches(',').trim_matches('\''))
        })
    };
    let code = field("code")?;
    Some(match (field("address").or(field("hostname")), field("port")) {
        (Some(address), Some(port)) => format!("{code} {address}:{port}"),
        (Some(address), None) => format!("{code} {address}"),
        _ => code.to_owned(),
    })
}
