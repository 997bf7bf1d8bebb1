//! What proxies and their control plane say of themselves.

use crate::model::json::Value;

use super::{LiveRun, ObjectKey};
use crate::collect::kubernetes::reader::ReadError;
use crate::collect::logs::choose::PodKey;
use crate::collect::material::{ControlPlaneFile, ProxyFile};
use crate::collect::plan::{Asker, Source};
use crate::collect::proxy::choose::{self, Choice};
use crate::collect::proxy::{
    self, AdminAnswers, AdminError, AdminRequest, CHEAP, CONTROL_PLANE, CONTROL_PLANE_PORT, DEEP, Proxies,
};
use crate::collect::redact::{redact_all, redact_proxy_file};
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};
use crate::model::snapshot::Snapshot;

/// Pods of a control plane that are asked: each knows only the proxies that are connected to it.
const CONTROL_PLANES: usize = 4;

impl LiveRun {
    /// The cheap pass: how the proxies around the target fare, and whether they have what the control plane sent.
    pub(super) async fn read_proxies(&mut self) {
        if !self.plan.reads(Source::Proxies) {
            self.ledger.skip("Proxies", "not asked for");
            return;
        }
        let snapshot = self.structure();
        let sources = self.sources.proxies.clone();
        let allows = |namespace: &str| sources.as_ref().is_some_and(|proxies| proxies.allows(namespace));
        let budget = self.reader.budget();
        let choice = choose::around(&snapshot, &self.around, &self.plan, budget, &allows, CHEAP);
        let any = !choice.requests.is_empty();
        self.ask_proxies(choice).await;
        if any {
            self.ask_control_planes().await;
        }
    }

    /// The deep pass: the whole configuration of these pods' proxies.
    pub(super) async fn deepen_proxies(&mut self, snapshot: &Snapshot, implicated: &[PodKey]) {
        if !self.plan.reads(Source::Proxies) {
            return;
        }
        let Some(proxies) = self.sources.proxies.clone() else { return };
        let allows = |namespace: &str| proxies.allows(namespace);
        let mut choice = choose::of(snapshot, implicated, &self.plan, self.reader.budget(), &allows, DEEP);
        let known: Vec<(&String, &String)> = self
            .proxies
            .iter()
            .filter(|p| p.file == "config_dump.json")
            .map(|p| (&p.namespace, &p.pod))
            .collect();
        choice.requests.retain(|request| !known.contains(&(&request.namespace, &request.pod)));
        // A pod that is seen for the first time now is asked everything.
        for request in &mut choice.requests {
            let seen =
                self.proxies.iter().any(|p| (&p.namespace, &p.pod) == (&request.namespace, &request.pod));
            if !seen {
                request.files = [CHEAP, DEEP].concat();
            }
        }
        self.ask_proxies(choice).await;
    }

    async fn ask_proxies(&mut self, choice: Choice) {
        for namespace in &choice.not_allowed {
            let what = format!("admin ports of the proxies in namespace {namespace}");
            let gap = Gap::new("Proxies", what, GapReason::NotConfigured);
            self.ledger.gap("Proxies", gap.hint(self.proxies_hint()));
        }
        if choice.left_out > 0 {
            let what = format!("admin ports of {} more proxies", choice.left_out);
            let hint = "name the service or workload that you ask about";
            self.ledger.gap("Proxies", Gap::new("Proxies", what, GapReason::Truncated).hint(hint));
        }
        let Some(proxies) = self.sources.proxies.clone() else { return };
        for (request, answer) in self.ask_ports(&proxies, choice.requests).await {
            let Some(answers) = self.opened(&request, answer) else { continue };
            for (file, bytes) in answers {
                match redact_proxy_file(file.name, &bytes, &mut self.redactions) {
                    Some(redacted) => {
                        self.ledger.got("Proxies", 1, bytes.len() as u64);
                        self.proxies.push(ProxyFile {
                            namespace: request.namespace.clone(),
                            pod: request.pod.clone(),
                            file: file.name.to_owned(),
                            bytes: redacted,
                        });
                    }
                    None => self.unreadable(&request, file.name, GapReason::Failed),
                }
            }
        }
    }

    /// What istiod sent to the proxies of the namespaces that may be looked into; of others it says nothing here.
    async fn ask_control_planes(&mut self) {
        let Some(proxies) = self.sources.proxies.clone() else { return };
        let pods = self.objects.iter().filter(|((group, kind, namespace, _), object)| {
            let here = group.is_empty() && kind == "Pod" && self.control_planes.contains(namespace);
            here && object.text("metadata.labels.app") == Some("istiod")
                && object.text("status.phase") == Some("Running")
        });
        let pods: Vec<ObjectKey> = pods.map(|(key, _)| key.clone()).take(CONTROL_PLANES).collect();
        let mut requests = vec![];
        for (_, _, namespace, pod) in pods {
            if proxies.allows(&namespace) {
                requests.push(AdminRequest {
                    namespace,
                    pod,
                    port: CONTROL_PLANE_PORT,
                    files: CONTROL_PLANE.to_vec(),
                });
            } else {
                let what = format!("what the control plane in namespace {namespace} sent to its proxies");
                let gap = Gap::new("Proxies", what, GapReason::NotConfigured);
                self.ledger.gap("Proxies", gap.hint(self.proxies_hint()));
                return;
            }
        }
        for (request, answer) in self.ask_ports(&proxies, requests).await {
            let Some(answers) = self.opened(&request, answer) else { continue };
            for (file, bytes) in answers {
                let Ok(mut body) = serde_json::from_slice::<Value>(&bytes) else {
                    self.unreadable(&request, file.name, GapReason::Failed);
                    continue;
                };
                self.ledger.got("Proxies", 1, bytes.len() as u64);
                if let Some(entries) = body.as_array_mut() {
                    entries.retain(|entry| {
                        let namespace = entry.text("proxy").and_then(|name| name.rsplit_once('.'));
                        namespace.is_some_and(|(_, namespace)| self.plan.reaches(namespace))
                    });
                }
                redact_all(&mut body, &mut self.redactions);
                self.control_plane.push(ControlPlaneFile {
                    pod: request.pod.clone(),
                    file: file.name.to_owned(),
                    body,
                });
            }
        }
    }

    /// Asks ports, those left out in whose namespace a port-forward is certain to be refused.
    async fn ask_ports(
        &mut self,
        proxies: &Proxies,
        requests: Vec<AdminRequest>,
    ) -> Vec<(AdminRequest, Result<AdminAnswers, AdminError>)> {
        let mut allowed = vec![];
        for request in requests {
            if self.access(&request.namespace).await.denies("get", "", "pods/portforward") {
                self.refused_port(&request.namespace);
            } else {
                allowed.push(request);
            }
        }
        proxy::read(proxies.source.as_ref(), &self.reader, allowed).await
    }

    /// The files that a port gave; what it did not give is noted.
    fn opened(
        &mut self,
        request: &AdminRequest,
        answer: Result<AdminAnswers, AdminError>,
    ) -> Option<Vec<(proxy::AdminFile, Vec<u8>)>> {
        let answers = match answer {
            Ok(answers) => answers,
            Err(AdminError::Forbidden) => {
                self.refused_port(&request.namespace);
                return None;
            }
            // The pod went away meanwhile, or a recording has no word of it.
            Err(AdminError::NotFound | AdminError::Run(ReadError::Cancelled)) => return None,
            Err(error) => {
                tracing::debug!(category = error.category(), "an admin port could not be opened");
                let what =
                    format!("admin port {} of pod {}/{}", request.port, request.namespace, request.pod);
                let hint = format!(
                    "see whether it answers: kubectl -n {} port-forward {} {}",
                    request.namespace, request.pod, request.port
                );
                self.ledger.gap("Proxies", Gap::new("Proxies", what, error.gap_reason()).hint(hint));
                return None;
            }
        };
        let mut files = vec![];
        for (file, answer) in answers {
            match answer {
                Ok(bytes) => files.push((file, bytes)),
                Err(error) => self.unreadable(request, file.name, error.gap_reason()),
            }
        }
        Some(files)
    }

    fn unreadable(&mut self, request: &AdminRequest, file: &str, reason: GapReason) {
        let what = format!("{file} of the proxy of pod {}/{}", request.namespace, request.pod);
        self.ledger.gap("Proxies", Gap::new("Proxies", what, reason));
    }

    fn refused_port(&mut self, namespace: &str) {
        self.ledger.miss("Proxies", "Proxies", "create", "pods/portforward", namespace, GapReason::Forbidden);
    }

    fn proxies_hint(&self) -> &'static str {
        match self.plan.asker {
            Asker::Operator => "allow it with the chart value rbac.proxyNamespaces",
            Asker::Person => "allow it with --proxies",
        }
    }
}
