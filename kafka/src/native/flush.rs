//! Sending what lingers. The binding's own flush asks for it just for an instant, which the library's threads may miss, and
//! then serves reports in turns of a tenth of a second.

use std::time::Duration;

use rdkafka::{client::Client, producer::ProducerContext};
use rdkafka_sys as sys;

/// For this long nothing that is queued waits for company; blocks as long, unless nothing is queued or under way.
pub(crate) fn flush<C: ProducerContext>(client: &Client<C>, within: Duration) {
    let milliseconds = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle lives as long as the client. Reports are events here, so no callback runs meanwhile. That not
    // everything is delivered yet is no error.
    let _ = unsafe { sys::rd_kafka_flush(client.native_ptr(), milliseconds) };
}
