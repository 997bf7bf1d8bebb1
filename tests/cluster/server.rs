//! The API server that `tests/cluster/up` starts is what the other tests take it for.

use crate::support::Cluster;

#[test]
fn controllers_work_and_admission_policies_can_ask_for_authorization() {
    let Some(cluster) = Cluster::get() else { return };
    let space = cluster.namespace("server");
    let kinds = cluster.kubectl(&["api-resources", "--output", "name"]);
    for kind in [
        "deployments.apps",
        "validatingadmissionpolicies.admissionregistration.k8s.io",
        "leases.coordination.k8s.io",
    ] {
        assert!(kinds.lines().any(|line| line == kind), "no {kind} in {kinds}");
    }
    // The controller manager makes the default service account, and tokens are signed for it.
    cluster.eventually("the default service account", || {
        cluster.try_kubectl(&["--namespace", &space, "create", "token", "default"]).ok()
    });
}
