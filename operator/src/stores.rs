//! Clients of the artifact stores that classes name, with the operator's credentials for them.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use kube::ResourceExt as _;
use weir_crds::{BackfillClass, backfill_class::BackfillClassSpec, contract::run::StoreLocation};
use weir_ledger::Ledger;

use crate::credentials::{Credentials, CredentialsError};

/// A client is made anew after this, so that a rotated Secret is taken up without a restart.
const CLIENT_LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the credentials for the artifact store are not there")]
    Credentials(#[from] CredentialsError),
    #[error("no client can be made for the artifact store")]
    Client(#[from] weir_ledger::ClientError),
}

/// Where a class keeps artifacts.
pub fn location(class: &BackfillClassSpec) -> StoreLocation {
    let store = &class.artifact_store;
    StoreLocation { bucket: store.bucket.clone(), prefix: store.prefix.clone(), s3: store.s3.clone() }
}

pub struct Stores {
    credentials: Credentials,
    /// By the class's uid and generation; a handful, since classes are few.
    clients: Mutex<HashMap<(String, i64), (Instant, Ledger)>>,
}

impl Stores {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, clients: Mutex::new(HashMap::new()) }
    }

    pub async fn of(&self, class: &BackfillClass) -> Result<Ledger, StoreError> {
        let key = (class.uid().unwrap_or_default(), class.metadata.generation.unwrap_or(0));
        if let Some((_, ledger)) = self.clients().get(&key).filter(|(made, _)| made.elapsed() < CLIENT_LIFETIME) {
            return Ok(ledger.clone());
        }
        let folder = self.credentials.folder(class.spec.artifact_store.credentials_secret_ref.as_ref()).await?;
        let ledger = Ledger::connect(&location(&class.spec), folder.as_ref().map(|f| f.path.as_path())).await?;
        let mut clients = self.clients();
        clients.retain(|_, (made, _)| made.elapsed() < CLIENT_LIFETIME);
        clients.insert(key, (Instant::now(), ledger.clone()));
        Ok(ledger)
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<(String, i64), (Instant, Ledger)>> {
        self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
