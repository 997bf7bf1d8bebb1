//! The live suite: faults that are put into the shop (`examples/shop`) on a real cluster, one file of `faults/` each.
//! For every one: the shop runs well under load; the fault goes in; users feel it; a `DebugSession` is asked why; its
//! first answer must be the truth, with the verdict `RootCauseFound`; the fix that it suggests is carried out as given and
//! must heal; its rollback must bring back what was there before.
//!
//! | variable | says |
//! | --- | --- |
//! | `MESHSCOPE_LIVE_KUBECONFIG` | the cluster: with Meshscope, Istio and the image `localhost/shop:1`; without it nothing is looked at |
//! | `MESHSCOPE_TEST_TOOLS` | the folder that kubectl is in, if it is not in `PATH` |
//! | `MESHSCOPE_LIVE_ONLY` | names of faults, with commas |
//! | `MESHSCOPE_LIVE_SAMPLE` | so many faults, drawn by chance, and one healthy shop |
//! | `MESHSCOPE_LIVE_SEED` | draws the same again |
//! | `MESHSCOPE_LIVE_PARALLEL` | shops at a time, 3 unless said |
//! | `MESHSCOPE_LIVE_CAPTURE` | a folder that gets an incident of each fault as users felt it, in the form of `tests/scenarios` |
//! | `MESHSCOPE_LIVE_KEEP` | leaves the namespaces of faults that were not understood |
//! | `UPDATE` | writes `docs/accuracy.md` |

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

mod answer;
mod environment;
mod fault;
mod healthy;
mod kubectl;
mod life;
mod shop;
mod table;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use environment::number;
use fault::Fault;
use kubectl::Kubectl;
use table::Row;

/// Says something to who watches the run.
fn say(text: &str) {
    environment::say("live", text);
}

/// The faults to run: those that are named, a sample, or all.
fn chosen(mut all: Vec<Fault>) -> (Vec<Fault>, bool) {
    if let Ok(names) = std::env::var("MESHSCOPE_LIVE_ONLY") {
        let names: Vec<_> = names.split(',').collect();
        for name in &names {
            assert!(
                all.iter().any(|fault| fault.name == *name) || *name == "healthy",
                "there is no fault {name:?}"
            );
        }
        all.retain(|fault| names.contains(&fault.name.as_str()));
        return (all, names.contains(&"healthy"));
    }
    let Some(sample) = number("MESHSCOPE_LIVE_SAMPLE") else { return (all, true) };
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("MESHSCOPE_LIVE_SEED").unwrap_or_else(clock);
    say(&format!("a sample of {sample}, drawn with MESHSCOPE_LIVE_SEED={seed}"));
    // Each fault gets a number out of its name and the seed; the smallest are taken.
    let draw = |fault: &Fault| {
        fault.name.bytes().chain(seed.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            let mixed = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            mixed ^ (mixed >> 29)
        })
    };
    all.sort_by_key(draw);
    all.truncate(usize::try_from(sample).unwrap());
    (all, true)
}

/// One thing to do, with a shop of its own.
enum Job {
    Fault(Fault),
    Healthy { mesh: bool },
}

#[test]
fn every_fault_is_understood_and_healed() {
    let Some(kubectl) = Kubectl::from_environment() else {
        say(
            "MESHSCOPE_LIVE_KUBECONFIG names no cluster: nothing was looked at. tests/cluster/up starts one.",
        );
        return;
    };
    let (faults, healthy) = chosen(fault::all());
    let mut jobs: VecDeque<Job> = faults.into_iter().map(Job::Fault).collect();
    if healthy {
        jobs.extend([Job::Healthy { mesh: true }, Job::Healthy { mesh: false }]);
    }
    let parallel = usize::try_from(number("MESHSCOPE_LIVE_PARALLEL").unwrap_or(3)).unwrap();
    let (jobs, rows) = (Mutex::new(jobs), Mutex::new(Vec::<Row>::new()));
    std::thread::scope(|scope| {
        for _ in 0..parallel.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(job) = jobs.lock().unwrap().pop_front() else { break };
                    let row = match &job {
                        Job::Fault(fault) => life::of(&kubectl, fault),
                        Job::Healthy { mesh } => healthy::run(&kubectl, *mesh),
                    };
                    say(&row.line());
                    rows.lock().unwrap().push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by(|a, b| a.fault.cmp(&b.fault));
    if std::env::var_os("UPDATE").is_some() {
        table::write(&rows);
    }
    let wrong: Vec<_> =
        rows.iter().filter_map(|row| Some(format!("{}: {}", row.fault, row.wrong.as_ref()?))).collect();
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
