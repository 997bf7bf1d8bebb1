//! An API server for unit tests: a function from a path to an answer, in memory.

use crate::model::json::{Value, json};
use bytes::Bytes;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use std::convert::Infallible;
use std::sync::Arc;

use crate::collect::kubernetes::kinds::{KINDS, find};
use crate::model::fields::Fields;
use crate::model::selector::Selector;

/// What the server says.
pub(crate) enum Answer {
    /// 200 or another status, and a body.
    Body(u16, Bytes),
    /// Nothing, ever.
    Never,
}

impl Answer {
    /// 200 with a document.
    pub(crate) fn json(value: Value) -> Self {
        Answer::Body(200, value.to_string().into())
    }

    /// 200 with a text.
    pub(crate) fn text(text: &str) -> Self {
        Answer::Body(200, Bytes::copy_from_slice(text.as_bytes()))
    }

    /// A failure, as the API server words it.
    pub(crate) fn status(code: u16, message: &str) -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": ""});
        Answer::Body(code, status.to_string().into())
    }
}

/// A client of a server that answers each path with its query as `answer` says.
pub(crate) fn server(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            match answer(&path) {
                Answer::Body(code, bytes) => Ok::<_, Infallible>(
                    Response::builder().status(code).body(Body::from(bytes.to_vec())).unwrap(),
                ),
                Answer::Never => std::future::pending().await,
            }
        }
    });
    Client::new(service, "default")
}

/// A whole API server for unit tests: it serves objects of [`KINDS`] in version `v1` with label selectors, and logs.
#[derive(Clone, Default)]
pub(crate) struct FakeCluster {
    /// Its objects, with `apiVersion`, `kind` and names.
    pub(crate) objects: Vec<Value>,
    /// Logs by namespace/pod/container; `previous` has a `!` behind it.
    pub(crate) logs: Vec<(&'static str, &'static str)>,
    /// Beginnings of paths that are refused.
    pub(crate) denied: Vec<&'static str>,
}

impl FakeCluster {
    /// A client of it.
    pub(crate) fn client(self) -> Client {
        server(move |path| self.answer(path))
    }

    fn answer(&self, uri: &str) -> Answer {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        if self.denied.iter().any(|denied| path.starts_with(denied)) {
            return Answer::status(403, "forbidden");
        }
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match segments.as_slice() {
            ["api" | "apis"] => return discovery(segments[0] == "api"),
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return Answer::status(404, path),
        };
        match rest {
            ["namespaces", namespace, "pods", pod, "log"] => self.log(namespace, pod, query),
            ["namespaces", namespace, resource] => self.list(group, resource, namespace, query),
            ["namespaces", namespace, resource, name] => self.get(group, resource, namespace, name),
            [resource] => self.list(group, resource, "", query),
            [resource, name] => self.get(group, resource, "", name),
            _ => Answer::status(404, path),
        }
    }

    fn found(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let Some(kind) = find(group, resource) else { return vec![] };
        let of = |object: &&Value| {
            let version = object.string("apiVersion");
            let own = version.split_once('/').map_or("", |(group, _)| group);
            object.text("kind") == Some(kind.kind)
                && own == group
                && (namespace.is_empty() || object.string("metadata.namespace") == namespace)
        };
        self.objects.iter().filter(of).cloned().collect()
    }

    fn list(&self, group: &str, resource: &str, namespace: &str, query: &str) -> Answer {
        let parameter = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
        let selector =
            parameter.unwrap_or_default().replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let selector = Selector::parse(&selector).unwrap();
        let mut items = self.found(group, resource, namespace);
        items.retain(|item| selector.matches(&item.text_map("metadata.labels")));
        Answer::json(json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Answer {
        let found =
            self.found(group, resource, namespace).into_iter().find(|o| o.string("metadata.name") == name);
        found.map_or_else(|| Answer::status(404, name), Answer::json)
    }

    fn log(&self, namespace: &str, pod: &str, query: &str) -> Answer {
        let container = query.split('&').find_map(|pair| pair.strip_prefix("container=")).unwrap_or_default();
        let previous = if query.contains("previous=true") { "!" } else { "" };
        let key = format!("{namespace}/{pod}/{container}{previous}");
        let log = self.logs.iter().find(|(name, _)| *name == key);
        log.map_or_else(|| Answer::status(400, "container not found"), |(_, text)| Answer::text(text))
    }
}

fn discovery(core: bool) -> Answer {
    let kinds = KINDS.iter().filter(|kind| kind.group.is_empty() == core);
    let groups: Vec<Value> = kinds
        .map(|kind| {
            json!({"metadata": {"name": kind.group}, "versions": [{"version": "v1",
                "resources": [{"resource": kind.resource, "verbs": ["get", "list"]}]}]})
        })
        .collect();
    Answer::json(json!({"kind": "APIGroupDiscoveryList", "items": groups}))
}
