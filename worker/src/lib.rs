//! weir's worker: the data plane. It plans, extracts, assembles, publishes and verifies, one unit of work at a time; it
//! never talks to Kubernetes and never decides policy.

pub mod assemble;
pub mod decode;
pub mod extract;
pub mod headers;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod run;
pub mod scratch;
pub mod select;
pub mod source;
pub mod staged;
pub mod target;
pub mod termination;
pub mod verify;
pub mod work;
