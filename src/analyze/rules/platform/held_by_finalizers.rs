//! PLAT122.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, resource, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen::wanted;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, conditions};

crate::rule! {
    /// An object is being deleted and does not go, because nobody removes its finalizer.
    ///
    /// ## What it detects
    /// An object other than a pod or a namespace whose deletion was asked for more than two minutes ago and that still has finalizers:
    /// a claim that pods use, a Service whose load balancer is not given back, a custom resource whose controller is gone, a kind of
    /// custom resources of which some are left, an owner that waits for its dependents. Also pods that cannot start because of it.
    /// ## Why it matters
    /// What is half deleted is neither there nor gone: an object of the same name cannot be made, pods that want it wait, and the
    /// namespace around it does not go either.
    /// ## Evidence
    /// The object's `deletionTimestamp` and finalizers, the pods that use a claim, conditions of the object, and events of pods that
    /// wait for it.
    /// ## How to confirm
    /// `kubectl get KIND NAME -o jsonpath='{.metadata.deletionTimestamp} {.metadata.finalizers}'`
    /// ## How to fix
    /// Let go of what the finalizer guards: end the pods that use the claim, delete what is left of the custom resources, bring the
    /// controller back. Take a finalizer off by hand only when what it guards is gone.
    /// ## False positives
    /// Objects that go within two minutes. Pods and namespaces have rules of their own (POD114, PLAT111).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/>
    HeldByFinalizers {
        code: "PLAT122", name: "object-held-by-finalizers", family: Platform, severity: Warning,
        needs: [Objects], aliases: ["K8S-FINALIZER"],
    }
}

/// Most objects are gone by then.
const PATIENCE_SECONDS: f64 = 120.0;

/// What a finalizer waits for.
#[derive(Debug)]
enum Held<'a> {
    /// Pods that use the claim.
    Pods(Vec<&'a Pod>),
    /// Objects that it owns.
    Dependents,
    /// Objects of the kind that it defines.
    Instances(usize),
    /// The cloud's load balancer.
    LoadBalancer,
    /// A controller, by the finalizer's name.
    Controller,
}

/// An object that does not go.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    finalizers: Vec<String>,
    held: Held<'a>,
    /// Pods that wait for it.
    waiting: Vec<&'a Pod>,
}

impl Check for HeldByFinalizers {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let stuck = |object: &&Object| {
            !matches!(object.reference.kind.as_str(), "Pod" | "Namespace" | "Event")
                && wanted(snapshot, &object.reference.namespace)
                && object
                    .deleted
                    .is_some_and(|at| common::seconds_between(at, snapshot.now) > PATIENCE_SECONDS)
        };
        let mut out = vec![];
        for object in snapshot.objects.iter().map(|object| &**object).filter(stuck) {
            let finalizers: Vec<String> =
                object.body.texts("metadata.finalizers").into_iter().take(3).collect();
            if finalizers.is_empty() {
                continue;
            }
            let held = held(snapshot, object, &finalizers);
            out.push(Fact { waiting: waiting(snapshot, object), object, finalizers, held });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let r = &fact.object.reference;
        let names = fact.finalizers.join(", ");
        let since = fact.object.deleted;
        let ago = common::seconds(since.map_or(0.0, |at| common::seconds_between(at, snapshot.now)));
        let why = match &fact.held {
            Held::Pods(pods) => match pods.first() {
                Some(pod) => {
                    format!("{} still use it ({})", common::plural(pods.len(), "pod"), pod.object.reference)
                }
                None => {
                    "no pod that was seen uses it, and the claim's protection was not taken off".to_owned()
                }
            },
            Held::Dependents => "objects that it owns are not gone".to_owned(),
            Held::Instances(0) => "objects of the kind that it defines are not gone".to_owned(),
            Held::Instances(n) => {
                format!("{} of the kind that it defines are not gone", common::plural(*n, "object"))
            }
            Held::LoadBalancer => "the cloud's controller has not given the load balancer back".to_owned(),
            Held::Controller => "no controller removes it".to_owned(),
        };
        let blocked = fact.waiting.len();
        let owners: std::collections::BTreeSet<ObjectRef> =
            fact.waiting.iter().map(|pod| snapshot.owner(pod)).collect();
        let services: Vec<_> = {
            let mut all: Vec<_> = fact
                .waiting
                .iter()
                .flat_map(|pod| snapshot.services_before_pod(pod))
                .map(|s| s.service_name())
                .collect();
            all.sort();
            all.dedup();
            all
        };
        let mut message = format!(
            "{r} was asked to go {ago} ago and is held by its finalizer {names}: {why}. Until it is gone no object of its name can be made"
        );
        if blocked > 0 {
            message += &format!(", and {} wait for it", common::plural(blocked, "pod"));
        }
        message.push('.');
        let excerpt = conditions(fact.object.body.list("status.conditions"))
            .into_iter()
            .find(|c| c.status != "True" && !c.message.is_empty())
            .map(|c| c.message)
            .unwrap_or_default();
        Finding::new(Self::META, r.field("metadata.finalizers"), &[])
            .title(format!("{r} is being deleted for {ago} and does not go: {why}"))
            .message(message)
            .mechanism("object stuck terminating: held by a finalizer")
            .severity(if blocked > 0 { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .evidence(Evidence::object(&r.field("metadata.finalizers"), format!("{names}; deletion asked for {ago} ago")).at(since).excerpt(&excerpt))
            .evidences(fact.waiting.iter().take(2).map(|pod| Evidence::object(&pod.object.reference, "does not start before it is gone".to_owned())))
            .onset(since)
            .effects(owners.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)))
            .remedies(remedies(fact))
            .prevention(Prevention::of("Policy", "Delete what a controller looks after before the controller itself, and claims after the workloads that use them"))
            .prevention(Prevention::alert(
                "Alert on what is left terminating in a namespace",
                format!("kube_namespace_status_phase{{namespace=\"{}\",phase=\"Terminating\"}} == 1", r.namespace),
            ))
    }
}

/// What the finalizers of an object wait for.
fn held<'a>(snapshot: &'a Snapshot, object: &Object, finalizers: &[String]) -> Held<'a> {
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    let r = &object.reference;
    if has("kubernetes.io/pvc-protection") {
        let uses = |pod: &&Pod| {
            pod.object.namespace() == r.namespace && !pod.ended() && claims(pod).any(|name| name == r.name)
        };
        return Held::Pods(snapshot.pods.iter().filter(uses).collect());
    }
    if has("customresourcecleanup.apiextensions.k8s.io") {
        let kind = object.body.string("spec.names.kind");
        return Held::Instances(snapshot.objects_of(&kind).count());
    }
    if has("foregroundDeletion") {
        return Held::Dependents;
    }
    if has("service.kubernetes.io/load-balancer-cleanup") {
        return Held::LoadBalancer;
    }
    Held::Controller
}

/// The claims that a pod's volumes name.
fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.template
        .spec
        .list("volumes")
        .iter()
        .filter_map(|volume| volume.text("persistentVolumeClaim.claimName"))
}

/// Pods that have not started and whose claim this is.
fn waiting<'a>(snapshot: &'a Snapshot, object: &Object) -> Vec<&'a Pod> {
    if object.reference.kind != "PersistentVolumeClaim" {
        return vec![];
    }
    let waits = |pod: &&Pod| {
        pod.object.namespace() == object.reference.namespace
            && pod.phase == "Pending"
            && pod.node.is_empty()
            && claims(pod).any(|name| name == object.reference.name)
    };
    snapshot.pods.iter().filter(waits).collect()
}

fn remedies(fact: &Fact<'_>) -> Vec<Remedy> {
    let r = &fact.object.reference;
    let (kind, name) = (resource(r), quote(&r.name));
    let look = format!("kubectl {}get {kind} {name} -o yaml", scope(r));
    let mut out = vec![match &fact.held {
        Held::Pods(pods) if !pods.is_empty() => Remedy::commands(
            "End the pods that use the claim, if its data is to go: it then goes by itself. A deletion cannot be taken back; copy what is on the volume first",
            pods.iter().take(3).map(|pod| common::describe_command(&pod.object.reference)).collect(),
            vec![],
        ),
        Held::Instances(_) => {
            let crd = quote(&r.name);
            Remedy::commands(
                "See which of them are left and what holds each",
                vec![format!("kubectl get {crd} --all-namespaces")],
                vec![],
            )
        }
        Held::Dependents => Remedy::commands(
            "See which of its dependents has a finalizer of its own",
            vec![look.clone()],
            vec![],
        ),
        Held::LoadBalancer => Remedy::commands(
            "Read what the cloud's controller says of it, and give its account the right to delete the load balancer",
            vec![common::describe_command(r)],
            vec![],
        ),
        _ => Remedy::commands(
            "Bring back the controller that the finalizer names: it takes it off when it has cleaned up",
            vec![look.clone()],
            vec![],
        ),
    }];
    if matches!(fact.held, Held::Controller | Held::LoadBalancer | Held::Dependents) {
        out.push(
            Remedy::lasting(
                "Take the finalizer off by hand, once it is certain that what it guards is gone",
                vec![format!("kubectl {}patch {kind} {name} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'", scope(r))],
                "the object goes at once, and whatever its finalizer guarded is left behind",
            )
            .risk(Risk::High),
        );
    }
    out
}
