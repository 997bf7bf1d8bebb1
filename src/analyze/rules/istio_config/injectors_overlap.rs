//! ISTIO217.

use crate::model::json::Value;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two injectors are called for the same pods, or an injector's webhook leads nowhere.
    ///
    /// ## What it detects
    /// Webhooks of Istio's injectors whose selectors have labels in common; a webhook with neither a Service nor a
    /// URL that can be read; a Service that is not there, in a namespace of which others were seen.
    /// ## Why it matters
    /// Called twice, a pod gets two proxies or the configuration of whichever came last. A webhook that reaches
    /// nobody keeps pods from being made, or lets them start without a proxy.
    /// ## Evidence
    /// The webhooks, their selectors, and where they point.
    /// ## How to confirm
    /// `istioctl experimental check-inject deploy/NAME` lists every webhook that matches.
    /// ## How to fix
    /// Delete the webhook of the revision that is gone, or give the two selectors that exclude each other.
    /// ## False positives
    /// A revision tag and the revision it points to have webhooks of their own, with selectors that exclude each
    /// other: they are told apart.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/injection/>
    InjectorsOverlap {
        code: "ISTIO217", name: "injectors-overlap", family: Mesh, severity: Warning,
        needs: [Objects], aliases: ["IST0139", "IST0163", "IST0164"],
    }
}

const REVISION: &str = "istio.io/rev";

/// What is wrong with a webhook.
#[derive(Debug)]
enum Wrong {
    /// Called together with another one: its name, and labels for which both are.
    Overlaps(String, String),
    /// Neither Service nor URL.
    Nowhere,
    /// A Service that is not there.
    NoService(String),
}

/// A webhook that is wrong.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    index: usize,
    name: &'a str,
    wrong: Wrong,
}

impl Check for InjectorsOverlap {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut hooks: Vec<(&Object, usize, &Value)> = vec![];
        for object in snapshot.objects_of("MutatingWebhookConfiguration") {
            for (index, hook) in object.body.list("webhooks").iter().enumerate() {
                if hook.text("name").is_some_and(|name| name.ends_with("sidecar-injector.istio.io")) {
                    hooks.push((object, index, hook));
                }
            }
        }
        let samples = samples(&hooks);
        let mut out = vec![];
        for (at, (object, index, hook)) in hooks.iter().enumerate() {
            let name = hook.text("name").unwrap_or_default();
            let overlapping = hooks.iter().take(at).find_map(|(other, _, earlier)| {
                let both = samples
                    .iter()
                    .find(|(namespace, pod)| calls(hook, namespace, pod) && calls(earlier, namespace, pod));
                both.map(|(namespace, pod)| {
                    let earlier =
                        format!("{} of {}", earlier.text("name").unwrap_or_default(), other.reference);
                    Wrong::Overlaps(earlier, shown(namespace, pod))
                })
            });
            let wrong = overlapping.or_else(|| points(snapshot, hook));
            out.extend(wrong.map(|wrong| Fact { object, index: *index, name, wrong }));
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let name = text::plain(fact.name, 80);
        let (field, title, message) = match &fact.wrong {
            Wrong::Overlaps(other, labels) => (
                "namespaceSelector",
                format!("Injector webhooks {name} and {} are called for the same pods", text::plain(other, 120)),
                format!("For {} both webhooks are called: such a pod is injected twice.", text::plain(labels, 160)),
            ),
            Wrong::Nowhere => (
                "clientConfig",
                format!("Injector webhook {name} of {own} names nobody to call"),
                "The webhook has neither a Service nor a URL that can be read: with failurePolicy Fail no pod is made that it selects.".to_owned(),
            ),
            Wrong::NoService(service) => (
                "clientConfig.service",
                format!("Injector webhook {name} calls Service {}, which does not exist", text::plain(service, 80)),
                "Nobody answers: with failurePolicy Fail no pod is made that it selects, with Ignore they start without a proxy.".to_owned(),
            ),
        };
        let subject = own.field(format!("webhooks[{}].{field}", fact.index));
        Finding::new(Self::META, subject.clone(), &[])
            .title(title)
            .message(message)
            .mechanism("injector webhooks overlap or lead nowhere")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("webhook {name}")))
            .remedy(Remedy::delete(fact.object, "Delete the webhooks of the revision that is gone (istioctl tag list shows which are in use)"))
            .prevention(Prevention::of("Test", "After each upgrade run istioctl experimental check-inject for one workload of each namespace"))
    }
}

fn points(snapshot: &Snapshot, hook: &Value) -> Option<Wrong> {
    if let Some(url) = hook.text("clientConfig.url") {
        let host = url.strip_prefix("https://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
        return host.is_none_or(str::is_empty).then_some(Wrong::Nowhere);
    }
    let Some(service) = hook.at("clientConfig.service") else { return Some(Wrong::Nowhere) };
    let (namespace, name) = (service.string("namespace"), service.string("name"));
    let seen = snapshot.services.iter().any(|service| service.object.namespace() == namespace);
    let there = snapshot.object("Service", &namespace, &name).is_some();
    (seen && !there).then(|| Wrong::NoService(format!("{namespace}/{name}")))
}

fn calls(hook: &Value, namespace: &Labels, pod: &Labels) -> bool {
    let matches =
        |field: &str, labels: &Labels| hook.at(field).is_none_or(|s| Selector::read(s).matches(labels));
    matches("namespaceSelector", namespace) && matches("objectSelector", pod)
}

/// Labels of a namespace and of a pod, as a text.
fn shown(namespace: &Labels, pod: &Labels) -> String {
    let text = |labels: &Labels| {
        let all: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if all.is_empty() { "no label".to_owned() } else { all.join(", ") }
    };
    format!("a pod with {} in a namespace with {}", text(pod), text(namespace))
}

/// All labels that make a difference to these webhooks.
fn samples(hooks: &[(&Object, usize, &Value)]) -> Vec<(Labels, Labels)> {
    let mut revisions: BTreeSet<Option<String>> = [None].into();
    for (object, _, hook) in hooks {
        revisions.extend(object.labels.get(REVISION).map(str::to_owned).map(Some));
        for selector in ["namespaceSelector", "objectSelector"].iter().filter_map(|field| hook.at(field)) {
            revisions.extend(
                selector.text_map("matchLabels").remove(REVISION).map(|revision| Some(revision.into())),
            );
            let of_revision =
                selector.list("matchExpressions").iter().filter(|e| e.text("key") == Some(REVISION));
            revisions.extend(of_revision.flat_map(|e| e.texts("values")).map(Some));
        }
    }
    let all = |label: &str, values: [Option<&str>; 3]| {
        let mut out = vec![];
        for value in values {
            for revision in &revisions {
                let mut labels = Labels::new();
                labels.extend(value.map(|value| (label.to_owned(), value.to_owned())));
                labels.extend(revision.clone().map(|revision| (REVISION.to_owned(), revision)));
                out.push(labels);
            }
        }
        out
    };
    let namespaces = all("istio-injection", [None, Some("enabled"), Some("disabled")]);
    let pods = all("sidecar.istio.io/inject", [None, Some("true"), Some("false")]);
    namespaces.iter().flat_map(|n| pods.iter().map(move |p| (n.clone(), p.clone()))).collect()
}
