//! The units of a run as candidates for the next turn, and how long their Jobs should take. Pure.

use std::{collections::BTreeMap, time::Duration};

use weir_crds::contract::units::{PLAN_UNIT, Verb};

use super::{
    observed::LedgerView,
    schedule::Candidate,
    work::{Standing, Work, items},
};

/// What an item takes where none of its kind has been done yet: Jobs are cut to minutes of work.
const PLANNED_ITEM: Duration = Duration::from_secs(60);

/// The one unit before there is a plan.
pub fn plan_unit(standing: Standing) -> Candidate<'static> {
    Candidate { unit: PLAN_UNIT, verb: Verb::Plan, standing, planned: PLANNED_ITEM }
}

/// Units in the order in which they should run: what ends a slice before what begins one, earlier slices first.
pub fn candidates<'a>(work: &Work<'a>, view: &LedgerView) -> Vec<Candidate<'a>> {
    let seconds = item_seconds(view);
    let rank = |verb: Verb| match verb {
        Verb::Plan | Verb::Verify => 0,
        Verb::Publish => 1,
        Verb::Assemble => 2,
        Verb::Extract => 3,
    };
    let mut units: Vec<_> = work.units.iter().collect();
    units.sort_by_key(|u| (rank(u.verb), work.first_slice(u)));
    let planned = |verb: Verb, items: usize| {
        let item = seconds.get(&verb).map_or(PLANNED_ITEM, |s| Duration::try_from_secs_f64(*s).unwrap_or(PLANNED_ITEM));
        item.saturating_mul(u32::try_from(items).unwrap_or(u32::MAX))
    };
    units
        .into_iter()
        .map(|u| Candidate { unit: &u.id, verb: u.verb, standing: work.standing(u), planned: planned(u.verb, items(u).len()) })
        .collect()
}

/// What an item of each verb took so far, on average.
fn item_seconds(view: &LedgerView) -> BTreeMap<Verb, f64> {
    let mean = |seconds: Vec<f64>| seconds.iter().sum::<f64>() / seconds.len() as f64;
    let of = &view.manifests;
    [
        (Verb::Extract, of.extracted.values().map(|m| m.seconds).collect::<Vec<_>>()),
        (Verb::Assemble, of.staged.values().map(|m| m.seconds).collect()),
        (Verb::Publish, of.published.values().map(|m| m.seconds).collect()),
        (Verb::Verify, of.verified.values().map(|m| m.seconds).collect()),
    ]
    .into_iter()
    .filter(|(_, seconds)| !seconds.is_empty())
    .map(|(verb, seconds)| (verb, mean(seconds)))
    .collect()
}
