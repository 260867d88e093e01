//! What attempts have to suffer: nothing, a fault at each step in turn, or SIGKILL at random.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_crds::contract::units::Verb;
use weir_failpoints::Guard;

use super::attempt::{Attempt, Fault, Fired, Harm};
use crate::novashop::random::Random;

/// Decides what each attempt has to suffer.
pub trait Injector: Send {
    /// Before an attempt starts.
    fn harm(&mut self, verb: Verb, attempt: u32) -> Harm;

    /// When it is over.
    fn ended(&mut self, attempt: &Attempt);
}

/// Nothing happens; every failpoint that is come to is noted.
#[derive(Debug, Default)]
pub struct Undisturbed {
    /// By verb and point: the most hits that one attempt had.
    pub hits: BTreeMap<(Verb, String), u64>,
    /// By verb: the longest attempt.
    pub took: BTreeMap<Verb, Duration>,
}

impl Injector for Undisturbed {
    fn harm(&mut self, _: Verb, _: u32) -> Harm {
        Harm { faults: vec![Fault { point: "*".to_owned(), hit: 0, action: "trace" }], ..Harm::default() }
    }

    fn ended(&mut self, attempt: &Attempt) {
        for fired in &attempt.fired {
            let hits = self.hits.entry((attempt.verb, fired.point.clone())).or_default();
            *hits = (*hits).max(fired.hit);
        }
        let took = self.took.entry(attempt.verb).or_default();
        *took = (*took).max(attempt.took);
    }
}

/// What can happen at a point, by its name.
pub fn actions(point: &str) -> &'static [&'static str] {
    match point.rsplit_once('.').map(|(_, kind)| kind) {
        Some("send") => &["kill", "kill-soon", "fail"],
        Some("done") => &["kill", "lose"],
        _ => &["kill"],
    }
}

/// So often a fault at one of the first hits is tried there.
const TRIES_OF_FIRST_HITS: u32 = 4;

/// Every fault of a list, each once; one attempt suffers one of them. What an attempt did not come to is tried again with
/// another, when all others have had their turn.
#[derive(Debug)]
pub struct EachStep {
    open: BTreeMap<Verb, Vec<Fault>>,
    /// How often each was tried.
    tries: BTreeMap<(Verb, Fault), u32>,
    first_hits: u64,
    /// What has fired, by verb.
    pub fired: Vec<(Verb, Fault)>,
}

impl EachStep {
    /// Of what an undisturbed run came to: at each point the first hits and one further on, as the seed has it.
    pub fn of(undisturbed: &Undisturbed, first_hits: u64, seed: u64) -> Self {
        let mut random = Random::of(seed, 0);
        let mut open = BTreeMap::<Verb, Vec<Fault>>::new();
        for ((verb, point), most) in &undisturbed.hits {
            let mut hits: Vec<u64> = (1..=first_hits.min(*most)).collect();
            if *most > 2 * first_hits {
                hits.push(first_hits + 1 + random.below(most.div_ceil(2) - first_hits));
            }
            for action in actions(point) {
                let faults = hits.iter().map(|hit| Fault { point: point.clone(), hit: *hit, action });
                open.entry(*verb).or_default().extend(faults);
            }
        }
        for faults in open.values_mut() {
            shuffle(faults, &mut random);
        }
        Self { open, tries: BTreeMap::new(), first_hits, fired: Vec::new() }
    }

    /// At which hit a fault is tried next. How often a worker comes to a point is in part a matter of time: what lies far on is
    /// asked for sooner when it was missed, and the first hits when they were missed again and again.
    fn sooner(&self, verb: Verb, fault: &Fault) -> u64 {
        let tries = self.tries.get(&(verb, fault.clone())).copied().unwrap_or_default();
        let is_far = fault.hit > self.first_hits || tries >= TRIES_OF_FIRST_HITS;
        if is_far { (fault.hit - fault.hit.div_ceil(4)).max(1) } else { fault.hit }
    }

    /// What has not fired.
    pub fn open(&self) -> Vec<(Verb, Fault)> {
        self.open.iter().flat_map(|(verb, faults)| faults.iter().map(|fault| (*verb, fault.clone()))).collect()
    }
}

/// Every order is as likely as any other.
pub fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

impl Injector for EachStep {
    fn harm(&mut self, verb: Verb, attempt: u32) -> Harm {
        let Some(open) = self.open.get_mut(&verb) else { return Harm::default() };
        let tried = |fault: &Fault| self.tries.get(&(verb, fault.clone())).copied().unwrap_or_default();
        // Only a first attempt has all items before it, and comes to a point often.
        let key = |fault: &Fault| (tried(fault), if attempt == 1 { u64::MAX - fault.hit } else { fault.hit });
        let Some(next) = (0..open.len()).min_by_key(|index| key(&open[*index])) else { return Harm::default() };
        let fault = open.swap_remove(next);
        *self.tries.entry((verb, fault.clone())).or_default() += 1;
        Harm { faults: vec![fault], ..Harm::default() }
    }

    fn ended(&mut self, attempt: &Attempt) {
        for fault in &attempt.harm.faults {
            if attempt.has_suffered(fault) {
                self.fired.push((attempt.verb, fault.clone()));
            } else {
                let hit = self.sooner(attempt.verb, fault);
                self.open.entry(attempt.verb).or_default().push(Fault { hit, ..fault.clone() });
            }
        }
    }
}

/// SIGKILL at a random time of each attempt, so many times; then nothing.
#[derive(Debug)]
pub struct AtRandom {
    random: Random,
    took: BTreeMap<Verb, Duration>,
    left: u32,
    /// Attempts that were killed.
    pub killed: u32,
}

impl AtRandom {
    /// `took`: how long attempts take when nothing happens.
    pub fn new(seed: u64, took: &BTreeMap<Verb, Duration>, kills: u32) -> Self {
        Self { random: Random::of(seed, 1), took: took.clone(), left: kills, killed: 0 }
    }
}

impl Injector for AtRandom {
    fn harm(&mut self, verb: Verb, _: u32) -> Harm {
        if self.left == 0 {
            return Harm::default();
        }
        self.left -= 1;
        let most = self.took.get(&verb).copied().unwrap_or(Duration::from_secs(1));
        Harm { kill_after: Some(most.mul_f64(self.random.fraction())), ..Harm::default() }
    }

    fn ended(&mut self, attempt: &Attempt) {
        if matches!(attempt.end, super::attempt::End::Killed) {
            self.killed += 1;
        } else if let (Some(_), Some(most)) = (attempt.harm.kill_after, self.took.get_mut(&attempt.verb)) {
            // It was over sooner: when nothing happened the machine was busier.
            *most = (*most + attempt.took.min(*most)) / 2;
        }
    }
}

/// The same harm for every attempt of a verb, up to an attempt.
#[derive(Clone, Debug)]
pub struct Always {
    /// Whose attempts.
    pub verb: Verb,
    /// What they suffer.
    pub harm: Harm,
    /// Up to which attempt of a unit.
    pub until: u32,
    /// What does not protect any attempt of any verb.
    pub guards_out: Vec<Guard>,
    /// What fired.
    pub fired: Vec<Fired>,
}

impl Injector for Always {
    fn harm(&mut self, verb: Verb, attempt: u32) -> Harm {
        let harm = if verb == self.verb && attempt <= self.until { self.harm.clone() } else { Harm::default() };
        Harm { guards_out: self.guards_out.clone(), ..harm }
    }

    fn ended(&mut self, attempt: &Attempt) {
        self.fired.extend(attempt.fired.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::attempt::End;
    use super::*;

    /// An attempt that came to its fault and went on to its end.
    fn unmoved(harm: Harm, went_back: bool) -> Attempt {
        let fired = harm.faults.iter();
        let fired = fired.map(|fault| Fired { point: fault.point.clone(), hit: fault.hit, action: fault.action.to_owned() }).collect();
        let (unit, took) = ("publish-0000-0".to_owned(), Duration::ZERO);
        Attempt { unit, verb: Verb::Publish, number: 1, harm, fired, went_back, end: End::Done, took }
    }

    fn steps(point: &str) -> EachStep {
        let hits = BTreeMap::from([((Verb::Publish, point.to_owned()), 1)]);
        EachStep::of(&Undisturbed { hits, took: BTreeMap::new() }, 1, 1)
    }

    #[test]
    fn a_step_of_a_transaction_that_nobody_missed_has_not_fired() {
        for point in ["kafka.records.send", "kafka.records.done", "kafka.deliver.send"] {
            let mut steps = steps(point);
            let asked: Vec<&str> = steps.open().iter().map(|(_, fault)| fault.action).collect();
            let kept_back = if point.ends_with(".send") { "fail" } else { "lose" };
            assert!(asked.contains(&kept_back), "{point}: {asked:?}");
            loop {
                let harm = steps.harm(Verb::Publish, 1);
                if harm.faults[0].action == kept_back {
                    steps.ended(&unmoved(harm.clone(), false));
                    assert!(steps.open().iter().any(|(_, fault)| *fault == harm.faults[0]) && steps.fired.is_empty(), "{point}");
                    steps.ended(&unmoved(harm.clone(), true));
                    assert_eq!(steps.fired.pop().unwrap().1, harm.faults[0]);
                    break;
                }
            }
        }
    }

    #[test]
    fn what_lies_too_far_on_keeps_nothing_else_from_its_turn() {
        const REACHED: u64 = 2;
        let hits = ["kafka.init.done", "store.once.done"].map(|point| ((Verb::Publish, point.to_owned()), 400));
        let mut steps = EachStep::of(&Undisturbed { hits: hits.into(), took: BTreeMap::new() }, 3, 1);
        let all = steps.open().len();
        for _ in 0..20 * all {
            let harm = steps.harm(Verb::Publish, 1);
            let mut attempt = unmoved(harm, false);
            attempt.fired.retain(|fired| fired.hit <= REACHED);
            steps.ended(&attempt);
        }
        assert!(steps.open().is_empty() && steps.fired.len() == all, "{:?}", steps.open());
    }

    #[test]
    fn what_the_store_keeps_back_is_asked_for_again_and_has_fired() {
        let mut steps = steps("store.once.done");
        while !steps.open().is_empty() {
            let harm = steps.harm(Verb::Publish, 1);
            steps.ended(&unmoved(harm, false));
        }
        assert_eq!(steps.fired.len(), actions("store.once.done").len());
    }
}
