//! PeerAuthentication.

use crate::model::json::Value;

use super::Faults;
use super::words::selector;
use crate::model::fields::Fields;

pub(super) fn check(out: &mut Faults, spec: &Value) {
    let path = "spec.portLevelMtls";
    let selects = spec.map("selector.matchLabels").is_some_and(|labels| !labels.is_empty());
    if let Some(ports) = spec.map("portLevelMtls") {
        if !selects && !ports.is_empty() {
            out.error(
                path,
                "a policy for all pods has settings for ports",
                "settings for ports only beside a selector with labels",
            );
        }
        for port in ports.keys() {
            if port.parse::<i64>().is_ok_and(|port| !(1..=65535).contains(&port)) {
                out.error(format!("{path}[{port}]"), "a port is not in range", super::words::PORT);
            }
        }
    }
    selector(out, spec.at("selector"), "spec.selector");
}
