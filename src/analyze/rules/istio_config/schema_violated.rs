//! ISTIO238 and ISTIO239.

use crate::model::json::json;

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::istio_schema::{self, By, Fault, Faults, Fix};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::object::Object;
use crate::model::path;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An object of Istio's breaks a rule that Istio itself has for it.
    ///
    /// ## What it detects
    /// Objects of Istio that its validation refuses, of every kind (of EnvoyFilters all but what they write): names, ports, durations and
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
    /// Settings of Istio's objects that its validation warns of: certificates where none are used, failover that nothing triggers, old
    /// ciphers, selectors without labels, rules that deny by HTTP alone, hosts that are there twice.
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

fn detect(snapshot: &Snapshot, warning: bool) -> Vec<Fact<'_>> {
    let objects = istio_schema::KINDS.iter().flat_map(|(kind, group)| {
        snapshot.objects_of(kind).filter(move |object| object.reference.group() == *group)
    });
    let mut out = vec![];
    for object in objects.filter(|object| asked_about(snapshot, object)) {
        let said = object.derived::<Faults>();
        // Values of headers have a rule of their own (ISTIO168).
        let own = said.0.iter().filter(|f| {
            f.warning == warning && f.accepts != istio_schema::HEADER_VALUE && f.by != By::Istioctl
        });
        out.extend(own.map(|fault| Fact { object, fault: fault.clone() }));
    }
    out
}

fn describe(meta: &'static crate::analyze::rule::Meta, fact: &Fact<'_>) -> Finding {
    let own = &fact.object.reference;
    let Fault { path: field, what, accepts, warning, fix, .. } = &fact.fault;
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

#[cfg(test)]
mod tests {
    use crate::analyze::diagnosis::{Options, Verdict, analyze};
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    #[test]
    fn what_istio_refuses_is_an_issue_and_what_it_takes_is_none() {
        let verdict = |percent: u8| {
            let mut builder = Builder::new();
            builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "a", "namespace": "n"},
                "spec": {"host": "a.example.com", "trafficPolicy": {"outlierDetection": {"maxEjectionPercent": percent}}}}));
            builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "a", "namespace": "n"},
                "spec": {"hosts": ["a.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": "DNS", "location": "MESH_EXTERNAL"}}));
            analyze(&builder.finish(), &Options::default()).verdict
        };
        assert_eq!([verdict(150), verdict(50)], [Verdict::IssuesFound, Verdict::Healthy]);
    }
}
