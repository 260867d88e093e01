//! Why a cluster does not answer. An administrative client only learns that time has passed; a consumer is told when a
//! broker has turned it away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use crate::{config::KafkaConfig, context};

/// A broker that is there has turned a client away long before this.
const TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Remembers how a broker turned its client away.
#[derive(Clone, Debug, Default)]
struct Witness(Arc<Mutex<Option<String>>>);

impl Witness {
    fn testimony(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Witness {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::log_error(&error, reason);
        if is_turned_away(error.rdkafka_error_code()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Witness {}

/// Credentials that the broker does not take, or a certificate that one side does not.
fn is_turned_away(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL))
}

/// What the brokers said when they turned a client with these settings away; `None` if they did not within a few seconds.
/// Blocks.
pub(crate) fn turned_away(config: &KafkaConfig) -> Option<String> {
    let witness = Witness::default();
    let consumer = BaseConsumer::from_config_and_context(&config.client().ok()?, witness.clone()).ok()?;
    let deadline = Instant::now() + TIMEOUT;
    while witness.testimony().is_none() && Instant::now() < deadline {
        // An answer proves that nobody is turned away. Errors are heard of by polling.
        if consumer.fetch_metadata(None, POLL).is_ok() {
            return None;
        }
        drop(consumer.poll(POLL));
    }
    witness.testimony()
}
