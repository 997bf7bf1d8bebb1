//! The twin against real proxies: random configurations are applied to a small mesh on a real cluster, random requests are
//! sent through its proxies, and what came back is compared with what the twin says of them. Each disagreement is a fault
//! of the twin's.
//!
//! | variable | says |
//! | --- | --- |
//! | `MESHSCOPE_LIVE_KUBECONFIG` | the cluster: with Istio and the image `localhost/pairs:1`; without it nothing is looked at |
//! | `MESHSCOPE_TEST_TOOLS` | the folder that kubectl is in, if it is not in `PATH` |
//! | `MESHSCOPE_PAIRS` | how many configurations, 12 unless said |
//! | `MESHSCOPE_PAIRS_REQUESTS` | how many requests of each, 12 unless said |
//! | `MESHSCOPE_PAIRS_SEED` | draws the same again; the clock's otherwise |
//! | `MESHSCOPE_PAIRS_THEME` | one theme alone: `routes`, `policies`, `gateway`, `gateway-api`, `egress`, `egress-gateway` |
//! | `MESHSCOPE_PAIRS_NAMESPACE` | how the names of its namespaces begin, `pair` unless said |
//! | `MESHSCOPE_PAIRS_RECORD` | a folder that gets the world and what was seen, in the form of `tests/twin/pairs` |
//! | `MESHSCOPE_PAIRS_KEEP` | leaves the namespaces for the next run |

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

mod api;
mod dice;
mod draw;
#[path = "../live/environment.rs"]
mod environment;
mod gateway_api;
mod judge;
mod outside;
mod policies;
mod rest;
mod routes;
mod world;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use meshscope::analyze::twin::Twin;
use serde_json::{Value, json};

use environment::number;
use judge::Verdict;

/// Says something to who watches the run.
fn say(text: &str) {
    environment::say("pairs", text);
}

#[test]
fn the_twin_says_what_real_proxies_do() {
    let Some(api) = api::Api::from_environment() else {
        say(
            "MESHSCOPE_LIVE_KUBECONFIG names no cluster: nothing was looked at. tests/cluster/up starts one.",
        );
        return;
    };
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("MESHSCOPE_PAIRS_SEED").unwrap_or_else(clock);
    let configurations = number("MESHSCOPE_PAIRS").unwrap_or(12);
    let requests = number("MESHSCOPE_PAIRS_REQUESTS").unwrap_or(12);
    say(&format!(
        "{configurations} configurations with {requests} requests each, MESHSCOPE_PAIRS_SEED={seed}"
    ));
    let prefix = std::env::var("MESHSCOPE_PAIRS_NAMESPACE").unwrap_or_else(|_| "pair".to_owned());
    let mut world = world::World::open(&api, &prefix);
    let mut record = vec![];
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    let (mut agreed, mut with, mut wrong) = (0_usize, 0_usize, vec![]);
    for index in 0..configurations {
        // Each has a seed of its own, so that one can be drawn again without those before it.
        let mut dice = dice::Dice::new(seed.wrapping_add(index));
        let mut drawn = draw::configuration(&mut dice, &world, requests);
        let written = drawn.objects.clone();
        world.apply(&mut drawn.objects);
        let seen = world.ask(&drawn.questions);
        let snapshot = judge::mesh(&world.dump, &drawn.objects);
        let twin = Twin::new(&snapshot);
        let before = (agreed, wrong.len());
        let (mut told, mut disputed) = (vec![], vec![]);
        for (question, seen) in drawn.questions.iter().zip(seen) {
            let answer = twin.answer(&serde_json::from_value(question.ask.clone()).unwrap());
            let (mut seen, mut verdict) = (seen.clone(), judge::judge(&question.ask, &answer, &seen));
            if matches!(verdict, Verdict::Disagree(_)) {
                // A connection of the configuration before may have been closed under it; what is so stays so.
                let (again, quiet) = world.ask_again(question);
                let second = judge::judge(&question.ask, &answer, &again);
                let what =
                    if matches!(second, Verdict::Disagree(_)) { "still disagrees" } else { "is settled" };
                let rest = if quiet { "one configuration all the while" } else { "proxies that do not rest" };
                say(&format!(
                    "seed {}, {}: asked once more, with {rest}: it {what}; first {verdict:?}",
                    seed.wrapping_add(index),
                    question.ask["request"]
                ));
                (seen, verdict) = (again, second);
            }
            match verdict {
                Verdict::Agree => agreed += 1,
                Verdict::Open(why) => *open.entry(why).or_default() += 1,
                Verdict::Disagree(why) => disputed.push((question, why)),
            }
            told.push(json!({"ask": question.ask, "seen": seen}));
        }
        // Made once more from nothing: what proxies have kept of the configuration before is not this one's.
        let snapshot = if disputed.is_empty() {
            None
        } else {
            let mut again = written;
            world.apply(&mut again);
            Some(judge::mesh(&world.dump, &again))
        };
        for (question, why) in disputed {
            let Some(twin) = snapshot.as_ref().map(Twin::new) else { continue };
            let answer = twin.answer(&serde_json::from_value(question.ask.clone()).unwrap());
            let (seen, _) = world.ask_again(question);
            let text = format!("seed {}, {}: {why}", seed.wrapping_add(index), question.ask["request"]);
            if matches!(judge::judge(&question.ask, &answer, &seen), Verdict::Disagree(_)) {
                say(&text);
                wrong.push(text);
            } else {
                say(&format!("with the configuration made once more it is settled: {text}"));
                *open.entry("what proxies keep of the configuration before".to_owned()).or_default() += 1;
            }
        }
        with += usize::from(agreed > before.0);
        if wrong.len() > before.1 {
            say(&format!("  of theme {}, with {}", drawn.theme, json!(drawn.objects)));
        }
        record.push(json!({"theme": drawn.theme, "objects": drawn.objects, "requests": told}));
        if (index + 1) % 20 == 0 {
            say(&format!(
                "{} configurations: {agreed} agree, {} disagree, {} open",
                index + 1,
                wrong.len(),
                open.values().sum::<usize>()
            ));
        }
    }
    for (why, count) in &open {
        say(&format!("open {count} times: {why}"));
    }
    if let Ok(folder) = std::env::var("MESHSCOPE_PAIRS_RECORD") {
        write(&folder, &world.dump, &record);
    }
    world.close(std::env::var_os("MESHSCOPE_PAIRS_KEEP").is_some());
    say(&format!(
        "{agreed} pairs agree over {with} configurations, {} disagree, {} open",
        wrong.len(),
        open.values().sum::<usize>()
    ));
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
    let all = usize::try_from(configurations * requests).unwrap();
    assert!(agreed * 10 > all * 7, "only {agreed} of {all} could be compared");
}

/// What was seen, to be compared again without a cluster.
fn write(folder: &str, dump: &[Value], record: &[Value]) {
    let folder = std::path::Path::new(folder);
    std::fs::create_dir_all(folder).unwrap();
    let mut dump = dump.to_vec();
    dump.iter_mut().for_each(slim);
    let world = json!({"apiVersion": "v1", "kind": "List", "items": dump});
    std::fs::write(folder.join("world.json"), format!("{world}\n")).unwrap();
    let lines: Vec<String> = record.iter().map(Value::to_string).collect();
    std::fs::write(folder.join("seen.jsonl"), lines.join("\n") + "\n").unwrap();
}

/// Takes away what says nothing about where requests go.
fn slim(value: &mut Value) {
    const DROPPED: &[&str] = &[
        "env",
        "volumes",
        "volumeMounts",
        "resources",
        "securityContext",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
        "lifecycle",
        "args",
        "tolerations",
        "containerStatuses",
        "initContainerStatuses",
        "uid",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !DROPPED.contains(&key.as_str()));
            map.values_mut().for_each(slim);
        }
        Value::Array(list) => list.iter_mut().for_each(slim),
        _ => {}
    }
}
