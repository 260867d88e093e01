//! What can be done now of a run: units as the operator takes them, from the plan and the manifests.

use weir_crds::backfill_job::Ordering;
use weir_crds::contract::units::{PLAN_UNIT, UnitState, Verb, state, units};

use super::Error;
use super::job::Job;
use super::ledger::Ledger;

/// Units of a run that are not done.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Those that can be done now.
    pub units: Vec<(String, Verb)>,
    /// All of them, for a message.
    pub open: String,
}

impl Ready {
    /// Looks at the store; `None`: everything is done.
    pub async fn look(s3: &aws_sdk_s3::Client, job: &Job) -> Result<Option<Self>, Error> {
        let ledger = Ledger::new(s3, job);
        let Some(planned) = ledger.plan().await? else {
            return Ok(Some(Self { units: vec![(PLAN_UNIT.to_owned(), Verb::Plan)], open: PLAN_UNIT.to_owned() }));
        };
        let plan = planned.plan;
        let done = ledger.done(&plan).await?;
        let (mut ready, mut open) = (Vec::new(), Vec::new());
        for unit in units(&plan) {
            match state(&plan, &unit, &done, Ordering::PerKey) {
                UnitState::Done => continue,
                UnitState::Ready => ready.push((unit.id.clone(), unit.verb)),
                UnitState::Waiting | UnitState::Blocked => {}
            }
            open.push(unit.id);
        }
        Ok((!open.is_empty()).then(|| Self { units: ready, open: open.join(", ") }))
    }
}
