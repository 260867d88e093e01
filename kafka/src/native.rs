//! The one place that calls librdkafka's C API: describing topics (for their id) and the cluster, which the safe
//! bindings do not offer. It reads; it changes nothing on a broker.
//!
//! Every object that librdkafka hands out for keeping is wrapped in [`Owned`], which destroys it once; everything
//! borrowed from such an object is copied out before the object goes.

#![expect(unsafe_code, reason = "the safe bindings have no DescribeTopics and no DescribeCluster")]

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
    time::Duration,
};

use rdkafka::{
    ClientContext,
    client::Client,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use rdkafka_sys as sys;

/// How much longer than the request's own timeout its event may take to arrive: it always arrives, at the latest as a
/// timeout.
const EVENT_GRACE: Duration = Duration::from_secs(5);
/// librdkafka's error texts are shorter.
const ERROR_LENGTH_MAX: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    #[error("the name {0:?} holds a NUL")]
    Name(String),
    #[error("librdkafka gave no {0}")]
    Null(&'static str),
    #[error("option {name} was refused: {message}")]
    Option { name: &'static str, message: String },
    #[error("{message}")]
    Request {
        message: String,
        #[source]
        code: RDKafkaErrorCode,
    },
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
}

/// A topic as the brokers see it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NativeTopic {
    /// The broker's UUID of this very topic: one deleted and created again has another.
    pub id: String,
    pub partitions: Vec<PartitionDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub partition: i32,
    pub leader: Option<i32>,
    pub replicas: usize,
    pub in_sync: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    pub id: String,
    pub brokers: Vec<BrokerNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerNode {
    pub id: i32,
    pub host: String,
    pub port: u16,
}

/// A librdkafka object that is ours to destroy.
struct Owned<T> {
    ptr: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(ptr: *mut T, destroy: unsafe extern "C" fn(*mut T), what: &'static str) -> Result<Self, NativeError> {
        if ptr.is_null() { Err(NativeError::Null(what)) } else { Ok(Self { ptr, destroy }) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `new` refuses null, nothing else holds the pointer, and `destroy` is librdkafka's own destructor for
        // this type: each caller of `new` pairs a constructor with it.
        unsafe { (self.destroy)(self.ptr) }
    }
}

/// The topic's id and partitions; `None` if there is no such topic.
pub(crate) fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<NativeTopic>, NativeError> {
    let name = CString::new(topic).map_err(|_| NativeError::Name(topic.to_owned()))?;
    let mut names = [name.as_ptr()];
    // SAFETY: `names` holds one pointer to a NUL-terminated string, both alive until after the call, which copies it.
    let collection = unsafe { sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
    let collection = Owned::new(collection, sys::rd_kafka_TopicCollection_destroy, "topic collection")?;
    let event = request(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout, |rk, options, queue| {
        // SAFETY: client, options, queue and collection are alive throughout the call; librdkafka copies the collection.
        unsafe { sys::rd_kafka_DescribeTopics(rk, collection.ptr, options, queue) }
    })?;
    // SAFETY: the event is alive; the function returns null if it is of another type, which is checked next.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(event.ptr) };
    if result.is_null() {
        return Err(NativeError::Null("DescribeTopics result"));
    }
    // SAFETY: `result` belongs to the live event, and so do the `count` descriptions that are returned.
    let topics = unsafe { borrowed(result, sys::rd_kafka_DescribeTopics_result_topics) };
    let Some(description) = topics.first().copied() else { return Err(NativeError::Null("topic description")) };
    // SAFETY: `description` belongs to the live event; its error is null or belongs to it too.
    let error = unsafe { sys::rd_kafka_TopicDescription_error(description) };
    if !error.is_null() {
        // SAFETY: `error` was just seen not to be null and lives as long as the event.
        let code = unsafe { sys::rd_kafka_error_code(error) };
        // SAFETY: as above; the text is NUL-terminated and lives as long as the error.
        let message = unsafe { text(sys::rd_kafka_error_string(error)) };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum of some two hundred codes")]
        return match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => topic_of(description).map(Some),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => Ok(None),
            code => Err(NativeError::Request { message, code: code.into() }),
        };
    }
    topic_of(description).map(Some)
}

/// Copies a description that belongs to an event which the caller keeps alive.
fn topic_of(description: *const sys::rd_kafka_TopicDescription_t) -> Result<NativeTopic, NativeError> {
    // SAFETY: the caller keeps the description's event alive; the id belongs to the description.
    let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(description) };
    if id.is_null() {
        return Err(NativeError::Null("topic id"));
    }
    // SAFETY: `id` is not null; the text is NUL-terminated and belongs to the id.
    let id = unsafe { text(sys::rd_kafka_Uuid_base64str(id)) };
    // SAFETY: the partitions belong to the description.
    let partitions = unsafe { borrowed(description, sys::rd_kafka_TopicDescription_partitions) };
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
    Ok(NativeTopic { id, partitions })
}

pub(crate) fn describe_cluster<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Result<ClusterDescription, NativeError> {
    let event = request(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, timeout, |rk, options, queue| {
        // SAFETY: client, options and queue are alive throughout the call.
        unsafe { sys::rd_kafka_DescribeCluster(rk, options, queue) }
    })?;
    // SAFETY: the event is alive; the function returns null if it is of another type, which is checked next.
    let result = unsafe { sys::rd_kafka_event_DescribeCluster_result(event.ptr) };
    if result.is_null() {
        return Err(NativeError::Null("DescribeCluster result"));
    }
    // SAFETY: `result` belongs to the live event; the id is null or belongs to it too.
    let id = unsafe { sys::rd_kafka_DescribeCluster_result_cluster_id(result) };
    if id.is_null() {
        return Err(NativeError::Null("cluster id"));
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

/// Sends one admin request and waits for its event, without error.
fn request<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    timeout: Duration,
    send: impl FnOnce(*mut sys::rd_kafka_t, *const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Result<Owned<sys::rd_kafka_event_t>, NativeError> {
    let rk = client.native_ptr();
    // SAFETY: `rk` is the live client that `client` borrows.
    let options = unsafe { sys::rd_kafka_AdminOptions_new(rk, operation) };
    let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy, "admin options")?;
    let mut error = [0 as c_char; ERROR_LENGTH_MAX];
    // SAFETY: the options are alive; `error` is a buffer of the length that is passed.
    let code = unsafe { sys::rd_kafka_AdminOptions_set_request_timeout(options.ptr, millis(timeout), error.as_mut_ptr(), error.len()) };
    if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        // SAFETY: on failure librdkafka has written a NUL-terminated text into `error`.
        let message = unsafe { text(error.as_ptr()) };
        return Err(NativeError::Option { name: "request_timeout", message });
    }
    // SAFETY: `rk` is alive, and `queue` is destroyed before `client` can be: this function borrows `client`.
    let queue = Owned::new(unsafe { sys::rd_kafka_queue_new(rk) }, sys::rd_kafka_queue_destroy, "queue")?;
    send(rk, options.ptr, queue.ptr);
    let wait = timeout + EVENT_GRACE;
    // SAFETY: the queue is alive; the event that is returned is ours to destroy.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.ptr, millis(wait)) };
    if event.is_null() {
        return Err(NativeError::NoAnswer(wait));
    }
    let event = Owned::new(event, sys::rd_kafka_event_destroy, "event")?;
    // SAFETY: the event is alive.
    let code = unsafe { sys::rd_kafka_event_error(event.ptr) };
    if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        // SAFETY: the event is alive, and its text is NUL-terminated and belongs to it.
        let message = unsafe { text(sys::rd_kafka_event_error_string(event.ptr)) };
        return Err(NativeError::Request { message, code: code.into() });
    }
    Ok(event)
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// The items that `list` says `owner` has.
///
/// # Safety
/// `owner` must be alive for as long as the slice is used, and `list` must be a librdkafka function that returns an array
/// of as many pointers, owned by `owner`, as it writes to its second argument.
unsafe fn borrowed<'a, O, T>(owner: *const O, list: unsafe extern "C" fn(*const O, *mut usize) -> *mut *const T) -> &'a [*const T] {
    let mut count = 0;
    // SAFETY: the caller vouches for `owner` and `list`; `count` is a place for the count.
    let items = unsafe { list(owner, ptr::from_mut(&mut count)) };
    if items.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for an array of `count` pointers that lives as long as `owner`.
    unsafe { std::slice::from_raw_parts(items, count) }
}

/// # Safety
/// `text` must be null or point to a NUL-terminated string that is alive during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
