//! Consumer groups: which there are, who is in them, and what they have committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    ptr,
    time::Instant,
};

use rdkafka::{ClientContext, client::Client};
use rdkafka_sys::{self as sys, rd_kafka_admin_op_t as Operation, rd_kafka_consumer_group_state_t as State};

use super::{Call, Event, Owned, RequestError, check, exchange, file, names, offsets::located, optional_text, request, results, text};
use crate::admin::{CommittedOffsets, GroupDescription, GroupList, GroupMember, GroupState, TopicPartition};

/// Groups that are described in one call, which librdkafka makes one request each.
const BATCH: usize = 100;

/// All groups of consumers that the brokers know.
pub(crate) fn list<C: ClientContext>(client: &Client<C>, deadline: Instant) -> Result<GroupList, RequestError> {
    let event = request(client, Operation::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS, deadline, |call| {
        // SAFETY: client, options and queue are alive throughout the call.
        unsafe { sys::rd_kafka_ListConsumerGroups(call.rk, call.options, call.queue) };
        Ok(())
    })?;
    let result = sys::rd_kafka_event_ListConsumerGroups_result;
    // SAFETY: listings and errors are copied before the event goes.
    let (valid, errors) = unsafe {
        let valid = results(&event, result, sys::rd_kafka_ListConsumerGroups_result_valid)?;
        (valid, results(&event, result, sys::rd_kafka_ListConsumerGroups_result_errors)?)
    };
    let groups = valid.iter().map(|listing| {
        // SAFETY: each listing belongs to the live event; its name is NUL-terminated and its own.
        unsafe {
            let name = text(sys::rd_kafka_ConsumerGroupListing_group_id(*listing));
            (name, state(sys::rd_kafka_ConsumerGroupListing_state(*listing)))
        }
    });
    // SAFETY: each error belongs to the live event.
    let errors = errors.iter().filter_map(|error| unsafe { check(*error) }.err());
    Ok(GroupList { groups: groups.collect(), errors: errors.collect() })
}

type Described = BTreeMap<String, Result<GroupDescription, RequestError>>;

/// The states and members of groups, each of which is in the result.
pub(crate) fn describe<C: ClientContext>(client: &Client<C>, groups: &BTreeSet<String>, deadline: Instant) -> Described {
    let mut found = BTreeMap::new();
    let named = names(groups, &mut found);
    let batches: Vec<&[CString]> = named.chunks(BATCH).collect();
    let send = |number: usize, call: Call| {
        let mut names: Vec<_> = batches[number].iter().map(|name| name.as_ptr()).collect();
        // SAFETY: client, options and queue are alive throughout the call, and so are the names, which are copied.
        unsafe { sys::rd_kafka_DescribeConsumerGroups(call.rk, names.as_mut_ptr(), names.len(), call.options, call.queue) };
        Ok(())
    };
    exchange(client, Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, batches.len(), deadline, send, |number, event| {
        let answer = event.and_then(|event| {
            // SAFETY: the descriptions are copied before the event goes.
            let groups = unsafe {
                results(&event, sys::rd_kafka_event_DescribeConsumerGroups_result, sys::rd_kafka_DescribeConsumerGroups_result_groups)?
            };
            Ok(groups.iter().map(|group| described(&event, *group)).collect())
        });
        file(batches[number], answer, &mut found);
    });
    found
}

fn described(event: &Event, group: *const sys::rd_kafka_ConsumerGroupDescription_t) -> (String, Result<GroupDescription, RequestError>) {
    // SAFETY: the description belongs to the live event; its name is NUL-terminated and its own, its error null or its own.
    unsafe {
        let name = text(sys::rd_kafka_ConsumerGroupDescription_group_id(group));
        let description = check(sys::rd_kafka_ConsumerGroupDescription_error(group)).map(|()| {
            let count = sys::rd_kafka_ConsumerGroupDescription_member_count(group);
            let members = (0..count).map(|index| member(event, sys::rd_kafka_ConsumerGroupDescription_member(group, index)));
            GroupDescription { state: state(sys::rd_kafka_ConsumerGroupDescription_state(group)), members: members.collect() }
        });
        (name, description)
    }
}

fn member(_: &Event, member: *const sys::rd_kafka_MemberDescription_t) -> GroupMember {
    // SAFETY: the member belongs to the live event; its texts are null or NUL-terminated and its own. Its assignment is
    // null or belongs to it, and so does the list of that.
    unsafe {
        let assignment = sys::rd_kafka_MemberDescription_assignment(member);
        let list = if assignment.is_null() { ptr::null() } else { sys::rd_kafka_MemberAssignment_partitions(assignment) };
        GroupMember {
            id: text(sys::rd_kafka_MemberDescription_consumer_id(member)),
            instance_id: optional_text(sys::rd_kafka_MemberDescription_group_instance_id(member)),
            client_id: text(sys::rd_kafka_MemberDescription_client_id(member)),
            host: text(sys::rd_kafka_MemberDescription_host(member)),
            partitions: elements(list).into_iter().map(|(partition, _)| partition).collect(),
        }
    }
}

/// librdkafka makes its states of the names that a broker sends, so that there are no others.
fn state(state: State) -> GroupState {
    match state {
        State::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE => GroupState::PreparingRebalance,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => GroupState::CompletingRebalance,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => GroupState::Stable,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD => GroupState::Dead,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY => GroupState::Empty,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_UNKNOWN | State::RD_KAFKA_CONSUMER_GROUP_STATE__CNT => GroupState::Unknown,
    }
}

type Committed = BTreeMap<String, Result<CommittedOffsets, RequestError>>;

/// All that groups have committed; each of them is in the result. The library asks for one group in each request.
pub(crate) fn committed<C: ClientContext>(client: &Client<C>, groups: &BTreeSet<String>, deadline: Instant) -> Committed {
    let mut found = BTreeMap::new();
    let named = names(groups, &mut found);
    let send = |number: usize, call: Call| {
        // SAFETY: the name is NUL-terminated and copied; no list means all partitions.
        let question = unsafe { sys::rd_kafka_ListConsumerGroupOffsets_new(named[number].as_ptr(), ptr::null()) };
        let question = Owned::new(question, sys::rd_kafka_ListConsumerGroupOffsets_destroy, "question for offsets")?;
        let mut questions = [question.ptr];
        // SAFETY: client, options, queue and question are alive throughout the call; librdkafka copies the question.
        unsafe { sys::rd_kafka_ListConsumerGroupOffsets(call.rk, questions.as_mut_ptr(), questions.len(), call.options, call.queue) };
        Ok(())
    };
    exchange(client, Operation::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, named.len(), deadline, send, |number, event| {
        let answer = event.and_then(|event| {
            // SAFETY: the offsets are copied before the event goes.
            let groups = unsafe {
                results(&event, sys::rd_kafka_event_ListConsumerGroupOffsets_result, sys::rd_kafka_ListConsumerGroupOffsets_result_groups)?
            };
            Ok(groups.iter().map(|group| offsets(&event, *group)).collect())
        });
        file(&named[number..=number], answer, &mut found);
    });
    found
}

fn offsets(_: &Event, group: *const sys::rd_kafka_group_result_t) -> (String, Result<CommittedOffsets, RequestError>) {
    // SAFETY: the result belongs to the live event; its name is NUL-terminated and its own, error and list are null or its
    // own.
    unsafe {
        let name = text(sys::rd_kafka_group_result_name(group));
        let offsets = check(sys::rd_kafka_group_result_error(group)).map(|()| {
            let committed = elements(sys::rd_kafka_group_result_partitions(group)).into_iter();
            // A partition without a commit has an offset that is none.
            committed.filter(|(_, offset)| !matches!(offset, Ok(..0))).collect()
        });
        (name, offsets)
    }
}

/// # Safety
/// `list` must be null or alive during the call.
unsafe fn elements(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<(TopicPartition, Result<i64, RequestError>)> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller vouches for the list, which has `cnt` elements, one behind the other.
    unsafe { (0..(*list).cnt as usize).map(|index| located((*list).elems.add(index))).collect() }
}
