//! What makes an incident unlike those that the analysis was fitted on: other instruments, other intervals, less that is measured, faults
//! that grow slowly, that show in resources only, that strike one process of several; innocents with bursts of noise, loads that swing far.

use super::dice::Dice;
use super::metrics::Dialect;
use super::system::{Burst, Fault, System};

/// Instruments that write other names.
const OTHERS: [Dialect; 7] = [
    Dialect::Managed,
    Dialect::SpanMetrics,
    Dialect::Containers,
    Dialect::Rpc,
    Dialect::Camel,
    Dialect::Short,
    Dialect::Proxy,
];

/// Where the fault is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Front,
    Hub,
    Leaf,
}

/// What is unlike.
#[derive(Debug, Clone, Default)]
pub(crate) struct Twist {
    pub(crate) dialect: Option<Dialect>,
    pub(crate) step: Option<f64>,
    /// Of every service only two figures are kept.
    pub(crate) sparse: bool,
    /// What nobody calls through is measured by its processor and memory only.
    pub(crate) bare_leaves: bool,
    /// Every figure is told by pod.
    pub(crate) by_pod: bool,
    /// Words of it, for titles.
    pub(crate) words: String,
    spot: Option<Spot>,
    drifts: bool,
    resource_only: bool,
    one_of_many: bool,
    bursts: usize,
    swing: Option<f64>,
}

impl Twist {
    /// Two of these things on average.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let mut twist = Twist {
            dialect: dice.chance(0.6).then(|| dice.pick(&OTHERS)),
            step: dice.chance(0.5).then(|| dice.pick(&[10.0, 15.0, 30.0, 60.0, 120.0, 300.0])),
            sparse: dice.chance(0.12),
            bare_leaves: dice.chance(0.15),
            by_pod: dice.chance(0.2),
            spot: dice.chance(0.3).then(|| dice.pick(&[Spot::Front, Spot::Hub, Spot::Leaf])),
            drifts: dice.chance(0.12),
            resource_only: dice.chance(0.12),
            one_of_many: dice.chance(0.12),
            bursts: if dice.chance(0.3) { 1 + dice.below(4) } else { 0 },
            swing: dice.chance(0.2).then(|| dice.between(0.3, 0.8)),
            words: String::new(),
        };
        twist.by_pod |= twist.one_of_many;
        let words = [
            (twist.sparse, "few figures"),
            (twist.bare_leaves, "bare leaves"),
            (twist.by_pod, "by pod"),
            (twist.spot == Some(Spot::Front), "in front"),
            (twist.spot == Some(Spot::Hub), "at the hub"),
            (twist.spot == Some(Spot::Leaf), "at a leaf"),
            (twist.drifts, "drifting"),
            (twist.resource_only, "resources only"),
            (twist.one_of_many, "one of many"),
            (twist.bursts > 0, "bursts"),
            (twist.swing.is_some(), "swinging load"),
        ];
        let said: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        twist.words = said.join(", ");
        twist
    }

    /// Puts it upon a system of which so many seconds before and after the onset are seen.
    pub(crate) fn apply(&self, dice: &mut Dice, system: &mut System, before: f64, after: f64) {
        let count = system.services.len();
        let called = |at: &usize| system.services[*at].rate >= 0.2 * system.services[0].rate;
        let callers = |at: usize| {
            system.services.iter().filter(|one| one.callees.iter().any(|(callee, ..)| *callee == at)).count()
        };
        let spot = match self.spot {
            Some(Spot::Front) => Some(0),
            Some(Spot::Hub) => (1..count).filter(called).max_by_key(|at| callers(*at)),
            Some(Spot::Leaf) => (1..count).filter(called).find(|at| system.services[*at].callees.is_empty()),
            None => None,
        };
        if let Some(spot) = spot.filter(|_| system.fault != Some(Fault::Surge)) {
            system.culprit = spot;
            if system.fault == Some(Fault::EarlyReturn) && system.services[spot].callees.is_empty() {
                system.fault = Some(Fault::Exception);
            }
        }
        if self.drifts {
            system.ramp = 0.7 * after;
            system.lasts = f64::INFINITY;
        }
        let is_of_resource = matches!(system.fault, Some(Fault::Cpu | Fault::Memory | Fault::Disk));
        let shows_resources = self.dialect != Some(Dialect::SpanMetrics) && !self.sparse;
        system.unfelt = self.resource_only && is_of_resource && shows_resources;
        let can_be_part = !matches!(system.fault, Some(Fault::Gone | Fault::Surge | Fault::EarlyReturn));
        if self.one_of_many && can_be_part {
            let pods = system.services[system.culprit].pods.max(2);
            system.services[system.culprit].pods = pods;
            system.part = 1.0 / pods as f64;
        }
        for _ in 0..self.bursts {
            let from = system.onset - before + (before + after) * dice.share();
            system.bursts.push(Burst {
                at: dice.below(count),
                from,
                to: from + dice.between(0.02, 0.08) * (before + after),
                times: dice.between(1.5, 4.0),
                resource: dice.chance(0.7),
            });
        }
        if let Some(height) = self.swing {
            system.swing = (dice.pick(&[3600.0, 14_400.0, 86_400.0]), height, system.swing.2);
        }
    }
}
