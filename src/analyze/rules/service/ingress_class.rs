//! SVC108.

use crate::model::json::json;

use super::ingress::backends;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// No ingress controller takes care of an Ingress.
    ///
    /// ## What it detects
    /// An Ingress whose class does not exist, or one that names no class in a cluster that has classes and no default one.
    /// ## Why it matters
    /// The Ingress is stored and nobody serves it: requests for its hosts get another site's answer, a 404, or none.
    /// ## Evidence
    /// `spec.ingressClassName` or the annotation `kubernetes.io/ingress.class`, the IngressClasses of the cluster, the Ingress's address.
    /// ## How to confirm
    /// `kubectl get ingress` shows no ADDRESS; `kubectl get ingressclass` lists the classes.
    /// ## How to fix
    /// Name a class that exists, or mark one as the default.
    /// ## False positives
    /// An Ingress that has an address is served by somebody; the old annotation is a matter between it and its controller and is not
    /// checked; nothing is said where no IngressClass was seen.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/ingress/#ingress-class>
    IngressClassMissing {
        code: "SVC108", name: "ingress-class-missing", family: Network, severity: Warning,
        needs: [Objects], aliases: ["K8S-SVCMESHLESS-LB"],
    }
}

/// An Ingress that nobody serves.
#[derive(Debug)]
pub struct Fact<'a> {
    ingress: &'a Object,
    /// The class that it names; `None` where it names none.
    class: Option<&'a str>,
}

impl Check for IngressClassMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if !snapshot.knows_kind("IngressClass") {
            return vec![];
        }
        let default = snapshot.objects_of("IngressClass").any(|class| {
            class.annotations.get("ingressclass.kubernetes.io/is-default-class").is_some_and(|v| v == "true")
        });
        let unserved = |ingress: &'a Object| {
            let served = !ingress.body.list("status.loadBalancer.ingress").is_empty();
            let old = ingress.annotations.contains_key("kubernetes.io/ingress.class");
            let class = ingress.body.text("spec.ingressClassName").filter(|class| !class.is_empty());
            let known = match class {
                Some(class) => snapshot.object("IngressClass", "", class).is_some(),
                None => old || default,
            };
            (!served && !known).then_some(Fact { ingress, class })
        };
        snapshot
            .objects_of("Ingress")
            .filter(|i| seen::wanted(snapshot, i.namespace()))
            .filter_map(unserved)
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let r = &fact.ingress.reference;
        let classes: Vec<&str> = snapshot.objects_of("IngressClass").map(Object::name).collect();
        let what = match fact.class {
            Some(class) => format!("its class {class} does not exist"),
            None => "it names no class, and no class is the default one".to_owned(),
        };
        let services: Vec<ServiceName> =
            backends(fact.ingress).iter().map(|b| ServiceName::new(&r.namespace, &b.service)).collect();
        let subject = r.field("spec.ingressClassName");
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{r} is served by nobody: {what}"))
            .message(format!("No ingress controller takes care of {r}: {what}. The cluster has the classes {}.", classes.join(", ")))
            .mechanism("ingress class missing: no controller serves the Ingress")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, fact.class.unwrap_or("not set").to_owned()))
            .evidence(Evidence::new("Object", "IngressClasses", classes.join(", ")))
            .effects(services.iter().map(|s| Effect::requests(s, &["404"])))
            .maybe_remedy(name_class(fact, &classes))
            .remedy(Remedy::commands("Name a class that exists in spec.ingressClassName", vec!["kubectl get ingressclass".to_owned(), common::describe_command(r)], vec![]))
            .prevention(Prevention::of("Policy", "Mark one IngressClass as the default (ingressclass.kubernetes.io/is-default-class), and refuse an Ingress whose class does not exist"))
    }
}

/// The class of nearly that name, or the only one.
fn name_class(fact: &Fact<'_>, classes: &[&str]) -> Option<Remedy> {
    let near = fact.class.and_then(|class| nearest(class, classes.iter().copied()));
    let class = near.or(match classes {
        [only] => Some(*only),
        _ => None,
    })?;
    let operation = json!([{"op": "add", "path": pointer("spec.ingressClassName"), "value": class}]);
    Remedy::patch(fact.ingress, &operation, format!("Set spec.ingressClassName to {class}, which exists"))
}
