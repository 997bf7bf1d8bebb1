//! RUN107.

use super::told;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::settings::restart;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The goroutines of a Go program grow and never end.
    ///
    /// ## What it detects
    /// `go_goroutines` that doubled over its window to more than 2,000 and never fell by a tenth, in a pod that runs since before the window.
    /// ## Why it matters
    /// Each holds memory and often a connection: the end is a kill for memory or an exhausted pool, hours later, with no change near it.
    /// ## Evidence
    /// The number at the beginning and at the end.
    /// ## How to confirm
    /// `curl localhost:6060/debug/pprof/goroutine?debug=1` (where it is served): the stack with the most goroutines is the leak.
    /// ## How to fix
    /// Contexts with a deadline around every call, bodies closed, channels with a reader; a restart frees it until then.
    /// ## False positives
    /// More requests at once mean more goroutines: a number that rises and falls with load is no leak.
    /// ## References
    /// <https://pkg.go.dev/runtime/pprof>
    GoroutinesLeak {
        code: "RUN107", name: "goroutines-leak", family: Application, severity: Warning,
        needs: [Metrics], aliases: [],
    }
}

/// Fewer than this are a busy server.
const MANY: f64 = 2000.0;
/// Points that show a trend.
const MIN_POINTS: usize = 8;

/// Goroutines that grow.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    pod: String,
    from: f64,
    to: f64,
}

/// Where it began and where it is, if it only grows.
fn leak(series: &Series) -> Option<(f64, f64)> {
    let (from, to) = (series.points.first()?.1, series.points.last()?.1);
    let mut highest = f64::MIN;
    let steady = series.points.iter().all(|(_, value)| {
        highest = highest.max(*value);
        *value >= 0.9 * highest
    });
    // Steady growth, not one step: half of it is there at half of the time.
    let middle = series.points.get(series.points.len() / 2)?.1;
    let early = (middle - from) / (to - from).max(1.0);
    (series.points.len() >= MIN_POINTS
        && to > MANY
        && to >= 2.0 * from
        && steady
        && (0.2..=0.8).contains(&early))
    .then_some((from, to))
}

impl Check for GoroutinesLeak {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for (workload, series) in told::by_workload(snapshot, &["go_goroutines"]) {
            let worst = series
                .into_iter()
                .filter_map(|s| Some((leak(s)?, s.label("pod").to_owned())))
                .max_by(|a, b| a.0.1.total_cmp(&b.0.1));
            if let Some(((from, to), pod)) = worst {
                out.push(Fact { workload, pod, from, to });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        told::finding(snapshot, Self::META, told::image_field(snapshot, &fact.workload), &fact.workload, &["slow", "timeout", "5xx"])
            .title(format!("{}: goroutines grow from {:.0} to {:.0} and never end", fact.workload, fact.from, fact.to))
            .message(format!("The goroutines of pod {} of {} grow steadily from {:.0} to {:.0}: they wait for something that never comes.", fact.pod, fact.workload, fact.from, fact.to))
            .mechanism("goroutine leak")
            .role(Role::Cause, Confidence::Possible)
            .severity(Severity::Warning)
            .evidence(Evidence::new("Metric", format!("go_goroutines of Pod {}/{}", fact.workload.namespace, fact.pod), format!("{:.0} to {:.0}", fact.from, fact.to)))
            .remedy(Remedy {
                commands: vec![restart(&fact.workload)],
                ..Remedy::manual(format!("Restart {} to free them; find the stack with the most goroutines and give its wait a deadline", fact.workload))
            })
            .prevention(Prevention::alert("Alert on steady growth", "deriv(go_goroutines[30m]) > 0.5 and go_goroutines > 2000"))
            .prevention(Prevention::of("Test", "Tests that count goroutines before and after (goleak)"))
    }
}
