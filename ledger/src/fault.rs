//! A request to the store between its two failpoints. In a release it is the request and nothing else.

use std::future::Future;

use aws_sdk_s3::{config::http::HttpResponse, error::SdkError};

/// The failpoints of one kind of write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points {
    send: &'static str,
    done: &'static str,
}

pub(crate) const ONCE: Points = Points { send: "store.once.send", done: "store.once.done" };
pub(crate) const SWAP: Points = Points { send: "store.swap.send", done: "store.swap.done" };
pub(crate) const PART: Points = Points { send: "store.part.send", done: "store.part.done" };
pub(crate) const PROGRESS: Points = Points { send: "store.progress.send", done: "store.progress.done" };
pub(crate) const UPLOAD_BEGIN: Points = Points { send: "store.upload-begin.send", done: "store.upload-begin.done" };
pub(crate) const UPLOAD_PART: Points = Points { send: "store.upload-part.send", done: "store.upload-part.done" };
pub(crate) const UPLOAD_END: Points = Points { send: "store.upload-end.send", done: "store.upload-end.done" };

/// Makes a request, unless a test has it fail; and gives its answer, unless a test has it lost.
pub(crate) async fn between<T, E>(
    points: Points,
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, SdkError<E, HttpResponse>> {
    if weir_failpoints::hit(points.send).is_some() {
        return Err(unanswered());
    }
    let answer = request.await;
    match weir_failpoints::hit(points.done) {
        None => answer,
        Some(_) => Err(unanswered()),
    }
}

fn unanswered<E>() -> SdkError<E, HttpResponse> {
    SdkError::timeout_error("a failpoint kept the answer back")
}
