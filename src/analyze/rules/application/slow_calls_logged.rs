//! APP126.

use jiff::Timestamp;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::calls::{service_of, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::mask::mask;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::is_proxy_container;

crate::rule! {
    /// An application says in its log that it waits for seconds, call after call.
    ///
    /// ## What it detects
    /// A statement of an application that tells how long a query or a call took, such as `Database call completed in 7.01 seconds`, three
    /// times or more, most of them two seconds or longer.
    /// ## Why it matters
    /// Requests are slow and nothing fails: no status, no restart and no error tells of it. The application itself names what it waits for.
    /// ## Evidence
    /// The slowest of the lines; how many there are, their median and the longest.
    /// ## How to confirm
    /// `kubectl logs deployment/NAME | grep` for the statement's words, and the same for the time before it was slow.
    /// ## How to fix
    /// Look at the one that is called: its own load, locks, plans of queries. Until then give the call a time-out of its own and an answer
    /// without it.
    /// ## False positives
    /// Programs whose queries are expected to take long; for a Job it is information. From five seconds on it is an Error. Durations in milliseconds count as well; those below two seconds do not.
    /// ## References
    /// <https://sre.google/sre-book/addressing-cascading-failures/>
    SlowCallsLogged {
        code: "APP126", name: "slow-calls-logged", family: Application, severity: Warning,
        needs: [Logs], aliases: [],
    }
}

/// A call that takes so many seconds keeps a user waiting, whatever it is.
const SLOW: f64 = 2.0;
/// Nobody waits so many seconds at a page or a form.
const UNBEARABLE: f64 = 5.0;
/// So many make a habit.
const MIN_CALLS: usize = 3;
/// Statements kept for one workload; a program has few that tell durations of calls.
const MAX_STATEMENTS: usize = 64;
/// Durations kept for one statement.
const MAX_CALLS: usize = 10_000;
/// Longer lines are data.
const MAX_LINE: usize = 1024;

/// What an application said of its calls with one statement.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    calls: Calls,
}

/// The calls that one statement told of.
#[derive(Debug, Default)]
struct Calls {
    /// In seconds.
    seconds: Vec<f64>,
    /// Whether it names a database.
    database: bool,
    /// The slowest: its line, when, and the pod and container.
    slowest: Option<(f64, String, Option<Timestamp>, String)>,
    first: Option<Timestamp>,
}

impl Calls {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn longest(&self) -> f64 {
        self.slowest.as_ref().map_or(0.0, |slowest| slowest.0)
    }
}

/// How long a call took by a line, in seconds, and whether it was one to a database.
fn told(line: &str) -> Option<(f64, bool)> {
    static TOOK: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(concat!(
            r"(?i)\b(?:(database|db|sql|query|queries|stored procedure|transaction)|calls?|called|calling|rpc|upstream|downstream|backend|dependency|response from|request to|fetch(?:ed|ing)?)\b",
            r".{0,80}?\b(?:took|takes|completed (?:in|after)|finished (?:in|after)|returned (?:in|after)|answered (?:in|after)|done in|executed in|elapsed|duration|latency)",
            r"[ :=]+(\d+(?:\.\d+)?) ?(ms|millis(?:econds?)?|s|secs?|seconds?)\b"
        ))
        .ok()
    });
    // One of these is in every such line. Words that are told apart by their bytes alone are found many at a time, small, with a capital or in capitals.
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let words = [
            "took",
            "takes",
            "completed",
            "finished",
            "returned",
            "answered",
            "done",
            "executed",
            "elapsed",
            "duration",
            "latency",
        ];
        let capital = words.map(|word| {
            let (first, rest) = word.split_at(1);
            format!("{}{rest}", first.to_ascii_uppercase())
        });
        let upper = words.map(str::to_ascii_uppercase);
        let all: Vec<String> = words.map(str::to_owned).into_iter().chain(capital).chain(upper).collect();
        Regex::new(&all.join("|")).ok()
    });
    if line.len() > MAX_LINE || !WORDS.as_ref()?.is_match(line) {
        return None;
    }
    let found = TOOK.as_ref()?.captures(line)?;
    let number: f64 = found.get(2)?.as_str().parse().ok()?;
    let unit = found.get(3)?.as_str();
    let seconds = if unit.starts_with(['m', 'M']) { number / 1000.0 } else { number };
    Some((seconds, found.get(1).is_some()))
}

impl Check for SlowCallsLogged {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut all: BTreeMap<ObjectRef, BTreeMap<String, Calls>> = BTreeMap::new();
        let own = |container: &str| !is_proxy_container(container) && !container.starts_with("istio-");
        for log in snapshot.logs.iter().filter(|log| own(&log.container) && snapshot.in_scope(&log.namespace))
        {
            for line in &log.lines {
                let Some((seconds, database)) = told(&line.text) else { continue };
                let workload = snapshot.owner_by_name(&log.namespace, &log.pod);
                let statements = all.entry(workload).or_default();
                let statement = mask(&line.text);
                if statements.len() >= MAX_STATEMENTS && !statements.contains_key(&statement) {
                    continue;
                }
                let calls = statements.entry(statement).or_default();
                if calls.seconds.len() >= MAX_CALLS {
                    continue;
                }
                calls.seconds.push(seconds);
                calls.database = database;
                calls.first = calls.first.into_iter().chain(line.time).min();
                if calls.slowest.as_ref().is_none_or(|(most, ..)| *most < seconds) {
                    let place = format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container);
                    calls.slowest = Some((seconds, line.text.clone(), line.time, place));
                }
            }
        }
        let mut out = vec![];
        for (workload, statements) in all {
            let slow = |calls: &Calls| calls.seconds.len() >= MIN_CALLS && calls.median() >= SLOW;
            let worst =
                statements.into_values().filter(slow).max_by(|a, b| a.median().total_cmp(&b.median()));
            out.extend(worst.map(|calls| Fact { workload, calls }));
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let Fact { workload, calls } = fact;
        let service = service_of(snapshot, workload);
        let (count, median, longest) = (calls.seconds.len(), calls.median(), calls.longest());
        let what = if calls.database { "database calls" } else { "calls" };
        let mut finding = Finding::new(Self::META, workload.clone(), &[what])
            .title(format!("{} logs slow {what}: {count}, {median:.1} s in the median, {longest:.1} s at most", workload.name))
            .message(format!(
                "{workload} says in its log how long its {what} take: {count} of them{}, half of them {median:.1} s and longer. Whoever calls it waits as long.",
                since(calls.first)
            ))
            .mechanism(format!("slow {what}: latency of a dependency, as the application logs it"))
            .severity(match workload.kind.as_str() {
                "Job" | "CronJob" => Severity::Info,
                _ if median >= UNBEARABLE => Severity::Error,
                _ => Severity::Warning,
            })
            .role(Role::Symptom, Confidence::Observed)
            .service(service.clone())
            .onset(calls.first)
            .remedy(Remedy::manual(format!(
                "Look at what {workload} calls there: its load, its locks, the plans of its queries; and give the call a time-out of its own"
            )))
            .prevention(Prevention::of(
                "Setting",
                "A time-out for each call that is shorter than its caller's, and an answer for when it ends",
            ));
        if let Some((_, line, time, place)) = &calls.slowest {
            let what = format!("the slowest of {count}");
            finding = finding.evidence(Evidence::new("Log", place.clone(), what).excerpt(line).at(*time));
        }
        if let Some(service) = &service {
            finding = finding.effect(Effect::requests(service, &["slow", "timeout"]));
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_calls_are_read_with_their_units() {
        for (line, expected) in [
            ("INFO:app:Database call completed in 10.01 seconds.", Some((10.01, true))),
            ("level=info msg=\"query done\" sql=x duration=2500ms", Some((2.5, true))),
            ("call to payment took 3s", Some((3.0, false))),
            ("Query Done In 3 s", Some((3.0, true))),
            ("CALL TO PAYMENT COMPLETED IN 3 S", Some((3.0, false))),
            ("GET / took 3s", None),
            ("calling payment", None),
            ("call to payment took 3 steps", None),
        ] {
            assert_eq!(told(line), expected, "{line}");
        }
    }
}
