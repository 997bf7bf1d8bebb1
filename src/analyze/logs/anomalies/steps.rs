//! Requests that leave their usual way: which line follows which one within the part of a request that one service handles.
//!
//! Lines with ids of a request (and span) stand in sequences. For each statement the share of those that follow it is compared
//! before and after the onset, as in Nezha (Yu et al., ESEC/FSE 2023): a step that always came and does not any more is an early return,
//! one that never came is an exception's handler. In each request the step that leaves first, and among ends the deepest, is where it
//! began to fail; the callers of that service leave their way as well, and later.
//!
//! Where spans of the same requests are there, a span's operation is the first step of its lines: a handler that fails before its first
//! line shows by that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU64;

use super::super::events::ServiceEvents;
use super::super::record::Level;
use super::sequence::{END, OPERATIONS, Sequence, Step, begin_with_spans, leave_out_cut, sequences_of};
use super::weigh::{corrected, of_shares, weight};
use super::{Context, evidence, time};
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::model::network::ServiceName;
use crate::model::span::Name;

/// What a step says at best that is the first to leave the usual way in the requests that do (natural logarithm). On recorded
/// incidents with logs the service at fault had such a step in 3 of 14 and others in none of 178 (with the onset found: 2 of 14 and
/// 2 of 178), which is 2.5 to 4.4 with half a case added to each; they are few, so the lower half of that range counts.
const FIRST: f64 = 3.0;
/// The same for one that leaves it after another service did.
const LATER: f64 = 0.2;
/// A new branch to a line that tells of no trouble, while nothing is lost: the mix of requests changes, too.
const BRANCH: f64 = 0.3;
/// Requests with lines of this statement that are needed on each side.
const MIN_REQUESTS: u32 = 4;
/// A step is lost where its share falls below this part of what it was.
const LOST: f64 = 0.8;
/// A loss counts in full from the inverse of this on.
const WHOLE: f64 = 1.4;
/// A step is usual from this share on.
const USUAL: f64 = 0.15;
/// A step that came in at most this share before the onset is new: earlier trouble stands in many logs.
const RARE: f64 = 0.02;
/// The share of a service's lines with ids that makes its steps known.
const FOLLOWED: f64 = 0.5;

/// A step that deviates.
struct Broken {
    step: Step,
    nats: f64,
    /// Shares of the step before and after.
    before: f64,
    after: f64,
    requests: u32,
    /// The step that is lost for it, with its shares.
    lost: Option<(u32, f64, f64)>,
}

/// The anomalies of all steps, and the services whose steps are known.
pub(super) fn anomalies(context: &Context<'_>) -> (Vec<Anomaly>, BTreeSet<ServiceName>) {
    let services: Vec<(&ServiceName, &ServiceEvents)> = context.events.services.iter().collect();
    let mut stepping = BTreeSet::new();
    let mut sequences = vec![];
    for (number, (name, log)) in services.iter().enumerate() {
        let with_ids = log.events.iter().filter(|event| event.ids.request.is_some()).count();
        let of_service = sequences_of(log, number as u32);
        let lines: usize = of_service.iter().map(|s| s.lines.len()).sum();
        // One line for each request shows no step.
        if with_ids as f64 >= FOLLOWED * log.events.len() as f64 && lines >= 2 * of_service.len() && lines > 0
        {
            stepping.insert((*name).clone());
        }
        sequences.extend(of_service);
    }
    let operations = begin_with_spans(context, &services, &mut sequences);
    leave_out_cut(context, &mut sequences);
    let mut splits = context.splits.clone();
    splits.sort_unstable();
    let rows = tally(&sequences, &splits);
    let mut best = context.splits.iter().filter_map(|split| {
        let at = splits.binary_search(split).ok()?;
        let broken = broken_steps(&rows, at, splits.len(), &services);
        Some((broken.iter().map(|b| b.nats).sum::<f64>(), *split, broken))
    });
    // A named onset counts as long as anything changes there; what is found is found where most changes.
    let best = match context.named {
        Some(_) => best.find(|(_, _, broken)| !broken.is_empty()),
        None => best.reduce(|a, b| if b.0 > a.0 { b } else { a }),
    };
    let Some((_, split, broken)) = best else { return (vec![], stepping) };
    let origins = Origins::count(&sequences, split, &broken);
    let out = broken.iter().filter_map(|b| describe(context, b, &services, &operations, &origins)).collect();
    (out, stepping)
}

/// How often each step was taken between two neighbouring splits: (service, statement), the one that follows it, counts.
type Rows = BTreeMap<(u32, u32), BTreeMap<u32, Vec<u32>>>;

/// Counts all steps once, whatever the number of splits (in order).
fn tally(sequences: &[Sequence], splits: &[i64]) -> Rows {
    let mut counts: HashMap<Step, Vec<u32>> = HashMap::new();
    for sequence in sequences {
        let side = splits.partition_point(|split| *split <= sequence.starts());
        for (step, _) in sequence.steps() {
            let row = counts.entry(step).or_insert_with(|| vec![0; splits.len() + 1]);
            if let Some(count) = row.get_mut(side) {
                *count += 1;
            }
        }
    }
    let mut rows = Rows::new();
    for ((service, from, to), counts) in counts {
        rows.entry((service, from)).or_default().insert(to, counts);
    }
    rows
}

/// The steps whose share changed for the worse at one of the splits.
fn broken_steps(
    rows: &Rows,
    split: usize,
    splits: usize,
    services: &[(&ServiceName, &ServiceEvents)],
) -> Vec<Broken> {
    let tests = rows.len() * splits;
    let mut out = vec![];
    for ((service, from), row) in rows {
        let (service, from) = (*service, *from);
        let sides = |counts: &Vec<u32>| {
            let (before, after) = counts.split_at_checked(split + 1).unwrap_or((counts, &[]));
            [before.iter().sum::<u32>(), after.iter().sum::<u32>()]
        };
        let row: BTreeMap<u32, [u32; 2]> = row.iter().map(|(to, counts)| (*to, sides(counts))).collect();
        let (before, after) = row.values().fold((0, 0), |(a, b), cell| (a + cell[0], b + cell[1]));
        if before < MIN_REQUESTS || after < MIN_REQUESTS {
            continue;
        }
        let (n, m) = (f64::from(before), f64::from(after));
        let share = |cell: &[u32; 2]| (f64::from(cell[0]) / n, f64::from(cell[1]) / m);
        let lost = row
            .iter()
            .map(|(to, cell)| (*to, share(cell)))
            .filter(|(to, (p, q))| {
                *to != END && *p >= USUAL && *q < LOST * p && !is_error(services, service, *to)
            })
            .max_by(|a, b| (a.1.0 - a.1.1).total_cmp(&(b.1.0 - b.1.1)));
        for (to, cell) in &row {
            let (p, q) = share(cell);
            // What comes instead: a line that never came here, an error that comes more often, or nothing.
            let bad = p <= RARE || *to == END || is_error(services, service, *to);
            if !bad || q <= p || q < p * 1.5 {
                continue;
            }
            let nats = of_shares(f64::from(cell[0]), n, f64::from(cell[1]), m);
            // An end that others have as well is a branch, as long as nothing was lost for it.
            if *to == END && lost.is_none() {
                continue;
            }
            if let Some(nats) = corrected(nats, tests) {
                let lost = lost.map(|(to, (p, q))| (to, p, q));
                out.push(Broken {
                    step: (service, from, *to),
                    nats,
                    before: p,
                    after: q,
                    requests: after,
                    lost,
                });
            }
        }
    }
    out
}

fn is_error(services: &[(&ServiceName, &ServiceEvents)], service: u32, template: u32) -> bool {
    let log = services.get(service as usize).map(|(_, log)| log);
    let template = log.and_then(|log| log.templates.get(template as usize));
    template.is_some_and(|t| t.level.is_some_and(|level| level >= Level::Error))
}

/// Where requests begin to leave their way.
struct Origins {
    /// Requests with a broken step, by service; those in which it is the first one; and when the first of them left.
    of_service: BTreeMap<u32, (u32, u32, i64)>,
    first_at: BTreeMap<Step, i64>,
}

impl Origins {
    fn count(sequences: &[Sequence], split: i64, broken: &[Broken]) -> Self {
        let wanted: BTreeSet<Step> = broken.iter().map(|b| b.step).collect();
        // By request: whether it is an end, its time (ends: the latest first), and the service.
        let mut left: HashMap<NonZeroU64, Vec<(bool, i64, u32)>> = HashMap::new();
        let mut first_at: BTreeMap<Step, i64> = BTreeMap::new();
        for sequence in sequences.iter().filter(|s| s.starts() >= split) {
            for (step, at) in sequence.steps().filter(|(step, _)| wanted.contains(step)) {
                let is_end = step.2 == END;
                let order = if is_end { -at } else { at };
                left.entry(sequence.request).or_default().push((is_end, order, sequence.service));
                first_at.entry(step).and_modify(|first| *first = at.min(*first)).or_insert(at);
            }
        }
        let mut of_service: BTreeMap<u32, (u32, u32, i64)> = BTreeMap::new();
        for mut steps in left.into_values() {
            steps.sort_unstable();
            let origin = steps.first().map(|step| step.2);
            let services: BTreeSet<u32> = steps.iter().map(|step| step.2).collect();
            for service in services {
                let entry = of_service.entry(service).or_default();
                entry.0 += 1;
                entry.1 += u32::from(origin == Some(service));
            }
        }
        Origins { of_service, first_at }
    }
}

fn describe(
    context: &Context<'_>,
    broken: &Broken,
    services: &[(&ServiceName, &ServiceEvents)],
    operations: &[Name],
    origins: &Origins,
) -> Option<Anomaly> {
    let (service, from, to) = broken.step;
    let (name, log) = services.get(service as usize)?;
    let template = |at: u32| log.templates.get(at as usize);
    let operation = |at: u32| at.checked_sub(OPERATIONS).and_then(|at| operations.get(at as usize));
    let text = |at: u32| match (template(at), operation(at)) {
        (Some(template), _) => template.text.as_str(),
        (None, Some(name)) => context.spans.text(*name),
        (None, None) => "nothing more",
    };
    let (all, first, _) = origins.of_service.get(&service).copied().unwrap_or_default();
    let share = f64::from(first) / f64::from(all.max(1));
    let is_trouble = to == END || is_error(services, service, to);
    let first_weight = if broken.lost.is_some() || is_trouble { FIRST } else { BRANCH };
    // A step that is lost in part may be a matter of what is asked for.
    let lost_part = broken.lost.map_or(1.0, |(_, p, q)| ((p - q) / p * WHOLE).min(1.0));
    let full = LATER + (first_weight - LATER) * share * lost_part;
    let (kind, direction, what, shown) = match broken.lost {
        Some((lost, _, _)) => (
            Kind::VanishedTemplate,
            Direction::Gone,
            format!("{} → {}", text(from), text(lost)),
            template(lost),
        ),
        None => (Kind::NewTemplate, Direction::New, format!("{} → {}", text(from), text(to)), template(to)),
    };
    let shown = template(to).or(shown).or(template(from))?;
    let value = match broken.lost {
        Some((lost, p, q)) => format!(
            "after \"{}\" came \"{}\" in {:.0} % before and in {:.0} % since; now \"{}\" comes in {:.0} % of {}; in {first} of {all} such requests this service is the first to leave the usual way",
            text(from),
            text(lost),
            p * 100.0,
            q * 100.0,
            text(to),
            broken.after * 100.0,
            broken.requests
        ),
        None => format!(
            "after \"{}\" comes \"{}\" in {:.0} % of {}, in {:.0} % before; in {first} of {all} such requests this service is the first to leave the usual way",
            text(from),
            text(to),
            broken.after * 100.0,
            broken.requests,
            broken.before * 100.0
        ),
    };
    let onset = origins.first_at.get(&broken.step).copied().and_then(time);
    let (before, after) = broken.lost.map_or((broken.before, broken.after), |(_, p, q)| (p, q));
    Some(
        Anomaly::new(Place::Service((*name).clone()), Signal::Log, kind, &what, direction)
            .weighing(weight(full, broken.nats), broken.nats)
            .values(before, after, "share")
            .since(onset, 1.0)
            .evidence(evidence(shown, value, onset)),
    )
}
