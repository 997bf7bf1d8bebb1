//! ProxyConfig.

use crate::model::json::Value;

use super::Faults;
use super::words::selector;
use crate::model::fields::Fields;

pub(super) fn check(out: &mut Faults, spec: &Value) {
    selector(out, spec.at("selector"), "spec.selector");
    if spec.int("concurrency").is_some_and(|count| count < 0) {
        out.error("spec.concurrency", "concurrency is negative", "0 or more; 0 is one thread for each CPU");
    }
}
