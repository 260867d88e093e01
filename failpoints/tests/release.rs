//! A release has neither failpoints nor guards that can be taken out, whatever its environment says; a test build has
//! both. `cargo test --package weir-failpoints`, with and without `--release`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::{Command, ExitStatus};

use weir_failpoints::{FAULTS_ENV, Fault, GUARDS_OUT_ENV, Guard};

/// Runs one of the tests below in a process of its own.
fn child(test: &str, variables: &[(&str, &str)]) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--include-ignored"]).envs(variables.iter().copied());
    child.output().unwrap().status
}

#[test]
#[ignore = "a part of the next test"]
fn comes_to_a_point() {
    weir_failpoints::reached("a");
}

#[test]
fn a_process_dies_at_a_point_unless_it_is_a_release() {
    assert_eq!(child("comes_to_a_point", &[(FAULTS_ENV, "a:1:kill")]).success(), !cfg!(debug_assertions));
    assert!(child("comes_to_a_point", &[(FAULTS_ENV, "a:2:kill")]).success());
    assert!(child("comes_to_a_point", &[]).success());
}

#[test]
#[ignore = "a part of the next test"]
fn is_without_guard_and_fails() {
    assert!(!weir_failpoints::stands(Guard::Pins) && weir_failpoints::stands(Guard::ReadBack));
    assert_eq!(weir_failpoints::hit("a"), Some(Fault::Fail));
}

#[test]
fn a_guard_stands_unless_a_test_takes_it_out() {
    let variables = [(GUARDS_OUT_ENV, "pins"), (FAULTS_ENV, "a:1:fail")];
    assert_eq!(child("is_without_guard_and_fails", &variables).success(), cfg!(debug_assertions));
}
