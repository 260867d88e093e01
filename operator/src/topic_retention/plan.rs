//! What is to be done about one topic. Pure: the computing is in `weir-floors`.

use weir_floors::{
    Assessment, Policy,
    assess::Governance,
    exceptions::Exception,
    observed::Observed,
    policy::Hold,
    wanted::{Cause, Change, Wanted},
};

use super::memory::TopicMemory;

pub fn assess(
    memory: &mut TopicMemory,
    seen: &Observed,
    policies: &[Policy],
    holds: &[Hold],
    exceptions: &[Exception],
    now_ms: i64,
) -> Assessment {
    let policies: Vec<&Policy> = policies.iter().collect();
    let governance = Governance { policies: &policies, holds, exceptions };
    memory.history.assess(seen, &governance, now_ms)
}

/// What is raised now; what is lowered has to be in the audit log before.
pub fn raise(it: &Assessment) -> Option<&Change> {
    match &it.wanted {
        Wanted::Now(change) => match change.cause {
            Cause::Raise | Cause::Restore | Cause::Extend => Some(change),
            Cause::StepDown => None,
        },
        Wanted::HeldBack { .. } | Wanted::Nothing(_) => None,
    }
}

/// The topic as it is once a change was taken, without asking again.
pub fn after(mut seen: Observed, change: &Change) -> Observed {
    use weir_floors::config::{Setting, Source};
    if let Some(config) = &mut seen.config {
        for key in &change.keys {
            if let Some(value) = key.to.clone() {
                let inherited = config.get(key.key).and_then(|setting| setting.inherited.clone());
                config.insert(key.key.to_owned(), Setting { value, source: Source::Topic, inherited });
            }
        }
    }
    seen
}
