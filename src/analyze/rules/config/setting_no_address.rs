//! CONFIG106.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::{Said, of_proxy};
use crate::analyze::rules::pods::common::undo_last_rollout;
use crate::analyze::rules::seen;
use crate::analyze::traffic::text;
use crate::model::container::{Container, EnvSource};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A setting is to be an address and is none, so that every call that is made with it fails before it leaves.
    ///
    /// ## What it detects
    /// An environment variable whose value refers to a variable that is not defined (`$(NAME)` stays as it is written), holds a line
    /// break or a blank, or lacks the scheme of a URL; together with lines of the application's own log that hold the value and say that
    /// it cannot be used.
    /// ## Why it matters
    /// The container starts and is ready. It fails at the first call that needs the setting, and the callee never hears of it.
    /// ## Evidence
    /// The variable in the pod template, and the application's line.
    /// ## How to confirm
    /// `kubectl exec POD -- printenv NAME` shows the value as the application reads it.
    /// ## How to fix
    /// Correct the value: define the variable that it refers to before it, take the blank out, write the scheme.
    /// ## False positives
    /// A value that a program completes itself, by a shell or a template of its own: then its log does not complain.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>
    SettingNoAddress {
        code: "CONFIG106", name: "setting-is-no-address", family: Config, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// Fewer lines than this say nothing.
const ENOUGH: u64 = 3;

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrong {
    /// It refers to a variable that is not defined.
    Variable(String),
    /// It holds a blank or a control character.
    Blank,
    /// It is to be a URL, and has no scheme.
    Scheme,
}

/// A setting that is no address.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    container: String,
    /// Where the value stands.
    path: String,
    name: &'a str,
    value: &'a str,
    wrong: Wrong,
    said: Said,
}

impl Fact<'_> {
    /// What a line that is about the value holds of it.
    fn needle(&self) -> &str {
        match &self.wrong {
            Wrong::Variable(name) => name,
            Wrong::Blank | Wrong::Scheme => self.value.trim(),
        }
    }
}

impl Check for SettingNoAddress {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for workload in snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()) {
            if seen::wanted(snapshot, workload.object.namespace()) {
                let mut facts = suspects(workload);
                listen(snapshot, workload, &mut facts);
                out.extend(facts.into_iter().filter(|fact| fact.said.count >= ENOUGH));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let subject = workload.field(&fact.path);
        let (what, why) = match &fact.wrong {
            Wrong::Variable(name) => (
                format!("refers to {name}, which is not defined"),
                "Kubernetes leaves $(NAME) as it is written where no variable of this name stands before it.",
            ),
            Wrong::Blank => ("holds a blank or a line break".to_owned(), "A URL holds none."),
            Wrong::Scheme => ("has no scheme".to_owned(), "A URL begins with one, such as http://."),
        };
        let services: Vec<ServiceName> =
            snapshot.services_before(fact.workload).map(Service::service_name).collect();
        Finding::new(Self::META, subject.clone(), &[fact.name])
            .title(format!("{workload}: setting {} is no address: it {what}", fact.name))
            .message(format!(
                "{} of container {} {what}. {why} Its log says {} that it cannot use the value: such calls fail before they leave, and the callee never hears of them.",
                fact.name,
                fact.container,
                text::times(fact.said.count)
            ))
            .mechanism("setting is no address: environment variable with an undefined variable, a blank or no scheme in its URL")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .onset(fact.said.first)
            .evidence(Evidence::object(&subject, what.clone()).excerpt(fact.value))
            .evidence(fact.said.evidence(format!("container {} of {workload}", fact.container)))
            .effect(Effect::calls(workload))
            .effects(services.iter().map(|service| Effect::requests(service, &["5xx", "500", "dns", "via_upstream"])))
            .maybe_remedy(undo_last_rollout(snapshot, workload, fact.name))
            .maybe_remedy(correct(fact, snapshot))
            .remedy(Remedy::manual(format!("Correct {} in {}, and roll it out", fact.name, fact.path)))
            .prevention(Prevention::of("Test", "In the pipeline: start the image with the settings of the release and let it make one call with each address"))
    }
}

/// What could be wrong with the value of a container's variable, as far as the template tells.
fn wrong(container: &Container, at: usize, value: &str) -> Option<Wrong> {
    static REFERENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(^|[^$])\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)").ok());
    let earlier = |name: &str| container.env.iter().take(at).any(|var| var.name == name);
    let from = !container.body.list("envFrom").is_empty();
    if let Some(found) = REFERENCE.as_ref()?.captures(value) {
        let name = found.get(2)?.as_str();
        // A variable may come from a whole ConfigMap or Secret, or be one of those that Kubernetes makes for Services.
        let made = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
        return (!earlier(name) && !from && !made).then(|| Wrong::Variable(format!("$({name})")));
    }
    let url = value.contains("://");
    if url && value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some(Wrong::Blank);
    }
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '/' | '_');
    (!url
        && value.len() > 2
        && value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.chars().all(host))
    .then_some(Wrong::Scheme)
}

/// The variables of a workload whose value is no address, if it is to be one, before any log was read.
fn suspects(workload: &Workload) -> Vec<Fact<'_>> {
    let mut out = vec![];
    for container in &workload.template.containers {
        for (at, var) in container.env.iter().enumerate() {
            let EnvSource::Literal(value) = &var.source else { continue };
            let Some(wrong) = wrong(container, at, value) else { continue };
            let path = workload.template_path(&format!("spec.{}.env[{at}].value", container.path()));
            let (container, name, said) = (container.name.clone(), &var.name, Said::default());
            out.push(Fact { workload, container, path, name, value, wrong, said });
        }
    }
    out
}

/// What a client says of an address that it cannot use, in Go, Python, Java, Node, .NET and Rust.
const REFUSED: &str = r"(?i)invalid control character in url|invalid character .{0,12} in (?:host|url)|illegal character in|invalid ur[il]|malformed ?ur[il]|malformedurl|err_invalid_url|invalid non-printable|no such host|name or service not known|enotfound|unknownhost|could not be parsed|failed to parse|invalid host";

/// What it says of one without a scheme.
const NO_SCHEME: &str = r#"(?i)unsupported protocol scheme|no scheme supplied|no connection adapters|no protocol:|missing protocol scheme|missing the ['"]?https?|uri is not absolute|relative url without a base|only absolute ur|invalid ur[il]|err_invalid_url|unsupported scheme|missing scheme"#;

/// Counts for each suspect the lines of its container that hold its value and say that it is no address. Every line is read once.
fn listen(snapshot: &Snapshot, workload: &Workload, facts: &mut [Fact<'_>]) {
    static WORDS: LazyLock<Option<[Regex; 2]>> =
        LazyLock::new(|| Some([Regex::new(REFUSED).ok()?, Regex::new(NO_SCHEME).ok()?]));
    let Some([refused, no_scheme]) = WORDS.as_ref() else { return };
    if facts.is_empty() {
        return;
    }
    for log in snapshot.logs.iter().filter(|log| log.namespace == workload.object.namespace()) {
        let mut here: Vec<_> = facts.iter_mut().filter(|fact| fact.container == log.container).collect();
        if here.is_empty()
            || of_proxy(log)
            || !snapshot.owner_by_name(&log.namespace, &log.pod).same_object(workload.reference())
        {
            continue;
        }
        for line in &log.lines {
            let (refuses, wants_scheme) = (refused.is_match(&line.text), no_scheme.is_match(&line.text));
            if !refuses && !wants_scheme {
                continue;
            }
            for fact in &mut here {
                let says = if fact.wrong == Wrong::Scheme { wants_scheme } else { refuses };
                if says && holds(&line.text, fact.needle(), &fact.wrong) {
                    fact.said.add(&log.pod, line.time, &line.text);
                }
            }
        }
    }
}

/// Whether a line holds a value: one without a scheme at the beginning of an address, and not behind another one's scheme.
fn holds(line: &str, value: &str, wrong: &Wrong) -> bool {
    !value.is_empty()
        && line.match_indices(value).any(|(at, _)| {
            let before = line.get(..at).and_then(|head| head.chars().next_back());
            *wrong != Wrong::Scheme || before.is_none_or(|c| matches!(c, '"' | '\'' | ' ' | '(' | '=' | '`'))
        })
}

/// The value without its blank, or with the scheme that the Service's port speaks.
fn correct(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let value = match &fact.wrong {
        Wrong::Variable(_) => return None,
        Wrong::Blank => {
            let trimmed = fact.value.trim();
            (!trimmed.contains(char::is_whitespace)).then(|| trimmed.to_owned())?
        }
        Wrong::Scheme => {
            let authority = fact.value.split('/').next()?;
            let host = authority.split(':').next()?;
            let mut labels = host.split('.');
            let (name, namespace) =
                (labels.next()?, labels.next().unwrap_or(fact.workload.object.namespace()));
            let service = snapshot.service(&ServiceName::new(namespace, name))?;
            let port = authority.split_once(':').map_or(Some(80), |(_, port)| port.parse().ok())?;
            let tls = service
                .ports
                .iter()
                .any(|p| p.number == port && (p.name.starts_with("https") || p.number == 443));
            format!("{}://{}", if tls { "https" } else { "http" }, fact.value)
        }
    };
    Remedy::patch(
        &fact.workload.object,
        &json!([{"op": "replace", "path": pointer(&fact.path), "value": value}]),
        format!("Set {} to {}", fact.name, text::plain(&value, 90)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(env: crate::model::json::Value) -> Container {
        let template = json!({"spec": {"containers": [{"name": "app", "env": env}]}});
        crate::model::workload::PodTemplate::read(&std::sync::Arc::new(template)).containers.remove(0)
    }

    #[test]
    fn a_variable_is_defined_before_it_is_referred_to() {
        let host = json!({"name": "HOST", "value": "payment"});
        let url = json!({"name": "URL", "value": "http://$(HOST)/a"});
        assert_eq!(wrong(&of(json!([host, url])), 1, "http://$(HOST)/a"), None);
        assert_eq!(
            wrong(&of(json!([url, host])), 0, "http://$(HOST)/a"),
            Some(Wrong::Variable("$(HOST)".to_owned()))
        );
        assert_eq!(wrong(&of(json!([url])), 0, "http://$$(HOST)/a"), None);
        assert_eq!(wrong(&of(json!([url])), 0, "http://$(PAYMENT_SERVICE_HOST)/a"), None);
    }

    #[test]
    fn addresses_are_told_from_other_settings() {
        let container = of(json!([]));
        assert_eq!(wrong(&container, 0, "http://payment\n"), Some(Wrong::Blank));
        assert_eq!(wrong(&container, 0, "http://payment"), None);
        assert_eq!(wrong(&container, 0, "payment:8080/v1"), Some(Wrong::Scheme));
        assert_eq!(wrong(&container, 0, "two words"), None);
        let line = r#"Post "payment/charges": unsupported protocol scheme """#;
        assert!(holds(line, "payment", &Wrong::Scheme));
        assert!(!holds(
            "Get \"http://payment/charges\": unsupported protocol scheme",
            "payment",
            &Wrong::Scheme
        ));
    }
}
