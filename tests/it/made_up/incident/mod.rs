//! Incidents made up at random: a system, what is wrong with it, and what of that is recorded and under which names.

pub(crate) mod dice;
pub(crate) mod metrics;
pub(crate) mod requests;
pub(crate) mod system;
pub(crate) mod twist;

use dice::Dice;
use meshscope::model::log::LogStream;
use meshscope::model::series::Series;
use meshscope::model::snapshot::{Builder, Snapshot, Target};
use meshscope::model::span::Spans;
use meshscope::model::time::from_unix;
use metrics::{DIALECTS, Dialect, Scrape};
use requests::{Kept, record};
use system::{Fault, System};
use twist::Twist;

/// What is known of when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// The instant.
    Given,
    /// Nothing.
    Absent,
    /// An instant a minute after it.
    Late,
}

/// An incident, or none, as it is recorded.
pub(crate) struct Incident {
    series: Vec<Series>,
    edges: Vec<(String, String)>,
    spans: Spans,
    logs: Vec<LogStream>,
    /// The service at fault.
    pub(crate) culprit: String,
    /// How many services there are.
    pub(crate) services: usize,
    /// When it began, in Unix seconds.
    pub(crate) onset: f64,
    /// What is recorded: `metrics and traces`.
    pub(crate) sources: String,
    /// What it is, in a few words.
    pub(crate) title: String,
}

/// The incident of a seed; without a fault it is a calm time of the same system.
pub(crate) fn incident(seed: u64, faulty: bool) -> Incident {
    made(seed, faulty, None)
}

/// The same of another seed, with what those have not: see [`Twist`].
pub(crate) fn unlike(seed: u64, faulty: bool) -> Incident {
    made(seed ^ 0xA5A5_0000, faulty, Some(Twist::new(&mut Dice::new(seed ^ 0x5A5A_0000))))
}

fn made(seed: u64, faulty: bool, twist: Option<Twist>) -> Incident {
    let mut dice = Dice::new(seed);
    let is_unlike = twist.is_some();
    let twist = twist.unwrap_or_default();
    // Which sources there are: metrics as a rule, alone or not.
    let source = dice.share();
    let (with_metrics, kept) = match source {
        s if s < 0.5 => (true, Kept::default()),
        s if s < 0.65 => (true, Kept { spans: true, ..Kept::default() }),
        s if s < 0.75 => (true, Kept { lines: true, ..Kept::default() }),
        s if s < 0.85 => (true, Kept { spans: true, lines: true, ids: true, ..Kept::default() }),
        s if s < 0.95 => (false, Kept { spans: true, ..Kept::default() }),
        _ => (false, Kept { lines: true, ids: dice.chance(0.5), ..Kept::default() }),
    };
    let kept = Kept { client_spans: dice.chance(0.6), ..kept };
    let dialect = twist.dialect.unwrap_or(dice.pick(&DIALECTS));
    let step = if dialect == Dialect::Cloud { 300.0 } else { dice.pick(&[1.0, 5.0, 15.0, 15.0, 60.0, 60.0]) };
    let step = twist.step.unwrap_or(step);
    // From an hour's half to some hours; after the onset three points and three minutes at least.
    let (before, after) = (step * 25.0_f64.max(dice.between(25.0, 140.0)), dice.between(4.0, 12.0) * step);
    let (before, after) = (before.max(dice.between(240.0, 900.0)), after.max(dice.between(120.0, 400.0)));
    let onset = 1_700_000_000.0 + dice.between(0.0, 1e6).round();
    let mut system = System::new(&mut dice, onset, before, after, faulty);
    if is_unlike {
        twist.apply(&mut dice, &mut system, before, after);
    }
    let recorded_requests = kept.spans || kept.lines;
    if !recorded_requests && system.fault == Some(Fault::EarlyReturn) {
        // No series shows it.
        system.fault = Some(Fault::Exception);
    }
    if !with_metrics && matches!(system.fault, Some(Fault::Surge | Fault::Memory)) {
        system.fault = Some(Fault::Delay);
    }
    if !with_metrics
        && !kept.spans
        && matches!(system.fault, Some(Fault::Cpu | Fault::Disk | Fault::Delay | Fault::SlowStore))
    {
        system.fault = Some(Fault::Exception);
    }
    let points = ((before + after) / step) as usize;
    let scrape = Scrape {
        dialect,
        step,
        start: onset - before + dice.share() * step,
        points,
        sparse: twist.sparse,
        bare_leaves: twist.bare_leaves,
        by_pod: twist.by_pod,
    };
    let series = if with_metrics { metrics::series(&mut dice, &system, &scrape) } else { vec![] };
    let requests = if recorded_requests { 150 + dice.below(250) } else { 0 };
    let times = (onset - before.min(900.0), onset + after.min(400.0));
    let recorded = record(&mut dice, &system, kept, times, requests);
    // Without traces it is known of some systems only who calls whom.
    let known = dice.chance(if dialect == Dialect::Columns { 0.2 } else { 0.75 });
    let of = |at: usize| system.services[at].name.clone();
    let calls = system
        .services
        .iter()
        .enumerate()
        .flat_map(|(caller, service)| service.callees.iter().map(move |(callee, ..)| (caller, *callee)));
    let edges = if known { calls.map(|(caller, callee)| (of(caller), of(callee))).collect() } else { vec![] };
    let sources = [(with_metrics, "metrics"), (kept.spans, "traces"), (kept.lines, "logs")];
    let sources: Vec<&str> = sources.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
    let sources = sources.join(" and ");
    Incident {
        series,
        edges,
        spans: recorded.spans,
        logs: recorded.logs,
        culprit: of(system.culprit),
        services: system.services.len(),
        onset,
        title: format!(
            "{seed}: {:?} at force {:.1}, {sources}, {dialect:?} every {step} s, {}{}{}",
            system.fault,
            system.force,
            if known { "calls known" } else { "calls not known" },
            if twist.words.is_empty() { "" } else { ": " },
            twist.words
        ),
        sources,
    }
}

impl Incident {
    /// The snapshot of it, for somebody who knows so much.
    pub(crate) fn snapshot(&self, said: Said) -> Snapshot {
        let mut builder = Builder::new();
        builder.target(Some(Target { namespace: "n".to_owned(), services: vec![] }));
        for (caller, callee) in &self.edges {
            builder.edge(caller, callee);
        }
        builder.series(self.series.clone());
        builder.spans(self.spans.clone());
        for log in &self.logs {
            builder.log(log.clone());
        }
        builder.onset(match said {
            Said::Given => from_unix(self.onset),
            Said::Absent => None,
            Said::Late => from_unix(self.onset + 60.0),
        });
        builder.finish()
    }
}
