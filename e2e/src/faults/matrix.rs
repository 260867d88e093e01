//! An undisturbed run, which an independent program has judged, and what every other run is held against it.

use std::time::Duration;

use weir_crds::contract::units::Verb;

use super::attempt::{self, End, Harm};
use super::drive::{Limits, Report, drive};
use super::inject::{Injector, Undisturbed};
use super::job::{Endpoints, Job};
use super::ledger::Ledger;
use super::ready::Ready;
use super::site::Site;
use super::topic::{self, Content, Differences};
use super::{Error, sums};

/// A run takes a quarter of a minute, and a few seconds more for each attempt that is lost.
const TIME_LIMIT: Duration = Duration::from_secs(900);
/// A run has some twenty units; each may be lost several times.
const ATTEMPTS_MAX: u32 = 600;
/// Workers at a time; the work is cut for as many.
pub const PARALLELISM: u32 = 2;

/// What every run is held against.
#[derive(Debug)]
pub struct Matrix<'a> {
    /// What runs share.
    pub site: Site<'a>,
    /// What a topic must hold.
    pub truth: Content,
    /// What an undisturbed run came to.
    pub undisturbed: Undisturbed,
    /// How long it took.
    pub took: Duration,
    /// How many runs there have been.
    runs: u32,
}

/// A run that has ended, judged.
#[derive(Debug)]
pub struct Outcome {
    /// Its attempts.
    pub report: Report,
    /// What is wrong with the topic.
    pub differences: Differences,
    /// What does not add up in the ledger.
    pub wrong_sums: Vec<String>,
}

impl Outcome {
    /// Whether nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.differences.is_none() && self.wrong_sums.is_empty()
    }

    /// As cells of a table: attempts, killed, found, lost, duplicate, alien, torn, misordered, sums, seconds.
    pub fn cells(&self) -> [String; 10] {
        let Differences { found, lost, duplicate, alien, torn, misordered } = self.differences;
        let sums = if self.wrong_sums.is_empty() { "hold".to_owned() } else { self.wrong_sums.join("; ") };
        let [found, lost, duplicate, alien, torn, misordered] =
            [found, lost, duplicate, alien, torn, misordered].map(|number| number.to_string());
        let [attempts, killed] = [self.report.attempts.len(), self.report.killed()].map(|number| number.to_string());
        [attempts, killed, found, lost, duplicate, alien, torn, misordered, sums, format!("{:.0}", self.report.took.as_secs_f64())]
    }
}

/// The names of [`Outcome::cells`].
pub const COLUMNS: [&str; 10] =
    ["attempts", "killed", "found", "lost", "duplicate", "alien", "torn", "misordered", "ledger's sums", "seconds"];

impl<'a> Matrix<'a> {
    /// Does the undisturbed run.
    pub async fn set(site: Site<'a>) -> Result<Self, Error> {
        let endpoints = Endpoints::real(&site)?;
        let job = Job::create(&site, "undisturbed", &endpoints, PARALLELISM).await?;
        let mut undisturbed = Undisturbed::default();
        let report = drive(&site.fixture.cluster.s3, &job, &mut undisturbed, Self::limits()).await?;
        topic::must_be_true(&site, &job).await?;
        let truth = Content::read(&site, &job).await?;
        let matrix = Self { site, truth, undisturbed, took: report.took, runs: 0 };
        let outcome = matrix.judge(&job, report).await?;
        if !outcome.is_right() {
            return Err(Error::Untrue { text: format!("{} {:?}", outcome.differences, outcome.wrong_sums) });
        }
        job.remove(&matrix.site).await?;
        Ok(matrix)
    }

    /// How far any run may go.
    pub fn limits() -> Limits {
        Limits { attempts: ATTEMPTS_MAX, time: TIME_LIMIT }
    }

    /// A new job, with workers that find broker and store there.
    pub async fn job(&mut self, endpoints: &Endpoints) -> Result<Job, Error> {
        self.runs += 1;
        Job::create(&self.site, &format!("r{}", self.runs), endpoints, PARALLELISM).await
    }

    /// The namespace that the next new job will have.
    pub fn next_namespace(&self) -> String {
        self.site.fixture.name(&format!("r{}", self.runs + 1))
    }

    /// Does a run of a new job, and judges it.
    pub async fn run(&mut self, injector: &mut dyn Injector) -> Result<Outcome, Error> {
        let endpoints = Endpoints::real(&self.site)?;
        self.run_through(&endpoints, injector).await
    }

    /// The same through something that stands before broker or store.
    pub async fn run_through(&mut self, endpoints: &Endpoints, injector: &mut dyn Injector) -> Result<Outcome, Error> {
        let job = self.job(endpoints).await?;
        let outcome = self.the_rest(&job, injector).await?;
        job.remove(&self.site).await?;
        Ok(outcome)
    }

    /// Does a new job until the first unit of a verb is ready, and names that unit.
    pub async fn up_to(&mut self, verb: Verb) -> Result<(Job, String), Error> {
        let endpoints = Endpoints::real(&self.site)?;
        let job = self.job(&endpoints).await?;
        let s3 = &self.site.fixture.cluster.s3;
        let mut number = 0;
        loop {
            let stuck = || Error::Stuck { open: format!("{verb} units") };
            let ready = Ready::look(s3, &job).await?.ok_or_else(stuck)?;
            if let Some((unit, _)) = ready.units.iter().find(|(_, of)| *of == verb) {
                return Ok((job, unit.clone()));
            }
            let (unit, of) = ready.units.first().cloned().ok_or_else(stuck)?;
            number += 1;
            let ended = attempt::run(job.clone(), unit.clone(), of, number, Harm::default()).await?;
            if !matches!(ended.end, End::Done) {
                return Err(Error::RunFailed { unit, failures: ended.to_string() });
            }
        }
    }

    /// Does what is left of a job, and judges it.
    pub async fn the_rest(&self, job: &Job, injector: &mut dyn Injector) -> Result<Outcome, Error> {
        let report = drive(&self.site.fixture.cluster.s3, job, injector, Self::limits()).await?;
        self.judge(job, report).await
    }

    /// Holds a finished run's topic and ledger against what they must be.
    pub async fn judge(&self, job: &Job, report: Report) -> Result<Outcome, Error> {
        let differences = self.truth.differences(&Content::read(&self.site, job).await?);
        let ledger = Ledger::new(&self.site.fixture.cluster.s3, job);
        let no_plan = || Error::Object { key: job.keys.plan(), why: "it is gone".to_owned() };
        let planned = ledger.plan().await?.ok_or_else(no_plan)?;
        let wrong_sums = sums::wrong(&ledger.manifests(&planned).await?, self.site.log.planted.recoverable);
        Ok(Outcome { report, differences, wrong_sums })
    }
}
