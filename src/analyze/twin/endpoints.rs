//! The pods behind a Service, as far as they get requests.

use std::collections::BTreeSet;

use super::Twin;
use super::istio::targets::named_port;
use super::party::{Party, injected};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::selector::Labels;
use crate::model::workload::PodTemplate;

/// Who takes requests.
#[derive(Debug, Clone)]
pub struct Endpoint<'a> {
    /// The pod, or what would make it.
    pub party: Party<'a>,
    /// The pod's own port.
    pub port: u16,
}

/// What stands behind a Service's port.
#[derive(Debug, Clone)]
pub enum Behind<'a> {
    /// These, all of which take requests.
    Pods(Vec<Endpoint<'a>>),
    /// Nobody takes them, and why.
    Nobody(String),
    /// Nobody here knows: the manifests name nothing that the Service selects.
    Unknown,
}

/// The endpoints of a Service's port that carry labels (a subset's; none for all).
pub fn behind<'a>(twin: &Twin<'a>, service: &'a Service, port: &ServicePort, labels: &Labels) -> Behind<'a> {
    let snapshot = twin.snapshot;
    let carries =
        |template: &PodTemplate| labels.iter().all(|(key, value)| template.labels.get(key) == Some(value));
    let subset = || {
        let list: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if list.is_empty() { String::new() } else { format!(" with {}", list.join(", ")) }
    };
    let all: Vec<_> = snapshot.pods_behind(service).collect();
    if snapshot.runs() || !all.is_empty() {
        if all.is_empty() && service.selector.is_empty() {
            return Behind::Unknown;
        }
        let even_unready = service.object.body.flag("spec.publishNotReadyAddresses");
        let ready_ips = ready_addresses(twin, service);
        let ready = |pod: &crate::model::workload::Pod| match &ready_ips {
            Some(ips) => pod.ips.iter().any(|ip| ips.contains(ip)),
            None => pod.ready() || even_unready || !snapshot.runs(),
        };
        let own: Vec<_> = all.iter().filter(|pod| carries(&pod.template)).collect();
        let taking: Vec<Endpoint<'a>> = own
            .iter()
            .filter(|pod| ready(pod))
            .filter_map(|pod| {
                let number = number(&port.target, &pod.template)?;
                Some(Endpoint { party: Party::of_pod(snapshot, pod), port: number })
            })
            .collect();
        if taking.is_empty() {
            return Behind::Nobody(match (all.len(), own.len()) {
                (0, _) => format!("no pod backs {}", service.reference()),
                (all, 0) => format!("none of the {all} pods behind {} runs{}", service.reference(), subset()),
                (_, own) => {
                    format!("none of the {own} pods behind {}{} is ready", service.reference(), subset())
                }
            });
        }
        return Behind::Pods(taking);
    }
    // Plain manifests: what would make the pods stands for them, and is ready.
    let makers: Vec<_> = snapshot.workloads_behind(service).filter(|w| w.replicas != Some(0)).collect();
    if makers.is_empty() {
        return Behind::Unknown;
    }
    let own = makers.iter().filter(|workload| carries(&workload.template)).filter_map(|workload| {
        let party = Party {
            reference: workload.reference().clone(),
            template: &workload.template,
            pod: None,
            proxy: injected(snapshot, workload.object.namespace(), &workload.template),
        };
        Some(Endpoint { port: number(&port.target, &workload.template)?, party })
    });
    let own: Vec<Endpoint<'a>> = own.collect();
    if own.is_empty() {
        return Behind::Nobody(format!("no workload behind {} has pods{}", service.reference(), subset()));
    }
    Behind::Pods(own)
}

fn number(target: &TargetPort, template: &PodTemplate) -> Option<u16> {
    match target {
        TargetPort::Number(number) => u16::try_from(*number).ok(),
        TargetPort::Name(name) => named_port(template, name),
    }
}

/// The addresses that EndpointSlices call ready; `None` where there are none of this Service.
fn ready_addresses<'a>(twin: &Twin<'a>, service: &Service) -> Option<BTreeSet<&'a String>> {
    let own = twin.snapshot.slices_of(service);
    let mut slices = own.peekable();
    slices.peek()?;
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    Some(endpoints.filter(|e| e.ready && !e.terminating).flat_map(|e| &e.addresses).collect())
}
