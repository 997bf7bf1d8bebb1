//! Rules on input that nobody wrote: fixtures with fields dropped, swapped and replaced by other types. No rule fails, and the
//! order in which objects come changes nothing.

use meshscope::analyze::diagnosis::{Options, StrictAliases, analyze};
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use meshscope::collect::material::Material;
use meshscope::model::json::{Value, json};
use meshscope::report::json;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::path::{Path, PathBuf};

/// All rules, and what istioctl would say.
fn everything() -> Options {
    Options { strict_aliases: Some(StrictAliases::Istioctl), ..Options::default() }
}

/// Every fixture of every rule, and Istio's own test data, in order.
fn fixtures() -> Vec<Material> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(tests.join("rules"))
        .unwrap()
        .flat_map(|folder| {
            std::fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path())
        })
        .collect();
    let cases = std::fs::read_dir(tests.join("conformance/istio")).unwrap();
    paths.extend(cases.map(|case| case.unwrap().path().join("bundle")));
    paths.sort();
    paths.iter().map(|path| bundle::read(std::slice::from_ref(path)).unwrap()).collect()
}

/// Changes one place in a value: walks down by `steps`, then drops or replaces what is there.
fn mutate(value: &mut Value, steps: &[u16], replacement: &Value) {
    let Some((step, rest)) = steps.split_first() else {
        *value = replacement.clone();
        return;
    };
    let pick = |len: usize| usize::from(*step) % len;
    match value {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(pick(map.len())).cloned().unwrap();
            mutate(map.get_mut(&key).unwrap(), rest, replacement);
        }
        Value::Array(list) if !list.is_empty() => {
            let at = pick(list.len());
            mutate(&mut list[at], rest, replacement);
        }
        other => *other = replacement.clone(),
    }
}

fn replacements() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!("")),
        Just(json!("*")),
        Just(json!("ünï\u{202e}cödé.\u{0}")),
        Just(json!("999999999999999999999")),
        Just(json!(-1)),
        Just(json!(i64::MAX)),
        Just(json!(0.5)),
        Just(json!(true)),
        Just(json!([null, {}, "a", 1])),
        Just(json!({"a.b/c": {"name": ["x"]}})),
    ]
}

/// Cases of one run. Rules are cheap on fixtures; more find little more.
const CASES: u32 = 400;

#[test]
fn no_rule_fails_on_mutilated_input() {
    let all = fixtures();
    let mutations = prop::collection::vec(
        (any::<u16>(), prop::collection::vec(any::<u16>(), 1..9), replacements()),
        1..12,
    );
    // The same cases every time: a failure is found where it was made.
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(0..all.len(), mutations), |(which, mutations)| {
            let mut material = all[which].clone();
            for (object, steps, replacement) in &mutations {
                let at = usize::from(*object) % material.objects.len().max(1);
                if let Some(object) = material.objects.get_mut(at) {
                    mutate(object, steps, replacement);
                }
            }
            let diagnosis = analyze(&assemble(material), &everything());
            let failed: Vec<_> =
                diagnosis.not_evaluated.iter().filter(|rule| rule.reason.contains("failed")).collect();
            prop_assert!(failed.is_empty(), "{failed:?}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_order_of_objects_changes_nothing() {
    for material in fixtures() {
        let mut reversed = material.clone();
        reversed.objects.reverse();
        reversed.logs.reverse();
        reversed.metrics.reverse();
        let answer = |material: Material| {
            serde_json::to_string(&json::document(&analyze(&assemble(material), &everything()))).unwrap()
        };
        // Of two objects with one name the later one counts: such input has no order to ignore.
        let mut names: Vec<String> = material
            .objects
            .iter()
            .map(|o| format!("{}{}{}", o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]))
            .collect();
        names.sort();
        let all = names.len();
        names.dedup();
        if names.len() == all {
            assert_eq!(answer(material), answer(reversed));
        }
    }
}
