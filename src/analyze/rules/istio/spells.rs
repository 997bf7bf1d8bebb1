//! Spells in which a proxy finds no endpoint although endpoints are ready: what ejection looks like in access logs.

use jiff::Timestamp;

use crate::analyze::traffic::text;
use crate::model::access_log::AccessRecord;
use crate::model::snapshot::Snapshot;

/// A proxy learns of an endpoint's readiness within this many seconds.
const LEARNT_S: i64 = 10;
/// An error trips the ejection that follows within this many seconds: the next request already finds nobody.
const TRIPPED_S: i64 = 15;

/// Requests to one cluster that found no endpoint while endpoints were ready.
#[derive(Debug, Clone, Default)]
pub struct Spells {
    /// The cluster.
    pub cluster: String,
    /// How many requests.
    pub count: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The most endpoints that were ready meanwhile.
    pub endpoints: usize,
    /// In how many spells they came, over all proxies.
    pub spells: u64,
    /// Spells that begin right after an endpoint's error.
    pub tripped: u64,
    /// Spells after which an endpoint answered again without having become ready anew.
    pub ended: u64,
    /// How long the spells that ended lasted, in seconds: the shortest and the longest.
    pub lasted: Option<(i64, i64)>,
}

impl Spells {
    /// What they look like, in a sentence.
    pub fn words(&self) -> String {
        let lasted = self.lasted.map(|(short, long)| match long - short {
            0 => format!(", after {long} s"),
            _ => format!(", after {short} to {long} s"),
        });
        format!(
            "They come in {}: {} right after an error of an endpoint, and {} with answers again{}.",
            text::several(self.spells, "spell"),
            if self.tripped == 1 { "1 begins".to_owned() } else { format!("{} begin", self.tripped) },
            if self.ended == 1 { "1 ends".to_owned() } else { format!("{} end", self.ended) },
            lasted.unwrap_or_default()
        )
    }
}

/// What the access logs show of a cluster. `ready` says since when each endpoint that is ready now has been so.
pub fn spells(snapshot: &Snapshot, cluster: &str, ready: &[Timestamp]) -> Spells {
    let mut out = Spells { cluster: cluster.to_owned(), ..Spells::default() };
    for log in &snapshot.logs {
        let mut own: Vec<(Timestamp, &AccessRecord)> = log
            .access
            .iter()
            .filter(|record| record.cluster.trim_end_matches(';') == cluster)
            .filter_map(|record| Some((record.start?, record)))
            .collect();
        own.sort_by_key(|(at, _)| *at);
        let mut open: Option<Timestamp> = None;
        let mut error: Option<Timestamp> = None;
        for (at, record) in own {
            let endpoints =
                ready.iter().filter(|since| since.as_second().saturating_add(LEARNT_S) <= at.as_second());
            let endpoints = endpoints.count();
            if record.has_flag("UH") {
                if endpoints == 0 {
                    continue;
                }
                out.count += 1;
                out.first = out.first.into_iter().chain([at]).min();
                out.endpoints = out.endpoints.max(endpoints);
                if open.is_none() {
                    open = Some(at);
                    out.spells += 1;
                    out.tripped +=
                        u64::from(error.is_some_and(|error| at.as_second() - error.as_second() <= TRIPPED_S));
                }
                error = None;
            } else if !record.upstream_host.is_empty() {
                if let Some(start) = open.take() {
                    let seconds = at.as_second() - start.as_second();
                    let (short, long) = out.lasted.unwrap_or((seconds, seconds));
                    out.ended += 1;
                    out.lasted = Some((short.min(seconds), long.max(seconds)));
                }
                if record.failed() {
                    error = Some(at);
                }
            }
        }
    }
    out
}
