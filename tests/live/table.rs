//! What came out, and its table in `docs/accuracy.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fault;

/// What came out of one fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) mesh: bool,
    pub(crate) double: bool,
    /// Where the truth stands among the answers.
    pub(crate) rank: Option<usize>,
    /// Where the other one stands, of two at once.
    pub(crate) second: Option<usize>,
    /// From `kubectl apply` until the session is finished.
    pub(crate) seconds: Option<f64>,
    /// Requests to the API server that the run made.
    pub(crate) requests: Option<i64>,
    /// Milliseconds of processor time that it took.
    pub(crate) cpu: Option<i64>,
    /// Whether the suggested fix, as given, made users well.
    pub(crate) healed: bool,
    /// Whether the suggested rollback brought back what was there.
    pub(crate) restored: bool,
    /// What went wrong.
    pub(crate) wrong: Option<String>,
}

fn yes(it: bool) -> &'static str {
    if it { "yes" } else { "no" }
}

impl Row {
    fn is_healthy_run(&self) -> bool {
        self.fault.starts_with("healthy")
    }

    /// For who watches.
    pub(crate) fn line(&self) -> String {
        match &self.wrong {
            Some(wrong) => format!("{}: WRONG: {wrong}", self.fault),
            None => format!("{}: right, after {:.1} s", self.fault, self.seconds.unwrap_or_default()),
        }
    }

    /// As a row of the table.
    fn markdown(&self) -> String {
        let mesh = if self.mesh { "mesh" } else { "plain" };
        let seconds = self.seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}"));
        let number = |of: Option<i64>| of.map_or_else(|| "–".to_owned(), |of| of.to_string());
        let (requests, cpu) = (number(self.requests), number(self.cpu));
        if self.is_healthy_run() {
            let rank = if self.wrong.is_none() { "silent, ten times" } else { "not silent" };
            return format!("| {} | {mesh} | {rank} | {seconds} | – | – | {requests} | {cpu} |", self.fault);
        }
        let place = |rank: Option<usize>| rank.map_or_else(|| "–".to_owned(), |rank| rank.to_string());
        let rank = if self.double {
            format!("{} and {}", place(self.rank), place(self.second))
        } else {
            place(self.rank)
        };
        format!(
            "| {} | {mesh} | {rank} | {seconds} | {} | {} | {requests} | {cpu} |",
            self.fault,
            yes(self.healed),
            yes(self.restored)
        )
    }
}

const HEAD: &str = "\
# How often it is right

Each row is a fault of `tests/live/faults/`, put into the shop (`examples/shop`) on a real cluster: Kubernetes with real pods, Istio's control plane and
sidecars on real Envoy. The shop is under load, its users feel the fault, and then a `DebugSession` is asked why the namespace fails. *Rank* is where the
truth stands among the answers: the right object, of which the field and the mechanism are checked as well. *Seconds* are from `kubectl apply` until the
session is finished. *Healed*: the first fix of the answer, pasted as it stands, made the users well. *Taken back*: its rollback brought back what was
there before. *Requests* to the API server and milliseconds of *CPU* for its analysis are what the run cost. The last rows are of shops that are well: there, anything at
Warning or above is a false alarm, and the figures are the highest of ten.

`UPDATE=1 ./test --live` makes this page; a run of some faults only changes their rows.

";

/// Writes the table; rows of faults that did not run stay, and so does what follows under headings of their own.
pub(crate) fn write(rows: &[Row]) {
    let path = fault::root().join("docs/accuracy.md");
    let known: Vec<_> = fault::all().into_iter().map(|fault| fault.name).collect();
    let mut table: BTreeMap<(bool, String), String> = BTreeMap::new();
    let key = |name: &str| (name.starts_with("healthy"), name.to_owned());
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let (page, further) = page.split_once("\n## ").unwrap_or((&page, ""));
    for line in page.lines() {
        let name = line.split('|').nth(1).unwrap_or_default().trim();
        if known.iter().any(|known| known == name) || name.starts_with("healthy") {
            table.insert(key(name), line.to_owned());
        }
    }
    // Where no session came to its end there is nothing to say of its answer.
    let asked = rows.iter().filter(|row| row.seconds.is_some());
    table.extend(asked.map(|row| (key(&row.fault), row.markdown())));
    let cells = |line: &str, at: usize| line.split('|').nth(at).unwrap_or_default().trim().to_owned();
    let faults: Vec<_> = table.iter().filter(|((healthy, _), _)| !healthy).map(|(_, line)| line).collect();
    let count = |good: &dyn Fn(&str) -> bool| faults.iter().filter(|line| good(line)).count();
    let first = count(&|line| cells(line, 3).starts_with('1'));
    let healed = count(&|line| cells(line, 5) == "yes");
    let sorted = |at: usize| {
        let mut values: Vec<f64> = faults.iter().filter_map(|line| cells(line, at).parse().ok()).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let rank = |values: &[f64], share: f64| {
        let last = values.len().saturating_sub(1) as f64;
        values.get((last * share).round() as usize).copied().unwrap_or_default()
    };
    let (seconds, requests, cpu) = (sorted(4), sorted(7), sorted(8));
    let mut text = HEAD.to_owned();
    let _ = writeln!(
        text,
        "Of the {} faults {} have run to an answer. Of these the truth came first in {first}, and the suggested fix healed {healed}. From apply to the \
         answer: median {:.1} s, 99th percentile {:.1} s, with several shops at a time on two cores. A run took {:.0} requests and {:.0} ms of CPU (median), \
         {:.0} and {:.0} at most.\n",
        known.len(),
        faults.len(),
        rank(&seconds, 0.5),
        rank(&seconds, 0.99),
        rank(&requests, 0.5),
        rank(&cpu, 0.5),
        rank(&requests, 1.0),
        rank(&cpu, 1.0)
    );
    text.push_str(
        "| fault | shop | rank | seconds | healed | taken back | requests | CPU |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for line in table.values() {
        let _ = writeln!(text, "{line}");
    }
    if !further.is_empty() {
        let _ = write!(text, "\n## {further}");
    }
    std::fs::write(path, text).unwrap();
}
