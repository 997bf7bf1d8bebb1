//! Spans of distributed traces, in one compact form whatever wrote them.
//!
//! A span takes some 80 bytes: names are interned, ids are numbers, and of its attributes only what an analysis lives on
//! stays. The order of spans, names and traces follows from their content alone and not from the order of files.

mod attributes;
mod builder;
mod jaeger;
mod names;
mod otlp;
mod read;
mod records;
mod scalar;
pub mod tree;

use jiff::Timestamp;

use super::network::ServiceName;
pub use builder::SpansBuilder;
pub use names::{Name, Names};
pub use read::{normal_trace_id, read};

/// Spans of one snapshot. A day of a large installation has far more; a capture of the minutes around an incident rarely.
pub const MAX_SPANS: usize = 1_000_000;

/// What a span is to the call that it stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nothing says.
    #[default]
    Unset,
    /// Work within a service.
    Internal,
    /// The callee's side of a call.
    Server,
    /// The caller's side of a call.
    Client,
    /// The sender of a message.
    Producer,
    /// The receiver of a message.
    Consumer,
}

/// What a span says of its own success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Nothing.
    #[default]
    Unset,
    /// It went well.
    Ok,
    /// It failed.
    Error,
}

/// A protocol's result code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Nothing says.
    #[default]
    None,
    /// An HTTP status.
    Http(u16),
    /// A gRPC status.
    Grpc(u8),
}

impl Code {
    /// Whether the callee failed: HTTP 5xx, and the statuses of gRPC that a caller cannot cause by what it asks for.
    /// The statuses are those of grpc.io's list; `Canceled` (1) is the caller's own doing.
    pub fn is_failure(self) -> bool {
        match self {
            Code::None => false,
            Code::Http(status) => status >= 500,
            Code::Grpc(status) => matches!(status, 2 | 4 | 8 | 13 | 14 | 15),
        }
    }
}

/// One span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Its trace, an index for [`Spans::trace_id`].
    pub trace: u32,
    /// Who wrote it, an index for [`Spans::emitter`].
    pub emitter: u32,
    /// Its id: the eight bytes as a number; an id of another form is hashed.
    pub id: u64,
    /// Its parent's id; 0 where it has none.
    pub parent: u64,
    /// Nanoseconds since 1970, by the clock of whoever wrote it.
    pub start: i64,
    /// Nanoseconds; 0 where it has no end.
    pub duration: u64,
    /// What was done.
    pub operation: Name,
    /// The other side, as the span names it: a service, a host, a database, a queue.
    pub peer: Name,
    /// What an error said.
    pub message: Name,
    /// A request or correlation id beside the trace's own.
    pub request: Name,
    /// The protocol's result.
    pub code: Code,
    /// What it is to a call.
    pub kind: Kind,
    /// What it says of its success.
    pub status: Status,
    /// The callee's half of a span whose id the caller's half has as well, as Zipkin's clients write them.
    pub shared: bool,
    /// Which attempt this is where a client counts them; 0 is the first.
    pub attempt: u8,
}

impl Span {
    /// When it ended, in nanoseconds since 1970.
    pub fn end(&self) -> i64 {
        self.start.saturating_add_unsigned(self.duration)
    }

    /// When it began.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.start)).unwrap_or_default()
    }

    /// Whether it failed, by its status or by its protocol's code.
    pub fn failed(&self) -> bool {
        self.status == Status::Error || (self.status == Status::Unset && self.code.is_failure())
    }

    /// Whether it is the caller's side of something.
    pub fn is_outgoing(&self) -> bool {
        matches!(self.kind, Kind::Client | Kind::Producer)
    }
}

/// Who writes spans: a process of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Emitter {
    /// The service's name as the spans have it.
    pub name: String,
    /// Its namespace; empty where nothing says.
    pub namespace: String,
    /// Its pod, or what else tells instances apart; empty where nothing says.
    pub pod: String,
    /// Its node; empty where nothing says.
    pub node: String,
    /// The Service that it is, an index for [`Spans::service`].
    pub service: u32,
}

/// All spans of a snapshot, in order of trace, start and id.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    spans: Vec<Span>,
    /// For each trace its id and the end of its spans; they begin where those of the trace before end.
    traces: Vec<(Box<str>, usize)>,
    emitters: Vec<Emitter>,
    services: Vec<ServiceName>,
    names: Names,
}

/// One trace.
#[derive(Debug, Clone, Copy)]
pub struct Trace<'a> {
    /// Its id, in the form of [`normal_trace_id`].
    pub id: &'a str,
    /// Its spans, in order of start.
    pub spans: &'a [Span],
    /// Where they begin in [`Spans::all`].
    pub first: usize,
}

impl Spans {
    /// All of them.
    pub fn all(&self) -> &[Span] {
        &self.spans
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The traces, in order of their ids.
    pub fn traces(&self) -> impl Iterator<Item = Trace<'_>> {
        (0..self.traces.len()).filter_map(|at| self.trace(at))
    }

    /// A trace by its index, as [`Span::trace`] has it.
    pub fn trace(&self, at: usize) -> Option<Trace<'_>> {
        let (id, end) = self.traces.get(at)?;
        let start = at.checked_sub(1).and_then(|before| self.traces.get(before)).map_or(0, |(_, end)| *end);
        Some(Trace { id, spans: self.spans.get(start..*end)?, first: start })
    }

    /// A trace by its id, in any of the forms that the same id has in headers and logs.
    pub fn trace_by_id(&self, id: &str) -> Option<Trace<'_>> {
        let id = normal_trace_id(id);
        let at = self.traces.binary_search_by(|(known, _)| known.as_ref().cmp(id.as_str())).ok()?;
        self.trace(at)
    }

    /// The id of a span's trace.
    pub fn trace_id(&self, span: &Span) -> &str {
        self.traces.get(span.trace as usize).map_or("", |(id, _)| id)
    }

    /// Who wrote a span.
    pub fn emitter(&self, span: &Span) -> Option<&Emitter> {
        self.emitters.get(span.emitter as usize)
    }

    /// The index of the Service that wrote a span.
    pub fn service_index(&self, span: &Span) -> usize {
        self.emitter(span).map_or(usize::MAX, |emitter| emitter.service as usize)
    }

    /// The Service that wrote a span.
    pub fn service(&self, span: &Span) -> Option<&ServiceName> {
        self.services.get(self.service_index(span))
    }

    /// All Services that wrote spans, in order.
    pub fn services(&self) -> &[ServiceName] {
        &self.services
    }

    /// All that wrote spans.
    pub fn emitters(&self) -> &[Emitter] {
        &self.emitters
    }

    /// The text of a name.
    pub fn text(&self, name: Name) -> &str {
        self.names.text(name)
    }

    /// All names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Says which Service each emitter is.
    pub(crate) fn assign(&mut self, service_of: impl Fn(&Emitter) -> ServiceName) {
        let named: Vec<ServiceName> = self.emitters.iter().map(service_of).collect();
        let mut services = named.clone();
        services.sort();
        services.dedup();
        for (emitter, name) in self.emitters.iter_mut().zip(&named) {
            emitter.service = services.binary_search(name).unwrap_or_default() as u32;
        }
        self.services = services;
    }
}

#[cfg(test)]
mod tests;
