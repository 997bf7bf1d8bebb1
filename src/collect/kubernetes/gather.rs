//! Lists kinds of one namespace, or of the cluster, at once, and keeps the books on what came and what did not.

use crate::model::json::Value;
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Mutex;

use super::access::{Access, REVIEW_PATH, review};
use super::kinds::{KINDS, Kind};
use super::mesh::is_mesh_config;
use super::neighbours::Mentions;
use super::path::{self, collection, object};
use super::reader::{Cut, DISCOVERY, JSON, ListQuery, Listing, ReadError, Reader};
use super::served::{Catalogue, wanted_groups};
use super::strip::{services_named, strip};
use crate::collect::outcome::Ledger;
use crate::collect::redact::{Counts, redact_object};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;

/// One list to read.
#[derive(Debug, Clone)]
pub struct Job {
    /// The kind.
    pub kind: &'static Kind,
    /// The namespace; `None` for kinds without one.
    pub namespace: Option<String>,
    /// Which of its objects.
    pub query: ListQuery,
}

impl Job {
    /// All objects of a kind in a namespace, as many as the budget allows.
    pub fn all(kind: &'static Kind, namespace: Option<&str>, cap: usize) -> Self {
        Job {
            kind,
            namespace: namespace.map(str::to_owned),
            query: ListQuery { cap, ..ListQuery::default() },
        }
    }

    /// The same with a label selector.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.query.labels = selector.into();
        self
    }
}

/// What the lists of one batch need to know: nothing in here changes while they run.
pub struct Context<'a> {
    /// Sends the requests.
    pub reader: &'a Reader,
    /// What is served.
    pub catalogue: &'a Catalogue,
    /// The namespaces of Istio's control planes, whose MeshConfig keeps its values.
    pub control_planes: &'a BTreeSet<String>,
    /// Services that are known so far: names of theirs in ConfigMaps count.
    pub services: &'a BTreeSet<ServiceName>,
    /// Namespaces that are known to exist.
    pub namespaces: &'a BTreeSet<String>,
}

/// What a batch of lists gave.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects, stripped and redacted.
    pub objects: Vec<Value>,
    /// Services that ConfigMaps named before their values were dropped.
    pub mentions: Mentions,
    /// Secrets that were masked.
    pub redactions: Counts,
}

/// Asks what is served: two requests where the server aggregates its discovery, a few more where it does not.
///
/// Errors: the server does not answer, or serves nothing that is known.
pub async fn discover(reader: &Reader) -> Result<Catalogue, ReadError> {
    let mut catalogue = Catalogue::default();
    let (core, _) = reader.get("/api", DISCOVERY).await?;
    if !catalogue.add_aggregated(&core) {
        let (resources, _) = reader.get("/api/v1", JSON).await?;
        catalogue.add_resources("", "v1", &resources);
    }
    let (groups, _) = reader.get("/apis", DISCOVERY).await?;
    if !catalogue.add_aggregated(&groups) {
        let versions = wanted_groups(&groups)
            .into_iter()
            .flat_map(|(group, versions)| versions.into_iter().map(move |version| (group.clone(), version)));
        for (group, version) in versions {
            let path = format!("/apis/{}/{}", path::encode(&group), path::encode(&version));
            // A group whose server is down is a group that is not served.
            if let Ok((resources, _)) = reader.get(&path, JSON).await {
                catalogue.add_resources(&group, &version, &resources);
            }
        }
    }
    if catalogue.is_empty() { Err(ReadError::NotFound) } else { Ok(catalogue) }
}

/// Asks what may be read in a namespace. Where nobody can say, everything is tried.
pub async fn access(reader: &Reader, namespace: &str) -> Access {
    match reader.post(REVIEW_PATH, &review(namespace)).await {
        Ok((answer, _)) => Access::read(&answer),
        Err(error) => {
            tracing::debug!(category = error.category(), "what may be read here is not known");
            Access::unknown()
        }
    }
}

/// Reads lists, several at a time; what is denied for certain is not even asked for.
pub async fn lists(context: &Context<'_>, access: &Access, jobs: Vec<Job>, ledger: &mut Ledger) -> Batch {
    let batch = Mutex::new(Batch::default());
    let concurrency = context.reader.budget().concurrency.max(1);
    let answers: Vec<(Job, Asked)> = futures::stream::iter(jobs)
        .map(|job| async {
            let asked = list(context, access, &job, &batch).await;
            (job, asked)
        })
        .buffered(concurrency)
        .collect()
        .await;
    let mut batch = batch.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (job, asked) in answers {
        batch.objects.extend(account(&job, asked, ledger));
    }
    context.reader.meter().objects(batch.objects.len());
    batch
}

/// What became of one list.
enum Asked {
    NotServed,
    Denied,
    Answered(Result<Listing, ReadError>),
}

async fn list(context: &Context<'_>, access: &Access, job: &Job, batch: &Mutex<Batch>) -> Asked {
    let Some(served) = context.catalogue.served(job.kind) else { return Asked::NotServed };
    if access.denies("list", job.kind.group, job.kind.resource) {
        return Asked::Denied;
    }
    let visit = |item: &mut Value| {
        let keep = item.text("kind") == Some("ConfigMap") && is_mesh_config(item, context.control_planes);
        let named = if item.text("kind") == Some("ConfigMap") && !keep {
            services_named(item, context.services, context.namespaces)
        } else {
            BTreeSet::new()
        };
        strip(item, keep);
        let mut redactions = Counts::default();
        redact_object(item, &mut redactions);
        let mut batch = batch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        batch.redactions.add(&redactions);
        if !named.is_empty() {
            let key = (item.string("metadata.namespace"), item.string("metadata.name"));
            batch.mentions.insert(key, named);
        }
    };
    let path = collection(served, job.namespace.as_deref());
    Asked::Answered(context.reader.list(&path, &job.query, JSON, visit).await)
}

fn account(job: &Job, asked: Asked, ledger: &mut Ledger) -> Vec<Value> {
    let (kind, name) = (job.kind, job.kind.resource_name());
    let namespace = job.namespace.as_deref().unwrap_or_default();
    let mut miss = |reason| ledger.miss(kind.collector, kind.gap_source(), "list", &name, namespace, reason);
    match asked {
        Asked::NotServed => {
            ledger.not_served(kind.collector);
            vec![]
        }
        Asked::Denied => {
            miss(crate::model::gap::GapReason::Forbidden);
            vec![]
        }
        Asked::Answered(Err(error)) => {
            tracing::debug!(resource = name, category = error.category(), "a list failed");
            miss(error.gap_reason());
            vec![]
        }
        Asked::Answered(Ok(listing)) => {
            if let Some(cut) = &listing.cut {
                miss(Cut::gap_reason(cut));
            }
            ledger.got(kind.collector, listing.items.len(), listing.bytes);
            listing.items
        }
    }
}

/// Reads one object. `None` where it does not exist or cannot be read; the ledger has the reason, where it is no fact.
pub async fn get(
    context: &Context<'_>,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    ledger: &mut Ledger,
    redactions: &mut Counts,
) -> Option<Value> {
    let served = context.catalogue.served(kind)?;
    match context.reader.get(&object(served, namespace, name), JSON).await {
        Ok((mut item, bytes)) => {
            let keep = is_mesh_config(&item, context.control_planes);
            strip(&mut item, keep);
            redact_object(&mut item, redactions);
            ledger.got(kind.collector, 1, bytes);
            context.reader.meter().objects(1);
            Some(item)
        }
        // That it does not exist is an answer.
        Err(ReadError::NotFound) => None,
        Err(error) => {
            let reason = error.gap_reason();
            let resource = kind.resource_name();
            ledger.miss(
                kind.collector,
                kind.gap_source(),
                "get",
                &resource,
                namespace.unwrap_or_default(),
                reason,
            );
            None
        }
    }
}

/// The kinds of the table that pass a test.
pub fn kinds(test: impl Fn(&Kind) -> bool) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| test(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::budget::{Budget, Meter};
    use crate::collect::kubernetes::kinds::find;
    use crate::collect::outcome::CollectorState;
    use crate::collect::plan::Asker;
    use crate::collect::testing::{Answer, server};
    use crate::model::json::json;
    use kube::Client;
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    fn reader(client: Client) -> Reader {
        Reader::new(client, Arc::new(Meter::new(Budget::default())), CancellationToken::new())
    }

    fn old_server(path: &str) -> Answer {
        let resources = |names: &[&str]| {
            let list: Vec<Value> =
                names.iter().map(|name| json!({"name": name, "verbs": ["get", "list"]})).collect();
            Answer::json(json!({"kind": "APIResourceList", "resources": list}))
        };
        match path {
            "/api" => Answer::json(json!({"kind": "APIVersions", "versions": ["v1"]})),
            "/api/v1" => resources(&["pods", "pods/log", "configmaps", "secrets"]),
            "/apis" => Answer::json(
                json!({"kind": "APIGroupList", "groups": [{"name": "apps", "versions": [{"version": "v1"}]}, {"name": "batch", "versions": [{"version": "v1"}]}]}),
            ),
            "/apis/apps/v1" => resources(&["deployments"]),
            "/api/v1/namespaces/shop/configmaps?limit=100" => {
                Answer::json(json!({"kind": "ConfigMapList", "apiVersion": "v1", "items": [
                {"metadata": {"name": "a", "namespace": "shop"}, "data": {"url": "http://pay/", "password": "hunter2"}}]}))
            }
            "/api/v1/namespaces/shop/pods?limit=100" => Answer::status(403, "no"),
            _ => Answer::status(503, "unavailable"),
        }
    }

    #[tokio::test]
    async fn a_server_without_aggregated_discovery_is_understood() {
        let catalogue = discover(&reader(server(old_server))).await.unwrap();
        assert!(catalogue.served(find("", "pods").unwrap()).is_some());
        assert!(catalogue.served(find("apps", "deployments").unwrap()).is_some());
        assert!(catalogue.served(find("batch", "jobs").unwrap()).is_none(), "its server is down");
    }

    #[tokio::test]
    async fn a_server_that_is_none_is_an_error() {
        let nothing = reader(server(|_| Answer::json(json!({"hello": "world"}))));
        assert!(matches!(discover(&nothing).await, Err(ReadError::NotFound)));
    }

    #[tokio::test]
    async fn a_batch_keeps_what_it_gets_and_books_what_it_does_not() {
        let reader = reader(server(old_server));
        let catalogue = discover(&reader).await.unwrap();
        let services = [ServiceName::new("shop", "pay")].into();
        let (control_planes, namespaces) = (BTreeSet::new(), BTreeSet::new());
        let context = Context {
            reader: &reader,
            catalogue: &catalogue,
            control_planes: &control_planes,
            services: &services,
            namespaces: &namespaces,
        };
        let job = |group, resource| Job::all(find(group, resource).unwrap(), Some("shop"), 100);
        let jobs = vec![
            job("", "configmaps"),
            job("", "pods"),
            job("apps", "deployments"),
            job("networking.istio.io", "sidecars"),
        ];
        let mut ledger = Ledger::new(Asker::Operator);
        let batch = lists(&context, &Access::unknown(), jobs, &mut ledger).await;

        assert_eq!(batch.objects.len(), 1);
        assert!(!format!("{batch:?}").contains("hunter2"));
        assert_eq!(batch.mentions[&("shop".to_owned(), "a".to_owned())], services);
        let states: Vec<_> = ledger.outcomes().into_iter().map(|o| (o.name, o.state)).collect();
        let expected = [
            ("Configuration", CollectorState::Succeeded),
            ("Workloads", CollectorState::Denied),
            ("Istio", CollectorState::NotInstalled),
        ];
        assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state)));
        let whats: Vec<_> = ledger.gaps().into_iter().map(|gap| gap.what).collect();
        assert_eq!(whats, ["list deployments.apps in namespace shop", "list pods in namespace shop"]);
    }

    #[tokio::test]
    async fn what_is_denied_for_certain_is_not_asked_for() {
        let reader = reader(server(old_server));
        let catalogue = discover(&reader).await.unwrap();
        let before = reader.meter().cost().api_requests;
        let access = Access::read(&json!({"status": {"incomplete": false, "resourceRules": []}}));
        let empty = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let context = Context {
            reader: &reader,
            catalogue: &catalogue,
            control_planes: &empty.0,
            services: &empty.1,
            namespaces: &empty.2,
        };
        let mut ledger = Ledger::new(Asker::Person);
        let jobs = vec![Job::all(find("", "pods").unwrap(), Some("shop"), 1)];
        assert!(lists(&context, &access, jobs, &mut ledger).await.objects.is_empty());
        assert_eq!(reader.meter().cost().api_requests, before);
        assert_eq!(ledger.gaps()[0].hint, "ask for the right to list pods in namespace shop");
    }
}
