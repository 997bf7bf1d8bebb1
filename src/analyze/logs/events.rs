//! All logs as streams of events: which statement wrote a line, when, and for which request, service by service.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::client_error::failure;
use super::digest::Place;
use super::failure_text;
use super::ids::{Ids, ids};
use super::join::{Entry, MAX_LINES};
use super::mask::{WILD, mask_into};
use super::reading::{Resolver, STACK_FIELDS, of_the_system, sample};
use super::record::{Level, Record};
use super::shape::is_frame;
use super::stack::exception;
use super::template::Shapes;
use crate::analyze::anomaly::service_of_pod;
use crate::model::log::LogStream;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

/// Events kept of one service: 32 bytes each. What comes beyond is not looked at.
pub const MAX_EVENTS: usize = 400_000;
/// Lines below the head of an entry in which a failure is looked for.
const MAX_STACK: usize = 24;

/// The events of all logs: a part of their [`Digest`](super::digest::Digest).
#[derive(Debug, Default)]
pub struct Events {
    /// By service, in order of their names.
    pub services: BTreeMap<ServiceName, ServiceEvents>,
}

/// The events of one service.
#[derive(Debug, Default)]
pub struct ServiceEvents {
    /// What its lines were written by, in order of their texts.
    pub templates: Vec<Template>,
    /// Its lines, in order of time.
    pub events: Vec<Event>,
}

/// A statement that wrote lines.
#[derive(Debug, Clone)]
pub struct Template {
    /// Its words, with a mark for each value.
    pub text: String,
    /// The gravest level that its lines have; an exception without a level is an error.
    pub level: Option<Level>,
    /// Whether an exception came with it.
    pub thrown: bool,
    /// Whether it tells of a call that failed, how, and whom it called.
    pub call: Option<FailedCall>,
    /// A line of it, word for word, and where that stands.
    pub sample: (String, Place),
}

/// A call that failed, as the caller's log tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// How.
    pub kind: failure_text::Kind,
    /// The Service that was called.
    pub service: Option<ServiceName>,
    /// Whom the text names.
    pub host: String,
    /// Whether the callee only passed on a failure of its own callee.
    pub passed_on: bool,
}

/// One line, or several that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since 1970.
    pub at: i64,
    /// The index of its template.
    pub template: u32,
    /// The request that it belongs to, and the span within it.
    pub ids: Ids,
}

/// Makes events of lines as they are read.
pub(super) struct EventsBuilder<'s> {
    /// Services that series are about.
    measured: BTreeSet<(&'s str, &'s str)>,
    readers: BTreeMap<ServiceName, Reader>,
}

impl<'s> EventsBuilder<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Self {
        let labels = snapshot.series.iter().map(|s| (s.label("namespace"), s.label("service")));
        let measured = labels.filter(|(_, service)| !service.is_empty()).collect();
        EventsBuilder { measured, readers: BTreeMap::new() }
    }

    /// What takes the entries of a log, in order.
    pub(super) fn reader(&mut self, snapshot: &Snapshot, stream: &LogStream) -> &mut Reader {
        let service = service_of(snapshot, &self.measured, &stream.namespace, &stream.pod);
        let reader = self.readers.entry(service).or_default();
        reader.last = None;
        reader
    }

    pub(super) fn finish(self) -> Events {
        let services = self.readers.into_iter().map(|(service, reader)| (service, reader.finish()));
        Events { services: services.collect() }
    }
}

/// The service that a pod's lines are counted under. Where nothing is known of a pod but its name, and series are about a service of
/// exactly that name, it is that one: `worker-1` may be a pod of `worker` or a name that somebody chose.
fn service_of(
    snapshot: &Snapshot,
    measured: &BTreeSet<(&str, &str)>,
    namespace: &str,
    pod: &str,
) -> ServiceName {
    if snapshot.pod(namespace, pod).is_none() && measured.contains(&(namespace, pod)) {
        return ServiceName::new(namespace, pod);
    }
    service_of_pod(snapshot, namespace, pod)
}

/// What is kept of the lines of one shape.
struct Kept {
    level: Option<Level>,
    thrown: bool,
    call: Option<FailedCall>,
    sample: (String, Place),
}

/// Makes events of the lines of one service.
#[derive(Default)]
pub(super) struct Reader {
    /// When the entry before came, within one log.
    last: Option<Timestamp>,
    shapes: Shapes,
    kept: Vec<Option<Kept>>,
    events: Vec<Event>,
    text: String,
    masked: String,
}

impl Reader {
    /// Takes an entry with the time that it carries.
    pub(super) fn read(
        &mut self,
        stream: &LogStream,
        entry: &Entry<'_>,
        record: &Record<'_>,
        at: Option<Timestamp>,
        resolver: &Resolver,
    ) {
        // A line without a time came right after the one before it.
        self.last = at.or(self.last);
        let Some(at) = self.last.filter(|_| self.events.len() < MAX_EVENTS) else { return };
        let level = self.statement(record, entry);
        mask_into(&self.text, &mut self.masked);
        let shape = self.shapes.number(&self.masked);
        let slot = shape as usize;
        if slot >= self.kept.len() {
            self.kept.resize_with(slot + 1, || None);
        }
        if let Some(kept) = self.kept.get_mut(slot) {
            match kept {
                Some(kept) => kept.level = kept.level.max(level),
                None => *kept = Some(look(stream, entry, record, level, resolver)),
            }
        }
        self.events.push(Event { at: at.as_microsecond(), template: shape, ids: ids(record, entry.head()) });
    }

    /// Writes what names the statement into `text`: where it stands, its words, what was thrown. Answers its level.
    fn statement(&mut self, record: &Record<'_>, entry: &Entry<'_>) -> Option<Level> {
        let text = &mut self.text;
        text.clear();
        let place = record.field(&[
            "caller",
            "location",
            "source.file",
            "logger_name",
            "logger",
            "category",
            "target",
        ]);
        if let Some(place) = place.or_else(|| klog_place(entry.head())) {
            text.push_str(place);
            text.push(' ');
        }
        if record.message.is_empty() && !record.fields.is_empty() {
            // No words: a record of data is known by its fields.
            for (name, _) in &record.fields {
                text.push_str(name);
                text.push(' ');
            }
        } else {
            text.push_str(record.message.lines().next().unwrap_or_default());
        }
        let mut level = record.level;
        let grave = level.is_none_or(|level| level >= Level::Warn);
        if grave && !record.fields.is_empty() {
            let error = record.error_text();
            if error != record.message {
                text.push_str(" : ");
                text.push_str(error.lines().next().unwrap_or_default());
            }
        }
        if grave && entry.is_joined() {
            let lines: Vec<&str> = std::iter::once(entry.head()).chain(entry.rest()).collect();
            if let Some(thrown) = exception(&lines) {
                level = level.or(Some(Level::Error));
                text.push_str(" : ");
                text.push_str(&thrown.kind);
            }
        }
        level
    }

    fn finish(mut self) -> ServiceEvents {
        let (texts, of_shape) = self.shapes.templates();
        let mut templates: Vec<Option<Template>> = vec![None; texts.len()];
        for (shape, kept) in self.kept.into_iter().enumerate() {
            let (Some(kept), Some(at)) = (kept, of_shape.get(shape)) else { continue };
            let Some(slot) = templates.get_mut(*at) else { continue };
            match slot {
                Some(template) => {
                    template.level = template.level.max(kept.level);
                    template.thrown |= kept.thrown;
                    template.call = template.call.take().or(kept.call);
                    // The first in order of text, whichever came first.
                    if kept.sample.0 < template.sample.0 {
                        template.sample = kept.sample;
                    }
                }
                None => {
                    let text = texts.get(*at).cloned().unwrap_or_default();
                    *slot = Some(Template {
                        text,
                        level: kept.level,
                        thrown: kept.thrown,
                        call: kept.call,
                        sample: kept.sample,
                    });
                }
            }
        }
        for event in &mut self.events {
            event.template = of_shape.get(event.template as usize).copied().unwrap_or_default() as u32;
        }
        self.events.sort_by_key(|event| event.at);
        let templates = templates.into_iter().flatten().collect();
        ServiceEvents { templates, events: self.events }
    }
}

/// Looks closely at the first line of a shape: what it tells of a call, and what a reader would quote.
fn look(
    stream: &LogStream,
    entry: &Entry<'_>,
    record: &Record<'_>,
    level: Option<Level>,
    resolver: &Resolver,
) -> Kept {
    let mut lines: Vec<&str> = std::iter::once(entry.head()).chain(entry.rest()).collect();
    if lines.len() == 1 {
        let field = record.field(STACK_FIELDS).filter(|text| text.contains('\n'));
        lines.extend(field.into_iter().flat_map(str::lines).filter(|line| !line.is_empty()).take(MAX_LINES));
    }
    let place = Place { pod: stream.pod.clone(), container: stream.container.clone() };
    let mut kept = Kept { level, thrown: false, call: None, sample: (sample(&lines), place) };
    if level.is_some_and(|level| level < Level::Warn) {
        return kept;
    }
    let thrown = exception(&lines);
    let stack: Vec<&str> =
        lines.iter().skip(1).copied().filter(|line| !is_frame(line)).take(MAX_STACK).collect();
    kept.call = failure(record, thrown.as_ref(), &stack).map(|failed| FailedCall {
        kind: failed.kind,
        service: failed.target.as_ref().and_then(|t| resolver.service(&t.host, &stream.namespace)),
        host: failed.target.map(|t| t.host).unwrap_or_default(),
        passed_on: failed.passed_on,
    });
    kept.thrown = thrown.is_some();
    if level.is_none() && (thrown.is_some() || kept.call.is_some() || of_the_system(entry.head())) {
        kept.level = Some(Level::Error);
    }
    kept
}

/// `file.go:12` of a klog line.
fn klog_place(head: &str) -> Option<&str> {
    let (before, _) = head.split_once("] ")?;
    let klog =
        before.starts_with(['I', 'W', 'E', 'F']) && before.get(1..5)?.bytes().all(|b| b.is_ascii_digit());
    klog.then(|| before.rsplit(' ').next()).flatten()
}

impl Template {
    /// Whether it is an error or worse.
    pub fn is_error(&self) -> bool {
        self.level.is_some_and(|level| level >= Level::Error)
    }

    /// Its text without the number of the line in the source: a new version of a program moves its lines.
    pub fn without_line(&self) -> String {
        let word = |word: &str| match word.split_once([':', '#']) {
            Some((head, line))
                if !line.is_empty() && line.trim_end_matches(']').bytes().all(|b| b.is_ascii_digit()) =>
            {
                head.to_owned()
            }
            _ => word.to_owned(),
        };
        self.text.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// Whether it has words: a template of values alone says nothing.
    pub fn has_words(&self) -> bool {
        self.text.split(|c: char| !c.is_alphabetic()).any(|word| word.len() > 2 && !word.contains(WILD))
    }
}

impl Event {
    /// When.
    pub fn time(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.at).ok()
    }
}
