//! Webhooks of injectors that would inject twice, or call nobody.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, MUTATING_WEBHOOK, SERVICE};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::{Labels, Selector};

const REVISION: &str = "istio.io/rev";

/// Whether a webhook is called for a pod with these labels in a namespace with those. A selector that is absent selects all.
pub(super) fn selects(hook: &Value, namespace: &Labels, pod: &Labels) -> bool {
    let matches = |field: &str, labels: &Labels| {
        hook.at(field).is_none_or(|selector| Selector::read(selector).matches(labels))
    };
    matches("namespaceSelector", namespace) && matches("objectSelector", pod)
}

/// The revisions that a configuration speaks of.
fn revisions(configuration: &Object) -> BTreeSet<String> {
    let mut out: BTreeSet<String> =
        configuration.labels.get(REVISION).map(str::to_owned).into_iter().collect();
    for hook in configuration.body.list("webhooks") {
        for selector in ["namespaceSelector", "objectSelector"].iter().filter_map(|field| hook.at(field)) {
            out.extend(selector.text_map("matchLabels").remove(REVISION).map(String::from));
            let expressions = selector.list("matchExpressions").iter();
            let of_revision = expressions.filter(|expression| expression.text("key") == Some(REVISION));
            out.extend(of_revision.flat_map(|expression| expression.texts("values")));
        }
    }
    out
}

/// The labels worth trying: nothing, on and off, alone and with each revision.
fn samples(label: &str, on: &str, off: &str, revisions: &BTreeSet<String>) -> Vec<Labels> {
    let base = [Labels::new(), Labels::from([(label, on)]), Labels::from([(label, off)])];
    let with_revision = revisions.iter().flat_map(|revision| {
        base.iter().cloned().map(move |mut labels| {
            labels.insert(REVISION.to_owned(), revision.clone());
            labels
        })
    });
    base.iter().cloned().chain(with_revision).collect()
}

/// IST0139.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    let mut hooks: BTreeMap<String, (&Object, Vec<&Value>)> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for configuration in context.all(MUTATING_WEBHOOK) {
        let own = revisions(configuration);
        let all = configuration.body.list("webhooks");
        if own.is_empty() && !all.iter().any(|hook| hook.string("name").ends_with("istio.io")) {
            continue;
        }
        for hook in all {
            let name = format!("{}/{}", configuration.name(), hook.string("name"));
            hooks.entry(name).or_insert((configuration, vec![])).1.push(hook);
        }
        known.extend(own);
    }
    let pods = samples("sidecar.istio.io/inject", "true", "false", &known);
    for namespace in samples("istio-injection", "enabled", "disabled", &known) {
        for pod in &pods {
            let called: Vec<(&String, &Object)> = hooks
                .iter()
                .filter(|(_, (_, hooks))| hooks.iter().any(|hook| selects(hook, &namespace, pod)))
                .map(|(name, (configuration, _))| (name, *configuration))
                .collect();
            for (name, configuration) in called.iter().filter(|_| called.len() > 1) {
                let others: Vec<&str> = called
                    .iter()
                    .filter(|(other, _)| other != name)
                    .map(|(other, _)| other.as_str())
                    .collect();
                let text = format!(
                    "is called for the same pods as {}: they would be injected twice",
                    others.join(", ")
                );
                out.push("IST0139", configuration, "", text);
            }
        }
    }
    for (configuration, hooks) in hooks.values() {
        for service in hooks.iter().filter_map(|hook| hook.at("clientConfig.service")) {
            let (namespace, name) = (service.string("namespace"), service.string("name"));
            if context.find(SERVICE, &namespace, &name).is_none() {
                let text = format!("calls Service {namespace}/{name}, which is not there");
                out.push("IST0139", configuration, "", text);
            }
        }
    }
}
