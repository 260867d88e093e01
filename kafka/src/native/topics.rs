//! Describing topics and the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    time::Instant,
};

use rdkafka::{ClientContext, client::Client, types::RDKafkaErrorCode};
use rdkafka_sys::{self as sys, rd_kafka_admin_op_t as Operation};

use super::{Event, Owned, RequestError, borrowed, check, exchange, names, request, results, text};
use crate::admin::{BrokerNode, ClusterDescription, PartitionDescription, TopicDescription};

/// Topics that are asked about in one request.
const BATCH: usize = 500;

type Described = BTreeMap<String, Result<Option<TopicDescription>, RequestError>>;

/// The ids and partitions of topics, each of which is in the result; `None`: there is no such topic.
pub(crate) fn describe<C: ClientContext>(client: &Client<C>, topics: &BTreeSet<String>, deadline: Instant) -> Described {
    let mut found = BTreeMap::new();
    let named = names(topics, &mut found);
    let batches: Vec<&[CString]> = named.chunks(BATCH).collect();
    let send = |number: usize, call: super::Call| {
        let mut names: Vec<_> = batches[number].iter().map(|name| name.as_ptr()).collect();
        // SAFETY: `names` holds pointers to NUL-terminated strings, all alive until after the call, which copies them.
        let collection = unsafe { sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
        let collection = Owned::new(collection, sys::rd_kafka_TopicCollection_destroy, "topic collection")?;
        // SAFETY: client, options, queue and collection are alive throughout the call; librdkafka copies the collection.
        unsafe { sys::rd_kafka_DescribeTopics(call.rk, collection.ptr, call.options, call.queue) };
        Ok(())
    };
    exchange(client, Operation::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, batches.len(), deadline, send, |number, event| {
        let answer = event.and_then(|event| read(&event));
        super::file(batches[number], answer, &mut found);
    });
    found
}

fn read(event: &Event) -> Result<Described, RequestError> {
    // SAFETY: the descriptions are copied before the event goes.
    let topics = unsafe { results(event, sys::rd_kafka_event_DescribeTopics_result, sys::rd_kafka_DescribeTopics_result_topics)? };
    let described = topics.iter().map(|topic| {
        // SAFETY: each description belongs to the live event, and so do its name and its error.
        let (name, error) =
            unsafe { (text(sys::rd_kafka_TopicDescription_name(*topic)), check(sys::rd_kafka_TopicDescription_error(*topic))) };
        let description = match error {
            Ok(()) => copy(*topic).map(Some),
            Err(error) if error.code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(None),
            Err(error) => Err(error),
        };
        (name, description)
    });
    Ok(described.collect())
}

/// Copies a description that belongs to an event which the caller keeps alive.
fn copy(topic: *const sys::rd_kafka_TopicDescription_t) -> Result<TopicDescription, RequestError> {
    // SAFETY: the caller keeps the description's event alive; the id belongs to the description.
    let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(topic) };
    if id.is_null() {
        return Err(RequestError::Null("topic id"));
    }
    // SAFETY: `id` is not null; the text is NUL-terminated and belongs to the id.
    let id = unsafe { text(sys::rd_kafka_Uuid_base64str(id)) };
    // SAFETY: the partitions belong to the description.
    let partitions = unsafe { borrowed(topic, sys::rd_kafka_TopicDescription_partitions) };
    let mut partitions: Vec<_> = partitions
        .iter()
        .map(|partition| {
            // SAFETY: each partition belongs to the description; a leader is null or belongs to it too.
            unsafe {
                let leader = sys::rd_kafka_TopicPartitionInfo_leader(*partition);
                PartitionDescription {
                    partition: sys::rd_kafka_TopicPartitionInfo_partition(*partition),
                    leader: (!leader.is_null()).then(|| sys::rd_kafka_Node_id(leader)).filter(|id| *id >= 0),
                    replicas: borrowed(*partition, sys::rd_kafka_TopicPartitionInfo_replicas).len(),
                    in_sync: borrowed(*partition, sys::rd_kafka_TopicPartitionInfo_isr).len(),
                }
            }
        })
        .collect();
    partitions.sort_by_key(|partition| partition.partition);
    Ok(TopicDescription { id, partitions })
}

pub(crate) fn describe_cluster<C: ClientContext>(client: &Client<C>, deadline: Instant) -> Result<ClusterDescription, RequestError> {
    let event = request(client, Operation::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, deadline, |call| {
        // SAFETY: client, options and queue are alive throughout the call.
        unsafe { sys::rd_kafka_DescribeCluster(call.rk, call.options, call.queue) };
        Ok(())
    })?;
    // SAFETY: the event is alive; the function returns null if it is of another type, which is checked next.
    let result = unsafe { sys::rd_kafka_event_DescribeCluster_result(event.ptr) };
    if result.is_null() {
        return Err(RequestError::Null("DescribeCluster result"));
    }
    // SAFETY: `result` belongs to the live event; the id is null or belongs to it too.
    let id = unsafe { sys::rd_kafka_DescribeCluster_result_cluster_id(result) };
    if id.is_null() {
        return Err(RequestError::Null("cluster id"));
    }
    // SAFETY: `id` is not null, NUL-terminated, and lives as long as the event; so do the nodes and their hosts.
    let (id, nodes) = unsafe { (text(id), borrowed(result, sys::rd_kafka_DescribeCluster_result_nodes)) };
    let brokers = nodes
        .iter()
        .map(|node| {
            // SAFETY: each node belongs to the live event; a host is NUL-terminated and belongs to its node.
            unsafe {
                BrokerNode {
                    id: sys::rd_kafka_Node_id(*node),
                    host: text(sys::rd_kafka_Node_host(*node)),
                    port: sys::rd_kafka_Node_port(*node),
                }
            }
        })
        .collect();
    Ok(ClusterDescription { id, brokers })
}
