//! `meshscope rbac`: the operator's roles, for those who want to read them first or to grant them by other means
//! than the chart.

use std::fmt::Write;
use std::process::ExitCode;

use crate::collect::permissions::{RoleKind, rules_yaml};

/// Print the roles that the operator needs and their bindings as YAML: every rule with its reason
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The namespace that the operator runs in
    #[arg(long, short, default_value = "meshscope", value_name = "NS")]
    namespace: String,
    /// The operator's service account; the roles are named after it
    #[arg(long, default_value = "meshscope", value_name = "NAME")]
    service_account: String,
    /// Look into this namespace only (repeatable): a Role in each instead of a ClusterRole
    #[arg(long, value_name = "NS")]
    watch_namespace: Vec<String>,
    /// Allow reading the logs of pods in this namespace (repeatable); '*' wherever it looks
    #[arg(long, value_name = "NS")]
    log_namespace: Vec<String>,
    /// Allow opening proxies' admin ports by port-forward in this namespace (repeatable); '*' wherever it looks
    #[arg(long, value_name = "NS")]
    proxy_namespace: Vec<String>,
    /// With --watch-namespace: allow reading nodes, namespaces, storage classes, webhooks and CRDs
    #[arg(long, requires = "watch_namespace")]
    cluster_scoped: bool,
}

impl Args {
    /// Prints the roles and bindings.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::print(&self.manifests()?)
    }

    fn manifests(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        if self.watch_namespace.is_empty() {
            self.role(&mut out, "", None, &[RoleKind::Namespaced, RoleKind::ClusterScoped])?;
        }
        for namespace in &self.watch_namespace {
            self.role(&mut out, "", Some(namespace), &[RoleKind::Namespaced])?;
        }
        if self.cluster_scoped {
            self.role(&mut out, "-cluster-scoped", None, &[RoleKind::ClusterScoped])?;
        }
        self.where_named(&mut out, "-logs", &self.log_namespace, RoleKind::Logs)?;
        self.where_named(&mut out, "-proxies", &self.proxy_namespace, RoleKind::Proxies)?;
        self.role(&mut out, "-leader", Some(&self.namespace), &[RoleKind::Leader])?;
        Ok(out)
    }

    /// A role in each of the namespaces named; with `*` wherever the operator looks.
    fn where_named(
        &self,
        out: &mut String,
        suffix: &str,
        named: &[String],
        kind: RoleKind,
    ) -> std::fmt::Result {
        let everywhere = named.iter().any(|namespace| namespace == "*");
        if everywhere && self.watch_namespace.is_empty() {
            return self.role(out, suffix, None, &[kind]);
        }
        let namespaces = if everywhere { self.watch_namespace.as_slice() } else { named };
        namespaces.iter().try_for_each(|namespace| self.role(out, suffix, Some(namespace), &[kind]))
    }

    /// A Role in the namespace, or a ClusterRole without one, and its binding to the service account.
    fn role(
        &self,
        out: &mut String,
        suffix: &str,
        namespace: Option<&str>,
        parts: &[RoleKind],
    ) -> std::fmt::Result {
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        let account = &self.service_account;
        let name = format!("{account}{suffix}");
        let metadata = match namespace {
            Some(namespace) => format!("metadata: {{name: {name}, namespace: {namespace}}}"),
            None => format!("metadata: {{name: {name}}}"),
        };
        let rules: String = parts.iter().map(|part| rules_yaml(*part)).collect();
        write!(
            out,
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\n{metadata}\nrules:\n{rules}\
             ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}Binding\n{metadata}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {name}}}\n\
             subjects: [{{kind: ServiceAccount, name: {account}, namespace: {}}}]\n",
            self.namespace
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn printed(watch: &[&str], logs: &[&str], cluster_scoped: bool) -> Vec<(String, String, String)> {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let args = Args {
            namespace: "ops".to_owned(),
            service_account: "why".to_owned(),
            watch_namespace: owned(watch),
            log_namespace: owned(logs),
            proxy_namespace: owned(logs),
            cluster_scoped,
        };
        let objects: Vec<Value> = serde_saphyr::from_multiple(&args.manifests().unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut found = vec![];
        for pair in objects.chunks(2) {
            let (role, binding) = (&pair[0], &pair[1]);
            assert_eq!(role["metadata"], binding["metadata"]);
            assert_eq!(role["kind"], binding["roleRef"]["kind"]);
            assert_eq!(role["metadata"]["name"], binding["roleRef"]["name"]);
            assert_eq!(
                binding["subjects"],
                json!([{ "kind": "ServiceAccount", "name": "why", "namespace": "ops" }])
            );
            assert!(!role["rules"].as_array().unwrap().is_empty());
            let metadata = &role["metadata"];
            found.push((text(&role["kind"]), text(&metadata["namespace"]), text(&metadata["name"])));
        }
        found
    }

    fn role(kind: &str, namespace: &str, name: &str) -> (String, String, String) {
        (kind.to_owned(), namespace.to_owned(), name.to_owned())
    }

    #[test]
    fn everywhere_is_a_cluster_role_and_logs_and_proxies_are_apart() {
        let leader = || role("Role", "ops", "why-leader");
        assert_eq!(printed(&[], &[], false), [role("ClusterRole", "", "why"), leader()]);
        assert_eq!(
            printed(&[], &["*"], false),
            [
                role("ClusterRole", "", "why"),
                role("ClusterRole", "", "why-logs"),
                role("ClusterRole", "", "why-proxies"),
                leader()
            ]
        );
        assert_eq!(
            printed(&[], &["shop"], false),
            [
                role("ClusterRole", "", "why"),
                role("Role", "shop", "why-logs"),
                role("Role", "shop", "why-proxies"),
                leader()
            ]
        );
    }

    #[test]
    fn with_namespaces_nothing_is_granted_outside_of_them() {
        let leader = || role("Role", "ops", "why-leader");
        assert_eq!(
            printed(&["shop"], &["*"], false),
            [
                role("Role", "shop", "why"),
                role("Role", "shop", "why-logs"),
                role("Role", "shop", "why-proxies"),
                leader()
            ]
        );
        assert_eq!(
            printed(&["shop"], &[], true),
            [role("Role", "shop", "why"), role("ClusterRole", "", "why-cluster-scoped"), leader()]
        );
    }
}
