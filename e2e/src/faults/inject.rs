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

/// Every fault of a list, each once; one attempt suffers one of them. What an attempt did not come to is tried again with
/// another, and with another run.
#[derive(Debug)]
pub struct EachStep {
    /// Each with whether it was tried in this run, and the attempt did not come to it.
    open: BTreeMap<Verb, Vec<(bool, Fault)>>,
    /// What has fired, by verb.
    pub fired: Vec<(Verb, Fault)>,
}

impl EachStep {
    /// Of what an undisturbed run came to: at each point the first hits and one further on, as the seed has it.
    pub fn of(undisturbed: &Undisturbed, first_hits: u64, seed: u64) -> Self {
        let mut random = Random::of(seed, 0);
        let mut open = BTreeMap::<Verb, Vec<(bool, Fault)>>::new();
        for ((verb, point), most) in &undisturbed.hits {
            let mut hits: Vec<u64> = (1..=first_hits.min(*most)).collect();
            if *most > 2 * first_hits {
                hits.push(first_hits + 1 + random.below(most.div_ceil(2) - first_hits));
            }
            for action in actions(point) {
                let faults = hits.iter().map(|hit| (false, Fault { point: point.clone(), hit: *hit, action }));
                open.entry(*verb).or_default().extend(faults);
            }
        }
        for faults in open.values_mut() {
            shuffle(faults, &mut random);
        }
        Self { open, fired: Vec::new() }
    }

    /// Before another run: everything is worth another try.
    pub fn another_run(&mut self) {
        self.open.values_mut().flatten().for_each(|(tried, _)| *tried = false);
    }

    /// What has not fired.
    pub fn open(&self) -> Vec<(Verb, Fault)> {
        self.open.iter().flat_map(|(verb, faults)| faults.iter().map(|(_, fault)| (*verb, fault.clone()))).collect()
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

impl Injector for EachStep {
    fn harm(&mut self, verb: Verb, attempt: u32) -> Harm {
        let Some(open) = self.open.get_mut(&verb) else { return Harm::default() };
        // Only a first attempt has all items before it, and comes to a point often.
        let key = |(tried, fault): &(bool, Fault)| (*tried, if attempt == 1 { u64::MAX - fault.hit } else { fault.hit });
        let next = (0..open.len()).min_by_key(|index| key(&open[*index]));
        let fault = next.map(|index| open.swap_remove(index).1);
        Harm { faults: fault.into_iter().collect(), ..Harm::default() }
    }

    fn ended(&mut self, attempt: &Attempt) {
        for fault in &attempt.harm.faults {
            let has_fired = attempt.fired.contains(&Fired { point: fault.point.clone(), hit: fault.hit, action: fault.action.to_owned() });
            if has_fired {
                self.fired.push((attempt.verb, fault.clone()));
            } else {
                self.open.entry(attempt.verb).or_default().push((true, fault.clone()));
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
        self.killed += u32::from(matches!(attempt.end, super::attempt::End::Killed));
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
