//! The S3 client: whose credentials, which endpoint, and how long anything may take.

use std::{io, path::Path, time::Duration};

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_sdk_s3::{
    Client,
    config::{Builder, RequestChecksumCalculation, ResponseChecksumValidation},
};
use weir_crds::refs::S3Service;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt at one request: a part of 8 MiB at a tenth of a slow network's speed still fits.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// A request with all its attempts; then the store counts as away.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(180);
/// Slow-downs and restarts of a store pass within the backoff of so many attempts (about half a minute).
const ATTEMPTS_MAX: u32 = 7;
const BACKOFF_MAX: Duration = Duration::from_secs(8);

const KEY_ID_FILE: &str = "aws-access-key-id";
const SECRET_FILE: &str = "aws-secret-access-key";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the credentials hold {present} but not {missing}: both are needed, or neither")]
    HalfOfAKey { present: &'static str, missing: &'static str },
    #[error("the credentials' file {file} cannot be read")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the credentials' file {file} is empty")]
    Empty { file: &'static str },
}

/// A client of an S3 service. Its key comes from `aws-access-key-id` and `aws-secret-access-key` in the directory; where
/// there are none, from the process's identity (the SDK's default chain).
pub async fn s3_client(service: &S3Service, credentials_dir: Option<&Path>) -> Result<Client, ClientError> {
    let key = match credentials_dir {
        Some(dir) => static_key(dir)?,
        None => None,
    };
    let region = Region::new(service.region.clone());
    let builder = match key {
        // With a key of its own the process's environment does not matter, nor is it looked at.
        Some(key) => aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(key))
            .region(region)
            .build(),
        None => aws_config::defaults(BehaviorVersion::latest()).region(region).load().await,
    };
    let mut config = Builder::from(&builder)
        .force_path_style(service.path_style)
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX).with_max_backoff(BACKOFF_MAX))
        // Servers that are not AWS know no trailing checksums. What is read is checked against digests anyway.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &service.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

fn static_key(dir: &Path) -> Result<Option<Credentials>, ClientError> {
    match (read(dir, KEY_ID_FILE)?, read(dir, SECRET_FILE)?) {
        (Some(id), Some(secret)) => Ok(Some(Credentials::new(id, secret, None, None, "credentials directory"))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ClientError::HalfOfAKey { present: KEY_ID_FILE, missing: SECRET_FILE }),
        (None, Some(_)) => Err(ClientError::HalfOfAKey { present: SECRET_FILE, missing: KEY_ID_FILE }),
    }
}

fn read(dir: &Path, file: &'static str) -> Result<Option<String>, ClientError> {
    match std::fs::read_to_string(dir.join(file)) {
        Ok(text) if text.trim().is_empty() => Err(ClientError::Empty { file }),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ClientError::Read { file, source }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn half_a_key_is_no_key_and_no_identity_either() {
        let dir = tempfile::tempdir().unwrap();
        assert!(static_key(dir.path()).unwrap().is_none());
        std::fs::write(dir.path().join(KEY_ID_FILE), "id\n").unwrap();
        assert!(static_key(dir.path()).unwrap_err().to_string().contains(SECRET_FILE));
        std::fs::write(dir.path().join(SECRET_FILE), " \n").unwrap();
        assert!(matches!(static_key(dir.path()).unwrap_err(), ClientError::Empty { file: SECRET_FILE }));
        std::fs::write(dir.path().join(SECRET_FILE), "secret\n").unwrap();
        let key = static_key(dir.path()).unwrap().unwrap();
        assert_eq!((key.access_key_id(), key.secret_access_key()), ("id", "secret"));
    }
}
