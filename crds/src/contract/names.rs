//! Names that are derived, so that two who derive them agree.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::digest::Sha256Digest;

/// One generation of one BackfillJob: `<namespace>/<name>/<generation>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunId {
    pub namespace: String,
    pub name: String,
    pub generation: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.name, self.generation)
    }
}

/// Kafka's limit on `transactional.id` is that of a string; this bound keeps logs and progress keys readable.
const TRANSACTIONAL_ID_LENGTH_MAX: usize = 200;
/// One fills a transaction, the other is initialised meanwhile: that takes some 60 ms after a commit, now and then half
/// a second, and a transaction is open for about as long or longer. Each more would be initialised for every session, which
/// takes some 4 ms of CPU time.
const ROTATING_IDS: u32 = 2;
/// Of a Kubernetes label value and of a pod's host name.
const JOB_NAME_LENGTH_MAX: usize = 63;
const JOB_NAME_HEAD_LENGTH_MAX: usize = 26;

/// Who publishes to a bucket. Without the generation, so that a new run fences the last one's zombies. `target` is
/// `<sink>` and the bucket's number in it.
pub fn transactional_id(namespace: &str, name: &str, bucket: &str) -> String {
    let id = format!("weir.{namespace}.{name}.{bucket}");
    if id.len() <= TRANSACTIONAL_ID_LENGTH_MAX {
        return id;
    }
    let hash = Sha256Digest::of(id.as_bytes()).short();
    let head: String = id.chars().take(TRANSACTIONAL_ID_LENGTH_MAX - hash.len() - 1).collect();
    format!("{head}.{hash}")
}

/// The transactional ids that a bucket's publisher uses in rotation, beside the bucket's own, which only says who holds the
/// bucket. Their number may change from version to version: what a holder may have used is recorded with it
/// ([`super::progress::BucketHolder`]), and whoever takes over fences all of those.
pub fn rotating_ids(transactional_id: &str) -> Vec<String> {
    (0..ROTATING_IDS).map(|number| format!("{transactional_id}.{number}")).collect()
}

/// The compacted topic that a namespace's publishers keep their progress in.
pub fn progress_topic(namespace: &str) -> String {
    format!("weir.{namespace}.progress")
}

/// The key of a generation's progress record.
pub fn progress_key(transactional_id: &str, generation: u32) -> String {
    format!("{transactional_id}/g{generation}")
}

/// The key of the record that says who holds a bucket.
pub fn holder_key(transactional_id: &str) -> String {
    format!("{transactional_id}/holder")
}

/// The Job of one attempt at a unit of work: a DNS label, the same whoever derives it.
pub fn job_name(run: &RunId, unit: &str, attempt: u32) -> String {
    let hash = Sha256Digest::of(format!("{}/{}", run.namespace, run.name).as_bytes()).short();
    let head: String = run.name.chars().take(JOB_NAME_HEAD_LENGTH_MAX).map(|c| if c == '.' { '-' } else { c }).collect();
    let name = format!("{}-{}-g{}-{unit}-a{attempt}", head.trim_end_matches('-'), &hash[..8], run.generation);
    debug_assert!(name.len() <= JOB_NAME_LENGTH_MAX, "{name} is too long for a Job");
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_bounds_and_apart() {
        let run = |name: String| RunId { namespace: "n".into(), name, generation: 999 };
        let (a, b) = (
            job_name(&run("x".repeat(200)), "publish-0999-07", 999),
            job_name(&run(format!("{}y", "x".repeat(199))), "publish-0999-07", 999),
        );
        assert!(a.len() <= JOB_NAME_LENGTH_MAX && a != b, "{a} {b}");
        let (a, b) = (transactional_id("n", &"x".repeat(253), "events-0"), transactional_id("n", &"x".repeat(253), "events-1"));
        assert!(a.len() <= TRANSACTIONAL_ID_LENGTH_MAX && a != b);
        assert_eq!(transactional_id("growth", "gap", "events-3"), "weir.growth.gap.events-3");
    }
}
