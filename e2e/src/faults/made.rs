//! Every Job that was ever made in a namespace: the operator deletes those that are done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::task::JoinHandle;

use crate::fixture::Fixture;

/// The watch, until it is dropped.
#[derive(Debug)]
pub struct Made {
    /// Each by its UID: one that is made again under its name is another one.
    names: Arc<Mutex<BTreeMap<String, String>>>,
    watch: JoinHandle<()>,
}

impl Made {
    /// Begins to watch a fixture's namespace.
    pub fn watch(fixture: &Fixture) -> Self {
        let api: Api<Job> = Api::namespaced(fixture.cluster.kube.clone(), &fixture.namespace);
        let names = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = Arc::clone(&names);
        let watch = tokio::spawn(async move {
            let mut jobs = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().touched_objects());
            while let Some(job) = jobs.next().await {
                // An apiserver that is away is watched again.
                let Ok(job) = job else { continue };
                let name = job.name_any();
                seen.lock().unwrap_or_else(PoisonError::into_inner).insert(job.metadata.uid.unwrap_or_default(), name);
            }
        });
        Self { names, watch }
    }

    /// Those of a generation, without what names the generation in them.
    pub fn of(&self, generation: u32) -> BTreeSet<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        of(names.values(), generation)
    }

    /// Whether an attempt at a unit of a generation was made.
    pub fn has(&self, generation: u32, unit: &str, attempt: u32) -> bool {
        self.of(generation).contains(&format!("{unit}-a{attempt}"))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// One that was made more than once under its name is there by as many names, which no attempt has.
fn of<'a>(names: impl Iterator<Item = &'a String>, generation: u32) -> BTreeSet<String> {
    let part = format!("-g{generation}-");
    let mut made = BTreeSet::new();
    for name in names.filter_map(|name| Some(name.split_once(&part)?.1)) {
        let mut name = name.to_owned();
        while !made.insert(name.clone()) {
            name.push_str(", again");
        }
    }
    made
}

/// What is wrong with the Jobs of a generation that lost these attempts: an undisturbed run makes one of each unit, and each
/// lost attempt is followed by one more. Of `lost`, each names its unit.
pub fn wrong(made: &BTreeSet<String>, lost: &[String]) -> Vec<String> {
    let mut attempts = BTreeMap::<&str, BTreeSet<u32>>::new();
    for name in made {
        let (unit, attempt) = name.rsplit_once("-a").unwrap_or((name, ""));
        attempts.entry(unit).or_default().insert(attempt.parse().unwrap_or_default());
    }
    let unknown = lost.iter().filter(|unit| !attempts.contains_key(unit.as_str())).map(|unit| format!("{unit}: no Job"));
    let many = |unit: &str| 1 + lost.iter().filter(|lost| *lost == unit).count() as u32;
    let wrong = attempts.iter().filter(|(unit, attempts)| **attempts != (1..=many(unit)).collect());
    wrong.map(|(unit, attempts)| format!("{unit}: attempts {attempts:?}, {} expected", many(unit))).chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lost_attempt_is_followed_by_one_job_and_no_other_is_made() {
        let made = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let lost = |units: &[&str]| units.iter().map(|unit| (*unit).to_owned()).collect::<Vec<_>>();
        let undisturbed = made(&["plan-a1", "extract-0000-a1"]);
        assert!(wrong(&undisturbed, &[]).is_empty());
        let one_more = made(&["plan-a1", "extract-0000-a1", "extract-0000-a2"]);
        assert!(wrong(&one_more, &lost(&["extract-0000"])).is_empty());
        assert_eq!(wrong(&one_more, &[]).len(), 1, "one that nobody needed");
        assert_eq!(wrong(&undisturbed, &lost(&["plan"])).len(), 1, "one that is missing");
        assert_eq!(wrong(&one_more, &lost(&["plan", "extract-0000"])).len(), 1);
        assert_eq!(wrong(&undisturbed, &lost(&["verify-0000"])).len(), 1, "a unit that there is not");
        assert_eq!(wrong(&made(&["plan-a1", "plan-a3"]), &lost(&["plan"])).len(), 1, "a number that is left out");
        let names = ["lake-g1-plan-a1", "lake-g2-plan-a1", "lake-g1-plan-a1"].map(str::to_owned);
        assert_eq!(wrong(&of(names[..2].iter(), 1), &[]), Vec::<String>::new());
        assert_eq!(wrong(&of(names.iter(), 1), &[]).len(), 1, "one that was made twice under its name");
    }
}
