//! The target is the one that was planned with: cluster, topic and partitions are pinned, and looked at before each use.

use weir_crds::contract::{plan::PlannedSink, result::FailureCode};
use weir_failpoints::Guard;
use weir_kafka::{Admin, AdminError};

use crate::termination::Explain;

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("topic {0} is not there")]
    Missing(String),
    #[error("the {what} of the target is {found}; the plan was made for {planned}")]
    Changed { what: &'static str, planned: String, found: String },
}

impl Explain for TargetError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Admin(AdminError::Config(_)) => FailureCode::KafkaDenied,
            Self::Admin(error) if error.is_denied() => FailureCode::KafkaDenied,
            Self::Admin(_) => FailureCode::KafkaUnavailable,
            Self::Missing(_) => FailureCode::TopicMissing,
            Self::Changed { .. } => FailureCode::TargetChanged,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("spec.sinks[].kafka.topic".to_owned()),
            Self::Admin(_) | Self::Changed { .. } => None,
        }
    }
}

/// Compares what is there with what is pinned.
pub async fn check(admin: &Admin, sink: &PlannedSink) -> Result<(), TargetError> {
    let changed = |what, planned: &dyn ToString, found: &dyn ToString| TargetError::Changed {
        what,
        planned: planned.to_string(),
        found: found.to_string(),
    };
    if !weir_failpoints::stands(Guard::Pins) {
        return Ok(());
    }
    let cluster = admin.cluster().await?;
    if cluster.id != sink.cluster_id {
        return Err(changed("cluster id", &sink.cluster_id, &cluster.id));
    }
    let topic = admin.topic(&sink.topic).await?.ok_or_else(|| TargetError::Missing(sink.topic.clone()))?;
    if topic.id != sink.topic_id {
        return Err(changed("topic id", &sink.topic_id, &topic.id));
    }
    if topic.partitions.len() != sink.partitions as usize {
        return Err(changed("partition count", &sink.partitions, &topic.partitions.len()));
    }
    Ok(())
}
