//! Telemetry.

use crate::model::json::Value;

use super::words::{items, set, shown, word};
use super::{Faults, attachment};
use crate::model::fields::Fields;

pub(super) fn check(out: &mut Faults, spec: &Value) {
    attachment::check(out, spec);
    for (path, metrics) in items(spec, "metrics", "spec") {
        providers(out, metrics, &path);
        for (path, change) in items(metrics, "overrides", &path) {
            overrides(out, change, &path);
        }
    }
    if spec.list("tracing").len() > 1 {
        out.warn("spec.tracing", "tracing is there more than once", "one entry");
    }
    for (path, tracing) in items(spec, "tracing", "spec") {
        if tracing.list("providers").len() > 1 {
            out.warn(format!("{path}.providers"), "tracing has several providers", "one provider");
        }
        providers(out, tracing, &path);
        if tracing.number("randomSamplingPercentage").is_some_and(|share| !(0.0..=100.0).contains(&share)) {
            out.error(format!("{path}.randomSamplingPercentage"), "a share is out of range", "0 to 100");
        }
        for (name, tag) in tracing.map("customTags").into_iter().flatten() {
            let at = format!("{path}.customTags");
            if name.is_empty() {
                out.error(at.clone(), "a tag has no name", "a name");
            }
            for (kind, field) in [("literal", "value"), ("header", "name"), ("environment", "name")] {
                if set(tag, kind) && word(tag, &format!("{kind}.{field}")).is_empty() {
                    out.error(
                        at.clone(),
                        format!("a tag of {kind} has no {field}"),
                        "what the tag is to say",
                    );
                }
            }
        }
    }
    for (path, logging) in items(spec, "accessLogging", "spec") {
        if set(logging, "filter") && !is_closed(word(logging, "filter.expression")) {
            let what = format!("a filter is no expression: {}", shown(word(logging, "filter.expression")));
            out.error(format!("{path}.filter.expression"), what, "an expression of CEL");
        }
        providers(out, logging, &path);
    }
}

/// Whether an expression of CEL (the Common Expression Language) says something and closes the quotes and brackets that it opens. Its
/// grammar beyond that is not judged.
fn is_closed(expression: &str) -> bool {
    let (mut open, mut quote, mut escaped) = (vec![], None, false);
    for c in expression.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(own), _) if own == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => open.push(')'),
            (None, '[') => open.push(']'),
            (None, '{') => open.push('}'),
            (None, ')' | ']' | '}') if open.pop() != Some(c) => return false,
            _ => {}
        }
    }
    !expression.trim().is_empty() && open.is_empty() && quote.is_none()
}

fn providers(out: &mut Faults, value: &Value, path: &str) {
    if let Some((path, _)) = items(value, "providers", path).find(|(_, one)| word(one, "name").is_empty()) {
        out.error(path, "a provider has no name", "an extension provider of the mesh");
    }
}

fn overrides(out: &mut Faults, change: &Value, path: &str) {
    for (name, tag) in change.map("tagOverrides").into_iter().flatten() {
        let at = format!("{path}.tagOverrides");
        if name.is_empty() {
            out.warn(at.clone(), "a tag has no name", "a name");
        }
        let value = !word(tag, "value").is_empty();
        match word(tag, "operation") {
            "REMOVE" if value => {
                out.error(at, "a tag that is removed has a value", "no value");
            }
            "" | "UPSERT" if !value => {
                out.error(at, "a tag that is set has no value", "an expression");
            }
            _ => {}
        }
    }
    if change.at("match.customMetric").and_then(Value::as_str) == Some("") {
        out.error(format!("{path}.match.customMetric"), "a metric has no name", "the name of a metric");
    }
}
