//! Which values an annotation of Istio's can have.

use crate::model::json::Value;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::model::fields::Fields;

/// Whether a value can be; what is wrong with it otherwise.
pub(in crate::analyze) fn check(name: &str, value: &str) -> Result<(), String> {
    match name {
        "sidecar.istio.io/interceptionMode" if !["REDIRECT", "TPROXY", "NONE"].contains(&value) => {
            Err(format!("{value:?} is none of REDIRECT, TPROXY and NONE"))
        }
        "status.sidecar.istio.io/port" => port(value),
        "readiness.status.sidecar.istio.io/initialDelaySeconds"
        | "readiness.status.sidecar.istio.io/periodSeconds"
        | "readiness.status.sidecar.istio.io/failureThreshold" => {
            unsigned::<u32>(value).map(|_| ()).ok_or_else(|| format!("{value:?} is no whole number"))
        }
        "traffic.sidecar.istio.io/includeOutboundIPRanges" if value == "*" => Ok(()),
        "traffic.sidecar.istio.io/includeOutboundIPRanges"
        | "traffic.sidecar.istio.io/excludeOutboundIPRanges" => list(value, range),
        "traffic.sidecar.istio.io/includeInboundPorts" if value == "*" => Ok(()),
        "traffic.sidecar.istio.io/includeInboundPorts"
        | "traffic.sidecar.istio.io/excludeInboundPorts"
        | "traffic.sidecar.istio.io/excludeOutboundPorts" => list(value.trim(), port),
        "traffic.sidecar.istio.io/excludeInterfaces"
        | "traffic.sidecar.istio.io/kubevirtInterfaces"
        | "istio.io/reroute-virtual-interfaces" => list(value, interface),
        "prometheus.istio.io/merge-metrics" => {
            let known = ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
            if known.contains(&value) { Ok(()) } else { Err(format!("{value:?} is neither true nor false")) }
        }
        "proxy.istio.io/config" => proxy_config(value),
        "sidecar.istio.io/proxyCPU"
        | "sidecar.istio.io/proxyMemory"
        | "sidecar.istio.io/proxyCPULimit"
        | "sidecar.istio.io/proxyMemoryLimit" => quantity(value),
        _ => Ok(()),
    }
}

/// A whole number without a sign.
fn unsigned<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn list(text: &str, item: fn(&str) -> Result<(), String>) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { text.split(',').try_for_each(item) }
}

fn port(text: &str) -> Result<(), String> {
    let text = text.trim();
    unsigned::<u16>(text).map(|_| ()).ok_or_else(|| format!("{text:?} is no port"))
}

/// `10.0.0.0/8`, `fd00::/8`: an address and a length without leading zeros.
fn range(text: &str) -> Result<(), String> {
    let length = |bits: &str, most: u8| {
        unsigned::<u8>(bits).is_some_and(|n| n <= most) && (bits == "0" || !bits.starts_with('0'))
    };
    let good = text.split_once('/').is_some_and(|(address, bits)| {
        (address.parse::<Ipv4Addr>().is_ok() && length(bits, 32))
            || (address.parse::<Ipv6Addr>().is_ok() && length(bits, 128))
    });
    if good { Ok(()) } else { Err(format!("{text:?} is no range of addresses such as 10.0.0.0/8")) }
}

/// The kernel's names of interfaces: up to 15 characters.
fn interface(text: &str) -> Result<(), String> {
    let text = text.trim();
    let good = (1..=15).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '@'));
    if good { Ok(()) } else { Err(format!("{text:?} is no name of an interface")) }
}

/// A Kubernetes quantity: a number with an exponent or a unit.
fn quantity(text: &str) -> Result<(), String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, unit) = unsigned.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let exponent = unit.strip_prefix(['e', 'E']).is_some_and(|rest| {
        let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
    });
    let units = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let good = digits > 0 && number.matches('.').count() <= 1 && (exponent || units.contains(&unit));
    if good { Ok(()) } else { Err(format!("{text:?} is no quantity such as 100m or 128Mi")) }
}

/// A piece of ProxyConfig in YAML. Looked at as far as every version agrees: it is a map, and its best known fields have their
/// types.
fn proxy_config(text: &str) -> Result<(), String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|_| "it is no YAML".to_owned())?;
    if value.is_null() {
        return Ok(());
    }
    if !value.is_object() {
        return Err("it is no map of settings".to_owned());
    }
    for field in ["drainDuration", "terminationDrainDuration"] {
        if value.at(field).is_some() && value.seconds(field).is_none() {
            return Err(format!("{field} is no duration such as 30s"));
        }
    }
    if value.at("concurrency").is_some() && value.int("concurrency").is_none_or(|n| n < 0) {
        return Err("concurrency is no whole number from 0".to_owned());
    }
    for field in ["discoveryAddress", "serviceCluster", "configPath", "binaryPath"] {
        if value.at(field).is_some_and(|value| !value.is_string()) {
            return Err(format!("{field} is no text"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let good = |name: &str, value: &str| check(name, value).is_ok();
        assert!(good("status.sidecar.istio.io/port", "15020") && !good("status.sidecar.istio.io/port", "+1"));
        let ranges = "traffic.sidecar.istio.io/includeOutboundIPRanges";
        assert!(good(ranges, "*") && good(ranges, "10.0.0.0/8,fd00::/8") && good(ranges, ""));
        assert!(
            !good(ranges, "10.0.0.0")
                && !good(ranges, "10.0.0.0/8, 10.1.0.0/16")
                && !good(ranges, "10.0.0.0/33")
        );
        let ports = "traffic.sidecar.istio.io/excludeInboundPorts";
        assert!(good(ports, "80, 443") && !good(ports, "*") && !good(ports, "80,"));
        let cpu = "sidecar.istio.io/proxyCPU";
        assert!(
            good(cpu, "100m")
                && good(cpu, "1e3")
                && good(cpu, ".5")
                && !good(cpu, "100 m")
                && !good(cpu, "m")
        );
        let config = "proxy.istio.io/config";
        assert!(
            good(config, "{}")
                && good(config, "concurrency: 2")
                && !good(config, "- a")
                && !good(config, "drainDuration: x")
        );
        assert!(
            good("sidecar.istio.io/interceptionMode", "NONE")
                && !good("sidecar.istio.io/interceptionMode", "tproxy")
        );
    }
}
