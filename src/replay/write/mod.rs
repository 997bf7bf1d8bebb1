//! Creating, changing and deleting what a replay lets one write.

mod apply;
mod fields;
mod schema;

use crate::model::json::{Map, Value, json};
use http::{Method, StatusCode};

use super::app::{App, Target};
use super::kinds::Kind;
use super::openapi;
use super::query::{Filter, Parameters};
use super::status::Refusal;
use super::store::{Store, resource_key, set, unset};
use crate::model::fields::Fields;
use fields::Operation;

/// What a write answers.
type Written = (StatusCode, Value);

/// Reads a body: JSON, or YAML where the client says so.
pub(super) fn parse(body: &[u8], content_type: &str) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let wrong = |error: String| Refusal::bad(format!("the body cannot be read: {error}"));
    if content_type.contains("yaml") {
        let text = std::str::from_utf8(body).map_err(|error| wrong(error.to_string()))?;
        return serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()));
    }
    if content_type.contains("protobuf") {
        return Err(Refusal::media_type(content_type));
    }
    serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))
}

/// Carries out a writing request.
pub(super) fn write(
    app: &App,
    method: &Method,
    target: &Target<'_>,
    parameters: &Parameters,
    content_type: &str,
    body: &[u8],
) -> Result<Written, Refusal> {
    let kind = target.kind;
    if !kind.writable {
        return Err(Refusal::read_only(kind, &target.name));
    }
    let known = target.subresource.is_empty() || (target.subresource == "status" && kind.status);
    if !known {
        return Err(Refusal::no_such_path());
    }
    let request = Request { app, target, parameters, schema: schema_of(app, kind, &target.version) };
    let mut store = app.store();
    match (method.as_str(), target.name.as_str()) {
        ("POST", "") => request.create(&mut store, parse(body, content_type)?),
        ("PUT", name) if !name.is_empty() => request.replace(&mut store, parse(body, content_type)?),
        ("PATCH", name) if !name.is_empty() => request.patch(&mut store, content_type, body),
        ("DELETE", "") if target.subresource.is_empty() => request.delete_all(&mut store),
        ("DELETE", _) if target.subresource.is_empty() => {
            request.delete(&mut store, &parse(body, content_type).unwrap_or_default())
        }
        _ => Err(Refusal::method()),
    }
}

fn schema_of<'a>(app: &'a App, kind: &Kind, version: &str) -> Option<&'a Value> {
    openapi::schema(app.crds.get(&resource_key(kind))?, version)
}

struct Request<'a> {
    app: &'a App,
    target: &'a Target<'a>,
    parameters: &'a Parameters,
    schema: Option<&'a Value>,
}

impl Request<'_> {
    fn kind(&self) -> &Kind {
        self.target.kind
    }

    /// Whether `status` belongs to its subresource alone. Only custom resources have one here.
    fn separate_status(&self) -> bool {
        self.schema.is_some() && self.kind().status
    }

    fn dry_run(&self) -> bool {
        self.parameters.text("dryRun") == "All"
    }

    fn now(&self) -> Value {
        // Kubernetes keeps whole seconds.
        let now = (self.app.clock)().as_second();
        json!(jiff::Timestamp::from_second(now).map(|at| at.to_string()).unwrap_or_default())
    }

    fn manager(&self) -> String {
        match self.parameters.text("fieldManager") {
            "" => "unknown".to_owned(),
            name => name.chars().take(128).collect(),
        }
    }

    /// The form in which objects are kept: events have one, whatever group they came by.
    fn canonical(&self, object: &mut Value) {
        if super::events::is_event(self.kind()) {
            super::events::to_core(object);
        }
    }

    fn answer(&self, status: StatusCode, object: &Value) -> Written {
        (status, self.app.present(self.kind(), &self.target.version, object))
    }

    /// Name, namespace, kind and version, which the path and the body must agree on.
    fn identify(&self, object: &mut Value, name: &str) -> Result<(), Refusal> {
        let kind = self.kind();
        let expected = kind.api_version(&self.target.version);
        let Some(map) = object.as_object_mut() else { return Err(Refusal::bad("the body is no object")) };
        for (field, expected) in [("apiVersion", expected), ("kind", kind.kind.clone())] {
            let given = map.get(field).and_then(Value::as_str).unwrap_or_default();
            if !given.is_empty() && given != expected {
                let message =
                    format!("the {field} in the data ({given}) does not match the expected one ({expected})");
                return Err(Refusal::bad(message));
            }
            map.insert(field.to_owned(), json!(expected));
        }
        let namespace = object.string("metadata.namespace");
        if !namespace.is_empty() && namespace != self.target.namespace {
            return Err(Refusal::bad(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if kind.namespaced {
            set(object, "namespace", json!(self.target.namespace));
        }
        let given = object.string("metadata.name");
        if !name.is_empty() && !given.is_empty() && given != name {
            let message =
                format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(Refusal::bad(message));
        }
        if !name.is_empty() {
            set(object, "name", json!(name));
        }
        Ok(())
    }

    /// Defaults, unknown fields and validation.
    fn check(&self, object: &mut Value) -> Result<(), Refusal> {
        let name = object.string("metadata.name");
        check_name(self.kind(), &name)?;
        let Some(schema) = self.schema else { return Ok(()) };
        let unknown = schema::prune(object, schema);
        if self.parameters.text("fieldValidation") == "Strict" && !unknown.is_empty() {
            let kind = &self.kind().kind;
            let list: Vec<String> =
                unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
            return Err(Refusal::bad(format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
                self.target.version,
                list.join(", ")
            )));
        }
        schema::default(object, schema);
        let errors = schema::validate(object, schema);
        if errors.is_empty() { Ok(()) } else { Err(Refusal::invalid(self.kind(), &name, errors)) }
    }

    fn create(&self, store: &mut Store, mut object: Value) -> Result<Written, Refusal> {
        if !self.target.subresource.is_empty() {
            return Err(Refusal::method());
        }
        self.identify(&mut object, "")?;
        if object.text("metadata.name").is_none_or(str::is_empty) {
            let prefix = object.string("metadata.generateName");
            if prefix.is_empty() {
                let errors = vec![(
                    "metadata.name".to_owned(),
                    "Required value: name or generateName is required".to_owned(),
                )];
                return Err(Refusal::invalid(self.kind(), "", errors));
            }
            let suffix: String = store.new_uid().chars().filter(|c| *c != '-').take(5).collect();
            set(&mut object, "name", json!(format!("{prefix}{suffix}")));
        }
        if !object.string("metadata.resourceVersion").is_empty() {
            return Err(Refusal::bad("resourceVersion should not be set on objects to be created"));
        }
        self.insert(store, object, Operation::Update)
    }

    /// Stores a new object.
    fn insert(&self, store: &mut Store, mut object: Value, operation: Operation) -> Result<Written, Refusal> {
        let (kind, name) = (self.kind(), object.string("metadata.name"));
        if let Some(namespaces) = self.app.kinds.get("", "namespaces").filter(|_| kind.namespaced)
            && store.get(namespaces, "", &self.target.namespace).is_none()
        {
            return Err(Refusal::not_found(namespaces, &self.target.namespace));
        }
        if store.get(kind, &self.target.namespace, &name).is_some() {
            return Err(Refusal::exists(kind, &name));
        }
        if self.separate_status()
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        for field in ["deletionTimestamp", "selfLink", "managedFields"] {
            unset(&mut object, field);
        }
        self.check(&mut object)?;
        let owned = fields::paths(&object, self.schema);
        fields::own(&mut object, &self.entry(operation), owned, &self.now());
        set(&mut object, "uid", json!(store.new_uid()));
        set(&mut object, "creationTimestamp", self.now());
        if self.separate_status() {
            set(&mut object, "generation", json!(1));
        }
        self.canonical(&mut object);
        if self.dry_run() {
            return Ok(self.answer(StatusCode::CREATED, &object));
        }
        let stored = store.put(kind, object)?;
        Ok(self.answer(StatusCode::CREATED, &stored))
    }

    fn entry(&self, operation: Operation) -> fields::Entry {
        fields::Entry {
            manager: self.manager(),
            operation,
            api_version: self.kind().api_version(&self.target.version),
            subresource: self.target.subresource.clone(),
        }
    }

    /// The object as it is, in the version that was asked for.
    fn existing(&self, store: &Store) -> Result<Value, Refusal> {
        let (kind, name) = (self.kind(), &self.target.name);
        let stored =
            store.get(kind, &self.target.namespace, name).ok_or_else(|| Refusal::not_found(kind, name))?;
        if stored.recorded {
            return Err(Refusal::read_only(kind, name));
        }
        Ok(self.app.present(kind, &self.target.version, &stored.body))
    }

    fn replace(&self, store: &mut Store, mut object: Value) -> Result<Written, Refusal> {
        let old = match self.existing(store) {
            // Events and leases may be made by an update.
            Err(refusal) if refusal.code == StatusCode::NOT_FOUND && self.schema.is_none() => {
                self.identify(&mut object, &self.target.name)?;
                return self.insert(store, object, Operation::Update);
            }
            other => other?,
        };
        self.identify(&mut object, &self.target.name)?;
        self.update(store, &old, object)
    }

    fn patch(&self, store: &mut Store, content_type: &str, body: &[u8]) -> Result<Written, Refusal> {
        let patch_type = content_type.split(';').next().unwrap_or_default().trim();
        if patch_type == "application/apply-patch+yaml" {
            return self.apply(store, parse(body, content_type)?);
        }
        let old = self.existing(store)?;
        let patch: serde_json::Value = parse(body, "application/json")?.into();
        let mut new: serde_json::Value = old.clone().into();
        match patch_type {
            "application/merge-patch+json" => json_patch::merge(&mut new, &patch),
            // Without a schema of merge keys a strategic patch of these kinds is a merge patch: their lists are atomic.
            "application/strategic-merge-patch+json" if self.schema.is_none() => {
                json_patch::merge(&mut new, &patch)
            }
            "application/json-patch+json" => {
                let operations: json_patch::Patch = serde_json::from_value(patch)
                    .map_err(|error| Refusal::bad(format!("the JSON patch cannot be read: {error}")))?;
                json_patch::patch(&mut new, &operations).map_err(|error| {
                    let errors = vec![("patch".to_owned(), error.to_string())];
                    Refusal::invalid(self.kind(), &self.target.name, errors)
                })?;
            }
            other => return Err(Refusal::media_type(other)),
        }
        let mut new = Value::from(new);
        self.identify(&mut new, &self.target.name)?;
        self.update(store, &old, new)
    }

    /// Takes over what may change, from a replaced or patched object.
    fn update(&self, store: &mut Store, old: &Value, new: Value) -> Result<Written, Refusal> {
        self.expect_version(old, &new)?;
        let mut next = self.overlay(old, &new);
        self.check(&mut next)?;
        let (before, after) = (fields::values(old, self.schema), fields::values(&next, self.schema));
        fields::changed(&mut next, &self.entry(Operation::Update), &before, &after, &self.now());
        self.finish(store, old, next)
    }

    /// The fields that this request may change, over those that it may not.
    fn overlay(&self, old: &Value, new: &Value) -> Value {
        if self.target.subresource == "status" {
            let mut next = old.clone();
            if let (Some(next), Some(new)) = (next.as_object_mut(), new.as_object()) {
                match new.get("status") {
                    Some(status) => next.insert("status".to_owned(), status.clone()),
                    None => next.remove("status"),
                };
            }
            return next;
        }
        let mut next = new.clone();
        if let Some(map) = next.as_object_mut().filter(|_| self.separate_status()) {
            match old.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.remove("status"),
            };
        }
        for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "resourceVersion"] {
            match old.at(&format!("metadata.{field}")) {
                Some(value) => set(&mut next, field, value.clone()),
                None => unset(&mut next, field),
            }
        }
        next
    }

    /// A resourceVersion or uid in the body is a condition.
    fn expect_version(&self, old: &Value, new: &Value) -> Result<(), Refusal> {
        for (field, what) in [("metadata.resourceVersion", "version"), ("metadata.uid", "uid")] {
            let expected = new.string(field);
            if !expected.is_empty() && expected != old.string(field) {
                let detail = match what {
                    "version" => {
                        "the object has been modified; please apply your changes to the latest version and try again"
                    }
                    _ => "the uid in the precondition does not match",
                };
                return Err(Refusal::conflict(self.kind(), &self.target.name, detail));
            }
        }
        Ok(())
    }

    /// Stores a changed object; one that did not change keeps its version.
    fn finish(&self, store: &mut Store, old: &Value, mut next: Value) -> Result<Written, Refusal> {
        let bare = |object: &Value| {
            let mut map: Map = object.as_object().cloned().unwrap_or_default();
            map.remove("metadata");
            map.remove("status");
            map
        };
        if self.separate_status() && bare(old) != bare(&next) {
            let generation = old.int("metadata.generation").unwrap_or(1);
            set(&mut next, "generation", json!(generation + 1));
        }
        if *old == next || self.dry_run() {
            return Ok(self.answer(StatusCode::OK, &next));
        }
        let done =
            next.at("metadata.deletionTimestamp").is_some() && next.list("metadata.finalizers").is_empty();
        self.canonical(&mut next);
        let stored = store.put(self.kind(), next)?;
        if done {
            store.delete(&self.app.kinds, self.kind(), &self.target.namespace, &self.target.name);
        }
        Ok(self.answer(StatusCode::OK, &stored))
    }

    /// Server-side apply.
    fn apply(&self, store: &mut Store, mut applied: Value) -> Result<Written, Refusal> {
        if self.parameters.text("fieldManager").is_empty() {
            return Err(Refusal::bad("fieldManager is required for apply patch"));
        }
        if !applied.list("metadata.managedFields").is_empty() {
            return Err(Refusal::bad("metadata.managedFields must be nil"));
        }
        self.identify(&mut applied, &self.target.name)?;
        let old = match self.existing(store) {
            Err(refusal) if refusal.code == StatusCode::NOT_FOUND && self.target.subresource.is_empty() => {
                return self.insert(store, applied, Operation::Apply);
            }
            other => other?,
        };
        self.expect_version(&old, &applied)?;
        let status_only = self.target.subresource == "status";
        if let Some(map) = applied.as_object_mut() {
            if status_only {
                map.retain(|key, _| key == "status");
            } else if self.separate_status() {
                map.remove("status");
            }
        }
        let merged = apply::apply(
            &old,
            &applied,
            &self.entry(Operation::Apply),
            self.schema,
            self.parameters.flag("force"),
            &self.now(),
        );
        let merged = merged.map_err(|owned| Refusal::owned(self.kind(), &self.target.name, &owned))?;
        let mut next = self.overlay(&old, &merged);
        if let Some(managed) = merged.at("metadata.managedFields") {
            set(&mut next, "managedFields", managed.clone());
        }
        self.check(&mut next)?;
        self.finish(store, &old, next)
    }

    fn delete(&self, store: &mut Store, options: &Value) -> Result<Written, Refusal> {
        let old = self.existing(store)?;
        let expected = options.at("preconditions").cloned().unwrap_or_default();
        self.expect_version(&old, &json!({ "metadata": expected }))?;
        let dry_run = self.dry_run() || options.texts("dryRun").iter().any(|run| run == "All");
        if !dry_run && !self.remove(store, &old)? {
            // It stays until its finalizers are gone.
            let marked = self.existing(store)?;
            return Ok((StatusCode::OK, marked));
        }
        let kind = self.kind();
        let details = json!({"name": self.target.name, "group": kind.group, "kind": kind.plural, "uid": old.string("metadata.uid")});
        Ok((
            StatusCode::OK,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
        ))
    }

    /// Removes an object, or marks it where finalizers hold it. Returns whether it is gone.
    fn remove(&self, store: &mut Store, old: &Value) -> Result<bool, Refusal> {
        let (kind, name) = (self.kind(), old.string("metadata.name"));
        if old.list("metadata.finalizers").is_empty() {
            store.delete(&self.app.kinds, kind, &self.target.namespace, &name);
            return Ok(true);
        }
        if old.at("metadata.deletionTimestamp").is_none() {
            let mut marked = old.clone();
            set(&mut marked, "deletionTimestamp", self.now());
            set(&mut marked, "deletionGracePeriodSeconds", json!(0));
            self.canonical(&mut marked);
            store.put(kind, marked)?;
        }
        Ok(false)
    }

    /// Deletes what was written, and leaves what was recorded.
    fn delete_all(&self, store: &mut Store) -> Result<Written, Refusal> {
        let filter = Filter::read(self.parameters, self.kind())?;
        if self.kind().namespaced && self.target.namespace.is_empty() {
            return Err(Refusal::method());
        }
        let found = store.list(self.kind(), &self.target.namespace).filter(|stored| !stored.recorded);
        let found: Vec<Value> = found
            .filter(|stored| filter.matches(&stored.body))
            .map(|stored| Value::clone(&stored.body))
            .collect();
        if !self.dry_run() {
            for object in &found {
                self.remove(store, object)?;
            }
        }
        let version = store.version().to_string();
        let kind = self.kind();
        let items: Vec<Value> =
            found.iter().map(|object| self.app.present(kind, &self.target.version, object)).collect();
        Ok((
            StatusCode::OK,
            json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(&self.target.version),
                                   "metadata": {"resourceVersion": version}, "items": items}),
        ))
    }
}

/// A DNS subdomain, as nearly every kind demands.
fn check_name(kind: &Kind, name: &str) -> Result<(), Refusal> {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let message = format!(
        "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
         '-' or '.', and must start and end with an alphanumeric character"
    );
    Err(Refusal::invalid(kind, name, vec![("metadata.name".to_owned(), message)]))
}
