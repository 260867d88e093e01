//! Listing the offsets of partitions.

use std::{collections::BTreeMap, ffi::CString, time::Instant};

use rdkafka::{ClientContext, client::Client, types::RDKafkaErrorCode};
use rdkafka_sys::{self as sys, rd_kafka_OffsetSpec_t as Spec, rd_kafka_admin_op_t as Operation};

use super::{Call, Event, Owned, RequestError, exchange, name, refused, results, text};
use crate::admin::{OffsetSpec, PartitionOffset, TopicPartition};

/// Partitions that are asked about in one request: librdkafka compares each with each of them.
const BATCH: usize = 1_000;
/// The broker's for "there is none".
const NONE: i64 = -1;

type Offsets = BTreeMap<TopicPartition, Result<PartitionOffset, RequestError>>;

/// The offsets that were asked for; each of the partitions is in the result. librdkafka remembers leaders for a quarter of
/// an hour, so that those which have moved are looked up and asked once more.
pub(crate) fn list<C: ClientContext>(client: &Client<C>, wanted: &BTreeMap<TopicPartition, OffsetSpec>, deadline: Instant) -> Offsets {
    let mut found = list_once(client, wanted, deadline);
    let moved: BTreeMap<_, _> = wanted
        .iter()
        .filter(|(partition, _)| matches!(found.get(partition), Some(Err(error)) if has_moved(error)))
        .map(|(partition, spec)| (partition.clone(), *spec))
        .collect();
    let left = deadline.saturating_duration_since(Instant::now());
    if !moved.is_empty() && client.fetch_metadata(None, left).is_ok() {
        found.extend(list_once(client, &moved, deadline));
    }
    found
}

fn has_moved(error: &RequestError) -> bool {
    use RDKafkaErrorCode::{FencedLeaderEpoch, NotLeaderForPartition, UnknownLeaderEpoch};
    matches!(error.code(), Some(NotLeaderForPartition | FencedLeaderEpoch | UnknownLeaderEpoch))
}

fn list_once<C: ClientContext>(client: &Client<C>, wanted: &BTreeMap<TopicPartition, OffsetSpec>, deadline: Instant) -> Offsets {
    let mut found = Offsets::new();
    let mut questions = Vec::new();
    for (partition, spec) in wanted {
        match question(partition, *spec) {
            Ok(topic) => questions.push((partition, topic, *spec)),
            Err(error) => _ = found.insert(partition.clone(), Err(error)),
        }
    }
    let batches: Vec<_> = questions.chunks(BATCH).collect();
    let send = |number: usize, call: Call| {
        let list = asked(batches[number])?;
        // SAFETY: client, options, queue and list are alive throughout the call; librdkafka copies the list.
        unsafe { sys::rd_kafka_ListOffsets(call.rk, list.ptr, call.options, call.queue) };
        Ok(())
    };
    exchange(client, Operation::RD_KAFKA_ADMIN_OP_LISTOFFSETS, batches.len(), deadline, send, |number, event| {
        let mut answers = event.and_then(|event| read(&event));
        for (partition, ..) in batches[number] {
            let answer = match &mut answers {
                Ok(answers) => answers.remove(partition).unwrap_or(Err(RequestError::NoAnswer)),
                Err(error) => Err(error.clone()),
            };
            found.insert((*partition).clone(), answer);
        }
    });
    found
}

/// Its topic's name, if the question can be asked at all: otherwise librdkafka would refuse all of its batch.
fn question(partition: &TopicPartition, spec: OffsetSpec) -> Result<CString, RequestError> {
    let is_before_time = matches!(spec, OffsetSpec::At(time) if time < 0);
    let topic = name(&partition.topic)?;
    if partition.partition < 0 || is_before_time {
        let message = format!("neither a partition nor a time can be negative: {partition}, {spec:?}");
        return Err(RequestError::Refused { message, code: RDKafkaErrorCode::InvalidArgument });
    }
    Ok(topic)
}

fn asked(questions: &[(&TopicPartition, CString, OffsetSpec)]) -> Result<Owned<sys::rd_kafka_topic_partition_list_t>, RequestError> {
    // SAFETY: a list may be made at any time; its size is a hint.
    let list = unsafe { sys::rd_kafka_topic_partition_list_new(BATCH as i32) };
    let list = Owned::new(list, sys::rd_kafka_topic_partition_list_destroy, "partition list")?;
    for (partition, topic, spec) in questions {
        let spec = match spec {
            OffsetSpec::Earliest => Spec::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
            OffsetSpec::Latest => Spec::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
            OffsetSpec::MaxTimestamp => Spec::RD_KAFKA_OFFSET_SPEC_MAX_TIMESTAMP as i64,
            OffsetSpec::At(time) => *time,
        };
        // SAFETY: the list is alive, the topic is NUL-terminated and copied; the element that is returned belongs to the
        // list and is written to before anything else is added.
        unsafe { (*sys::rd_kafka_topic_partition_list_add(list.ptr, topic.as_ptr(), partition.partition)).offset = spec };
    }
    Ok(list)
}

fn read(event: &Event) -> Result<Offsets, RequestError> {
    // SAFETY: the results are copied before the event goes.
    let infos = unsafe { results(event, sys::rd_kafka_event_ListOffsets_result, sys::rd_kafka_ListOffsets_result_infos)? };
    let offsets = infos.iter().map(|info| {
        // SAFETY: each result belongs to the live event, and the partition belongs to it.
        let (partition, timestamp) =
            unsafe { (sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*info), sys::rd_kafka_ListOffsetsResultInfo_timestamp(*info)) };
        // SAFETY: as above.
        let (partition, offset) = unsafe { located(partition) };
        (partition, offset.and_then(|offset| known(offset, timestamp)))
    });
    Ok(offsets.collect())
}

/// A leader that did not answer leaves no error behind, only an offset that no broker sends.
fn known(offset: i64, timestamp: i64) -> Result<PartitionOffset, RequestError> {
    match offset {
        NONE => Ok(PartitionOffset { offset: None, timestamp_ms: None }),
        ..NONE => Err(RequestError::NoAnswer),
        _ => Ok(PartitionOffset { offset: Some(offset), timestamp_ms: (timestamp >= 0).then_some(timestamp) }),
    }
}

/// An element of a list: which partition it is of, and its offset or its error.
///
/// # Safety
/// `element` must be alive during the call.
pub(super) unsafe fn located(element: *const sys::rd_kafka_topic_partition_t) -> (TopicPartition, Result<i64, RequestError>) {
    // SAFETY: the caller vouches for the element; its topic is NUL-terminated and its own. The error, which a broker
    // chooses, is read as the number that it is.
    unsafe {
        let partition = TopicPartition { topic: text((*element).topic), partition: (*element).partition };
        let code = (&raw const (*element).err).cast::<i32>().read();
        let offset = refused(code, || super::describe(code)).map(|()| (*element).offset);
        (partition, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_no_broker_sends_is_no_offset() {
        assert_eq!(known(-1001, -1), Err(RequestError::NoAnswer));
        assert_eq!(known(-1, -1), Ok(PartitionOffset { offset: None, timestamp_ms: None }));
        assert_eq!(known(0, -1), Ok(PartitionOffset { offset: Some(0), timestamp_ms: None }));
        assert_eq!(known(7, 0), Ok(PartitionOffset { offset: Some(7), timestamp_ms: Some(0) }));
    }
}
