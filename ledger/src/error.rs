//! What can go wrong with the store, by what follows from it.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The store said that this identity may not.
    Denied,
    /// The bucket itself is not there, or the request makes no sense to the store: trying again changes nothing.
    Refused,
    /// No answer, or one that says "later": whether a write took effect is not known.
    Unavailable,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("{operation} s3://{bucket}/{key} failed: {message}")]
    Request { operation: &'static str, bucket: String, key: String, cause: Cause, message: String },
    #[error("s3://{bucket}/{key} was not put, since it is there; and then it was not there to be compared")]
    Vanished { bucket: String, key: String },
    #[error("s3://{bucket}/{key} is not the JSON that was expected")]
    Decode {
        bucket: String,
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("s3://{bucket}/{key} is not there")]
    Missing { bucket: String, key: String },
    #[error("s3://{bucket}/{key}: {found} bytes came where {wanted} were asked for")]
    ShortRead { bucket: String, key: String, wanted: u64, found: u64 },
    #[error("the file {path} cannot be read for upload or written on download")]
    File {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{key} needs more than {max} parts")]
    TooLarge { key: String, max: usize },
}

impl LedgerError {
    /// The failure of a request; `None` where the store cannot be blamed.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Request { cause, .. } => Some(*cause),
            Self::Vanished { .. } | Self::ShortRead { .. } => Some(Cause::Unavailable),
            Self::Decode { .. } | Self::Missing { .. } | Self::File { .. } | Self::TooLarge { .. } => None,
        }
    }

    pub(crate) fn request<E>(operation: &'static str, bucket: &str, key: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        Self::Request { operation, bucket: bucket.to_owned(), key: key.to_owned(), cause: cause(error), message: message(error) }
    }
}

/// Short where the store answered, the whole chain where it did not.
fn message<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.as_service_error() {
        Some(service) => {
            let status = status(error).unwrap_or_default();
            format!("{} ({status}) {}", service.code().unwrap_or("error"), service.message().unwrap_or_default()).trim_end().to_owned()
        }
        None => DisplayErrorContext(error).to_string(),
    }
}

pub(crate) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// What would cure the failure of a request to any store.
pub fn cause<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Cause {
    match error {
        // Credentials are looked up while a request is made; one that needs none cannot fail otherwise.
        SdkError::ConstructionFailure(_) => Cause::Denied,
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => Cause::Unavailable,
        SdkError::ServiceError(_) => by_status(status(error), error.code()),
        // The SDK's enum may grow; what is not known may have taken effect.
        _ => Cause::Unavailable,
    }
}

fn by_status(status: Option<u16>, code: Option<&str>) -> Cause {
    match (status, code) {
        (_, Some("RequestTimeout" | "SlowDown" | "RequestTimeTooSkewed" | "OperationAborted")) => Cause::Unavailable,
        (Some(401 | 403), _) => Cause::Denied,
        (Some(408 | 409 | 429), _) => Cause::Unavailable,
        // 3xx: the bucket is somewhere else.
        (Some(300..=499), _) => Cause::Refused,
        _ => Cause::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        assert_eq!(by_status(Some(403), Some("AccessDenied")), Cause::Denied);
        assert_eq!(by_status(Some(404), Some("NoSuchBucket")), Cause::Refused);
        assert_eq!(by_status(Some(503), Some("SlowDown")), Cause::Unavailable);
        assert_eq!(by_status(Some(400), Some("RequestTimeout")), Cause::Unavailable);
        assert_eq!(by_status(Some(301), Some("PermanentRedirect")), Cause::Refused);
        assert_eq!(by_status(Some(500), None), Cause::Unavailable);
        assert_eq!(by_status(None, None), Cause::Unavailable);
    }
}
