//! Where objects stand in the YAML files that they were read from.

use crate::model::json::Value;
use granit_parser::{Event, Parser, Span};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::fields::Fields;
use super::object::ObjectRef;
use super::path::{self, Step};

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One YAML document as it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    /// The file as it was named.
    pub file: Arc<str>,
    /// The line of the file that it begins at, from 1.
    pub line: usize,
    /// Its text.
    pub text: Box<str>,
}

/// Who asks for which places of a document.
type Wanted = Vec<(usize, Vec<Place>)>;

/// Where one object stands: in a document, and at which field of it (`items[2]`; empty where the document is the object).
#[derive(Debug, Clone)]
pub struct Source {
    /// The document.
    pub document: Arc<Document>,
    /// The field.
    pub path: Box<str>,
}

/// Group, kind, namespace and name as one text: there are as many of them as objects. None of the four holds a line break.
type Key = Box<str>;

fn key(api_version: &str, [kind, namespace, name]: [&str; 3]) -> Key {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    [group, kind, namespace, name].join("\n").into()
}

fn names(object: &ObjectRef) -> [&str; 3] {
    [&object.kind, &object.namespace, &object.name]
}

/// Where the objects of a snapshot stand, as far as they were read from YAML.
#[derive(Debug, Clone, Default)]
pub struct Sources(HashMap<Key, Source>);

impl Sources {
    /// Remembers where the object with this body stands; of two with one name the later one counts, as everywhere.
    pub fn insert(&mut self, body: &Value, source: Source) {
        let text = |path: &str| body.text(path).unwrap_or_default();
        let names = [text("kind"), text("metadata.namespace"), text("metadata.name")];
        self.0.insert(key(text("apiVersion"), names), source);
    }

    /// Adds those of another source of material.
    pub fn extend(&mut self, other: Sources) {
        if self.0.is_empty() {
            self.0 = other.0;
        } else {
            self.0.extend(other.0);
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where each object's field stands; where the field is not there, the nearest one around it. Every document is read once,
    /// however many are asked for. `body` gives an object's body, by which items named in a path are counted.
    pub fn locate<'o>(
        &self,
        objects: &[&ObjectRef],
        body: impl Fn(&ObjectRef) -> Option<&'o Value>,
    ) -> Vec<Option<Location>> {
        let mut out = vec![None; objects.len()];
        let mut asked: BTreeMap<*const Document, (Arc<Document>, Wanted)> = BTreeMap::new();
        for (at, object) in objects.iter().enumerate() {
            let Some(source) = self.0.get(&key(&object.api_version, names(object))) else { continue };
            let mut places: Vec<Place> = counted(path::steps(&source.path), None);
            places.extend(counted(path::steps(&object.field_path), body(object)));
            let entry =
                asked.entry(Arc::as_ptr(&source.document)).or_insert((source.document.clone(), vec![]));
            entry.1.push((at, places));
        }
        for (document, wanted) in asked.into_values() {
            let paths: Vec<&[Place]> = wanted.iter().map(|(_, places)| places.as_slice()).collect();
            for ((at, _), found) in wanted.iter().zip(positions(&document.text, &paths)) {
                if let (Some(slot), Some((line, column))) = (out.get_mut(*at), found) {
                    let file = document.file.to_string();
                    *slot = Some(Location { file, line: document.line + line - 1, column });
                }
            }
        }
        out
    }
}

/// One step, with items of lists by their place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Key(String),
    Index(usize),
}

/// The steps of a path over a body. From a step on that means nothing in it the rest is as it is written.
fn counted(steps: Vec<Step<'_>>, body: Option<&Value>) -> Vec<Place> {
    let mut value = body;
    let mut out = vec![];
    for step in steps {
        let place = match (step, value) {
            (step, Some(Value::Array(list))) => match path::index_of(list, step) {
                Some(index) => Place::Index(index),
                None => break,
            },
            (Step::Index(index), Some(Value::Object(_))) => Place::Key(index.to_string()),
            (Step::Index(index), _) => Place::Index(index),
            (Step::Key(key), _) => Place::Key(key.to_owned()),
            (Step::Item(key, item), _) => Place::Key(format!("{key}={item}")),
        };
        value = value.and_then(|value| match &place {
            Place::Key(key) => value.get(key),
            Place::Index(index) => value.get(index),
        });
        out.push(place);
    }
    out
}

/// A collection that is being read, with the paths that lead into it: their place in the list, and how many steps led here.
struct Frame {
    paths: Vec<(usize, usize)>,
    /// `Some` in a list: the place of the next item.
    index: Option<usize>,
    /// In a map: the key whose value comes next, and where it stands.
    key: Option<(String, (usize, usize))>,
    /// Whether this collection is itself a key of a map.
    is_key: bool,
}

/// Line and column, from 1, that each path leads to, or the last of its steps that is there. `None` for a text that is empty.
fn positions(text: &str, paths: &[&[Place]]) -> Vec<Option<(usize, usize)>> {
    let mut out: Vec<Option<(usize, usize)>> = vec![None; paths.len()];
    let mut frames: Vec<Frame> = vec![];
    for event in Parser::new_from_str(text) {
        // What was read before can be read again; if not, what was found so far stands.
        let Ok((event, span)) = event else { break };
        let (collection, scalar) = match event {
            Event::MappingStart(..) => (Some(false), None),
            Event::SequenceStart(..) => (Some(true), None),
            Event::Scalar(value, ..) => (None, Some(value.into_owned())),
            Event::Alias(..) => (None, None),
            Event::MappingEnd | Event::SequenceEnd => {
                if let (Some(ended), Some(parent)) = (frames.pop(), frames.last_mut())
                    && ended.is_key
                {
                    parent.key = Some((String::new(), start(&span)));
                }
                continue;
            }
            _ => continue,
        };
        let at = start(&span);
        let awaits_key = frames.last().is_some_and(|frame| frame.index.is_none() && frame.key.is_none());
        if awaits_key && collection.is_none() {
            if let Some(frame) = frames.last_mut() {
                frame.key = Some((scalar.unwrap_or_default(), at));
            }
            continue;
        }
        let inside = if awaits_key { vec![] } else { enter(frames.last_mut(), at, paths, &mut out) };
        if let Some(is_list) = collection {
            let index = is_list.then_some(0);
            frames.push(Frame { paths: inside, index, key: None, is_key: awaits_key });
        }
    }
    out
}

fn start(span: &Span) -> (usize, usize) {
    (span.start.line(), span.start.col() + 1)
}

/// Enters a value: marks the paths that lead to it, and returns those that go on inside.
fn enter(
    parent: Option<&mut Frame>,
    at: (usize, usize),
    paths: &[&[Place]],
    out: &mut [Option<(usize, usize)>],
) -> Vec<(usize, usize)> {
    let Some(parent) = parent else {
        out.iter_mut().for_each(|slot| *slot = Some(at));
        return (0..paths.len()).map(|path| (path, 0)).collect();
    };
    let (place, at) = match (&mut parent.index, parent.key.take()) {
        (Some(index), _) => {
            *index += 1;
            (Place::Index(*index - 1), at)
        }
        (None, Some((key, at))) => (Place::Key(key), at),
        (None, None) => return vec![],
    };
    let mut inside = vec![];
    for (path, depth) in &parent.paths {
        let step = paths.get(*path).and_then(|steps| steps.get(*depth));
        if step == Some(&place) {
            if let Some(slot) = out.get_mut(*path) {
                *slot = Some(at);
            }
            inside.push((*path, depth + 1));
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    const TEXT: &str = "---\n# a list\nkind: List\nitems:\n- kind: A\n  metadata:\n    name: a\n  spec:\n    ports: [80, 443]\n- kind: B\n  metadata: {name: b, annotations: {x.y/z: 'on'}}\n  spec:\n    containers:\n      - image: i\n        name: app\n      - name: side\n        ? [odd, key]\n        : 1\n        \"quoted\": 2\n";

    fn sources() -> Sources {
        let document = Arc::new(Document { file: "dir/a.yaml".into(), line: 10, text: TEXT.into() });
        let mut sources = Sources::default();
        for (at, kind, name) in [(0, "A", "a"), (1, "B", "b")] {
            let source = Source { document: document.clone(), path: format!("items[{at}]").into() };
            sources.insert(&json!({"kind": kind, "metadata": {"name": name}}), source);
        }
        sources
    }

    fn locate(kind: &str, name: &str, field: &str) -> Option<String> {
        let body = json!({"spec": {"containers": [{"name": "app"}, {"name": "side"}]}});
        let object = ObjectRef::new(kind, "", name).field(field);
        let found = sources().locate(&[&object], |_| Some(&body));
        found[0].as_ref().map(ToString::to_string)
    }

    #[test]
    fn fields_are_found_by_the_structure_of_the_document() {
        assert_eq!(locate("A", "a", "").as_deref(), Some("dir/a.yaml:14:3"));
        assert_eq!(locate("A", "a", "metadata.name").as_deref(), Some("dir/a.yaml:16:5"));
        assert_eq!(locate("B", "b", "metadata.annotations[x.y/z]").as_deref(), Some("dir/a.yaml:20:37"));
        assert_eq!(locate("B", "b", "spec.containers[0].image").as_deref(), Some("dir/a.yaml:23:9"));
        assert_eq!(locate("B", "b", "spec.containers[name=side].quoted").as_deref(), Some("dir/a.yaml:28:9"));
    }

    #[test]
    fn what_is_not_there_is_where_it_would_be() {
        assert_eq!(locate("B", "b", "spec.containers[1].image.x").as_deref(), Some("dir/a.yaml:25:9"));
        assert_eq!(locate("B", "b", "status.phase").as_deref(), Some("dir/a.yaml:19:3"));
        assert_eq!(locate("C", "c", "spec"), None);
    }

    #[test]
    fn a_text_that_breaks_off_gives_what_was_read() {
        assert_eq!(
            positions("a:\n  b: 1\n c: [", &[&[Place::Key("a".into()), Place::Key("b".into())]]),
            [Some((2, 3))]
        );
        assert_eq!(positions("", &[&[]]), [None]);
    }
}
