//! How a BackfillJob moves from phase to phase: the whole of it, pure. The phase is only shown; what is done follows from
//! the artifact store, and [`follows`] is what a watcher may rely on.

use weir_crds::{backfill_job::Phase, contract::result::Outcome};

/// How far a run is, by what lies in the artifact store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No `run.json`.
    Unbegun,
    /// No `plan.json`.
    Unplanned,
    /// The plan waits for its hash to be approved.
    Unapproved,
    /// Something is not yet published.
    Working,
    /// Everything is published, something not yet verified.
    Verifying,
    /// `outcome.json`.
    Over(Outcome),
}

/// What holds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Nothing,
    /// `spec.suspend`, and no worker is left.
    Suspended,
    /// `spec.cancel`, and nothing that an outcome could be written to.
    Canceled,
    /// The spec cannot run as it is. Before the run has begun, another spec cures it.
    Refused,
}

pub const fn phase(stage: Stage, hold: Hold) -> Phase {
    match (stage, hold) {
        (Stage::Over(Outcome::Completed), _) => Phase::Complete,
        (Stage::Over(Outcome::Failed), _) => Phase::Failed,
        (Stage::Over(Outcome::Canceled), _) => Phase::Canceled,
        (_, Hold::Canceled) => Phase::Canceled,
        (_, Hold::Suspended) => Phase::Suspended,
        (_, Hold::Refused) => Phase::Failed,
        (Stage::Unbegun, Hold::Nothing) => Phase::Pending,
        (Stage::Unplanned, Hold::Nothing) => Phase::Planning,
        (Stage::Unapproved, Hold::Nothing) => Phase::AwaitingApproval,
        (Stage::Working, Hold::Nothing) => Phase::Running,
        (Stage::Verifying, Hold::Nothing) => Phase::Verifying,
    }
}

/// Whether `to` may be seen after `from` within one generation. A phase that passes between two looks may be skipped.
pub const fn follows(from: Phase, to: Phase) -> bool {
    match (from, to) {
        (Phase::Complete, Phase::Complete) | (Phase::Canceled, Phase::Canceled) => true,
        (Phase::Complete | Phase::Canceled, _) => false,
        // Failed before the run has begun is cured by another spec; Failed by outcome stays.
        (Phase::Failed, Phase::Failed | Phase::Pending | Phase::Planning | Phase::Suspended | Phase::Canceled) => true,
        (Phase::Failed, Phase::AwaitingApproval | Phase::Running | Phase::Verifying | Phase::Complete) => false,
        (_, Phase::Failed | Phase::Canceled | Phase::Suspended) => true,
        (Phase::Suspended, _) => true,
        (Phase::Pending, _) => true,
        (Phase::Planning, Phase::Pending) => false,
        (Phase::Planning, _) => true,
        (Phase::AwaitingApproval, Phase::Pending | Phase::Planning) => false,
        (Phase::AwaitingApproval, _) => true,
        (Phase::Running, Phase::Running | Phase::Verifying | Phase::Complete) => true,
        // The hash may be taken back while the run goes on: then it waits again.
        (Phase::Running | Phase::Verifying, Phase::AwaitingApproval) => true,
        (Phase::Running, Phase::Pending | Phase::Planning) => false,
        (Phase::Verifying, Phase::Verifying | Phase::Complete) => true,
        (Phase::Verifying, Phase::Pending | Phase::Planning | Phase::Running) => false,
    }
}

/// Whether nothing of this generation will ever change any more.
pub const fn is_over(phase: Phase) -> bool {
    match phase {
        Phase::Complete | Phase::Failed | Phase::Canceled => true,
        Phase::Pending | Phase::Planning | Phase::AwaitingApproval | Phase::Running | Phase::Verifying | Phase::Suspended => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 8] = [
        Stage::Unbegun,
        Stage::Unplanned,
        Stage::Unapproved,
        Stage::Working,
        Stage::Verifying,
        Stage::Over(Outcome::Completed),
        Stage::Over(Outcome::Failed),
        Stage::Over(Outcome::Canceled),
    ];

    #[test]
    fn what_is_over_is_not_held_by_anything() {
        for stage in STAGES.into_iter().filter(|s| matches!(s, Stage::Over(_))) {
            for hold in [Hold::Nothing, Hold::Suspended, Hold::Canceled, Hold::Refused] {
                assert_eq!(phase(stage, hold), phase(stage, Hold::Nothing));
                assert!(is_over(phase(stage, hold)));
            }
        }
    }

    #[test]
    fn a_run_moves_forward_through_its_stages() {
        for (index, from) in STAGES.into_iter().enumerate().take(5) {
            for (later, to) in STAGES.into_iter().enumerate() {
                let (a, b) = (phase(from, Hold::Nothing), phase(to, Hold::Nothing));
                let back_to_approval = to == Stage::Unapproved;
                assert_eq!(follows(a, b), later >= index || back_to_approval, "{a:?} -> {b:?}");
            }
            assert!(follows(phase(from, Hold::Nothing), Phase::Suspended));
            assert!(follows(Phase::Suspended, phase(from, Hold::Nothing)));
        }
    }

    #[test]
    fn nothing_follows_the_end_but_the_end() {
        for over in [Phase::Complete, Phase::Canceled] {
            for stage in STAGES {
                let to = phase(stage, Hold::Nothing);
                assert_eq!(follows(over, to), over == to);
            }
        }
        assert!(!follows(Phase::Failed, Phase::Running));
    }
}
