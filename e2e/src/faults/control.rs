//! Runs without one of the guards: each must do the harm that the guard is there to prevent, and no other.

use anyhow::{bail, ensure};
use weir_crds::contract::result::FailureCode;
use weir_failpoints::Guard;

use super::Error;
use super::attempt::Fired;
use super::matrix::Outcome;
use super::table::Table;

/// A table of such runs.
pub fn table(name: &str, title: &str) -> Table {
    let about = "The same fault, with all guards in place and with one of them taken out.";
    Table::new(name, title, about, &["guard", "with all guards", "without it"])
}

/// Whether a worker came to a guard that was taken out.
pub fn was_asked(fired: &[Fired], guard: Guard) -> bool {
    fired.iter().any(|fired| fired.point == format!("guard:{}", guard.name()))
}

/// Adds the row of a guard that stood in nobody's way: its absence must have harmed the topic, or have made the run fail with
/// `code`. Any other failure proves nothing.
pub fn must_harm(
    table: &mut Table,
    guard: Guard,
    fired: &[Fired],
    outcome: Result<Outcome, Error>,
    code: FailureCode,
) -> anyhow::Result<()> {
    ensure!(was_asked(fired, guard), "{} was asked nothing", guard.name());
    let harm = match outcome {
        Err(Error::RunFailed { failures, .. }) if failures.starts_with(&format!("{code:?}:")) => format!("the run fails: {failures}"),
        Err(error) => return Err(error.into()),
        Ok(outcome) if outcome.differences.is_none() => bail!("nothing notices the absence of {}: it needs a better test", guard.name()),
        Ok(outcome) => outcome.differences.to_string(),
    };
    Ok(table.row(&[guard.name(), "nothing", &harm])?)
}
