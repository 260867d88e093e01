//! What the store has of a run: its plan, what is done, and the manifests.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weir_crds::contract::digest::Sha256Digest;
use weir_crds::contract::keys::Folder;
use weir_crds::contract::manifest::{Extracted, Manifest, Published, Staged, Verified};
use weir_crds::contract::plan::Plan;
use weir_crds::contract::units::Done;

use super::Error;
use super::job::Job;

/// A look at the store.
#[derive(Debug)]
pub struct Ledger<'a> {
    s3: &'a aws_sdk_s3::Client,
    job: &'a Job,
}

/// A run's plan, with its hash.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// SHA-256 of its bytes.
    pub hash: Sha256Digest,
}

/// Every manifest of a run that is done.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Of chunks.
    pub extracted: Vec<Extracted>,
    /// Of slices.
    pub staged: Vec<Staged>,
    /// Of slices and buckets.
    pub published: Vec<Published>,
    /// Of slices.
    pub verified: Vec<Verified>,
}

impl<'a> Ledger<'a> {
    /// Of a run.
    pub fn new(s3: &'a aws_sdk_s3::Client, job: &'a Job) -> Self {
        Self { s3, job }
    }

    /// The plan, if there is one.
    pub async fn plan(&self) -> Result<Option<Planned>, Error> {
        let key = self.job.keys.plan();
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        let plan = serde_json::from_slice(&bytes).map_err(|error| Error::Object { key, why: error.to_string() })?;
        Ok(Some(Planned { plan, hash: Sha256Digest::of(&bytes) }))
    }

    /// What has a manifest.
    pub async fn done(&self, plan: &Plan) -> Result<Done, Error> {
        let keys = self.keys().await?;
        let run = &self.job.keys;
        let has = |key: String| keys.contains(&key);
        let buckets = plan.buckets();
        Ok(Done {
            extracted: plan.chunks.iter().map(|chunk| has(run.extracted(&chunk.id))).collect(),
            staged: plan.slices.iter().map(|slice| has(run.staged(&slice.id))).collect(),
            published: plan
                .slices
                .iter()
                .map(|slice| buckets.iter().map(|bucket| has(run.published(&slice.id, &bucket.id))).collect())
                .collect(),
            verified: plan.slices.iter().map(|slice| has(run.verified(&slice.id))).collect(),
            failed: vec![false; plan.slices.len()],
        })
    }

    /// All manifests, each checked against its own digest and the plan's hash.
    pub async fn manifests(&self, planned: &Planned) -> Result<Manifests, Error> {
        let mut all = Manifests::default();
        for key in self.keys().await? {
            let in_folder = |folder| key.starts_with(&self.job.keys.folder(folder));
            if in_folder(Folder::Extracted) {
                all.extracted.push(self.manifest(&key, planned).await?);
            } else if in_folder(Folder::Staged) {
                all.staged.push(self.manifest(&key, planned).await?);
            } else if in_folder(Folder::Published) {
                all.published.push(self.manifest(&key, planned).await?);
            } else if in_folder(Folder::Verified) {
                all.verified.push(self.manifest(&key, planned).await?);
            }
        }
        Ok(all)
    }

    async fn manifest<B: Serialize + DeserializeOwned>(&self, key: &str, planned: &Planned) -> Result<B, Error> {
        let wrong = |why: String| Error::Object { key: key.to_owned(), why };
        let bytes = self.get(key).await?.ok_or_else(|| wrong("it is gone".to_owned()))?;
        let manifest = Manifest::parse(&bytes, &self.job.run, planned.hash);
        Ok(manifest.map_err(|error| wrong(error.to_string()))?.body)
    }

    async fn keys(&self) -> Result<BTreeSet<String>, Error> {
        let mut pages = self.s3.list_objects_v2().bucket(&self.job.bucket).prefix(self.job.keys.root()).into_paginator().send();
        let mut keys = BTreeSet::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| Error::Store { what: "list", source: Box::new(error.into()) })?;
            keys.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        }
        Ok(keys)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let failed = |source: aws_sdk_s3::Error| Error::Store { what: "read", source: Box::new(source) };
        match self.s3.get_object().bucket(&self.job.bucket).key(key).send().await {
            Ok(object) => {
                let bytes = object.body.collect().await;
                let bytes = bytes.map_err(|error| Error::Object { key: key.to_owned(), why: error.to_string() })?;
                Ok(Some(bytes.to_vec()))
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }
}
