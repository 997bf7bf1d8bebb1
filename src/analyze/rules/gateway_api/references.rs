//! Everything that a route sends requests to: backends, mirrors and whoever decides on requests.

use crate::model::fields::Fields;
use crate::model::json::Value;
use crate::model::mesh::gateway_api::{Reference, Route};

/// A filter of a route with the place where it stands: of its rules, then of their backends.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// The rule, counted from 0.
    pub rule: usize,
    /// The backend of that rule, where the filter is for one alone.
    pub backend: Option<usize>,
    /// Its place in its list.
    pub index: usize,
    /// All of it.
    pub body: &'a Value,
}

impl Filter<'_> {
    /// Where it stands: `spec.rules[0].filters[1]`.
    pub fn path(&self) -> String {
        match self.backend {
            Some(backend) => {
                format!("spec.rules[{}].backendRefs[{backend}].filters[{}]", self.rule, self.index)
            }
            None => format!("spec.rules[{}].filters[{}]", self.rule, self.index),
        }
    }
}

/// The filters of a route.
pub fn filters(route: &Route) -> Vec<Filter<'_>> {
    let mut out = vec![];
    for (rule, entry) in route.object.body.list("spec.rules").iter().enumerate() {
        let own = entry.list("filters").iter().enumerate();
        out.extend(own.map(|(index, body)| Filter { rule, backend: None, index, body }));
        for (backend, target) in entry.list("backendRefs").iter().enumerate() {
            let own = target.list("filters").iter().enumerate();
            out.extend(own.map(|(index, body)| Filter { rule, backend: Some(backend), index, body }));
        }
    }
    out
}

/// The backends that filters name: of mirrors, and of whoever decides on requests (`externalAuth`). They carry no requests
/// themselves: their weight is 0.
pub fn of_filters(route: &Route) -> Vec<Reference> {
    let mut out = vec![];
    for filter in filters(route) {
        for part in ["requestMirror", "externalAuth"] {
            let Some(backend) = filter.body.at(&format!("{part}.backendRef")) else { continue };
            out.push(Reference {
                group: backend.string("group"),
                kind: backend.text("kind").unwrap_or("Service").to_owned(),
                namespace: backend.text("namespace").unwrap_or(route.object.namespace()).to_owned(),
                name: backend.string("name"),
                section: String::new(),
                port: backend.int("port"),
                weight: 0,
                path: format!("{}.{part}.backendRef", filter.path()),
            });
        }
    }
    out
}

/// All of them: backends, then those of filters.
pub fn all(route: &Route) -> impl Iterator<Item = Reference> + '_ {
    route.backends.iter().cloned().chain(of_filters(route))
}
