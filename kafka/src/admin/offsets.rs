//! Where partitions begin and end, and where records of a time are.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{Admin, AdminError};
use crate::native::{self, RequestError};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: String,
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Which offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Where the log begins.
    Earliest,
    /// Where the next record goes, open transactions included.
    Latest,
    /// Of the first record at or after a time, in milliseconds since 1970.
    At(i64),
    /// Of the record with the greatest timestamp.
    MaxTimestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffset {
    /// `None`: there is no such record.
    pub offset: Option<i64>,
    /// Of the record that was looked for by its time; `None` for the others.
    pub timestamp_ms: Option<i64>,
}

impl Admin {
    /// The offsets that are `wanted`, with an answer about each. Where no partition of a request has a leader, be it that
    /// there are no such topics, that request fails without saying more.
    pub async fn offsets(
        &self,
        wanted: BTreeMap<TopicPartition, OffsetSpec>,
        within: Duration,
    ) -> Result<BTreeMap<TopicPartition, Result<PartitionOffset, RequestError>>, AdminError> {
        self.ask(within, move |client, deadline| native::offsets::list(client, &wanted, deadline)).await
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::time::Instant;

    use rdkafka::types::{RDKafkaApiKey, RDKafkaErrorCode, RDKafkaRespErr};

    use super::*;
    use crate::mock::{Cluster, PARTITIONS, TOPIC, cluster, cluster_of, publish};

    const WITHIN: Duration = Duration::from_secs(10);

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.to_owned(), partition }
    }

    fn offset(offset: i64) -> Result<PartitionOffset, RequestError> {
        Ok(PartitionOffset { offset: Some(offset), timestamp_ms: None })
    }

    async fn ask(
        cluster: &Cluster,
        wanted: &[(TopicPartition, OffsetSpec)],
    ) -> BTreeMap<TopicPartition, Result<PartitionOffset, RequestError>> {
        let found = Admin::new(&cluster.config).unwrap().offsets(wanted.iter().cloned().collect(), WITHIN).await.unwrap();
        assert!(found.keys().eq(wanted.iter().map(|(partition, _)| partition)), "{found:?} is not about what was asked for");
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_partition_has_the_offset_that_was_asked_for() {
        let cluster = cluster_of(2);
        publish(&mut cluster.open().unwrap(), 5).unwrap();
        let found = ask(
            &cluster,
            &[
                (at(TOPIC, 0), OffsetSpec::Latest),
                (at(TOPIC, 1), OffsetSpec::Latest),
                (at(TOPIC, 2), OffsetSpec::Earliest),
                // The mock finds nothing by time.
                (at(TOPIC, 3), OffsetSpec::At(1)),
            ],
        )
        .await;
        let none = Ok(PartitionOffset { offset: None, timestamp_ms: None });
        assert_eq!(found.into_values().collect::<Vec<_>>(), [offset(3), offset(0), offset(0), none]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_answered_harms_nothing_else() {
        let cluster = cluster();
        cluster.mock.partition_leader(TOPIC, 1, None).unwrap();
        let wanted = [
            (at("", 0), OffsetSpec::Latest),
            (at("a\0", 0), OffsetSpec::Latest),
            (at(TOPIC, -1), OffsetSpec::Latest),
            (at(TOPIC, 0), OffsetSpec::Latest),
            (at(TOPIC, 1), OffsetSpec::Latest),
            (at(TOPIC, 2), OffsetSpec::At(-5)),
            (at(TOPIC, PARTITIONS), OffsetSpec::Latest),
            (at("missing", 0), OffsetSpec::Latest),
        ];
        let found = ask(&cluster, &wanted).await;
        let code = |topic: &str, partition| found[&at(topic, partition)].as_ref().unwrap_err().code();
        assert_eq!(found[&at(TOPIC, 0)], offset(0));
        assert_eq!(found[&at("", 0)], Err(RequestError::Name(String::new())));
        assert_eq!(found[&at("a\0", 0)], Err(RequestError::Name("a\0".into())));
        assert_eq!([code(TOPIC, -1), code(TOPIC, 2)], [Some(RDKafkaErrorCode::InvalidArgument); 2]);
        assert_eq!(code(TOPIC, 1), Some(RDKafkaErrorCode::LeaderNotAvailable));
        for (topic, partition) in [(TOPIC, PARTITIONS), ("missing", 0)] {
            assert!(found[&at(topic, partition)].as_ref().unwrap_err().is_missing(), "{found:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_that_does_not_answer_is_not_an_offset() {
        let cluster = cluster_of(2);
        for partition in [0, 1] {
            cluster.mock.partition_leader(TOPIC, partition, Some(partition + 1)).unwrap();
        }
        let admin = Admin::new(&cluster.config).unwrap();
        let wanted: BTreeMap<_, _> = [0, 1].map(|partition| (at(TOPIC, partition), OffsetSpec::Latest)).into();
        assert!(admin.offsets(wanted.clone(), WITHIN).await.unwrap().into_values().all(|found| found.is_ok()));
        cluster.mock.broker_round_trip_time(2, WITHIN).unwrap();
        let begun = Instant::now();
        let found = admin.offsets(wanted, Duration::from_secs(1)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!((&found[&at(TOPIC, 0)], &found[&at(TOPIC, 1)]), (&offset(0), &Err(RequestError::NoAnswer)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_that_moved_is_followed() {
        let cluster = cluster_of(2);
        let admin = Admin::new(&cluster.config).unwrap();
        let wanted: BTreeMap<_, _> = [(at(TOPIC, 0), OffsetSpec::Latest)].into();
        // To the other one, and there and back again, which only the epoch tells.
        for leaders in [&[1][..], &[2], &[1, 2]] {
            for leader in leaders {
                cluster.mock.partition_leader(TOPIC, 0, Some(*leader)).unwrap();
            }
            assert_eq!(admin.offsets(wanted.clone(), WITHIN).await.unwrap()[&at(TOPIC, 0)], offset(0), "{leaders:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_than_one_request_holds_is_answered_in_several() {
        let cluster = cluster();
        cluster.mock.create_topic("wide", 2_500, 1).unwrap();
        let wanted: Vec<_> = (0..2_500).map(|partition| (at("wide", partition), OffsetSpec::Earliest)).collect();
        assert!(ask(&cluster, &wanted).await.into_values().all(|found| found == offset(0)));
        // One of the requests is answered with an error.
        cluster.fail(RDKafkaApiKey::ListOffsets, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
        let found = ask(&cluster, &wanted).await;
        let denied = found.values().filter(|found| found.as_ref().is_err_and(RequestError::is_denied)).count();
        assert!([500, 1_000].contains(&denied), "{denied} partitions were denied");
        assert_eq!(found.values().filter(|found| found.is_ok()).count(), 2_500 - denied);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_time_there_is_no_answer() {
        let cluster = cluster();
        let wanted = [(at(TOPIC, 0), OffsetSpec::Latest)].into();
        let begun = Instant::now();
        let found = Admin::new(&cluster.config).unwrap().offsets(wanted, Duration::ZERO).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(found[&at(TOPIC, 0)], Err(RequestError::NoAnswer));
    }
}
