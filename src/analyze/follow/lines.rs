//! Everything that carries an id: traces, lines of logs, records of access logs.

use memchr::memmem::Finder;
use std::collections::BTreeSet;

use crate::model::access_log::AccessRecord;
use crate::model::log::{LogLine, LogStream};
use crate::model::snapshot::Snapshot;
use crate::model::span::normal_trace_id;
use crate::model::workload::is_proxy_container;

/// Lines and records that are kept.
pub(super) const MAX_LINES: usize = 1_000;
/// Ids of one request. Each is looked for in all logs.
const MAX_IDS: usize = 8;
/// Words shorter than this are never taken for an id that was met on the way: too much else is written so.
const MIN_ID: usize = 12;

/// What carries the id.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    /// The id as it was asked for, and others of the same request.
    pub(super) ids: Vec<String>,
    /// Ids of traces.
    pub(super) traces: Vec<String>,
    pub(super) lines: Vec<(&'a LogStream, &'a LogLine)>,
    pub(super) access: Vec<(&'a LogStream, &'a AccessRecord)>,
    /// Whether there are more lines.
    pub(super) more: bool,
}

impl<'a> Found<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, id: &str) -> Self {
        if id.is_empty() {
            return Found::default();
        }
        let mut found = Found { ids: vec![id.to_owned()], ..Found::default() };
        let normal = normal_trace_id(id);
        if normal != id {
            found.ids.push(normal);
        }
        let requests: BTreeSet<&str> = snapshot
            .logs
            .iter()
            .flat_map(|log| &log.access)
            .map(|record| record.request_id.as_str())
            .filter(|id| id.len() >= MIN_ID)
            .collect();
        // What names one id beside another joins them; each round looks for what the last one met.
        let mut looked = 0;
        while looked < found.ids.len() {
            let new: Vec<String> = found.ids.get(looked..).unwrap_or_default().to_vec();
            looked = found.ids.len();
            for id in &new {
                found.spans(snapshot, id);
                found.logs(snapshot, id, &requests);
            }
        }
        found
    }

    fn met(&mut self, id: &str) {
        let known = self.ids.iter().any(|known| known.eq_ignore_ascii_case(id));
        if !known && !id.is_empty() && self.ids.len() < MAX_IDS {
            self.ids.push(id.to_owned());
        }
    }

    fn spans(&mut self, snapshot: &Snapshot, id: &str) {
        let spans = &snapshot.spans;
        let own = spans.trace_by_id(id).map(|trace| trace.id.to_owned());
        let named = || {
            let carries = |span: &&crate::model::span::Span| {
                !span.request.is_empty() && spans.text(span.request).eq_ignore_ascii_case(id)
            };
            spans.all().iter().find(carries).map(|span| spans.trace_id(span).to_owned())
        };
        let Some(trace) = own.or_else(named).filter(|trace| !self.traces.contains(trace)) else { return };
        let requests: BTreeSet<&str> = spans
            .trace_by_id(&trace)
            .map(|trace| trace.spans.iter().map(|span| spans.text(span.request)).collect())
            .unwrap_or_default();
        self.met(&trace);
        requests.into_iter().for_each(|request| self.met(request));
        self.traces.push(trace);
    }

    fn logs(&mut self, snapshot: &'a Snapshot, id: &str, requests: &BTreeSet<&str>) {
        let finder = Finder::new(id);
        let mut met: BTreeSet<String> = BTreeSet::new();
        for log in &snapshot.logs {
            for record in log.access.iter().filter(|record| record.request_id.eq_ignore_ascii_case(id)) {
                if self.full() {
                    return;
                }
                self.access.push((log, record));
            }
            if is_proxy_container(&log.container) {
                continue;
            }
            for line in &log.lines {
                if !carries(&finder, &line.text)
                    || self.lines.iter().any(|(_, known)| std::ptr::eq(*known, line))
                {
                    continue;
                }
                if self.full() {
                    return;
                }
                self.lines.push((log, line));
                let words = line.text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                for word in words.filter(|word| word.len() >= MIN_ID) {
                    if requests.contains(word) || snapshot.spans.trace_by_id(word).is_some() {
                        met.insert(word.to_owned());
                    }
                }
            }
        }
        met.iter().for_each(|word| self.met(word));
    }

    fn full(&mut self) -> bool {
        self.more |= self.lines.len() + self.access.len() >= MAX_LINES;
        self.more
    }
}

/// Whether the text holds the id as a word of its own, and not as a part of a longer one.
fn carries(finder: &Finder<'_>, text: &str) -> bool {
    let bytes = text.as_bytes();
    finder.find_iter(bytes).any(|at| {
        let word = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        !word(at.checked_sub(1)) && !word(Some(at + finder.needle().len()))
    })
}
