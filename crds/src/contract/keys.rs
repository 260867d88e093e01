//! Where a run's objects lie in the artifact store, relative to the store's bucket.

use super::names::RunId;
use crate::window::SliceId;

/// The keys of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunKeys {
    job: String,
    root: String,
}

/// The folders of a run, each of which holds one kind of manifest. Listing one tells what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Folder {
    Extracted,
    Staged,
    Publishing,
    Published,
    Verified,
    Failed,
    Progress,
    Quarantine,
}

impl Folder {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Extracted => "extracted",
            Self::Staged => "staged",
            Self::Publishing => "publishing",
            Self::Published => "published",
            Self::Verified => "verified",
            Self::Failed => "failed",
            Self::Progress => "progress",
            Self::Quarantine => "quarantine",
        }
    }
}

impl RunKeys {
    /// `prefix` as the class has it: without slashes at its ends, perhaps empty.
    pub fn new(prefix: &str, run: &RunId) -> Self {
        let job = if prefix.is_empty() {
            format!("{}/{}/", run.namespace, run.name)
        } else {
            format!("{prefix}/{}/{}/", run.namespace, run.name)
        };
        Self { root: format!("{job}g{}/", run.generation), job }
    }

    /// The generation of a folder where the job lies.
    pub fn generation_of(folder: &str) -> Option<u32> {
        folder.strip_prefix('g')?.strip_suffix('/')?.parse().ok()
    }

    /// Where the generations of the job lie.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Where this run lies; ends with a slash.
    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn run(&self) -> String {
        format!("{}run.json", self.root)
    }

    pub fn plan(&self) -> String {
        format!("{}plan.json", self.root)
    }

    pub fn outcome(&self) -> String {
        format!("{}outcome.json", self.root)
    }

    /// Says that everything the run publishes over is claimed.
    pub fn claims(&self) -> String {
        format!("{}claims.json", self.root)
    }

    /// Says that what the run never published is claimed no more.
    pub fn claims_released(&self) -> String {
        format!("{}claims-released.json", self.root)
    }

    pub fn folder(&self, folder: Folder) -> String {
        format!("{}{}/", self.root, folder.as_str())
    }

    /// The list of source objects, named by its digest.
    pub fn objects(&self, digest12: &str) -> String {
        format!("{}plan/objects-{digest12}.parquet", self.root)
    }

    /// The ids of what earlier generations published to a sink's target.
    pub fn present(&self, sink: &str, digest12: &str) -> String {
        format!("{}plan/present-{sink}-{digest12}.ids", self.root)
    }

    pub fn extracted(&self, chunk: &str) -> String {
        format!("{}{chunk}.json", self.folder(Folder::Extracted))
    }

    /// A part is named by its digest: what no manifest names does not exist, and attempts never overwrite each other.
    pub fn extracted_part(&self, chunk: &str, digest12: &str) -> String {
        format!("{}data/extracted/{chunk}-{digest12}.arrows", self.root)
    }

    /// Rows that were set aside by extracting a chunk or assembling a slice (`item`).
    pub fn quarantine_part(&self, item: &str, digest12: &str) -> String {
        format!("{}{item}-{digest12}.parquet", self.folder(Folder::Quarantine))
    }

    pub fn staged(&self, slice: &SliceId) -> String {
        format!("{}{slice}.json", self.folder(Folder::Staged))
    }

    pub fn staged_part(&self, slice: &SliceId, bucket: &str, digest12: &str) -> String {
        format!("{}data/staged/{slice}/{bucket}-{digest12}.parquet", self.root)
    }

    /// Says that the bucket's progress has been begun: from then on missing progress is lost progress.
    pub fn publishing(&self, bucket: &str) -> String {
        format!("{}{bucket}.json", self.folder(Folder::Publishing))
    }

    pub fn published(&self, slice: &SliceId, bucket: &str) -> String {
        format!("{}{slice}/{bucket}.json", self.folder(Folder::Published))
    }

    pub fn verified(&self, slice: &SliceId) -> String {
        format!("{}{slice}.json", self.folder(Folder::Verified))
    }

    pub fn failed(&self, unit: &str, attempt: u32) -> String {
        format!("{}{unit}/{attempt:04}.json", self.folder(Folder::Failed))
    }

    pub fn progress(&self, unit: &str) -> String {
        format!("{}{unit}.json", self.folder(Folder::Progress))
    }
}
