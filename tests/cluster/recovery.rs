//! What happens when something breaks: the operator in the middle of a run, one of two replicas, a stored object.

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::operator::{Release, condition};
use crate::support::Cluster;
use crate::world;

fn release_with(cluster: &'static Cluster, about: &str, backend: &Backend) -> Release {
    let sources = json!({ "metrics": [{ "name": "default", "url": format!("http://{}", backend.address) }] });
    let release = Release::new(cluster, about, json!({ "sources": sources }));
    world::checkout(cluster, &release.space);
    release
}

fn ask_about_checkout(release: &Release) {
    release.ask("checkout", &json!({ "target": { "services": ["checkout"] } }));
}

fn attempt(session: &Value) -> (&Value, &Value) {
    (&session["status"]["run"]["id"], &session["status"]["run"]["attempt"])
}

#[test]
fn a_run_that_was_cut_off_starts_again() {
    let Some(cluster) = Cluster::get() else { return };
    let backend = Backend::held();
    let release = release_with(cluster, "killed", &backend);
    let operator = release.start("a");
    ask_about_checkout(&release);
    cluster.eventually("a question to the backend", || (backend.asked() > 0).then_some(()));
    let cut_off = release.session("checkout");
    operator.kill();
    assert_eq!(cut_off["status"]["phase"], "Collecting");

    backend.release();
    let _next = release.start("b");
    let session = release.finished("checkout");
    assert_eq!(session["status"]["phase"], "Completed");
    assert_eq!(attempt(&session), (attempt(&cut_off).0, &json!(2)));
}

#[test]
fn an_operator_that_is_asked_to_stop_says_where_it_stopped() {
    let Some(cluster) = Cluster::get() else { return };
    let backend = Backend::held();
    let release = release_with(cluster, "stopped", &backend);
    let operator = release.start("a");
    ask_about_checkout(&release);
    cluster.eventually("a question to the backend", || (backend.asked() > 0).then_some(()));
    assert_eq!(operator.terminate(), Some(0));
    let stopped = release.session("checkout");
    assert_eq!(condition(&stopped, "Reconciling"), Some(("True", "Interrupted")));

    backend.release();
    let _next = release.start("b"); // The lease was given back, so it does not have to run out.
    let session = release.finished("checkout");
    assert_eq!(
        attempt(&session),
        (attempt(&stopped).0, &json!(1)),
        "stopped in good order is not another attempt"
    );
}

#[test]
fn of_two_replicas_one_works_and_the_other_takes_over() {
    let Some(cluster) = Cluster::get() else { return };
    let backend = Backend::held();
    let release = release_with(cluster, "replicas", &backend);
    let first = release.start("a");
    let holder =
        || release.kubectl(&["get", "lease", "meshscope", "--output", "jsonpath={.spec.holderIdentity}"]);
    cluster.eventually("a leader", || holder().starts_with('a').then_some(()));
    let _second = release.start("b"); // Ready, though it does not lead: a rolling update must not wait for it.
    ask_about_checkout(&release);
    cluster.eventually("a question to the backend", || (backend.asked() > 0).then_some(()));
    assert!(holder().starts_with('a'));
    first.kill();
    cluster.eventually("the other leader", || holder().starts_with('b').then_some(()));
    backend.release();
    let session = release.finished("checkout");
    assert_eq!((&session["status"]["phase"], attempt(&session).1), (&json!("Completed"), &json!(2)));
}

/// Objects can be older than the schema, or have been stored while it was another one.
#[test]
fn a_stored_object_that_nobody_understands_stops_nobody_else() {
    let Some(_) = Cluster::get() else { return };
    // Its schema is taken away for a while, which other tests would notice.
    let cluster = Cluster::another();
    let release = Release::new(cluster, "malformed", json!({}));
    let name = "debugsessions.meshscope.dev";
    let crd = cluster.get_json(&["crd", name]);
    let mut lax = crd.clone();
    lax["metadata"] = json!({ "name": name });
    lax["spec"]["versions"][0]["schema"] =
        json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    lax["spec"]["versions"][0]["selectableFields"] = json!([]); // they are fields of the schema
    let put = |crd: &Value| {
        let args =
            ["apply", "--server-side", "--force-conflicts", "--field-manager", "test", "--filename", "-"];
        cluster.try_kubectl_with(&args, &crd.to_string()).unwrap();
    };
    put(&lax);
    for (name, spec) in [
        ("a-number", json!({ "target": { "services": 5 } })),
        ("a-period", json!({ "target": {}, "timeout": "soon" })),
        ("no-target", json!({ "target": null })),
        ("a-word", json!({ "target": {}, "suspend": "yes" })),
    ] {
        let text = crate::schema::session(&release.space, name, &spec);
        cluster.eventually("the lax schema", || {
            cluster.try_kubectl_with(&["create", "--filename", "-"], &text).ok()
        });
    }
    let mut strict = crd;
    strict["metadata"] = json!({ "name": name });
    put(&strict);
    cluster.eventually("the strict schema", || {
        let text = crate::schema::session(&release.space, "refused", &json!({ "target": { "services": 5 } }));
        cluster.try_kubectl_with(&["create", "--dry-run=server", "--filename", "-"], &text).err()
    });
    let operator = release.start("a");
    release.ask("well", &json!({ "target": {} }));
    assert_eq!(release.finished("well")["status"]["phase"], "Completed");
    assert!(operator.log().contains("a-number"), "the log names it");
}
