//! The local cluster, and what tests need to use it and to break it.
//!
//! `cluster` builds it from the programs that `parts` gets from package registries; `supervisor` keeps its processes;
//! `environment` says where everything is. Tests use it through `fixture`, wait by `wait`, and break it by `handles`.

pub mod access;
pub mod audit;
pub mod buildah;
pub mod cache;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod deploy;
pub mod dump;
pub mod environment;
pub mod faults;
pub mod fixture;
pub mod handles;
pub mod images;
pub mod kafka;
pub mod layout;
pub mod novashop;
pub mod parts;
pub mod retention;
pub mod scale;
pub mod supervisor;
pub mod wait;
