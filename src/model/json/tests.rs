use super::*;
use proptest::prelude::*;

#[test]
fn a_value_is_as_small_as_its_text() {
    assert_eq!((size_of::<Value>(), size_of::<Map>()), (24, 8));
}

#[test]
fn of_equal_keys_the_later_counts() {
    let value: Value = serde_json::from_str(r#"{"b": 1, "a": 2, "b": 3, "a": 4, "c": 5, "b": 6}"#).unwrap();
    assert_eq!(value.to_string(), r#"{"a":4,"b":6,"c":5}"#);
}

#[test]
fn entries_come_go_and_change() {
    let mut value = json!({"b": [1, {"x/y": "z"}], "a": null});
    assert_eq!(value["b"][1]["x/y"], "z");
    assert_eq!(value.pointer("/b/1/x~1y"), Some(&json!("z")));
    assert_eq!(value.pointer("b"), None);
    assert_eq!(value["none"]["at"][7], Value::Null);
    value["c"]["d"] = json!(1);
    assert_eq!(value.pointer_mut("/b/0").map(Value::take), Some(json!(1)));
    let map = value.as_object_mut().unwrap();
    assert_eq!(map.entry("a").or_insert_with(|| json!(1)), &json!(null));
    assert_eq!(map.insert("a", json!(2)), Some(Value::Null));
    assert_eq!(map.remove("c"), Some(json!({"d": 1})));
    map.retain(|key, _| key != "b");
    assert_eq!(value, json!({"a": 2}));
    assert_eq!(format!("{value:#}"), "{\n  \"a\": 2\n}");
}

#[test]
fn a_patch_fits_or_does_nothing() {
    let value = json!({"a": [1]});
    let add = json!([{"op": "add", "path": "/a/-", "value": {"b": "c"}}]);
    assert_eq!(value.patched(&add), Some(json!({"a": [1, {"b": "c"}]})));
    assert_eq!(value.patched(&json!([{"op": "remove", "path": "/b"}])), None);
    assert_eq!(value.patched(&json!("no patch")), None);
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        (-1e9..1e9).prop_map(serde_json::Value::from),
        ".{0,40}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(".{0,30}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_it_says_is_what_serde_json_says(theirs in any_json()) {
        let ours = Value::from(theirs.clone());
        prop_assert_eq!(ours.to_string(), theirs.to_string());
        prop_assert_eq!(&serde_json::from_str::<Value>(&theirs.to_string()).unwrap(), &ours);
        prop_assert_eq!(serde_json::Value::from(ours), theirs);
    }

    #[test]
    fn a_map_does_what_a_tree_of_its_entries_does(steps in proptest::collection::vec(("[a-c]{1,2}", any::<Option<u8>>()), 0..40)) {
        let (mut ours, mut theirs) = (Map::new(), std::collections::BTreeMap::new());
        for (key, value) in steps {
            match value {
                Some(value) => prop_assert_eq!(ours.insert(key.as_str(), json!(value)), theirs.insert(key, json!(value))),
                None => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
            }
        }
        let entries: Vec<_> = ours.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        prop_assert_eq!(entries, theirs.into_iter().collect::<Vec<_>>());
    }
}
