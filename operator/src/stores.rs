//! Clients of the stores that classes and clusters name, with the operator's credentials for them.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use kube::Resource;
use weir_crds::{BackfillClass, contract::run::StoreLocation, refs::S3Store};
use weir_ledger::Ledger;

use crate::credentials::{Credentials, CredentialsError};

/// A client is made anew after this, so that a rotated Secret is taken up without a restart.
const CLIENT_LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the credentials for the store are not there")]
    Credentials(#[from] CredentialsError),
    #[error("no client can be made for the store")]
    Client(#[from] weir_ledger::ClientError),
}

/// Where a store lies, without whose credentials.
pub fn location(store: &S3Store) -> StoreLocation {
    StoreLocation { bucket: store.bucket.clone(), prefix: store.prefix.clone(), s3: store.s3.clone() }
}

pub struct Stores {
    credentials: Credentials,
    /// By uid and generation of the object that names the store; a handful, since those are few.
    clients: Mutex<HashMap<(String, i64), (Instant, Ledger)>>,
}

impl Stores {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, clients: Mutex::new(HashMap::new()) }
    }

    pub async fn of(&self, class: &BackfillClass) -> Result<Ledger, StoreError> {
        self.named_by(class, &class.spec.artifact_store).await
    }

    /// The store that an object names.
    pub async fn named_by<K: Resource>(&self, object: &K, store: &S3Store) -> Result<Ledger, StoreError> {
        let key = (object.meta().uid.clone().unwrap_or_default(), object.meta().generation.unwrap_or(0));
        if let Some((_, ledger)) = self.clients().get(&key).filter(|(made, _)| made.elapsed() < CLIENT_LIFETIME) {
            return Ok(ledger.clone());
        }
        let folder = self.credentials.folder(store.credentials_secret_ref.as_ref()).await?;
        let ledger = Ledger::connect(&location(store), folder.as_ref().map(|f| f.path.as_path())).await?;
        let mut clients = self.clients();
        clients.retain(|_, (made, _)| made.elapsed() < CLIENT_LIFETIME);
        clients.insert(key, (Instant::now(), ledger.clone()));
        Ok(ledger)
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<(String, i64), (Instant, Ledger)>> {
        self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
