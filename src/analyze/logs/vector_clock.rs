//! Vector clocks in logs: what happened before what, whatever the times of lines and their places in files say.
//!
//! A line with `HOST {"HOST": n, "OTHER": m}`, or a record with such a map in a field `clock`, is the `n`th event of its host, after the
//! `m`th of the other. Each host counts its own events from 1 without a gap and never goes back: what breaks that is told.

use memchr::memmem::Finder;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::gap::{Gap, GapReason};
use crate::model::log::LogStream;
use crate::model::memo::Derived;
use crate::model::snapshot::Snapshot;

/// Hosts of one clock. A map with more is data.
const MAX_ENTRIES: usize = 64;
/// Events that are kept: each has a map. What comes beyond is not looked at.
const MAX_EVENTS: usize = 100_000;
/// Bytes of a host's name.
const MAX_HOST: usize = 64;
/// A counter beyond this is a time or an id and no count of events.
const MAX_COUNT: u64 = 1 << 40;
/// A host is one where so many of its lines carry a clock: a map of numbers stands in a line by chance too.
const FEW: usize = 3;
/// Hosts that are told of each sort of trouble.
const MAX_TOLD: usize = 3;
/// Fields that hold a clock, and those that say whose it is.
const CLOCKS: &[&str] = &["clock", "vectorClock", "vector_clock", "vclock", "VCString", "vc"];
/// What the names of [`CLOCKS`] have in common: most records have none of it, and are not read again for them.
const MARKS: &[&str] = &["lock\"", "VCString", "\"vc\""];
/// See [`CLOCKS`].
const HOSTS: &[&str] = &["host", "node", "process", "pid", "id", "name"];

/// A vector clock as one line carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Who counts.
    pub host: String,
    /// Of each host that it knows of the last event.
    pub clock: BTreeMap<String, u64>,
}

impl Stamp {
    /// Which of its host's events it is.
    pub fn own(&self) -> u64 {
        self.clock.get(&self.host).copied().unwrap_or_default()
    }

    /// Whether this event happened before another one: that one knows of it.
    pub fn before(&self, other: &Stamp) -> bool {
        let known = other.clock.get(&self.host).copied().unwrap_or_default();
        self != other && self.own() <= known && (self.host != other.host || self.own() < other.own())
    }
}

/// Reads the clock of a line; `None` where it carries none.
pub fn stamp(line: &str) -> Option<Stamp> {
    let trimmed = line.trim();
    if trimmed.starts_with('{') {
        return MARKS.iter().any(|mark| trimmed.contains(mark)).then(|| in_record(trimmed)).flatten();
    }
    let mut from = 0;
    while let Some(at) = line.get(from..)?.find('{') {
        let open = from + at;
        from = open + 1;
        let close = open + line.get(open..)?.find('}')?;
        // The cheap question first: a map of names and numbers, with the name before it among them.
        if line.get(from..).is_some_and(|rest| rest.trim_start().starts_with('"'))
            && let Some(host) = host_before(line.get(..open).unwrap_or_default())
            && let Some(clock) = map(line.get(open..=close)?)
            && clock.get(host).is_some_and(|own| *own > 0)
        {
            return Some(Stamp { host: host.to_owned(), clock });
        }
    }
    None
}

/// The word right before the map.
fn host_before(text: &str) -> Option<&str> {
    let text = text.trim_end().trim_end_matches(['"', ':', '=', ']', ')']);
    let start = text
        .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')))
        .map_or(0, |at| at + 1);
    text.get(start..).filter(|host| !host.is_empty() && host.len() <= MAX_HOST)
}

fn map(text: &str) -> Option<BTreeMap<String, u64>> {
    let clock: BTreeMap<String, u64> = serde_json::from_str(text).ok()?;
    let fits =
        |(host, count): (&String, &u64)| !host.is_empty() && host.len() <= MAX_HOST && *count < MAX_COUNT;
    (!clock.is_empty() && clock.len() <= MAX_ENTRIES && clock.iter().all(fits)).then_some(clock)
}

fn in_record(line: &str) -> Option<Stamp> {
    let record: crate::model::json::Map = serde_json::from_str(line).ok()?;
    let clock = CLOCKS.iter().find_map(|name| record.get(name))?;
    let clock = match clock {
        crate::model::json::Value::String(text) => map(text)?,
        other => map(&other.to_string())?,
    };
    let named = HOSTS.iter().filter_map(|name| record.get(name)?.as_str());
    let host = named.into_iter().find(|host| clock.get(*host).is_some_and(|own| *own > 0))?;
    Some(Stamp { host: host.to_owned(), clock })
}

/// One event, and where it stands.
#[derive(Debug, Clone)]
struct Event {
    stamp: Stamp,
    /// Index of the log.
    log: usize,
    /// Index of the line in it.
    line: usize,
}

/// A message: what one host knew first from another.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Namespace and pod that sent.
    pub from: (&'a str, &'a str),
    /// Namespace and pod that received.
    pub to: (&'a str, &'a str),
    /// When it was sent at the latest, in nanoseconds since 1970 by the sender's clock.
    pub sent: i64,
    /// When it was received, by the receiver's clock.
    pub received: i64,
}

/// The vector clocks of all logs. Read it through `snapshot.derived::<VectorClocks>()`.
#[derive(Debug, Default)]
pub struct VectorClocks {
    /// By host, in order of their own counts; of several with one count the first in order of logs.
    hosts: BTreeMap<String, Vec<Event>>,
    /// Counts that two lines carry, by host.
    twice: BTreeMap<String, u64>,
}

impl Derived for VectorClocks {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut out = VectorClocks::default();
        let (open, mut kept) = (Finder::new("{"), 0);
        for (log, stream) in snapshot.logs.iter().enumerate() {
            for (line, entry) in stream.lines.iter().enumerate() {
                if kept >= MAX_EVENTS || open.find(entry.text.as_bytes()).is_none() {
                    continue;
                }
                if let Some(stamp) = stamp(&entry.text) {
                    kept += 1;
                    out.hosts.entry(stamp.host.clone()).or_default().push(Event { stamp, log, line });
                }
            }
        }
        out.hosts.retain(|_, events| events.len() >= FEW);
        for (host, events) in &mut out.hosts {
            events.sort_by_key(|event| (event.stamp.own(), event.log, event.line));
            let before = events.len();
            events.dedup_by_key(|event| event.stamp.own());
            if before > events.len() {
                out.twice.insert(host.clone(), (before - events.len()) as u64);
            }
        }
        out
    }
}

impl VectorClocks {
    /// Messages with the times at which both sides wrote of them.
    pub fn messages<'a>(&self, snapshot: &'a Snapshot) -> Vec<Message<'a>> {
        let place = |event: &Event| {
            let log: &LogStream = snapshot.logs.get(event.log)?;
            let time = log.lines.get(event.line)?.time?;
            Some(((log.namespace.as_str(), log.pod.as_str()), i64::try_from(time.as_nanosecond()).ok()?))
        };
        let mut out = vec![];
        for (host, events) in &self.hosts {
            let mut known: BTreeMap<&str, u64> = BTreeMap::new();
            for event in events {
                for (other, count) in event.stamp.clock.iter().filter(|(other, _)| *other != host) {
                    let before = known.insert(other, *count).unwrap_or_default();
                    let sender = self.hosts.get(other).filter(|_| *count > before);
                    let sent = sender.and_then(|sent| {
                        let at = sent.binary_search_by_key(count, |event| event.stamp.own()).ok()?;
                        sent.get(at)
                    });
                    if let (Some((from, sent)), Some((to, received))) = (sent.and_then(place), place(event)) {
                        out.push(Message { from, to, sent, received });
                    }
                }
            }
        }
        out
    }

    /// What breaks the order of events: lost ones, counts that come twice, knowledge that is lost again.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut out = vec![];
        let mut tell = |troubles: Vec<(String, u64)>, reason: GapReason, hint: &str| {
            let mut troubles = troubles;
            troubles.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            out.extend(
                troubles
                    .into_iter()
                    .take(MAX_TOLD)
                    .map(|(what, _)| Gap::new("Logs", what, reason).hint(hint)),
            );
        };
        tell(
            self.lost(),
            GapReason::Truncated,
            "lines were lost: raise spec.collect.logs.tailLines, or look at what ships the logs",
        );
        let twice = self.twice.iter().map(|(host, count)| {
            (
                format!("{count} events of {host:?} that carry a count of its vector clock a second time"),
                *count,
            )
        });
        tell(
            twice.collect(),
            GapReason::Failed,
            "it began to count anew, or two processes write under one name: give each its own",
        );
        tell(
            self.goes_back(),
            GapReason::Failed,
            "clocks are to be merged with what is received: what it did then seems to precede its own cause",
        );
        let unheard = self.unheard();
        if !unheard.is_empty() {
            let names: Vec<String> = unheard.iter().take(MAX_TOLD).map(|host| format!("{host:?}")).collect();
            let more = if unheard.len() > MAX_TOLD { " and others" } else { "" };
            let what = format!("events of {}{more}, whose messages others received", names.join(", "));
            out.push(
                Gap::new("Logs", what, GapReason::Absent)
                    .hint("collect its log too: its part of the order is missing"),
            );
        }
        out
    }

    /// Counts that no line carries, between others of the same host or known to somebody else.
    fn lost(&self) -> Vec<(String, u64)> {
        let mut known: BTreeMap<&str, u64> = BTreeMap::new();
        for (host, count) in self.hosts.values().flatten().flat_map(|event| &event.stamp.clock) {
            let slot = known.entry(host).or_default();
            *slot = (*slot).max(*count);
        }
        let mut out = vec![];
        for (host, events) in &self.hosts {
            let own: Vec<u64> = events.iter().map(|event| event.stamp.own()).collect();
            let holes = own.iter().zip(own.iter().skip(1)).filter(|(a, b)| **b > **a + 1);
            let (first, last) =
                (own.first().copied().unwrap_or_default(), own.last().copied().unwrap_or_default());
            let lost: u64 = holes.clone().map(|(a, b)| b - a - 1).sum();
            if let Some((a, b)) = holes.clone().next() {
                let where_ = if holes.count() == 1 {
                    format!("between {a} and {b}")
                } else {
                    format!("of {first} to {last}, the first after {a}")
                };
                out.push((format!("{lost} events of {host:?} {where_} of its vector clock"), lost));
            }
            let beyond = known.get(host.as_str()).copied().unwrap_or_default().saturating_sub(last);
            if beyond > 0 {
                out.push((format!("{beyond} events of {host:?} after {last}: others know of them"), beyond));
            }
        }
        out
    }

    /// Hosts that know less of another one than they did before.
    fn goes_back(&self) -> Vec<(String, u64)> {
        let mut out = vec![];
        for (host, events) in &self.hosts {
            let (mut times, mut first) = (0, None);
            for (before, after) in events.iter().zip(events.iter().skip(1)) {
                for (other, count) in &before.stamp.clock {
                    let now = after.stamp.clock.get(other).copied().unwrap_or_default();
                    if now < *count {
                        times += 1;
                        first = first.or(Some((after.stamp.own(), other, *count, now)));
                    }
                }
            }
            if let Some((at, other, was, now)) = first {
                let more = if times > 1 { format!(", and {} times more", times - 1) } else { String::new() };
                out.push((format!("the order of {host:?} from its event {at} on: its clock goes back from {was} to {now} for {other:?}{more}"), times));
            }
        }
        out
    }

    /// Hosts that only others know of.
    fn unheard(&self) -> BTreeSet<&str> {
        let named = self.hosts.values().flatten().flat_map(|event| event.stamp.clock.keys());
        named.map(String::as_str).filter(|host| !self.hosts.contains_key(*host)).collect()
    }
}

/// Puts those of the items that carry a clock into causal order, in the places that they have; what is concurrent keeps its order.
pub fn in_causal_order<T>(items: &mut Vec<T>, stamp_of: impl Fn(&T) -> Option<Stamp>) {
    let stamped: Vec<(usize, Stamp)> =
        items.iter().enumerate().filter_map(|(at, item)| Some((at, stamp_of(item)?))).collect();
    // How many of those that are left come before each.
    let causes = |(_, late): &(usize, Stamp)| stamped.iter().filter(|(_, early)| early.before(late)).count();
    let mut waits: Vec<Option<usize>> = stamped.iter().map(|item| Some(causes(item))).collect();
    let mut order: Vec<usize> = Vec::with_capacity(stamped.len());
    while order.len() < stamped.len() {
        // Broken clocks can claim a circle: then the first goes first.
        let free = waits.iter().position(|waits| *waits == Some(0));
        let Some(at) = free.or_else(|| waits.iter().position(Option::is_some)) else { break };
        let (Some(slot), Some((_, early))) = (waits.get_mut(at), stamped.get(at)) else { break };
        *slot = None;
        order.push(at);
        for (waits, (_, late)) in waits.iter_mut().zip(&stamped) {
            *waits = waits.map(|count| count.saturating_sub(usize::from(early.before(late))));
        }
    }
    let places: Vec<usize> = stamped.iter().map(|(at, _)| *at).collect();
    let sources: Vec<usize> = order.iter().filter_map(|at| places.get(*at).copied()).collect();
    let mut slots: Vec<Option<T>> = std::mem::take(items).into_iter().map(Some).collect();
    let mut moved: Vec<Option<T>> =
        sources.iter().map(|at| slots.get_mut(*at).and_then(Option::take)).collect();
    for (place, item) in places.iter().zip(&mut moved) {
        if let Some(slot) = slots.get_mut(*place) {
            *slot = item.take();
        }
    }
    items.extend(slots.into_iter().flatten());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Builder;
    use proptest::prelude::*;

    fn clocks(logs: &[(&str, Vec<String>)]) -> (Snapshot, VectorClocks) {
        let mut builder = Builder::new();
        for (pod, lines) in logs {
            let text = lines.join("\n");
            builder.log(LogStream::read("n", pod, "app", false, text.as_bytes(), false));
        }
        let snapshot = builder.finish();
        let clocks = VectorClocks::derive(&snapshot);
        (snapshot, clocks)
    }

    /// `a` and `b` play ping-pong: each receives what the other sent and answers.
    fn ping_pong(rounds: u64) -> [(&'static str, Vec<String>); 2] {
        let line = |host: &str, a: u64, b: u64, at: u64| {
            format!("2026-11-22T10:00:{:02}Z INFO {host} {{\"a\": {a}, \"b\" : {b}}} event", at % 60)
        };
        let a = (1..=rounds).map(|n| line("a", n, n - 1, 2 * n)).collect();
        let b = (1..=rounds).map(|n| line("b", n, n, 2 * n + 1)).collect();
        [("a-0", a), ("b-0", b)]
    }

    #[test]
    fn clocks_are_read_in_their_forms_and_nothing_else_is_one() {
        let expected = Stamp {
            host: "node1".to_owned(),
            clock: [("node0".to_owned(), 2), ("node1".to_owned(), 1)].into(),
        };
        for line in [
            r#"node1 {"node0" : 2, "node1" : 1} Received"#,
            r#"2026-11-22T10:00:00Z INFO [x] Received node1 {"node1":1, "node0":2}"#,
            r#"{"level":"info","host":"node1","clock":{"node0":2,"node1":1},"msg":"Received"}"#,
            r#"{"node":"node1","VCString":"{\"node0\":2, \"node1\":1}","msg":"Received"}"#,
        ] {
            assert_eq!(stamp(line), Some(expected.clone()), "{line}");
        }
        for line in [
            r#"stock {"apples": 2, "pears": 1}"#,
            r#"node1 {"node0": 2, "node1": "x"}"#,
            r#"node1 {"node0": 2, "node1": 0}"#,
            r#"node1 {"node0": 2, "node1": 1700000000000000}"#,
            r#"{"host":"a","clock":17,"msg":"x"}"#,
            "{",
            "node1 {\"node1\"",
            "",
        ] {
            assert_eq!(stamp(line), None, "{line}");
        }
    }

    #[test]
    fn whole_logs_have_no_gaps_in_whatever_order_they_stand() {
        let (snapshot, whole) = clocks(&ping_pong(9));
        assert!(whole.gaps().is_empty(), "{:?}", whole.gaps());
        assert_eq!(whole.messages(&snapshot).len(), 17);
        let [(a, mut lines), b] = ping_pong(9);
        lines.reverse();
        assert!(clocks(&[b, (a, lines)]).1.gaps().is_empty());
    }

    #[test]
    fn what_is_lost_doubled_lowered_or_unheard_is_told() {
        let told = |change: &dyn Fn(&mut Vec<String>)| {
            let [(a, mut lines), b] = ping_pong(9);
            change(&mut lines);
            clocks(&[(a, lines), b]).1.gaps().into_iter().map(|gap| gap.what).collect::<Vec<_>>()
        };
        assert_eq!(told(&|l| drop(l.remove(3))), ["1 events of \"a\" between 3 and 5 of its vector clock"]);
        assert_eq!(told(&|l| l.truncate(7)), ["2 events of \"a\" after 7: others know of them"]);
        assert!(told(&|l| l.push(l[4].clone()))[0].starts_with("1 events of \"a\" that carry a count"));
        let lowered = told(&|l| l[6] = l[6].replace("\"b\" : 6", "\"b\" : 2"));
        assert_eq!(
            lowered,
            ["the order of \"a\" from its event 7 on: its clock goes back from 5 to 2 for \"b\""]
        );
        assert_eq!(told(&Vec::clear), ["events of \"a\", whose messages others received"]);
        assert!(told(&|l| drop(l.drain(..2))).is_empty(), "logs begin somewhere");
    }

    proptest! {
        #[test]
        fn causal_order_holds_from_any_order(keys in proptest::collection::vec(0u32..1000, 18)) {
            let lines = ping_pong(9).into_iter().flat_map(|(_, lines)| lines);
            let mut items: Vec<(u32, String)> = keys.into_iter().zip(lines).collect();
            items.sort();
            in_causal_order(&mut items, |(_, line)| stamp(line));
            prop_assert_eq!(items.len(), 18);
            let stamps: Vec<Stamp> = items.iter().filter_map(|(_, line)| stamp(line)).collect();
            for (at, late) in stamps.iter().enumerate() {
                prop_assert!(stamps[..at].iter().all(|early| !late.before(early)));
            }
        }
    }
}
