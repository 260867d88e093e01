//! The webhooks, from the bytes of a request to the answer; and their certificates, over TLS and against a scripted API.

#![expect(clippy::unwrap_used, reason = "tests")]

mod own;
mod rotation;
mod stamp;
mod tls;
mod topics;
mod world;
