//! Sending what is queued without waiting for more.

use std::time::Duration;

use rdkafka::{ClientContext, client::Client};
use rdkafka_sys as sys;

/// While this waits, `linger.ms` counts as over, and everything that is queued is sent. Reports are not served meanwhile;
/// whether all are there is told by them, and not here. The safe binding does not wait, and the threads that send then most
/// often miss it.
pub(crate) fn send_now<C: ClientContext>(client: &Client<C>, wait: Duration) {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client lives as long as the borrow, and the call may be made from any thread. It fails only by its time
    // being up, or on a client that is no producer, where it does nothing.
    unsafe { sys::rd_kafka_flush(client.native_ptr(), wait_ms) };
}
