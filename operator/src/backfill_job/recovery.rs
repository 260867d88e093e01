//! Whether the run in the store is the one that the spec means: a step of [`super::decide`]. Pure.

use std::ops::ControlFlow::{Break, Continue};

use weir_crds::contract::run::RunSpec;

use super::{
    authority::{self, Class},
    decide::{Step, Stop, digest_text, stay},
    decision::Decision,
    observed::{LedgerView, Observed, RunFile},
    phase::{Hold, Stage},
    wait::Wait,
};

/// An object that was created again under the generation of another recovery neither ends nor takes over that one.
pub fn another_recovery(seen: &Observed, view: &LedgerView, stop: Option<Stop>) -> Step<()> {
    let shown = seen.job.status.as_ref().and_then(|s| s.run.as_ref());
    let Ok(class) = authority::class(seen) else { return Continue(()) };
    let Some(run) = &view.run else {
        // Only what was read is shown: this is another store than it was, or somebody has emptied it.
        let Some(shown) = shown.filter(|r| r.generation == view.run_id.generation) else { return Continue(()) };
        let message = format!(
            "run {} has begun, and its run.json is not below {}, where class {} has its artifacts: set the class's artifactStore back or \
             restore the objects; if nothing of it was published, another run may begin here: raise spec.runGeneration",
            shown.id, view.uri, class.name
        );
        return Break(stay(seen, stop, Wait::RunNotInStore, message));
    };
    if shown.is_some_and(|r| r.digest == digest_text(run.digest)) {
        return Continue(());
    }
    match spec_differs(seen, view, run, &class) {
        None => Continue(()),
        Some(message) => Break(Decision::new(Stage::Unbegun, Hold::Nothing).wait(Wait::SpecDiffersFromRun, message)),
    }
}

/// What to say when the spec resolves to another run than the one that lies in the store under its generation.
pub fn spec_differs(seen: &Observed, view: &LedgerView, run: &RunFile, class: &Class<'_>) -> Option<String> {
    let wanted = RunSpec::resolve(view.run_id.clone(), &seen.job.spec, class.name, &class.class.spec).to_bytes();
    if seen.job.spec.run_generation < view.run_id.generation || run.bytes == wanted {
        return None;
    }
    let fields = differences(&run.bytes, &wanted).join(", ");
    let id = &view.run_id;
    Some(format!(
        "run {id} was begun with another content of: {fields}; set it back, or raise spec.runGeneration to run with the new content"
    ))
}

/// The fields of a run file that differ, by name.
fn differences(a: &[u8], b: &[u8]) -> Vec<String> {
    let fields = |bytes: &[u8]| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes).unwrap_or_default();
    let (a, b) = (fields(a), fields(b));
    a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).filter(|k| a.get(*k) != b.get(*k)).cloned().collect()
}
