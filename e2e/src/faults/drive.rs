//! Does what the operator does, without pods: the next attempt at each unit that is not done and can be done, until
//! everything is verified.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use weir_crds::contract::result::Disposition;

use super::Error;
use super::attempt::{self, Attempt, End, describe};
use super::inject::Injector;
use super::job::Job;
use super::ready::Ready;

/// Attempts that may fail by the worker's own error, of one unit; as `execution.attempts` has it by default.
const OWN_FAILURES_MAX: u32 = 3;
/// Between an attempt that found something away and the next.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// How far a run may go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attempts at all units together.
    pub attempts: u32,
    /// The time for all of it.
    pub time: Duration,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// From the first start to the last end.
    pub took: Duration,
}

impl Report {
    /// Attempts that ended by a signal or at a failpoint.
    pub fn killed(&self) -> usize {
        self.attempts.iter().filter(|attempt| matches!(attempt.end, End::Killed)).count()
    }
}

/// Does a run to its end.
pub async fn drive(s3: &aws_sdk_s3::Client, job: &Job, injector: &mut dyn Injector, limits: Limits) -> Result<Report, Error> {
    let (started, mut report) = (Instant::now(), Report::default());
    let mut numbers = BTreeMap::<String, u32>::new();
    let mut own_failures = BTreeMap::<String, u32>::new();
    let mut running = JoinSet::new();
    let mut busy = BTreeSet::new();
    loop {
        let Some(ready) = Ready::look(s3, job).await? else {
            report.took = started.elapsed();
            return Ok(report);
        };
        for (unit, verb) in ready.units {
            if running.len() >= job.parallelism as usize || busy.contains(&unit) {
                continue;
            }
            let number = numbers.entry(unit.clone()).or_default();
            *number += 1;
            let harm = injector.harm(verb, *number);
            busy.insert(unit.clone());
            running.spawn(attempt::run(job.clone(), unit, verb, *number, harm));
        }
        let Some(ended) = running.join_next().await else { return Err(Error::Stuck { open: ready.open }) };
        let ended = ended.map_err(|_| Error::Died)??;
        tracing::debug!("{ended}");
        busy.remove(&ended.unit);
        injector.ended(&ended);
        judge(&ended, &mut own_failures).await?;
        let last = ended.to_string();
        report.attempts.push(ended);
        if report.attempts.len() >= limits.attempts as usize || started.elapsed() > limits.time {
            return Err(Error::NoEnd { attempts: limits.attempts, seconds: limits.time.as_secs(), last });
        }
    }
}

/// Whether the run goes on after an attempt.
async fn judge(attempt: &Attempt, own_failures: &mut BTreeMap<String, u32>) -> Result<(), Error> {
    let failed = |failures: String| Err(Error::RunFailed { unit: attempt.unit.clone(), failures });
    let failures = match &attempt.end {
        End::Done | End::Killed => return Ok(()),
        End::Mute(code) => return failed(format!("exit code {code} without a message")),
        End::Failed(failures) => failures,
    };
    for failure in failures {
        match failure.code.disposition() {
            Disposition::Final => return failed(describe(failures)),
            Disposition::UsesAttempt => {
                let own = own_failures.entry(attempt.unit.clone()).or_default();
                *own += 1;
                if *own >= OWN_FAILURES_MAX {
                    return failed(describe(failures));
                }
            }
            Disposition::Wait | Disposition::Stalled => tokio::time::sleep(AWAY_PAUSE).await,
            Disposition::Yielded => {}
        }
    }
    Ok(())
}
