//! ISTIO126.

use crate::model::json::{Value, json};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, failures_of, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{VirtualService, full_host};
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{Reporter, address};
use crate::model::workload::{EnvSource, Workload};

crate::rule! {
    /// An application closes idle keep-alive connections that its proxy still uses.
    ///
    /// ## What it detects
    /// `UC connection_termination` on the callee's own side, at once and over all of its pods, without restarts and without
    /// mutual TLS in the way: the server's keep-alive time-out is shorter than the proxy's (an hour).
    /// ## Why it matters
    /// A request that is sent at the moment when the server closes the connection is lost: a small, steady share of 503,
    /// the more the less traffic there is.
    /// ## Evidence
    /// The flag `UC` on the inbound cluster with durations of a few milliseconds, 0 restarts, and the setting of the application
    /// that names an idle or keep-alive time-out.
    /// ## How to confirm
    /// The keep-alive time-out of the server: 5 s in Node, 2 s in gunicorn, 60 s in Tomcat unless somebody set it.
    /// ## How to fix
    /// A keep-alive time-out of the server that is longer than the client's; or let the client's proxy close first
    /// (`idleTimeout`) and try again (`reset-before-request`).
    /// ## False positives
    /// A process that ends on purpose after a number of requests.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts>
    IdleConnectionsClosed {
        code: "ISTIO126", name: "idle-connections-closed", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

/// A race with a closing connection ends at once; a request that was being worked on when it broke does not.
const AT_ONCE_MS: u64 = 50;
/// Envoy keeps idle connections to its upstream for an hour: a server has to wait longer.
const LONGER_THAN_ENVOY_S: u64 = 3660;

/// A setting that names an idle or keep-alive time-out.
#[derive(Debug)]
struct Setting<'a> {
    /// Where it stands.
    subject: ObjectRef,
    object: &'a Object,
    /// The JSON pointer of its value, and of the whole entry.
    value_at: String,
    entry_at: String,
    name: String,
    value: String,
}

/// Idle connections that are closed under the proxy.
#[derive(Debug)]
pub struct Fact<'a> {
    group: Failures,
    service: ServiceName,
    workload: &'a Workload,
    setting: Option<Setting<'a>>,
    pods: usize,
    virtual_service: Option<&'a VirtualService>,
}

impl Check for IdleConnectionsClosed {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        failures(snapshot, Way::UpstreamClosed)
            .into_iter()
            .filter_map(|group| race(snapshot, group))
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let name = &fact.service.name;
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let destination = fact.group.callee.reporter == Reporter::Destination;
        let (subject, title, set) = match &fact.setting {
            Some(setting) => {
                let value = text::plain(&setting.value, 24);
                (
                    setting.subject.clone(),
                    format!(
                        "{own} closes idle connections ({} = {value}) while its proxy uses them",
                        text::plain(&setting.name, 40)
                    ),
                    format!(" Its setting {} is {value}.", text::plain(&setting.name, 60)),
                )
            }
            None => (
                own.field(fact.workload.template_path("spec.containers")),
                format!("{own} closes idle keep-alive connections while its proxy uses them"),
                String::new(),
            ),
        };
        let side = if destination { "its own proxy" } else { "its callers' proxies" };
        let mut finding = Finding::new(Self::META, subject.clone(), &[name])
            .title(title)
            .message(format!(
                "{figures} to {name} found their connection closed by the application before an answer, within milliseconds and over {} pods that did not restart: {side} had kept the connection for the next request.{set}",
                fact.pods
            ))
            .mechanism("keep-alive race: idle connection closed by the application, connection termination")
            .severity(fact.group.severity().unwrap_or(Severity::Warning))
            .role(Role::Cause, if fact.setting.is_some() || destination { Confidence::Observed } else { Confidence::Configured })
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidences(fact.group.parts.iter().take(3).map(|part| {
                let took = part.durations.map_or(String::new(), |(_, middle, high)| {
                    format!(", {} in the middle, {} at the 95th percentile", text::milliseconds(middle), text::milliseconds(high))
                });
                Evidence::new(
                    if part.counted { "Metric" } else { "AccessLog" },
                    format!("istio-proxy of {}, {}", part.workload, text::plain(&part.cluster, 120)),
                    format!("{}, {} requests{took}", text::plain(&part.short, 24), text::number(part.count)),
                )
                .at(part.first)
                .excerpt(&part.details)
            }))
            .evidence(Evidence::object(own, format!("0 restarts of {} pods", fact.pods)))
            .effect(Effect::requests(&fact.service, &["UC", "reset", "5xx"]));
        if let Some(setting) = &fact.setting {
            finding = finding
                .evidence(Evidence::object(
                    &setting.subject,
                    format!("{} = {}", text::plain(&setting.name, 60), text::plain(&setting.value, 24)),
                ))
                .maybe_remedy(longer(setting))
                .maybe_remedy(Remedy::patch(
                    setting.object,
                    &json!([{"op": "remove", "path": setting.entry_at}]),
                    format!(
                        "Take the idle time-out {} out, where the server's own default is longer",
                        text::plain(&setting.name, 60)
                    ),
                ));
            if !setting.subject.same_object(own) {
                finding = finding.related(own.clone());
            }
        } else {
            finding = finding.remedy(Remedy::manual(format!(
                "Set the keep-alive (idle) time-out of the server in {own} above {LONGER_THAN_ENVOY_S} s, beyond the proxy's hour"
            )));
        }
        if let Some(vs) = fact.virtual_service {
            finding = finding.related(vs.reference().clone()).maybe_remedy(retry(vs));
        }
        finding
            .remedy(idle_first(fact))
            .prevention(Prevention::alert(
                "Alert on connections that end under a request",
                format!("sum by (destination_service_name) (rate(istio_requests_total{{response_flags=~\".*UC.*\",destination_service_name=\"{}\"}}[5m])) > 0", text::plain(name, 63)),
            ))
            .prevention(Prevention::of("Setting", "Keep the server's keep-alive time-out above that of every client and proxy before it"))
    }
}

/// The fact, where it is a race and not a crash, not mutual TLS, and not a request that broke half-way.
fn race(snapshot: &Snapshot, group: Failures) -> Option<Fact<'_>> {
    let name = group.callee.service.clone()?;
    let service = snapshot.service(&name)?;
    let others = failures_of(snapshot, &name);
    if others.iter().any(|other| matches!(other.way, Way::NoFilterChain)) {
        return None;
    }
    // The callee's own side says more; a caller's side that only repeats it is left out.
    let destination = group.callee.reporter == Reporter::Destination;
    let own_side =
        |other: &Failures| other.callee.reporter == Reporter::Destination && other.way == Way::UpstreamClosed;
    if !destination && others.iter().any(own_side) {
        return None;
    }
    // Where the callee's proxy was seen and saw no closed connection, the way between the proxies broke, not the application.
    if !destination && snapshot.traffic_to(&name, Reporter::Destination).next().is_some() {
        return None;
    }
    let pods: Vec<_> = snapshot.pods_behind(service).collect();
    if pods.is_empty() || pods.iter().flat_map(|pod| &pod.statuses).any(|status| status.restarts > 0) {
        return None;
    }
    // Endpoints that are gone ended; they did not close idle connections.
    let hosts = group.upstreams();
    if !hosts.is_empty() && hosts.keys().all(|host| snapshot.pod_by_ip(address(host)).is_none()) {
        return None;
    }
    let quick =
        group.parts.iter().all(|part| part.durations.is_none_or(|(_, middle, _)| middle <= AT_ONCE_MS));
    let refused = others.iter().any(|other| other.way == Way::Refused && !other.over());
    if !quick || refused {
        return None;
    }
    let workload = match group.parts.first().filter(|_| destination) {
        Some(part) => snapshot.workload(&part.workload),
        None => snapshot.workloads_behind(service).next(),
    }?;
    let host = full_host(&name.name, &name.namespace);
    Some(Fact {
        setting: setting(snapshot, workload),
        pods: pods.len(),
        virtual_service: snapshot.istio.virtual_services_for(&host).next(),
        service: name,
        workload,
        group,
    })
}

/// Whether a name is that of a server's idle or keep-alive time-out. Pools of connections to databases have idle settings of
/// their own.
fn names_idle(name: &str) -> bool {
    let bare: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let elsewhere = ["db", "sql", "redis", "pool", "conns"].iter().any(|word| bare.contains(word));
    (bare.contains("idle") || bare.contains("keepalive")) && !elsewhere
}

/// Whether a value can be a duration: a switch (`KEEPALIVE=on`) is none.
fn is_duration(value: &str) -> bool {
    value.starts_with(|c: char| c.is_ascii_digit())
}

/// The setting of a workload's containers that names such a time-out: a literal, or a key of a ConfigMap.
fn setting<'a>(snapshot: &'a Snapshot, workload: &'a Workload) -> Option<Setting<'a>> {
    let namespace = workload.object.namespace();
    for container in workload.template.application_containers() {
        let list = workload.template_path(&format!("spec.{}.env", container.path()));
        for (index, var) in container.env.iter().enumerate().filter(|(_, var)| names_idle(&var.name)) {
            match &var.source {
                EnvSource::Literal(value) if is_duration(value) => {
                    return Some(Setting {
                        subject: workload.reference().field(format!("{list}[{index}].value")),
                        object: &workload.object,
                        value_at: pointer(&format!("{list}[{index}].value")),
                        entry_at: pointer(&format!("{list}[{index}]")),
                        name: var.name.clone(),
                        value: value.clone(),
                    });
                }
                EnvSource::ConfigMapKey { name, key, .. } => {
                    if let Some(found) = key_of(snapshot, namespace, name, |own| own == key) {
                        return Some(found);
                    }
                }
                EnvSource::Literal(_) | EnvSource::SecretKey { .. } | EnvSource::Other => {}
            }
        }
        for map in container.body.list("envFrom").iter().filter_map(|entry| entry.text("configMapRef.name")) {
            if let Some(found) = key_of(snapshot, namespace, map, names_idle) {
                return Some(found);
            }
        }
    }
    None
}

fn key_of<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    name: &str,
    wanted: impl Fn(&str) -> bool,
) -> Option<Setting<'a>> {
    let object = snapshot.object("ConfigMap", namespace, name)?;
    let (key, value) = object
        .body
        .map("data")?
        .iter()
        .find(|(key, value)| wanted(key) && value.as_str().is_some_and(is_duration))?;
    let at = format!("/data/{}", pointer_segment(key));
    Some(Setting {
        subject: object.reference.field(format!("data.{key}")),
        object,
        value_at: at.clone(),
        entry_at: at,
        name: key.to_string(),
        value: value.as_str().unwrap_or_default().to_owned(),
    })
}

/// The same setting, longer than the proxy's idle time-out, in the unit that its name or value has.
fn longer(setting: &Setting<'_>) -> Option<Remedy> {
    let name = setting.name.to_lowercase();
    let digits = setting.value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = setting.value.get(digits.len()..).unwrap_or_default();
    if digits.parse::<f64>().is_err() {
        return None;
    }
    let value = match unit {
        "ms" => format!("{}ms", LONGER_THAN_ENVOY_S * 1000),
        "s" | "m" | "h" => format!("{LONGER_THAN_ENVOY_S}s"),
        "" if name.contains("ms") || name.contains("milli") => (LONGER_THAN_ENVOY_S * 1000).to_string(),
        "" => LONGER_THAN_ENVOY_S.to_string(),
        _ => return None,
    };
    let remedy = Remedy::patch(
        setting.object,
        &json!([{"op": "replace", "path": setting.value_at, "value": value}]),
        format!(
            "Raise the idle time-out {} to {value}: longer than the hour for which the proxy keeps connections",
            text::plain(&setting.name, 60)
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

/// Let callers' proxies try again what was lost before it was sent.
fn retry(vs: &VirtualService) -> Option<Remedy> {
    let route = vs.routes.iter().find(|route| route.protocol == "http")?;
    let op = if route.body.at("retries").is_some() { "replace" } else { "add" };
    let retries: Value =
        json!({"attempts": 2, "retryOn": "reset-before-request,connect-failure,refused-stream"});
    Remedy::patch(
        &vs.object,
        &json!([{"op": op, "path": format!("{}/retries", pointer(&route.path)), "value": retries}]),
        format!("Retry what met a closed idle connection: retries of {} on reset-before-request", route.path),
    )
}

/// Let the proxy before the application close idle connections first.
fn idle_first(fact: &Fact<'_>) -> Remedy {
    let labels: Vec<String> = fact
        .workload
        .template
        .labels
        .iter()
        .filter(|(key, _)| *key == "app" || *key == "app.kubernetes.io/name")
        .map(|(key, value)| format!("{}: {}", text::plain(key, 63), text::plain(value, 63)))
        .collect();
    let r = fact.workload.reference();
    let selector =
        if labels.is_empty() { "{}".to_owned() } else { format!("{{labels: {{{}}}}}", labels.join(", ")) };
    let manifest = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {0}-idle, namespace: {1}}}\nspec:\n  workloadSelector: {selector}\n  inboundConnectionPool: {{http: {{idleTimeout: 1s}}}}",
        r.name, r.namespace
    );
    Remedy::commands(
        "Let the proxy close idle connections before the application does: inboundConnectionPool.http.idleTimeout below the application's own",
        vec![format!("kubectl apply -f - <<'EOF'\n{manifest}\nEOF")],
        vec![format!("kubectl -n {} delete sidecar {}-idle", crate::analyze::remedy::quote(&r.namespace), crate::analyze::remedy::quote(&r.name))],
    )
    .risk(Risk::Medium)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_idle_settings() {
        for name in ["IDLE_CLOSE_MS", "SERVER_KEEP_ALIVE_TIMEOUT", "keepAliveTimeout", "HTTP_IDLE_TIMEOUT"] {
            assert!(names_idle(name), "{name}");
        }
        for name in ["DB_MAX_IDLE_CONNS", "TIMEOUT", "REDIS_POOL_IDLE"] {
            assert!(!names_idle(name), "{name}");
        }
    }
}
