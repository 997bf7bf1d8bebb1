//! ISTIO151.

use crate::model::json::json;

use super::support::services_of;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, Workload};

crate::rule! {
    /// An application uses the user or a port that belongs to its proxy.
    ///
    /// ## What it detects
    /// A container of a pod with Istio's proxy that runs as user 1337, or that declares a port of the proxy (15000, 15001,
    /// 15004, 15006, 15008, 15020, 15021, 15053, 15090), or says in its log that such a port is taken.
    /// ## Why it matters
    /// What user 1337 sends is taken for the proxy's own and bypasses it: no mutual TLS, no policy, no route. A port that is
    /// taken makes the application fail to bind, or the probes of one hit the other.
    /// ## Evidence
    /// `securityContext.runAsUser` or `containerPort` of the template; `address already in use` in the application's log.
    /// ## How to confirm
    /// `id -u` and `ss -tlnp` in the container.
    /// ## How to fix
    /// Any other user; any port outside of 15000 to 15090.
    /// ## False positives
    /// An init container that runs as 1337 on purpose, to reach the network before the proxy is there; it is not looked at.
    /// ## References
    /// <https://istio.io/latest/docs/ops/deployment/application-requirements/>
    RunsAsProxy {
        code: "ISTIO151", name: "user-or-port-of-the-proxy", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0144"],
    }
}

/// The user that Istio's redirection leaves alone.
const PROXY_USER: i64 = 1337;
/// The ports that the proxy and its agent listen on.
const PROXY_PORTS: &[i64] = &[15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090];

/// What a workload shares with its proxy.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    container: String,
    /// Where it stands in the pod's spec.
    path: String,
    /// The user, or the port.
    user: bool,
    number: i64,
    /// A line of its log that says that the port is taken.
    said: Option<String>,
}

impl Check for RunsAsProxy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        let own = snapshot
            .workloads
            .iter()
            .filter(|w| w.object.owners.is_empty() && snapshot.in_scope(w.object.namespace()));
        for workload in own {
            // The template knows nothing of injection: a pod of it does.
            if !snapshot.pods_of(workload.reference()).any(|pod| snapshot.has_istio_proxy(pod)) {
                continue;
            }
            let of_pod = workload.template.spec.int("securityContext.runAsUser");
            for container in workload.template.application_containers() {
                let of_container = container.body.int("securityContext.runAsUser");
                let (path, user) = match (of_container, of_pod) {
                    (Some(user), _) => (format!("{}.securityContext.runAsUser", container.path()), user),
                    (None, Some(user)) => ("securityContext.runAsUser".to_owned(), user),
                    (None, None) => (String::new(), 0),
                };
                let fact = |path: String, user: bool, number: i64, said| Fact {
                    workload,
                    container: container.name.clone(),
                    path,
                    user,
                    number,
                    said,
                };
                if user == PROXY_USER {
                    out.push(fact(path, true, user, None));
                }
                let taken = in_use(snapshot, workload, &container.name);
                for number in PROXY_PORTS.iter().copied() {
                    let said = taken.iter().find(|line| names(line, number)).map(|line| (*line).to_owned());
                    let declared = container.ports.iter().position(|port| port.number == number);
                    let path = match declared {
                        Some(index) => format!("{}.ports[{index}].containerPort", container.path()),
                        // Declaring a port opens none: where it is not declared, what the application says tells.
                        None if said.is_some() => setting_of(container, number),
                        None => continue,
                    };
                    out.push(fact(path, false, number, said));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let path = fact.workload.template_path(&format!("spec.{}", fact.path));
        let subject = own.field(&path);
        let services = services_of(snapshot, own);
        let container = text::plain(&fact.container, 40);
        let (title, message, mechanism) = if fact.user {
            (
                format!(
                    "Container {container} of {own} runs as user {PROXY_USER}, so its traffic bypasses the proxy"
                ),
                format!(
                    "Istio's redirection leaves alone what user {PROXY_USER} sends, because the proxy itself runs as it. Container {container} of {own} does so too: its requests leave in plaintext, past every route and policy."
                ),
                "UID 1337: traffic bypasses the sidecar",
            )
        } else {
            (
                format!(
                    "Container {container} of {own} uses port {}, which belongs to its proxy",
                    fact.number
                ),
                format!(
                    "Port {} is one of the ports that Istio's proxy listens on in each pod. Container {container} of {own} {} it as well: only one of the two can have it.",
                    fact.number,
                    if path.ends_with("containerPort") { "declares" } else { "wants to listen on" }
                ),
                "port clash with the sidecar: listen fails, address already in use",
            )
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&container, &fact.number.to_string()])
            .title(title)
            .message(message)
            .mechanism(mechanism)
            .severity(if fact.said.is_some() { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if fact.said.is_some() { Confidence::Observed } else { Confidence::Possible })
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, fact.number.to_string()))
            .evidences(fact.said.iter().map(|line| {
                Evidence::new("Log", format!("container {container} of {own}"), "the port is taken")
                    .excerpt(line)
            }));
        finding = if fact.user {
            finding.effect(Effect::calls(own)).maybe_remedy(
                Remedy::patch(
                    &fact.workload.object,
                    &json!([{"op": "replace", "path": pointer(&path), "value": 1000}]),
                    "Set runAsUser to another user, such as 1000",
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            )
        } else {
            let down = services.iter().filter(|_| fact.said.is_some());
            finding.effect(Effect::pods(own)).effects(down.map(|s| Effect::requests(s, common::DOWN))).remedy(Remedy::manual("Let the application listen on a port outside of 15000 to 15090, and follow with containerPort, probes and the Service's targetPort"))
        };
        finding.prevention(Prevention::of("Policy", "Refuse pods with runAsUser 1337 or a containerPort from 15000 to 15090 in namespaces of the mesh (ValidatingAdmissionPolicy)"))
    }
}

/// More lines that say that a port is taken tell nothing more.
const MOST_LINES: usize = 100;

/// Whether a text has this number, and not as a part of a longer one.
fn names(text: &str, number: i64) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.parse() == Ok(number))
}

/// The setting of a container that has this number: a variable, an argument, or else the container.
fn setting_of(container: &Container, number: i64) -> String {
    let path = container.path();
    let variables = container.body.list("env").iter().enumerate();
    let mut variables =
        variables.filter(|(_, one)| one.text("value").is_some_and(|value| names(value, number)));
    if let Some((at, _)) = variables.next() {
        return format!("{path}.env[{at}].value");
    }
    let told = ["args", "command"].into_iter().find_map(|list| {
        let at = container
            .body
            .list(list)
            .iter()
            .position(|word| word.as_str().is_some_and(|w| names(w, number)))?;
        Some(format!("{path}.{list}[{at}]"))
    });
    told.unwrap_or(path)
}

/// Lines of a container that say that a port is taken.
fn in_use<'a>(snapshot: &'a Snapshot, workload: &'a Workload, container: &str) -> Vec<&'a str> {
    let says = |text: &str| text.contains("ddress already in use") || text.contains("EADDRINUSE");
    let logs = snapshot.pods_of(workload.reference()).flat_map(|pod| {
        [false, true].into_iter().filter_map(|previous| {
            snapshot.log(pod.object.namespace(), pod.object.name(), container, previous)
        })
    });
    logs.flat_map(|log| &log.lines)
        .map(|line| line.text.as_str())
        .filter(|text| says(text))
        .take(MOST_LINES)
        .collect()
}
