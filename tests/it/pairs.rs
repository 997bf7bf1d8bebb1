//! The twin against what real proxies did with random requests: `tests/twin/pairs`, a part of a run of `tests/pairs`.

#[path = "../pairs/judge.rs"]
mod judge;

use judge::Verdict;
use meshscope::analyze::twin::Twin;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[test]
fn the_twin_says_what_real_proxies_did() {
    // Another folder than ours: a run that was recorded just now.
    let folder = std::env::var_os("MESHSCOPE_PAIRS_RECORDED").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin/pairs"));
    let runs = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut runs: Vec<PathBuf> = runs.filter(|path| path.is_dir()).collect();
    runs.sort();
    let (mut agreed, mut open, mut wrong) = (0, vec![], vec![]);
    for run in runs {
        let read = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
        let world: Value = serde_json::from_str(&read("world.json")).unwrap();
        let world = world["items"].as_array().unwrap();
        for (index, line) in read("seen.jsonl").lines().enumerate() {
            let case: Value = serde_json::from_str(line).unwrap();
            let snapshot = judge::mesh(world, case["objects"].as_array().unwrap());
            let twin = Twin::new(&snapshot);
            for request in case["requests"].as_array().unwrap() {
                let (ask, seen) = (&request["ask"], &request["seen"]);
                match judge::judge(ask, &twin.answer(&serde_json::from_value(ask.clone()).unwrap()), seen) {
                    Verdict::Agree => agreed += 1,
                    Verdict::Open(why) => open.push(why),
                    Verdict::Disagree(why) => {
                        wrong.push(format!("{} {index}, {}: {why}", run.display(), ask["request"]));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
    assert!(agreed > 300 && open.len() * 5 < agreed, "{agreed} agree, {} open: {open:?}", open.len());
}
