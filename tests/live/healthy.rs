//! A shop that is well, under load: nothing may be said of it.

use crate::answer;
use crate::fault::Setup;
use crate::kubectl::Kubectl;
use crate::shop::Shop;
use crate::table::Row;

/// How often it is asked about.
const TIMES: usize = 10;

/// Asks about a healthy shop, again and again.
pub(crate) fn run(kubectl: &Kubectl, mesh: bool) -> Row {
    let name = if mesh { "healthy-in-the-mesh" } else { "healthy" };
    let namespace = format!("live-{name}-{}", std::process::id() % 10_000);
    let with = ["frontend-v2", "payment-v2", "inventory-v2", "store-v2", "checkout-v2"];
    // In the mesh the second version that traffic goes to is enough: a proxy takes memory.
    let with = if mesh { vec![] } else { with.map(str::to_owned).to_vec() };
    let setup = Setup { mesh, with, ..Setup::default() };
    let mut row = Row { fault: name.to_owned(), mesh, ..Row::default() };
    let outcome = Shop::open(kubectl, namespace.clone(), &setup).and_then(|shop| {
        let mut slowest = 0.0_f64;
        for time in 1..=TIMES {
            let answer =
                answer::ask(kubectl, &shop.namespace, &format!("why-{time}"), &serde_json::Value::Null)?;
            slowest = slowest.max(answer.took.as_secs_f64());
            let (requests, cpu) = answer.cost();
            (row.requests, row.cpu) = (row.requests.max(requests), row.cpu.max(cpu));
            let counts = &answer.status["summary"]["counts"];
            let loud: i64 =
                ["critical", "error", "warning"].iter().filter_map(|of| counts[of].as_i64()).sum();
            if loud > 0 || !answer.root_causes().is_empty() {
                return Err(format!("time {time}: {} {}", answer.status["summary"], answer.short()));
            }
        }
        Ok(slowest)
    });
    match outcome {
        Ok(slowest) => (row.seconds, row.healed, row.restored) = (Some(slowest), true, true),
        Err(message) => row.wrong = Some(message),
    }
    Shop { kubectl, namespace }.close();
    row
}
