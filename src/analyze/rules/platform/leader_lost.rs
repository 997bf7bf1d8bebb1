//! PLAT118.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// Replicas elect a leader, and the one that was elected does not renew its lease while it runs on.
    ///
    /// ## What it detects
    /// A Lease of the namespace whose holder is a running pod and that was not renewed for more than three times its own duration, and
    /// at least a minute.
    /// ## Why it matters
    /// Nobody does the leader's work: the holder has lost its connection to the API server or hangs, and the others have not taken over.
    /// ## Evidence
    /// `spec.renewTime`, `spec.leaseDurationSeconds` and `spec.holderIdentity` of the Lease, and the holder's pod.
    /// ## How to confirm
    /// `kubectl get lease NAME -o yaml` twice: `renewTime` stands still.
    /// ## How to fix
    /// Find out why the holder does not renew (CPU throttling, the API server, a deadlock); restarting its pod lets another one lead.
    /// ## False positives
    /// Leases of pods that are gone, which applications leave behind when they are removed; a lease that is released has no holder.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/architecture/leases/>
    LeaderLost {
        code: "PLAT118", name: "leader-does-not-renew", family: Platform, severity: Warning,
        needs: [Status], aliases: [],
    }
}

/// A lease that its holder does not renew.
#[derive(Debug)]
pub struct Fact<'a> {
    lease: &'a Object,
    pod: &'a Pod,
    renewed: Timestamp,
    seconds: i64,
}

/// Clocks of nodes differ, and a short lease is renewed late now and then.
const MIN_SECONDS: f64 = 60.0;

impl Check for LeaderLost {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for lease in snapshot.objects_of("Lease").filter(|l| snapshot.in_scope(l.namespace())) {
            let holder = lease.body.string("spec.holderIdentity");
            let (Some(renewed), Some(seconds)) =
                (lease.body.time("spec.renewTime"), lease.body.int("spec.leaseDurationSeconds"))
            else {
                continue;
            };
            let old = common::seconds_between(renewed, snapshot.now);
            if old <= (seconds as f64 * 3.0).max(MIN_SECONDS) {
                continue;
            }
            // Clients write the pod's name, and often an identifier behind it.
            let name = holder.split('_').next().unwrap_or_default();
            let pod = snapshot
                .pod(lease.namespace(), name)
                .filter(|p| p.phase == "Running" && p.object.deleted.is_none());
            // A pod that is younger than the last renewal only has the name of the one that held it.
            let pod = pod.filter(|p| p.object.created.is_none_or(|made| made <= renewed));
            out.extend(pod.map(|pod| Fact { lease, pod, renewed, seconds }));
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let r = &fact.lease.reference;
        let pod = &fact.pod.object.reference;
        let owner: ObjectRef = snapshot.owner(fact.pod);
        let old = common::seconds(common::seconds_between(fact.renewed, snapshot.now));
        Finding::new(Self::META, r.field("spec.renewTime"), &[])
            .title(format!("{r} was not renewed for {old}, and its holder {} runs on", pod.name))
            .message(format!(
                "{pod} holds {r}, which is valid for {} s, and has not renewed it for {old}. It runs on, no other replica has taken over, and nobody does the leader's work.",
                fact.seconds
            ))
            .mechanism("leader does not renew its lease")
            .severity(Severity::Warning)
            .role(Role::Symptom, Confidence::Observed)
            .related(owner.clone())
            .evidence(Evidence::object(&r.field("spec.renewTime"), format!("{}, held by {}", common::clock(fact.renewed), pod.name)).at(Some(fact.renewed)))
            .onset(Some(fact.renewed))
            .effect(Effect::pods(&owner))
            .remedy(Remedy::commands(
                "Read in the holder's log why it does not renew",
                vec![format!("kubectl {}logs {} --all-containers --tail=100", scope(pod), quote(&pod.name))],
                vec![],
            ))
            .remedy(Remedy::lasting(
                "Let another replica lead: delete the holder's pod, which its owner makes anew",
                vec![common::delete_command(pod)],
                "a deleted pod stays deleted, and its owner has made another",
            ))
            .prevention(Prevention::alert(
                "Alert when a lease is not renewed",
                format!("time() - kube_lease_renew_time{{namespace=\"{}\",lease=\"{}\"}} > {}", r.namespace, r.name, fact.seconds.saturating_mul(3).max(60)),
            ))
    }
}
