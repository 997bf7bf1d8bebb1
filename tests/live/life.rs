//! The life of one fault.

use std::path::Path;

use serde_json::json;

use crate::answer::{self, Answer};
use crate::fault::{Cause, Fault};
use crate::kubectl::Kubectl;
use crate::shop::Shop;
use crate::table::Row;

/// Puts a fault in, asks, heals, takes the fix back, and takes the fault out.
pub(crate) fn of(kubectl: &Kubectl, fault: &Fault) -> Row {
    // The number keeps apart those of runs that follow each other on one cluster.
    let namespace = format!("live-{}-{}", fault.name, std::process::id() % 10_000);
    let fault = fault.within(&namespace);
    let mut row = Row {
        fault: fault.name.clone(),
        mesh: fault.shop.mesh,
        double: fault.causes.len() == 2,
        ..Row::default()
    };
    let shop = match Shop::open(kubectl, namespace.clone(), &fault.shop) {
        Ok(shop) => shop,
        Err(message) => {
            row.wrong = Some(message);
            Shop { kubectl, namespace }.close();
            return row;
        }
    };
    row.wrong = suffer(&shop, &fault, &mut row).err();
    if row.wrong.is_none() || std::env::var_os("MESHSCOPE_LIVE_KEEP").is_none() {
        shop.close();
    }
    row
}

fn suffer(shop: &Shop<'_>, fault: &Fault, row: &mut Row) -> Result<(), String> {
    for step in &fault.steps {
        shop.step(step)?;
    }
    shop.felt(fault.felt)?;
    let recording = std::env::var_os("MESHSCOPE_LIVE_CAPTURE").map(|to| Path::new(&to).join(&fault.name));
    if let Some(folder) = &recording {
        record(shop, folder)?;
    }
    let answer = answer::ask(shop.kubectl, &shop.namespace, "why", &fault.ask)?;
    row.seconds = Some(answer.took.as_secs_f64());
    (row.requests, row.cpu) = answer.cost();
    let ranks = judge(&answer, &fault.causes, row);
    let ranks = ranks.map_err(|message| format!("{message}; it said: {}", answer.short()))?;
    heal(shop, &answer, &fault.causes, &ranks, row)?;
    recording.map_or(Ok(()), |folder| expect(shop, fault, &answer, &folder))
}

/// Records the shop as users suffer from it.
fn record(shop: &Shop<'_>, folder: &Path) -> Result<(), String> {
    let file = folder.join("bundle.tar.zst");
    // One of an earlier run may be there.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = file.to_string_lossy();
    shop.kubectl
        .meshscope(&["capture", "--namespace", &shop.namespace, "--since", "15m", "--output", &file])
        .map(drop)
}

/// Says beside a recording what was wrong, as `tests/scenarios` wants it: what no namespace holds goes by its name alone.
fn expect(shop: &Shop<'_>, fault: &Fault, answer: &Answer, folder: &Path) -> Result<(), String> {
    let first = answer.first(&fault.causes).ok_or("no cause came first")?;
    let objects: Vec<_> = fault.causes.iter().flat_map(|cause| &cause.objects).collect();
    let within = |object: &&String| match object.split_once(' ') {
        Some((kind, _)) if kind.ends_with("WebhookConfiguration") => (*object).clone(),
        _ => object.replacen(' ', &format!(" {}/", shop.namespace), 1),
    };
    let expected = json!({
        "what": fault.what,
        "rootCause": objects.iter().map(within).collect::<Vec<_>>(),
        "fix": answer.fix(1)?.word(&first.fix),
    });
    let text = format!("{expected:#}\n");
    std::fs::write(folder.join("expected.json"), text)
        .map_err(|error| format!("{}: {error}", folder.display()))
}

/// At which ranks the causes stand: one of them first, the other one, if there is one, among the first three.
fn judge(answer: &Answer, causes: &[Cause], row: &mut Row) -> Result<Vec<usize>, String> {
    let found: Vec<_> = causes.iter().map(|cause| answer.find(cause)).collect();
    row.rank = found.iter().flatten().map(|(rank, _)| *rank).min();
    row.second = found.iter().flatten().map(|(rank, _)| *rank).max().filter(|_| causes.len() == 2);
    if row.rank != Some(1) {
        return Err(format!(
            "{:?} is not the first answer",
            causes.iter().map(|c| &c.objects).collect::<Vec<_>>()
        ));
    }
    // An answer that is not sure of itself is none to act on.
    if answer.verdict() != "RootCauseFound" {
        return Err(format!("the verdict is {}", answer.verdict()));
    }
    let mut ranks = vec![];
    for (cause, found) in causes.iter().zip(found) {
        let (rank, told) = found.ok_or_else(|| format!("{:?} is not among the answers", cause.objects))?;
        told.map_err(|message| format!("{:?}: {message}", cause.objects))?;
        if rank > 3 {
            return Err(format!("{:?} stands at {rank}", cause.objects));
        }
        ranks.push(rank);
    }
    Ok(ranks)
}

/// Carries out what was suggested, waits for happy users, and takes it back.
fn heal(
    shop: &Shop<'_>,
    answer: &Answer,
    causes: &[Cause],
    ranks: &[usize],
    row: &mut Row,
) -> Result<(), String> {
    let mut done = vec![];
    for (rank, cause) in ranks.iter().zip(causes) {
        let fix = answer.fix(*rank)?;
        if fix.word(&cause.fix).is_none() {
            return Err(format!(
                "the fix has no word of {:?}: {} {:?}",
                cause.fix, fix.summary, fix.commands
            ));
        }
        let before = fix.state(shop.kubectl);
        for command in &fix.commands {
            shop.kubectl.shell(command).map_err(|message| format!("the fix failed: {message}"))?;
        }
        done.push((fix, before));
    }
    let commands = || done.iter().map(|(fix, _)| fix.commands.join("; ")).collect::<Vec<_>>();
    shop.healed().map_err(|message| format!("the fix did not heal: {:?}: {message}", commands()))?;
    row.healed = true;
    for (fix, before) in done.iter().rev() {
        for command in &fix.rollback {
            shop.kubectl.shell(command).map_err(|message| format!("the rollback failed: {message}"))?;
        }
        let after = fix.state(shop.kubectl);
        if after != *before {
            return Err(format!("the rollback {:?} left {after} where {before} was", fix.rollback));
        }
    }
    row.restored = true;
    Ok(())
}
