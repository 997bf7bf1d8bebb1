//! From a request to an answer.

use crate::model::json::{Value, json};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch as channel};
use tokio_util::sync::CancellationToken;

use super::kinds::{Kind, Kinds};
use super::logs::Logs;
use super::query::{Filter, Parameters, continue_token, read_continue};
use super::status::Refusal;
use super::store::{Store, Stored, resource_key};
use super::table::{self, Include, Row};
use super::{Clock, discovery, events, openapi, protobuf, review, watch, write};
use crate::collect::material::Material;
use crate::model::fields::Fields;

/// The largest body of a request; the API server's own limit.
const MAX_BODY: usize = 3 << 20;

/// Watches at the same time.
const MAX_WATCHES: usize = 256;

/// Everything that requests share.
pub(super) struct App {
    pub(super) kinds: Kinds,
    /// The CRD of a kind, by group and plural.
    pub(super) crds: HashMap<(String, String), Value>,
    store: Mutex<Store>,
    logs: Logs,
    pub(super) captured_at: Timestamp,
    pub(super) clock: Clock,
    /// The version of the newest change; watches wait for it.
    pub(super) changed: channel::Sender<u64>,
    pub(super) watches: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    kubelet: Option<String>,
    hosts: [String; 3],
    token: String,
}

impl App {
    pub(super) fn new(
        material: Material,
        ours: Vec<Value>,
        captured_at: Timestamp,
        clock: Clock,
        address: SocketAddr,
        token: String,
        stop: CancellationToken,
    ) -> Self {
        let mut objects = material.objects;
        // Where the recorded cluster had Meshscope installed, this program's own definition counts.
        let name = |object: &Value| object.string("metadata.name");
        objects.retain(|object| {
            let crd = object.text("kind") == Some("CustomResourceDefinition");
            !crd || !ours.iter().any(|own| name(own) == name(object))
        });
        let kinds = Kinds::of(&objects, &ours);
        let kubelet = objects
            .iter()
            .find_map(|object| object.text("status.nodeInfo.kubeletVersion"))
            .map(str::to_owned);
        objects.extend(ours);
        let crds = objects
            .iter()
            .filter(|object| object.text("kind") == Some("CustomResourceDefinition"))
            .map(|crd| ((crd.string("spec.group"), crd.string("spec.names.plural")), crd.clone()))
            .collect();
        let store = Store::of(objects, &kinds, captured_at);
        App {
            crds,
            logs: Logs::of(material.logs),
            captured_at,
            clock,
            changed: channel::Sender::new(store.version()),
            store: Mutex::new(store),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            stop,
            kubelet,
            hosts: ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{}", address.port())),
            token,
            kinds,
        }
    }

    /// The objects. A panic elsewhere leaves them whole: every change is one insertion.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells watches that something changed.
    pub(super) fn notify(&self) {
        let version = self.store().version();
        self.changed.send_replace(version);
    }

    /// The object in the version that was asked for.
    pub(super) fn present(&self, kind: &Kind, version: &str, object: &Value) -> Value {
        let mut object = object.clone();
        if events::is_event(kind) && !kind.group.is_empty() {
            events::to_new(&mut object);
        } else if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".to_owned(), json!(kind.api_version(version)));
            map.insert("kind".to_owned(), json!(kind.kind));
        }
        object
    }

    /// Against what an object's age counts.
    pub(super) fn now_for(&self, recorded: bool) -> Timestamp {
        if recorded { self.captured_at } else { (self.clock)() }
    }

    /// A web page that makes a browser talk to us names a host of its own; another user of the machine has no token.
    /// Returns the path behind the token.
    fn admit<'a>(&self, path: &'a str, headers: &HeaderMap) -> Result<&'a str, Refusal> {
        let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !self.hosts.iter().any(|own| own == host) {
            return Err(Refusal::foreign("this replay answers requests to 127.0.0.1 alone"));
        }
        let inside = path.strip_prefix('/').and_then(|path| path.strip_prefix(self.token.as_str()));
        let inside = inside.filter(|rest| rest.is_empty() || rest.starts_with('/'));
        inside.ok_or_else(|| Refusal::foreign("the address lacks the replay's token: use its kubeconfig"))
    }
}

/// What a path means.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) kind: &'a Kind,
    pub(super) version: String,
    /// Empty for all namespaces, and for a cluster-scoped kind.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    pub(super) subresource: String,
}

/// Which form of an answer the client likes best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    Table,
    Metadata,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        for range in accept.split(',') {
            let has = |parameter: &str| range.split(';').any(|part| part.trim() == parameter);
            match () {
                () if has("as=Table") => return Form::Table,
                () if has("as=PartialObjectMetadata") || has("as=PartialObjectMetadataList") => {
                    return Form::Metadata;
                }
                () if range.trim().starts_with("application/json") && !range.contains("as=") => {
                    return Form::Object;
                }
                () => {}
            }
        }
        Form::Object
    }
}

/// Answers every request.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    match answer(&app, request).await {
        Ok(response) => response,
        Err(refusal) => json_response(refusal.code, &refusal.body()),
    }
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let path = app.admit(parts.uri.path(), &parts.headers)?;
    let segments = segments(path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    let parameters = Parameters::new(pairs.map_err(|error| Refusal::bad(error.to_string()))?.0);
    if parts.method == Method::GET || parts.method == Method::HEAD {
        if let Some(response) = meta(app, &segments, &parts.headers) {
            return Ok(response);
        }
        let target = target(app, &segments)?;
        return read(app, &target, &parameters, Form::of(&parts.headers));
    }
    let limit = |_| Refusal::too_large(MAX_BODY);
    let body = to_bytes(body, MAX_BODY).await.map_err(limit)?;
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("application/json");
    if let (&Method::POST, ["apis", group, _, plural] | ["apis", group, _, "namespaces", _, plural]) =
        (&parts.method, segments.as_slice())
    {
        // kubectl asks in Protobuf whether it may do something, and in nothing else.
        let asked = match protobuf::review(&body) {
            Some(asked) => Ok(asked),
            None => write::parse(&body, content_type),
        };
        if let Some(answer) = review::answer(&app.kinds, group, plural, &asked.clone().unwrap_or_default()) {
            return asked.map(|_| json_response(StatusCode::CREATED, &answer));
        }
    }
    let target = target(app, &segments)?;
    let written = write::write(app, &parts.method, &target, &parameters, content_type, &body)?;
    app.notify();
    let (status, object) = written;
    Ok(json_response(status, &object))
}

/// The decoded parts of a path.
fn segments(path: &str) -> Result<Vec<String>, Refusal> {
    let decode = |part: &str| {
        let mut bytes = vec![];
        let mut rest = part.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        }
        String::from_utf8(bytes).ok()
    };
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.map(|part| decode(part).ok_or_else(|| Refusal::bad("the path is not well encoded"))).collect()
}

/// Everything that is not an object.
fn meta(app: &App, segments: &[&str], headers: &HeaderMap) -> Option<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let aggregated = |core: bool| {
        let range = accept.split(',').find(|range| range.contains("as=APIGroupDiscoveryList"))?;
        let form = if range.contains("v=v2beta1") { "v2beta1" } else { "v2" };
        let body = discovery::aggregated(&app.kinds, core, form);
        let of = format!("application/json;g=apidiscovery.k8s.io;v={form};as=APIGroupDiscoveryList");
        Some(typed_response(StatusCode::OK, &of, body.to_string()))
    };
    let body = match segments {
        ["version"] => discovery::version(app.kubelet.as_deref()),
        ["healthz" | "livez" | "readyz"] => return Some(typed_response(StatusCode::OK, "text/plain", "ok")),
        [] => json!({"paths": ["/api", "/apis", "/healthz", "/openapi/v2", "/openapi/v3", "/version"]}),
        ["api"] => match aggregated(true) {
            Some(response) => return Some(response),
            None => discovery::core(),
        },
        ["apis"] => match aggregated(false) {
            Some(response) => return Some(response),
            None => discovery::groups(&app.kinds),
        },
        ["api", "v1"] => discovery::resources(&app.kinds, "", "v1")?,
        ["apis", group] => discovery::group(&app.kinds, group)?,
        ["apis", group, version] => discovery::resources(&app.kinds, group, version)?,
        ["openapi", "v2"] => openapi::v2(),
        ["openapi", "v3"] => openapi::index(&app.kinds),
        ["openapi", "v3", "api", version] => openapi::document(&app.kinds, &app.crds, "", version)?,
        ["openapi", "v3", "apis", group, version] => {
            openapi::document(&app.kinds, &app.crds, group, version)?
        }
        _ => return None,
    };
    Some(json_response(StatusCode::OK, &body))
}

/// The kind, namespace, name and subresource that a path names.
fn target<'a>(app: &'a App, segments: &[&str]) -> Result<Target<'a>, Refusal> {
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Refusal::no_such_path()),
    };
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] | ["namespaces", _] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(Refusal::no_such_path()),
    };
    let kind =
        app.kinds.get(group, plural).filter(|kind| kind.versions.iter().any(|served| served == version));
    let kind = kind.ok_or_else(Refusal::no_such_path)?;
    if kind.namespaced && namespace.is_empty() && !name.is_empty()
        || !kind.namespaced && !namespace.is_empty()
    {
        return Err(Refusal::no_such_path());
    }
    Ok(Target {
        kind,
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

fn read(
    app: &Arc<App>,
    target: &Target<'_>,
    parameters: &Parameters,
    form: Form,
) -> Result<Response, Refusal> {
    let Target { kind, namespace, name, .. } = target;
    if target.subresource == "log" && kind.group.is_empty() && kind.plural == "pods" {
        let pod = app.store().get(kind, namespace, name).map(|stored| stored.body.clone());
        let bytes = app.logs.read(namespace, name, pod.as_deref(), parameters, app.captured_at)?;
        return Ok(typed_response(StatusCode::OK, "text/plain", bytes));
    }
    if !target.subresource.is_empty() && target.subresource != "status" {
        return Err(Refusal::no_such_path());
    }
    let mut filter = Filter::read(parameters, kind)?;
    if parameters.flag("watch") {
        if !name.is_empty() {
            filter = filter.named(name);
        }
        return watch::watch(app, target, filter, parameters, form);
    }
    if name.is_empty() {
        return list(app, target, &filter, parameters, form);
    }
    let stored = app.store().get(kind, namespace, name).cloned();
    let stored = stored.ok_or_else(|| Refusal::not_found(kind, name))?;
    let metadata = json!({"resourceVersion": stored.body.string("metadata.resourceVersion")});
    Ok(json_response(StatusCode::OK, &shape(app, target, &[stored], form, parameters, metadata, false)))
}

fn list(
    app: &App,
    target: &Target<'_>,
    filter: &Filter,
    parameters: &Parameters,
    form: Form,
) -> Result<Response, Refusal> {
    let Target { kind, namespace, .. } = target;
    let limit =
        parameters.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let after = match parameters.text("continue") {
        "" => None,
        token => Some(read_continue(token)?),
    };
    let (version, mut found) = {
        let store = app.store();
        let key =
            |stored: &Stored| (stored.body.string("metadata.namespace"), stored.body.string("metadata.name"));
        let after = |stored: &&Stored| after.as_ref().is_none_or(|after| key(stored) > *after);
        let found = store.list(kind, namespace).filter(after).filter(|stored| filter.matches(&stored.body));
        (store.version(), found.cloned().collect::<Vec<Stored>>())
    };
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(limit) = limit.filter(|limit| *limit < found.len()) {
        let rest = found.split_off(limit).len();
        let last = found.last().map(|stored| stored.body.clone()).unwrap_or_default();
        let token =
            continue_token(version, &last.string("metadata.namespace"), &last.string("metadata.name"));
        metadata =
            json!({"resourceVersion": version.to_string(), "continue": token, "remainingItemCount": rest});
    }
    Ok(json_response(StatusCode::OK, &shape(app, target, &found, form, parameters, metadata, true)))
}

/// Objects in the form that was asked for.
pub(super) fn shape(
    app: &App,
    target: &Target<'_>,
    found: &[Stored],
    form: Form,
    parameters: &Parameters,
    metadata: Value,
    collection: bool,
) -> Value {
    let Target { kind, version, .. } = target;
    let objects = found.iter().map(|stored| app.present(kind, version, &stored.body));
    let partial = |object: Value| {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
               "metadata": object.at("metadata").cloned().unwrap_or_default()})
    };
    match form {
        Form::Table => {
            let rows: Vec<Row> = objects
                .zip(found)
                .map(|(object, stored)| Row { object: Arc::new(object), now: app.now_for(stored.recorded) })
                .collect();
            let crd = app.crds.get(&resource_key(kind));
            table::table(kind, version, crd, &rows, Include::of(parameters.text("includeObject")), metadata)
        }
        Form::Metadata if collection => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": objects.map(partial).collect::<Vec<_>>(),
        }),
        Form::Object if collection => json!({
            "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(version), "metadata": metadata,
            "items": objects.collect::<Vec<_>>(),
        }),
        Form::Metadata => objects.map(partial).next().unwrap_or_default(),
        Form::Object => objects.into_iter().next().unwrap_or_default(),
    }
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    typed_response(status, "application/json", body.to_string().into_bytes())
}

pub(super) fn typed_response(status: StatusCode, content_type: &str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}
