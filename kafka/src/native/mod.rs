//! The one place that calls librdkafka's C API, for the requests that the safe bindings do not offer. The
//! only one that changes anything on a broker is the incremental alteration of topics' configurations
//! ([`configs::alter`]); the other one, which resets every key that it does not name, is not wrapped.
//!
//! Every object that librdkafka hands out for keeping is wrapped in [`Owned`], which destroys it once; everything
//! borrowed from such an object is copied out before the object goes. Numbers that a broker chooses are read as numbers,
//! never as enums of the bindings: a newer broker may send one that they do not know.
//!
//! Blocking, each call until its deadline at the latest, give or take [`EVENT_GRACE`].

#![expect(unsafe_code, reason = "the safe bindings do not offer these requests")]

pub(crate) mod configs;
pub(crate) mod flush;
pub(crate) mod groups;
pub(crate) mod offsets;
pub(crate) mod topics;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString, c_char},
    ptr,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    client::Client,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use rdkafka_sys as sys;

use crate::failure;

/// How much longer than the request's own timeout its event may take to arrive: it always arrives, at the latest as a
/// timeout.
const EVENT_GRACE: Duration = Duration::from_secs(5);
/// Requests under way at the same time: enough to keep some brokers busy, few enough not to crowd out others' requests.
const IN_FLIGHT_MAX: usize = 50;
/// librdkafka's error texts are shorter.
const ERROR_LENGTH_MAX: usize = 512;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("{0:?} is not a name: it is empty or holds a NUL")]
    Name(String),
    #[error("librdkafka gave no {0}")]
    Null(&'static str),
    #[error("option {name} was refused: {message}")]
    Option { name: &'static str, message: String },
    /// The request as a whole failed: it says nothing about what was asked for.
    #[error("{message}")]
    Request {
        message: String,
        #[source]
        code: RDKafkaErrorCode,
    },
    /// The answer about this very topic, partition or group.
    #[error("{message}")]
    Refused {
        message: String,
        #[source]
        code: RDKafkaErrorCode,
    },
    #[error("no answer in time")]
    NoAnswer,
}

impl RequestError {
    pub fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            Self::Request { code, .. } | Self::Refused { code, .. } => Some(*code),
            Self::Name(_) | Self::Null(_) | Self::Option { .. } | Self::NoAnswer => None,
        }
    }

    /// Whether the cluster said that this identity may not.
    pub fn is_denied(&self) -> bool {
        self.code().is_some_and(failure::is_denied)
    }

    /// Whether a broker said that there is no such topic or partition.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
            }
            Self::Request { .. } | Self::Name(_) | Self::Null(_) | Self::Option { .. } | Self::NoAnswer => false,
        }
    }
}

/// Functions of librdkafka's whose results a broker chooses, as what they are in C.
mod ffi {
    use std::ffi::c_int;

    use rdkafka_sys as sys;

    unsafe extern "C" {
        pub fn rd_kafka_error_code(error: *const sys::rd_kafka_error_t) -> c_int;
        pub fn rd_kafka_event_error(event: *mut sys::rd_kafka_event_t) -> c_int;
        pub fn rd_kafka_ConfigResource_error(config: *const sys::rd_kafka_ConfigResource_t) -> c_int;
        pub fn rd_kafka_ConfigEntry_source(entry: *const sys::rd_kafka_ConfigEntry_t) -> c_int;
    }
}

/// What a code means; `None`: no error.
fn meaning(code: i32) -> Option<RDKafkaErrorCode> {
    match RDKafkaRespErr::try_from(code) {
        Ok(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR) => None,
        Ok(known) => Some(known.into()),
        Err(_) => Some(RDKafkaErrorCode::Unknown),
    }
}

/// librdkafka's text about a code.
fn describe(code: i32) -> String {
    meaning(code).map_or_else(String::new, |code| code.to_string())
}

/// What a broker said about one topic, partition or group.
fn refused(code: i32, message: impl FnOnce() -> String) -> Result<(), RequestError> {
    match meaning(code) {
        None => Ok(()),
        Some(code) => Err(RequestError::Refused { message: message(), code }),
    }
}

/// A librdkafka object that is ours to destroy.
struct Owned<T> {
    ptr: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(ptr: *mut T, destroy: unsafe extern "C" fn(*mut T), what: &'static str) -> Result<Self, RequestError> {
        if ptr.is_null() { Err(RequestError::Null(what)) } else { Ok(Self { ptr, destroy }) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `new` refuses null, nothing else holds the pointer, and `destroy` is librdkafka's own destructor for
        // this type: each caller of `new` pairs a constructor with it.
        unsafe { (self.destroy)(self.ptr) }
    }
}

/// An answer.
type Event = Owned<sys::rd_kafka_event_t>;

/// What a request is sent with; alive during the call that sends it.
#[derive(Clone, Copy)]
struct Call {
    rk: *mut sys::rd_kafka_t,
    options: *const sys::rd_kafka_AdminOptions_t,
    queue: *mut sys::rd_kafka_queue_t,
}

/// Sends `count` requests side by side, the one of each number by `send`, and gives `take` the answer to each.
fn exchange<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    count: usize,
    deadline: Instant,
    mut send: impl FnMut(usize, Call) -> Result<(), RequestError>,
    mut take: impl FnMut(usize, Result<Event, RequestError>),
) {
    // SAFETY: the client is alive, and the queue is destroyed before the client can be: this function borrows it.
    let queue = unsafe { sys::rd_kafka_queue_new(client.native_ptr()) };
    let queue = match Owned::new(queue, sys::rd_kafka_queue_destroy, "queue") {
        Ok(queue) => queue,
        Err(error) => return (0..count).for_each(|number| take(number, Err(error.clone()))),
    };
    let (mut next, mut waited_for) = (0, BTreeSet::new());
    loop {
        while next < count && waited_for.len() < IN_FLIGHT_MAX {
            match ask(client, operation, next, deadline, &queue, &mut send) {
                Ok(()) => _ = waited_for.insert(next),
                Err(error) => take(next, Err(error)),
            }
            next += 1;
        }
        if waited_for.is_empty() {
            return;
        }
        let wait = (deadline + EVENT_GRACE).saturating_duration_since(Instant::now());
        // SAFETY: the queue is alive; the event that is returned is ours to destroy.
        let event = unsafe { sys::rd_kafka_queue_poll(queue.ptr, millis(wait)) };
        let Ok(event) = Owned::new(event, sys::rd_kafka_event_destroy, "event") else {
            return waited_for.into_iter().chain(next..count).for_each(|number| take(number, Err(RequestError::NoAnswer)));
        };
        // SAFETY: the event is alive; what comes back is the number that `ask` gave along.
        let number = unsafe { sys::rd_kafka_event_opaque(event.ptr) }.addr();
        if waited_for.remove(&number) {
            take(number, answered(event));
        }
    }
}

/// Sends one request and waits for its answer.
fn request<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    deadline: Instant,
    send: impl Fn(Call) -> Result<(), RequestError>,
) -> Result<Event, RequestError> {
    let mut answer = Err(RequestError::NoAnswer);
    exchange(client, operation, 1, deadline, |_, call| send(call), |_, event| answer = event);
    answer
}

fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    number: usize,
    deadline: Instant,
    queue: &Owned<sys::rd_kafka_queue_t>,
    send: &mut impl FnMut(usize, Call) -> Result<(), RequestError>,
) -> Result<(), RequestError> {
    let timeout = deadline.saturating_duration_since(Instant::now());
    if timeout.is_zero() {
        return Err(RequestError::NoAnswer);
    }
    let rk = client.native_ptr();
    // SAFETY: `rk` is the live client that `client` borrows.
    let options = unsafe { sys::rd_kafka_AdminOptions_new(rk, operation) };
    let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy, "admin options")?;
    let mut error = [0 as c_char; ERROR_LENGTH_MAX];
    // SAFETY: the options are alive; `error` is a buffer of the length that is passed.
    let code =
        unsafe { sys::rd_kafka_AdminOptions_set_request_timeout(options.ptr, millis(timeout).max(1), error.as_mut_ptr(), error.len()) };
    if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        // SAFETY: on failure librdkafka has written a NUL-terminated text into `error`.
        let message = unsafe { text(error.as_ptr()) };
        return Err(RequestError::Option { name: "request_timeout", message });
    }
    // SAFETY: the options are alive; the number is only ever handed back.
    unsafe { sys::rd_kafka_AdminOptions_set_opaque(options.ptr, ptr::without_provenance_mut(number)) };
    send(number, Call { rk, options: options.ptr, queue: queue.ptr })
}

/// The event, unless the request as a whole failed.
fn answered(event: Event) -> Result<Event, RequestError> {
    // SAFETY: the event is alive.
    let code = unsafe { ffi::rd_kafka_event_error(event.ptr) };
    let Some(code) = meaning(code) else { return Ok(event) };
    // SAFETY: the event is alive, and its text is NUL-terminated and belongs to it.
    let message = unsafe { text(sys::rd_kafka_event_error_string(event.ptr)) };
    Err(RequestError::Request { message, code })
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn name(text: &str) -> Result<CString, RequestError> {
    CString::new(text).ok().filter(|name| !name.is_empty()).ok_or_else(|| RequestError::Name(text.to_owned()))
}

/// What is refused before anything is sent goes to `refused`, so that it harms nothing else.
fn names<'a, T>(texts: impl IntoIterator<Item = &'a String>, refused: &mut impl Extend<(String, Result<T, RequestError>)>) -> Vec<CString> {
    let mut named = Vec::new();
    for text in texts {
        match name(text) {
            Ok(name) => named.push(name),
            Err(error) => refused.extend([(text.clone(), Err(error))]),
        }
    }
    named
}

/// Puts the answers about `asked` into `found`: there is one about each afterwards.
fn file<T>(
    asked: &[CString],
    mut answers: Result<BTreeMap<String, Result<T, RequestError>>, RequestError>,
    found: &mut BTreeMap<String, Result<T, RequestError>>,
) {
    for name in asked {
        let name = name.to_string_lossy().into_owned();
        let answer = match &mut answers {
            Ok(answers) => answers.remove(&name).unwrap_or(Err(RequestError::NoAnswer)),
            Err(error) => Err(error.clone()),
        };
        found.insert(name, answer);
    }
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

/// The items of the result that an event holds; `None`: the event is of another type, or holds none.
///
/// # Safety
/// The items must not be used after the event; `result` and `list` must be librdkafka's functions for the same operation.
unsafe fn results<R, T>(
    event: &Event,
    result: unsafe extern "C" fn(*mut sys::rd_kafka_event_t) -> *const R,
    list: unsafe extern "C" fn(*const R, *mut usize) -> *mut *const T,
) -> Result<&[*const T], RequestError> {
    // SAFETY: the event is alive; the function returns null if it is of another type.
    let result = unsafe { result(event.ptr) };
    if result.is_null() {
        return Err(RequestError::Null("result of this type"));
    }
    // SAFETY: `result` belongs to the live event, and the caller vouches for `list`.
    Ok(unsafe { borrowed(result, list) })
}

/// What an error that belongs to another object says; null is none.
///
/// # Safety
/// `error` must be null or alive during the call.
unsafe fn check(error: *const sys::rd_kafka_error_t) -> Result<(), RequestError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: `error` is not null, and the caller vouches for it; its text is NUL-terminated and belongs to it.
    let (code, message) = unsafe { (ffi::rd_kafka_error_code(error), text(sys::rd_kafka_error_string(error))) };
    refused(code, || message)
}

/// # Safety
/// `text` must be null or point to a NUL-terminated string that is alive during the call.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller vouches for it.
    unsafe { optional_text(text) }.unwrap_or_default()
}

/// # Safety
/// As for [`text`]; null is `None`.
unsafe fn optional_text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for the rest.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
