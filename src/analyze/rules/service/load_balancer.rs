//! SVC111.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Service of type LoadBalancer gets no load balancer.
    ///
    /// ## What it detects
    /// A Service of type `LoadBalancer` without an address, and the cloud controller's event that says why making one fails.
    /// ## Why it matters
    /// Nobody outside of the cluster reaches the Service; inside it works.
    /// ## Evidence
    /// The empty `status.loadBalancer`, and the events `SyncLoadBalancerFailed` of the Service.
    /// ## How to confirm
    /// `kubectl get service NAME` shows `<pending>` under EXTERNAL-IP; `kubectl describe service NAME` shows the events.
    /// ## How to fix
    /// By the event: quota, subnet, annotation, or the rights of the cloud controller.
    /// ## False positives
    /// A cluster without any controller of load balancers, as on a developer's machine: nobody says that it failed.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer>
    LoadBalancerPending {
        code: "SVC111", name: "load-balancer-pending", family: Network, severity: Warning,
        needs: [Events], aliases: ["K8S-SVCMESHLESS-LB"],
    }
}

/// A Service without its load balancer.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    event: &'a Event,
    since: Option<Timestamp>,
}

impl Check for LoadBalancerPending {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let pending = |s: &&Service| {
            s.kind == "LoadBalancer"
                && s.object.body.list("status.loadBalancer.ingress").is_empty()
                && seen::wanted(snapshot, s.object.namespace())
        };
        let services = snapshot.services.iter().filter(pending);
        services
            .filter_map(|service| {
                let own = snapshot.events_about(service.reference());
                let event = own
                    .filter(|e| {
                        matches!(e.reason.as_str(), "SyncLoadBalancerFailed" | "CreatingLoadBalancerFailed")
                    })
                    .last()?;
                common::recent(snapshot, event.last).then_some(Fact { service, event, since: event.first })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let r = fact.service.reference();
        Finding::new(Self::META, r.field("status.loadBalancer"), &[])
            .title(format!("Service {name} gets no load balancer: {} failed attempts", fact.event.count))
            .message(format!("Service {name} is of type LoadBalancer and has no address: the cloud controller has failed to make one {} times, and its event says why. Nobody outside of the cluster reaches it.", fact.event.count))
            .mechanism("load balancer pending: the cloud controller cannot make it")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name))
            .evidence(common::event_evidence(fact.event))
            .evidence(Evidence::object(&r.field("status.loadBalancer"), "empty"))
            .onset(fact.since)
            .remedy(Remedy::commands(
                "Heal what the event names: a quota, a subnet, an annotation of the Service, or the cloud controller's rights",
                vec![common::describe_command(r)],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a load balancer has no address",
                format!("kube_service_spec_type{{namespace=\"{0}\",service=\"{1}\",type=\"LoadBalancer\"}} unless on (namespace, service) kube_service_status_load_balancer_ingress{{namespace=\"{0}\",service=\"{1}\"}}", r.namespace, r.name),
            ))
    }
}
