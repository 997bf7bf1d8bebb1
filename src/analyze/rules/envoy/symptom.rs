//! How every family of failing requests is told: who calls whom, what share fails since when, and where to look.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::Meta;
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, Part, text};
use crate::analyze::twin::probe::GATEWAY_NAME;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

/// At most this many edges are shown as evidence: the busiest ones tell the story.
const MAX_EDGES: usize = 5;
/// At most this many names in a list.
const MAX_NAMES: usize = 3;

/// What one family says beyond the figures.
#[derive(Debug)]
pub struct Words<'a> {
    /// What happens, in the field's words.
    pub mechanism: &'a str,
    /// What it means and what decides between its causes: one or two sentences.
    pub means: String,
    /// What to look at, and the commands that show it.
    pub look: (&'a str, Vec<String>),
    /// Envoy's flag for an alert; empty where a response code says it.
    pub flag: &'a str,
    /// The response codes for an alert, as a regular expression; empty where a flag says it.
    pub codes: &'a str,
}

/// The finding about one group of failures.
pub fn symptom(meta: &'static Meta, group: &Failures, words: Words<'_>) -> Finding {
    let severity = group.severity().unwrap_or(Severity::Info);
    let subject = group.subject();
    let source = group.callee.reporter == Reporter::Source;
    let reporter = if source { "source" } else { "destination" };
    let top = group.parts.first();
    let name = group.name();
    let side = if source { "" } else { " (callee's proxy)" };
    let since = group.onset.map(|at| format!(" since {}", text::clock(at))).unwrap_or_default();
    let figures = text::share(group.count, group.requests, what(group));
    let label = top.map(short_label).unwrap_or_default();
    let counted = top.is_some_and(|part| part.counted);
    let by = if counted { "Counters" } else { "Access logs" };
    let over = match (group.over(), group.last) {
        (true, Some(last)) => format!(
            " It ended at {}: {} requests have passed without it since.",
            text::clock(last),
            text::number(group.requests_after)
        ),
        _ => String::new(),
    };
    let mut finding = Finding::new(meta, subject.clone(), &[reporter, &group.callee.host])
        .title(format!("{} → {name}: {label}, {figures}{since}{side}", callers(group)))
        .message(format!(
            "{by} on the {} side show {figures} to {name} failing this way{since}. {}{over}",
            if source { "callers'" } else { "callee's" },
            words.means
        ))
        .mechanism(words.mechanism)
        .severity(severity)
        .role(if severity >= Severity::Warning { Role::Symptom } else { Role::Context }, Confidence::Observed)
        .service(group.callee.service.clone())
        .onset(group.onset)
        .evidences(group.parts.iter().take(MAX_EDGES).map(|part| evidence(part, group)))
        .effect(match &group.callee.service {
            Some(service) => Effect::requests(service, group.way.words()),
            None => Effect::calls(&subject),
        });
    for caller in group.callers().into_iter().filter(|caller| !caller.same_object(&subject)).take(MAX_NAMES) {
        finding = finding.related(caller);
    }
    if !words.look.1.is_empty() {
        finding = finding.remedy(Remedy::commands(words.look.0, words.look.1, vec![]));
    }
    finding.prevention(alert(group, words.flag, words.codes))
}

/// Requests or bare connections.
fn what(group: &Failures) -> &'static str {
    match group.way {
        Way::NoFilterChain => "connections and requests",
        _ => "requests",
    }
}

/// `503 UH no_healthy_upstream`, with no more of the details than what decides.
fn short_label(part: &Part) -> String {
    let short = part.short.trim_end_matches(" -");
    let detail = deciding(&part.details);
    let space = if detail.is_empty() { "" } else { " " };
    format!("{}{space}{}", text::plain(short, 24), text::plain(detail, 40))
}

/// The word of the details that decides: the innermost reason of `upstream_reset_before_response_started{…|…}`, the
/// error of a TLS handshake, else the first word.
fn deciding(details: &str) -> &str {
    if let Some((_, rest)) = details.split_once("OPENSSL_internal:") {
        return rest.split([':', '|', '}', ' ']).next().unwrap_or_default();
    }
    let first = details.split(' ').next().unwrap_or_default();
    if let Some(("upstream_reset_before_response_started", inner)) = first.split_once('{') {
        let mut reasons = inner.trim_end_matches('}').split(['|', ',']).rev();
        return reasons.find(|reason| !reason.is_empty()).unwrap_or_default();
    }
    match first.split(['{', '[']).next().unwrap_or_default() {
        "via_upstream" => "",
        word => word,
    }
}

/// `frontend`, `frontend, admin` or `frontend and 4 others`.
pub fn callers(group: &Failures) -> String {
    let callers = group.callers();
    let names: Vec<String> = callers.iter().take(MAX_NAMES).map(|c| text::plain(&c.name, 40)).collect();
    match callers.len() {
        0 => "clients".to_owned(),
        n if n > MAX_NAMES => format!("{} and {} others", names.first().cloned().unwrap_or_default(), n - 1),
        _ => names.join(", "),
    }
}

fn evidence(part: &Part, group: &Failures) -> Evidence {
    let name = group.name();
    let (from, to) = match group.callee.reporter {
        Reporter::Source => (part.workload.name.clone(), name),
        Reporter::Destination => {
            (part.peer.as_ref().map_or("a client".to_owned(), |peer| peer.name.clone()), name)
        }
    };
    let mut value = format!("{from} → {to}: {}, {}", text::plain(&part.short, 24), text::number(part.count));
    if let (Some(first), Some(last)) = (part.first, part.last) {
        value.push_str(&format!(" from {} to {}", text::clock(first), text::clock(last)));
    }
    if let Some((low, middle, high)) = part.durations {
        value.push_str(&format!(
            ", durations {} / {} / {} (5th, 50th, 95th percentile)",
            text::milliseconds(low),
            text::milliseconds(middle),
            text::milliseconds(high)
        ));
    }
    if !part.upstreams.is_empty() {
        let hosts =
            part.upstreams.iter().take(MAX_NAMES).map(|(host, n)| format!("{} ({n})", text::plain(host, 48)));
        value.push_str(&format!(", upstream {}", hosts.collect::<Vec<_>>().join(" ")));
        if part.upstreams.len() > MAX_NAMES {
            value.push_str(&format!(" and {} others", part.upstreams.len() - MAX_NAMES));
        }
    }
    let (source, place) =
        if part.counted { ("Metric", "counters of") } else { ("AccessLog", "istio-proxy of") };
    Evidence::new(source, format!("{place} {}, {}", part.workload, text::plain(&part.cluster, 120)), value)
        .at(part.first)
        .excerpt(&part.details)
}

fn alert(group: &Failures, flag: &str, codes: &str) -> Prevention {
    let service = match &group.callee.service {
        Some(s) => format!(
            "destination_service_name=\"{}\",destination_service_namespace=\"{}\"",
            text::plain(&s.name, 63),
            text::plain(&s.namespace, 63)
        ),
        None => format!("destination_service=\"{}\"", text::plain(&group.callee.host, 120)),
    };
    let reporter = if group.callee.reporter == Reporter::Source { "source" } else { "destination" };
    let how = match (flag, codes) {
        ("", codes) => format!("response_code=~\"{codes}\""),
        (flag, _) => format!("response_flags=~\".*{flag}.*\""),
    };
    Prevention::alert(
        "Alert when more than 1 % of the requests end this way for two minutes",
        format!(
            "sum(rate(istio_requests_total{{reporter=\"{reporter}\",{service},{how}}}[2m])) / sum(rate(istio_requests_total{{reporter=\"{reporter}\",{service}}}[2m])) > 0.01"
        ),
    )
}

/// `kubectl -n NS VERB` about the callee, and what stands in for it.
pub fn kubectl(group: &Failures, rest: &str) -> String {
    let subject = group.subject();
    format!("kubectl {}{}", scope(&subject), rest.replace("NAME", &quote(&subject.name)))
}

/// The newest lines of the proxy of one workload.
pub fn proxy_log(workload: &ObjectRef) -> String {
    let name = quote(&workload.name);
    // The pods of a Gateway belong to it, and it has no log: they carry its name.
    let whose = if workload.kind == "Gateway" {
        format!("-l {GATEWAY_NAME}={name}")
    } else {
        format!("{}/{name}", workload.kind.to_ascii_lowercase())
    };
    format!("kubectl {}logs {whose} -c istio-proxy --tail=200", scope(workload))
}

/// The log of the proxy of the busiest reporter.
pub fn reporters_log(group: &Failures) -> Vec<String> {
    group.parts.first().map(|part| proxy_log(&part.workload)).into_iter().collect()
}

/// Where the failing requests went: `all on one of 3 pods` or `over 3 pods`, from the endpoints in access logs.
pub fn spread(group: &Failures, snapshot: &Snapshot) -> String {
    let hosts = group.upstreams();
    let pods: Vec<String> = hosts
        .keys()
        .map(|host| {
            let ip = crate::model::traffic::address(host);
            snapshot.pod_by_ip(ip).map_or_else(|| (*host).to_owned(), |pod| pod.object.name().to_owned())
        })
        .collect();
    match pods.as_slice() {
        [] => String::new(),
        [one] => format!("All of them went to {}. ", text::plain(one, 63)),
        many => format!("They are spread over {} endpoints. ", many.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_decides() {
        assert_eq!(
            deciding("upstream_reset_before_response_started{connection_termination}"),
            "connection_termination"
        );
        assert_eq!(
            deciding(
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused} x"
            ),
            "delayed_connect_error:_Connection_refused"
        );
        assert_eq!(
            deciding("a{b|TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:end}"),
            "CERTIFICATE_VERIFY_FAILED"
        );
        assert_eq!(deciding("rbac_access_denied_matched_policy[none]"), "rbac_access_denied_matched_policy");
        assert_eq!(deciding("via_upstream"), "");
    }
}
