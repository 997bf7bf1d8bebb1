//! A system of services and what a fault does to it: who calls whom, how long each takes, how often it fails, what it uses.

use super::dice::Dice;

/// What is wrong with the service at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Something uses up its processor.
    Cpu,
    /// Its memory fills up.
    Memory,
    /// Its disk is busy.
    Disk,
    /// What goes to and from it is delayed.
    Delay,
    /// Packets to and from it are lost.
    Loss,
    /// Its pool of connections or threads is too small.
    Pool,
    /// It throws exceptions.
    Exception,
    /// It answers early and wrong, and calls nobody.
    EarlyReturn,
    /// A store's queries take long.
    SlowStore,
    /// It is gone.
    Gone,
    /// More requests come in, through it.
    Surge,
}

/// All of them, the more usual ones more often.
pub(crate) const FAULTS: [Fault; 14] = [
    Fault::Cpu,
    Fault::Cpu,
    Fault::Memory,
    Fault::Disk,
    Fault::Delay,
    Fault::Delay,
    Fault::Loss,
    Fault::Pool,
    Fault::Exception,
    Fault::Exception,
    Fault::EarlyReturn,
    Fault::SlowStore,
    Fault::Gone,
    Fault::Surge,
];

/// A service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: String,
    /// Milliseconds that it works on a request itself.
    pub(crate) own: f64,
    /// Services that it calls, calls for each request, and the share of failures that it passes on.
    pub(crate) callees: Vec<(usize, f64, f64)>,
    /// Processor, memory and disk that it uses, in whatever unit.
    pub(crate) uses: [f64; 3],
    /// How much of its own noise each of its figures has.
    pub(crate) noise: f64,
    /// Requests for each second in quiet times, and how many processes share them.
    pub(crate) rate: f64,
    pub(crate) pods: usize,
}

/// How a service fares at an instant.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    /// Requests for each second.
    pub(crate) rate: f64,
    /// Milliseconds: by itself, with those that it calls, and of the slowest in a hundred.
    pub(crate) own: f64,
    pub(crate) latency: f64,
    pub(crate) tail: f64,
    /// Shares of requests that fail by themselves, and in all.
    pub(crate) own_errors: f64,
    pub(crate) errors: f64,
    /// Shares of the requests that go on to those that it calls.
    pub(crate) goes_on: f64,
    /// Figures of its own, as multiples of what they are in quiet times.
    pub(crate) cpu: f64,
    pub(crate) memory: f64,
    pub(crate) disk: f64,
    pub(crate) network: f64,
    pub(crate) waiting: f64,
    /// It does not run.
    pub(crate) gone: bool,
}

/// Figures of an innocent service that are multiplied for a while.
#[derive(Debug, Clone)]
pub(crate) struct Burst {
    /// Who, and between which instants.
    pub(crate) at: usize,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) times: f64,
    /// Processor and memory; else the time that it takes by itself.
    pub(crate) resource: bool,
}

/// Services, callers before those that they call, and what happens to them.
#[derive(Debug, Clone)]
pub(crate) struct System {
    pub(crate) services: Vec<Service>,
    /// `None` where all is well.
    pub(crate) fault: Option<Fault>,
    pub(crate) culprit: usize,
    /// How hard it is, 0 to 1.
    pub(crate) force: f64,
    /// Unix seconds.
    pub(crate) onset: f64,
    /// Seconds from the first effect to the whole one, and until it is over.
    pub(crate) ramp: f64,
    pub(crate) lasts: f64,
    /// Load: seconds of one swing, how far it swings, and by how much it grows in a swing.
    pub(crate) swing: (f64, f64, f64),
    /// Something that happens to another service and is no fault: who, since when, and the multiple of its processor and memory.
    pub(crate) bystander: Option<(usize, f64, f64)>,
    /// A short slowness long before, and over: who, from when, for how many seconds.
    pub(crate) earlier: Option<(usize, f64, f64)>,
    /// Of the fault only resources show.
    pub(crate) unfelt: bool,
    /// The share of its processes that the fault is in.
    pub(crate) part: f64,
    pub(crate) bursts: Vec<Burst>,
}

const SYLLABLES: [&str; 24] = [
    "al", "bor", "cen", "dra", "el", "fin", "gor", "hal", "in", "jor", "kel", "lum", "mar", "nor", "ost",
    "pel", "qua", "rin", "sol", "tar", "ul", "ven", "wor", "zet",
];

impl System {
    /// A system whose fault, if any, begins at an instant.
    pub(crate) fn new(dice: &mut Dice, onset: f64, before: f64, after: f64, faulty: bool) -> Self {
        let count = 5 + dice.below(dice.clone().pick(&[8, 16, 40]));
        let suffix = dice.pick(&["", "-service", "-svc", "service"]);
        // Some systems have a service that half of the others use.
        let hub = dice.chance(0.4).then(|| count / 2 + dice.below(count - count / 2));
        let mut services: Vec<Service> = vec![];
        for at in 0..count {
            let word = |dice: &mut Dice| format!("{}{}", dice.pick(&SYLLABLES), dice.pick(&SYLLABLES));
            let mut name = format!("{}{suffix}", word(dice));
            while services.iter().any(|known| known.name == name) {
                name = format!("{}-{}{suffix}", word(dice), word(dice));
            }
            services.push(Service {
                name,
                own: dice.magnitude(1.0, 40.0),
                callees: vec![],
                uses: [dice.magnitude(0.01, 1.0), dice.magnitude(0.1, 3.0), dice.magnitude(0.1, 10.0)],
                noise: dice.between(0.02, 0.2),
                rate: 0.0,
                pods: 1 + dice.below(3),
            });
            // Everybody but the first has a caller, some have two.
            let callers =
                [(at > 0).then(|| dice.below(at.max(1))), dice.chance(0.2).then(|| dice.below(at.max(1)))];
            for caller in callers.into_iter().flatten().filter(|_| at > 0) {
                let call = (at, dice.pick(&[0.3, 1.0, 1.0, 2.0]), dice.pick(&[0.2, 1.0, 1.0]));
                services[caller].callees.push(call);
            }
        }
        for (caller, service) in services.iter_mut().enumerate() {
            let Some(hub) = hub.filter(|hub| caller < *hub && dice.chance(0.4)) else { continue };
            service.callees.push((hub, 1.0, 1.0));
        }
        for service in &mut services {
            service.callees.sort_by_key(|(callee, ..)| *callee);
            service.callees.dedup_by_key(|(callee, ..)| *callee);
        }
        services[0].rate = dice.magnitude(5.0, 500.0);
        for at in 0..count {
            let rate = services[at].rate;
            for (callee, calls, _) in services[at].callees.clone() {
                services[callee].rate += rate * calls;
            }
        }
        let mut fault = dice.pick(&FAULTS);
        // Whoever is seldom called is seldom missed.
        let called = |at: &usize| services[*at].rate >= 0.2 * services[0].rate;
        let leaves: Vec<usize> =
            (1..count).filter(|at| services[*at].callees.is_empty()).filter(called).collect();
        let inner: Vec<usize> =
            (1..count).filter(|at| !services[*at].callees.is_empty()).filter(called).collect();
        let culprit = match fault {
            Fault::Surge => 0,
            Fault::SlowStore if !leaves.is_empty() => dice.pick(&leaves),
            Fault::EarlyReturn if !inner.is_empty() => dice.pick(&inner),
            _ => dice.pick(&(0..count).filter(called).collect::<Vec<_>>()),
        };
        if fault == Fault::EarlyReturn && services[culprit].callees.is_empty() {
            fault = Fault::Exception;
        }
        System {
            fault: faulty.then_some(fault),
            culprit,
            force: dice.share(),
            onset,
            ramp: if fault == Fault::Memory { after } else { dice.between(0.0, 30.0) },
            lasts: if dice.chance(0.75) { f64::INFINITY } else { dice.between(0.4, 1.0) * after },
            swing: (
                dice.pick(&[3600.0, 7200.0, 86_400.0]),
                dice.between(0.0, 0.35),
                dice.between(-0.05, 0.1),
            ),
            bystander: dice.chance(0.5).then(|| {
                (
                    dice.below(count),
                    onset - before + (before + after) * dice.between(0.5, 0.95),
                    dice.between(1.2, 1.8),
                )
            }),
            earlier: dice.chance(0.3).then(|| {
                (dice.below(count), onset - before * dice.between(0.3, 0.8), dice.between(60.0, 400.0))
            }),
            services,
            unfelt: false,
            part: 1.0,
            bursts: vec![],
        }
    }

    /// How much of the fault there is at an instant, 0 to 1.
    fn effect(&self, at: f64) -> f64 {
        let since = at - self.onset;
        if self.fault.is_none() || since < 0.0 || since > self.lasts {
            0.0
        } else {
            (since / self.ramp.max(1.0)).min(1.0) * self.part
        }
    }

    /// How every service fares at an instant, before noise.
    pub(crate) fn states(&self, at: f64) -> Vec<State> {
        let effect = self.effect(at);
        let times = 1.0 + (1.5 + 6.0 * self.force) * effect;
        let fault = self.fault.filter(|_| effect > 0.0);
        let (period, height, growth) = self.swing;
        let load =
            1.0 + height * (at / period * std::f64::consts::TAU).sin() + growth * (at - self.onset) / period;
        let surge = if fault == Some(Fault::Surge) { 1.0 + (1.0 + 3.0 * self.force) * effect } else { 1.0 };
        let mut states = vec![State::default(); self.services.len()];
        states[0].rate = self.services[0].rate * load.max(0.2) * surge;
        // From callers to those that they call: how much comes, and what that uses.
        for (number, service) in self.services.iter().enumerate() {
            let mut state = states[number];
            let busy = state.rate / service.rate.max(1e-9);
            state.own = service.own * if busy > 1.5 { busy.sqrt() } else { 1.0 };
            (state.tail, state.goes_on) = (3.0, 1.0);
            (state.cpu, state.memory, state.disk) = (0.2 + 0.8 * busy, 1.0, 0.5 + 0.5 * busy);
            (state.network, state.waiting) = (busy, 0.5 + 0.5 * busy);
            if let Some(fault) = fault.filter(|_| number == self.culprit) {
                let well = state;
                self.strike(fault, &mut state, times, effect);
                if self.unfelt {
                    (state.own, state.tail, state.own_errors) = (well.own, well.tail, well.own_errors);
                }
            }
            if let Some((_, _, more)) = self.bystander.filter(|(who, from, _)| *who == number && at >= *from)
            {
                (state.cpu, state.memory) = (state.cpu * more, state.memory * more);
            }
            if self
                .earlier
                .is_some_and(|(who, from, long)| who == number && (from..from + long).contains(&at))
            {
                state.own *= 4.0;
            }
            for burst in &self.bursts {
                let struck = self.fault.is_some() && number == self.culprit;
                if burst.at == number && !struck && (burst.from..burst.to).contains(&at) {
                    if burst.resource {
                        (state.cpu, state.memory) =
                            (state.cpu * burst.times, state.memory * burst.times.sqrt());
                    } else {
                        state.own *= burst.times;
                    }
                }
            }
            states[number] = state;
            for (callee, calls, _) in &service.callees {
                states[*callee].rate += state.rate * calls * state.goes_on;
            }
        }
        // And back: how long it takes, and what fails.
        for (number, service) in self.services.iter().enumerate().rev() {
            let mut state = states[number];
            let (mut latency, mut well, mut tail) =
                (state.own, 1.0 - state.own_errors, state.own * state.tail);
            for (callee, calls, passed_on) in &service.callees {
                let below = states[*callee];
                latency += calls * state.goes_on * below.latency;
                tail += calls.min(1.0) * state.goes_on * below.tail;
                well *= 1.0 - below.errors * passed_on * calls.min(1.0) * state.goes_on;
            }
            (state.latency, state.tail, state.errors) = (latency, tail.max(latency), 1.0 - well);
            if latency > 4.0 * self.usual(number) {
                // It keeps threads and connections for as long.
                state.waiting *= 2.0;
            }
            states[number] = state;
        }
        states
    }

    /// Milliseconds that a service takes in quiet times, with those that it calls.
    fn usual(&self, at: usize) -> f64 {
        let service = &self.services[at];
        service.own
            + service.callees.iter().map(|(callee, calls, _)| calls * self.usual_own(*callee)).sum::<f64>()
    }

    /// The same without what those call in turn: a bound is enough.
    fn usual_own(&self, at: usize) -> f64 {
        self.services[at].own
    }

    /// What a fault does at its service; `times` and `effect` say how much.
    fn strike(&self, fault: Fault, state: &mut State, times: f64, effect: f64) {
        let failing = (0.05 + 0.7 * self.force) * effect;
        match fault {
            Fault::Cpu => {
                state.cpu *= times;
                state.own *= 1.0 + 0.6 * (times - 1.0);
            }
            Fault::Memory => {
                state.memory *= 1.0 + (0.3 + 2.0 * self.force) * effect;
                state.own *= 1.0 + 0.2 * (times - 1.0);
                state.own_errors += 0.3 * self.force * effect;
            }
            Fault::Disk => {
                state.disk *= times * 2.0;
                state.own *= 1.0 + 0.5 * (times - 1.0);
            }
            Fault::Delay => {
                state.own += (30.0 + 400.0 * self.force) * effect;
                state.waiting *= 1.0 + effect;
            }
            Fault::Loss => {
                state.own *= 1.0 + 0.3 * (times - 1.0);
                state.tail *= times;
                state.own_errors += 0.15 * failing;
                state.network *= 1.0 - 0.3 * effect;
            }
            Fault::Pool => {
                state.waiting *= times * 2.0;
                state.own *= times;
                state.own_errors += 0.3 * failing;
                state.cpu *= 1.0 - 0.2 * effect;
            }
            Fault::Exception => {
                state.own_errors += failing;
                state.own *= 1.0 - 0.4 * failing;
                state.goes_on *= 1.0 - 0.8 * failing;
            }
            Fault::EarlyReturn => {
                state.goes_on *= 1.0 - effect;
                state.own *= 1.0 - 0.3 * effect;
                state.cpu *= 1.0 - 0.3 * effect;
            }
            Fault::SlowStore => {
                state.own *= times * 1.5;
                state.waiting *= times;
                state.disk *= 1.0 + self.force;
            }
            Fault::Gone => {
                state.own_errors = effect.ceil();
                state.goes_on = 0.0;
                state.gone = true;
            }
            Fault::Surge => {}
        }
    }
}
