//! One attempt at one unit: the worker's process with what it has to suffer, from its start to its end.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;
use weir_crds::contract::result::{Failure, WorkerResult};
use weir_crds::contract::units::Verb;
use weir_failpoints::{FAULTS_ENV, FIRED_ENV, GUARDS_OUT_ENV, Guard};

use super::Error;
use super::job::Job;
use crate::supervisor::{Process, Signal};

/// No attempt at this job takes so long, even where it waits for a broker that is away.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(420);

/// What a publisher says when a transaction has failed.
const GOES_BACK: [&str; 2] = ["\"starting over\"", "\"aborting and going back\""];

/// The steps of a transaction. Initialising is none: it may be that of a producer which nobody needs any more.
const STEPS: [&str; 4] = ["kafka.begin.", "kafka.records.", "kafka.deliver.", "kafka.commit."];

/// How often to look whether something has fired.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A fault at a failpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The failpoint.
    pub point: String,
    /// At which hit, from 1; 0: at each.
    pub hit: u64,
    /// As the variable has it.
    pub action: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.point, self.hit, self.action)
    }
}

impl Fault {
    /// Whether a transaction must fail by it.
    fn fails_a_transaction(&self) -> bool {
        matches!(self.action, "fail" | "lose") && STEPS.iter().any(|step| self.point.starts_with(step))
    }
}

/// What an attempt has to suffer.
#[derive(Clone, Debug, Default)]
pub struct Harm {
    /// At failpoints.
    pub faults: Vec<Fault>,
    /// SIGKILL so long after the start.
    pub kill_after: Option<Duration>,
    /// What does not protect it.
    pub guards_out: Vec<Guard>,
    /// Variables of its environment that are not as the driver sets them.
    pub variables: Vec<(&'static str, String)>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum End {
    /// Well.
    Done,
    /// By a signal, as it was to: after its time, or at a failpoint.
    Killed,
    /// With a message.
    Failed(Vec<Failure>),
    /// With an exit code and no message. A signal's is 128 and its number.
    Mute(i32),
}

/// A failpoint that fired: its name, the hit, and the action.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fired {
    /// The failpoint.
    pub point: String,
    /// Which hit of this process.
    pub hit: u64,
    /// What happened.
    pub action: String,
}

/// One attempt, over.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The unit.
    pub unit: String,
    /// Its verb.
    pub verb: Verb,
    /// From 1.
    pub number: u32,
    /// What it had to suffer.
    pub harm: Harm,
    /// What it did suffer.
    pub fired: Vec<Fired>,
    /// Whether it said that it goes back for a transaction that has failed.
    pub went_back: bool,
    /// How it ended.
    pub end: End,
    /// How long it took.
    pub took: Duration,
}

impl Attempt {
    /// Whether a fault has fired and has done something: a worker that goes on after a step of a transaction was kept back from
    /// it has not noticed.
    pub fn has_suffered(&self, fault: &Fault) -> bool {
        let wanted = Fired { point: fault.point.clone(), hit: fault.hit, action: fault.action.to_owned() };
        let noticed = self.went_back || matches!(self.end, End::Failed(_));
        self.fired.contains(&wanted) && (noticed || !fault.fails_a_transaction())
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "attempt {} at {} ({} ms): ", self.number, self.unit, self.took.as_millis())?;
        match &self.end {
            End::Done => formatter.write_str("done"),
            End::Killed => formatter.write_str("killed"),
            End::Failed(failures) => formatter.write_str(&describe(failures)),
            End::Mute(code) => write!(formatter, "exit code {code}"),
        }
    }
}

/// Failures in a line.
pub fn describe(failures: &[Failure]) -> String {
    failures.iter().map(|failure| format!("{:?}: {}", failure.code, failure.cause)).collect::<Vec<_>>().join("; ")
}

/// An attempt that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    job: Job,
    unit: String,
    verb: Verb,
    number: u32,
    harm: Harm,
    started: Instant,
}

/// Starts an attempt.
pub fn start(job: &Job, unit: &str, verb: Verb, number: u32, harm: Harm) -> Result<Running, Error> {
    let started = Instant::now();
    let log = job.file(unit, number, "log");
    let file = std::fs::File::create(&log).map_err(|source| Error::File { path: log.clone(), source })?;
    let mut command = job.command(verb.as_str(), unit, number);
    command.env("WEIR_TERMINATION_LOG", job.file(unit, number, "result")).env(FIRED_ENV, job.file(unit, number, "fired"));
    if !harm.faults.is_empty() {
        command.env(FAULTS_ENV, harm.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    if !harm.guards_out.is_empty() {
        command.env(GUARDS_OUT_ENV, harm.guards_out.iter().map(|guard| guard.name()).collect::<Vec<_>>().join(","));
    }
    command.envs(harm.variables.iter().map(|(name, value)| (*name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
    let child = command.spawn().map_err(Error::Worker)?;
    Ok(Running { child, job: job.clone(), unit: unit.to_owned(), verb, number, harm, started })
}

impl Running {
    /// Freezes it, or lets it go on.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let process = self.child.id().and_then(|pid| Process::find(pid.cast_signed()));
        process.map_or(Ok(()), |process| process.signal(signal)).map_err(Error::Worker)
    }

    /// What has fired so far.
    pub fn fired(&self) -> Vec<Fired> {
        fired_of(&self.job.file(&self.unit, self.number, "fired"))
    }

    /// Waits until something has fired, or until it has ended.
    pub async fn until_fired(&mut self) -> Result<bool, Error> {
        loop {
            if !self.fired().is_empty() {
                return Ok(true);
            }
            if self.child.try_wait().map_err(Error::Worker)?.is_some() {
                return Ok(!self.fired().is_empty());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits for its end, and kills it where the harm says so.
    pub async fn end(mut self) -> Result<Attempt, Error> {
        let limit = self.harm.kill_after.unwrap_or(ATTEMPT_LIMIT).saturating_sub(self.started.elapsed());
        let (status, is_late) = match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => (status.map_err(Error::Worker)?, false),
            Err(_elapsed) => {
                // SIGKILL; one that has ended meanwhile is as well.
                let _ = self.child.start_kill();
                (self.child.wait().await.map_err(Error::Worker)?, true)
            }
        };
        let (fired, took) = (self.fired(), self.started.elapsed());
        let is_meant = (is_late && self.harm.kill_after.is_some()) || fired.iter().any(|fired| fired.action.starts_with("kill"));
        let end = match (status.code(), status.signal()) {
            (Some(0), _) => End::Done,
            (_, Some(_)) if is_meant => End::Killed,
            (code, signal) => match result(&self.job.file(&self.unit, self.number, "result")) {
                Some(result) => End::Failed(result.failures),
                None => End::Mute(code.or(signal.map(|signal| 128 + signal)).unwrap_or(-1)),
            },
        };
        let log = std::fs::read_to_string(self.job.file(&self.unit, self.number, "log")).unwrap_or_default();
        let went_back = GOES_BACK.iter().any(|says| log.contains(says));
        let Self { unit, verb, number, harm, .. } = self;
        Ok(Attempt { unit, verb, number, harm, fired, went_back, end, took })
    }
}

/// Runs an attempt to its end.
pub async fn run(job: Job, unit: String, verb: Verb, number: u32, harm: Harm) -> Result<Attempt, Error> {
    start(&job, &unit, verb, number, harm)?.end().await
}

fn result(path: &Path) -> Option<WorkerResult> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// What failpoints wrote down. A trace is no harm, and is told apart.
pub fn fired_of(path: &Path) -> Vec<Fired> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let mut parts = line.split(' ');
        let (point, hit, action) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.to_owned());
        Some(Fired { point, hit, action })
    };
    text.lines().filter_map(line).collect()
}
