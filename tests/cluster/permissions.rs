//! What the operator may not read is said in the session, with what would allow it.

use serde_json::{Value, json};

use crate::operator::{Release, condition};
use crate::support::Cluster;
use crate::world;

fn collector<'a>(session: &'a Value, name: &str) -> &'a Value {
    let collectors = session["status"]["collectors"].as_array().unwrap();
    collectors
        .iter()
        .find(|collector| collector["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {collectors:#?}"))
}

#[test]
fn what_is_denied_becomes_a_gap_with_a_hint() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(cluster, "denied", json!({}));
    world::checkout(cluster, &release.space);
    world::restarted(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("checkout", &json!({ "target": { "services": ["checkout"] } }));
    let session = release.finished("checkout");
    assert_eq!(session["status"]["phase"], "Completed", "what it may not read costs no more than itself");
    assert_eq!(condition(&session, "CollectionComplete").map(|(status, _)| status), Some("False"));
    let logs = collector(&session, "Logs");
    assert_eq!(logs["state"], "Denied");
    let hint = logs["hint"].as_str().unwrap();
    assert!(hint.contains("rbac.logNamespaces") && hint.contains(&release.space), "{hint}");
    let nodes = collector(&session, "Cluster");
    assert_eq!(nodes["state"], "Denied");
    assert!(nodes["hint"].as_str().unwrap().contains("rbac.clusterScoped"), "{nodes}");
    assert_eq!(collector(&session, "GatewayAPI")["state"], "NotInstalled");
}

#[test]
fn with_all_that_the_chart_can_grant_nothing_is_denied() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(
        cluster,
        "granted",
        json!({ "rbac": { "logNamespaces": ["*"], "clusterScoped": true } }),
    );
    world::checkout(cluster, &release.space);
    world::restarted(cluster, &release.space);
    world::subset_without_pods(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("checkout", &json!({ "target": { "services": ["checkout"] } }));
    let session = release.finished("checkout");
    for collector in session["status"]["collectors"].as_array().unwrap() {
        assert_ne!(collector["state"], "Denied", "{collector:#}");
    }
}
