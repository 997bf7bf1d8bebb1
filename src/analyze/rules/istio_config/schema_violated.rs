//! ISTIO238 and ISTIO239.

use crate::model::json::json;

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::istio_schema::{self, Fault, Fix};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::memo::Derived;
use crate::model::object::{Object, ObjectRef};
use crate::model::path;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An object of Istio's breaks a rule that Istio itself has for it.
    ///
    /// ## What it detects
    /// VirtualServices, DestinationRules, Gateways and PeerAuthentications that Istio's validation refuses: names, ports, durations and
    /// expressions that are none, fields that exclude each other, fields that are missing, duplicates. One finding for each. Values of headers are left to
    /// ISTIO168.
    /// ## Why it matters
    /// A cluster with Istio does not take the object when it is applied. One that was there before an upgrade, or came while the webhook
    /// was away, is used as far as it goes.
    /// ## Evidence
    /// The field, what is wrong with it and what Istio accepts.
    /// ## How to confirm
    /// `kubectl apply --dry-run=server` on a cluster with Istio is refused with the same reason.
    /// ## How to fix
    /// Give the field what Istio accepts.
    /// ## False positives
    /// A version of Istio that accepts more or less than 1.31 does.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0106/>
    SchemaViolated {
        code: "ISTIO238", name: "schema-violated", family: Mesh, severity: Error,
        needs: [Istio], aliases: ["IST0106"],
    }
}

crate::rule! {
    /// An object of Istio's has a setting that Istio takes and warns of.
    ///
    /// ## What it detects
    /// Settings of VirtualServices, DestinationRules, Gateways and PeerAuthentications that Istio's validation warns of: certificates
    /// where none are used, failover that nothing triggers, old ciphers, selectors without labels.
    /// ## Why it matters
    /// The setting does not do what it seems to.
    /// ## Evidence
    /// The field, what is wrong with it and what Istio expects.
    /// ## How to confirm
    /// `kubectl apply --dry-run=server` on a cluster with Istio prints the same warning.
    /// ## How to fix
    /// Give the field what Istio expects, or take it away.
    /// ## False positives
    /// A version of Istio that warns of more or less than 1.31 does.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0133/>
    SchemaWarned {
        code: "ISTIO239", name: "schema-warned", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0133"],
    }
}

/// Something that Istio says of an object.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    fault: Fault,
}

/// All that Istio says of the objects that are asked about: both rules read it, and it is found once for them.
#[derive(Debug)]
struct Said(Vec<(ObjectRef, Fault)>);

impl Derived for Said {
    fn derive(snapshot: &Snapshot) -> Self {
        let objects = istio_schema::KINDS.iter().flat_map(|(kind, group)| {
            snapshot.objects_of(kind).filter(move |object| object.reference.group() == *group)
        });
        let own = objects.filter(|object| asked_about(snapshot, object));
        let all = own.flat_map(|object| {
            istio_schema::faults(object).into_iter().map(|fault| (object.reference.clone(), fault))
        });
        // Values of headers have a rule of their own (ISTIO168).
        Said(all.filter(|(_, fault)| fault.accepts != istio_schema::HEADER_VALUE).collect())
    }
}

fn detect(snapshot: &Snapshot, warning: bool) -> Vec<Fact<'_>> {
    let said = snapshot.derived::<Said>();
    let wanted = said.0.iter().filter(|(_, fault)| fault.warning == warning);
    wanted
        .filter_map(|(own, fault)| Some(Fact { object: snapshot.find(own)?, fault: fault.clone() }))
        .collect()
}

fn describe(meta: &'static crate::analyze::rule::Meta, fact: &Fact<'_>) -> Finding {
    let own = &fact.object.reference;
    let Fault { path: field, what, accepts, warning, fix } = &fact.fault;
    let subject = own.field(field);
    let there = path::find(&fact.object.body, field).is_some();
    let fix = fix.as_ref().filter(|_| there).map(|fix| match fix {
        Fix::Remove => (json!([{"op": "remove", "path": pointer(field)}]), format!("Remove {field}")),
        Fix::Write(value) => (
            json!([{"op": "replace", "path": pointer(field), "value": value}]),
            format!("Write {value} to {field}"),
        ),
    });
    // A cluster that has a refused object works with it as far as it goes: whether it hurts there is not seen here.
    let (then, role, confidence) = if *warning {
        ("Istio takes the object and warns of it", Role::Context, Confidence::Configured)
    } else {
        ("Istio refuses the object when it is applied", Role::Cause, Confidence::Possible)
    };
    Finding::new(meta, subject.clone(), &[what])
        .title(format!("{own}: {what}"))
        .message(format!("{then}. At {field} it accepts: {accepts}."))
        .mechanism("configuration that Istio's validation objects to")
        .role(role, confidence)
        .evidence(Evidence::object(&subject, what.clone()))
        .maybe_remedy(fix.and_then(|(operations, summary)| Remedy::patch(fact.object, &operations, summary)))
        .remedy(Remedy::manual(format!("Give {field} what Istio accepts: {accepts}")))
        .prevention(Prevention::of(
            "Test",
            "Validate Istio's objects before they are merged, with istioctl validate or with Meshscope",
        ))
}

impl Check for SchemaViolated {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        detect(snapshot, false)
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        describe(Self::META, fact)
    }
}

impl Check for SchemaWarned {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        detect(snapshot, true)
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        describe(Self::META, fact)
    }
}
