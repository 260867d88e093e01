//! Consumer groups: which there are, who is in them, and what they have committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    client::Client,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
};

use super::{Admin, AdminError, Answers, TopicPartition};
use crate::{
    context::Logged,
    native::{self, RequestError},
    range::GROUP,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// One that the library does not know, such as those in which groups of the newer protocol rebalance.
    Unknown,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    /// The broker does not know the group.
    Dead,
    /// Without members; what was committed may be there.
    Empty,
}

/// The consumer groups of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupList {
    pub groups: BTreeMap<String, GroupState>,
    /// Brokers that did not answer: as long as there are any, a group that is not listed may exist.
    pub errors: Vec<RequestError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    pub state: GroupState,
    pub members: Vec<GroupMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The coordinator's name for it, another one whenever it joins.
    pub id: String,
    /// `group.instance.id`, where it has one.
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    /// What it was assigned.
    pub partitions: BTreeSet<TopicPartition>,
}

/// What a group has committed: the offset of the next record that it wants, of each partition for which it has committed
/// any.
pub type CommittedOffsets = BTreeMap<TopicPartition, Result<i64, RequestError>>;

impl Admin {
    /// All consumer groups that this identity may see.
    pub async fn groups(&self, within: Duration) -> Result<GroupList, AdminError> {
        self.ask(within, native::groups::list).await?.map_err(AdminError::DescribeCluster)
    }

    /// The states and members of groups, with an answer about each: one that does not exist is `Dead`.
    pub async fn describe_groups(&self, groups: BTreeSet<String>, within: Duration) -> Result<Answers<GroupDescription>, AdminError> {
        self.ask_coordinators(within, move |client, deadline| native::groups::describe(client, &groups, deadline)).await
    }

    /// What groups have committed, with an answer about each: nothing, if there is no such group, or if the brokers have
    /// forgotten it.
    pub async fn committed_offsets(&self, groups: BTreeSet<String>, within: Duration) -> Result<Answers<CommittedOffsets>, AdminError> {
        self.ask_coordinators(within, move |client, deadline| native::groups::committed(client, &groups, deadline)).await
    }

    /// Asks the coordinators of groups by a client of its own, whose end is that of all traps which the library has here. It
    /// never forgets a coordinator that it has found, also if another broker is it now. When one says so, it notes that in the
    /// client's own group, which only a consumer has: a client of another kind brings the process down. And so does a
    /// coordinator that comes back after the request to it has timed out.
    async fn ask_coordinators<T: Send + 'static>(
        &self,
        within: Duration,
        question: impl FnOnce(&Client<Logged>, Instant) -> T + Send + 'static,
    ) -> Result<T, AdminError> {
        let config = Arc::clone(&self.config);
        let deadline = Instant::now() + within;
        let asked = tokio::task::spawn_blocking(move || {
            // The group is never joined nor committed to.
            let config = config.client()?.set("group.id", GROUP).clone();
            let consumer = BaseConsumer::from_config_and_context(&config, Logged).map_err(AdminError::Client)?;
            Ok(question(consumer.client(), deadline))
        });
        asked.await.unwrap_or(Err(AdminError::Interrupted))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use rdkafka::types::{RDKafkaApiKey, RDKafkaErrorCode, RDKafkaRespErr};

    use super::*;
    use crate::mock::cluster;

    const WITHIN: Duration = Duration::from_secs(10);

    fn groups(count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("group-{number}")).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_group_that_is_denied_harms_no_other() {
        let cluster = cluster();
        cluster.fail(RDKafkaApiKey::OffsetFetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]);
        // More than are asked about at the same time.
        let mut asked = groups(120);
        asked.insert(String::new());
        let mut committed = Admin::new(&cluster.config).unwrap().committed_offsets(asked.clone(), WITHIN).await.unwrap();
        assert!(committed.keys().eq(&asked));
        assert_eq!(committed.remove(""), Some(Err(RequestError::Name(String::new()))));
        let (denied, rest): (Vec<_>, Vec<_>) = committed.into_values().partition(Result::is_err);
        assert!(denied.len() == 1 && denied[0].as_ref().unwrap_err().is_denied(), "{denied:?}");
        assert!(rest.into_iter().all(|offsets| offsets == Ok(CommittedOffsets::new())));
    }

    /// Nor is it the end of the process.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_coordinator_that_moved_meanwhile_is_an_error() {
        let cluster = cluster();
        cluster.fail(RDKafkaApiKey::OffsetFetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR]);
        let admin = Admin::new(&cluster.config).unwrap();
        let only = async || admin.committed_offsets(groups(1), WITHIN).await.unwrap().remove("group-0").unwrap();
        assert_eq!(only().await.unwrap_err().code(), Some(RDKafkaErrorCode::NotCoordinator));
        assert_eq!(only().await, Ok(CommittedOffsets::new()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_coordinator_that_is_away_costs_no_more_than_the_deadline() {
        let cluster = cluster();
        let admin = Admin::new(&cluster.config).unwrap();
        cluster.mock.broker_down(1).unwrap();
        let begun = Instant::now();
        let away = admin.committed_offsets(groups(120), Duration::from_secs(1)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(away.keys().eq(&groups(120)) && away.values().all(Result::is_err));
        cluster.mock.broker_up(1).unwrap();
        assert_eq!(admin.committed_offsets(groups(1), WITHIN).await.unwrap()["group-0"], Ok(CommittedOffsets::new()));
    }

    /// The mock knows no such request.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_broker_that_does_not_answer_is_not_one_without_groups() {
        let cluster = cluster();
        let list = Admin::new(&cluster.config).unwrap().groups(WITHIN).await.unwrap();
        assert_eq!(list.groups, BTreeMap::new());
        assert_eq!(list.errors.iter().map(RequestError::code).collect::<Vec<_>>(), [Some(RDKafkaErrorCode::UnsupportedFeature)]);
    }
}
