//! Runs other programs to their end and says what they said when they fail.

use std::ffi::OsStr;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The longest that an ordinary step (ip, ctr, kubectl apply) may take; a hung one is a failed one.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(180);

/// The longest that building a part from source may take: the cluster's binary needs about five minutes on two cores
/// with nothing cached, and more when others use them.
pub const BUILD_TIMEOUT: Duration = Duration::from_secs(2400);

/// At most this much of a failed program's output goes into the error, from its end.
const OUTPUT_SHOWN_BYTES: usize = 4000;

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start {command}")]
    Start {
        /// What was run.
        command: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ran past its time and was killed.
    #[error("{command} did not end within {seconds} s")]
    TimedOut {
        /// What was run.
        command: String,
        /// Its limit.
        seconds: u64,
    },
    /// It ended with an error.
    #[error("{command} failed ({status}): {output}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
}

/// A command with its arguments.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command to its end within [`STEP_TIMEOUT`] and returns what it wrote to its standard output.
pub async fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Result<String, Error> {
    output_of(command(program, arguments), STEP_TIMEOUT).await
}

/// Runs a command to its end and returns what it wrote to its standard output. The command is killed at the limit, and
/// when the caller gives up on it.
pub async fn output_of(command: Command, limit: Duration) -> Result<String, Error> {
    finish(command, Stdio::null(), limit).await
}

/// The same, with `input` on its standard input. A file rather than a pipe, so that a program that does not read its
/// input to the end cannot block us.
pub async fn output_with_input(command: Command, input: &[u8], limit: Duration) -> Result<String, Error> {
    let file = file_of(input).map_err(|source| Error::Start { command: show(&command), source })?;
    finish(command, Stdio::from(file), limit).await
}

fn file_of(input: &[u8]) -> std::io::Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input)?;
    file.rewind()?;
    Ok(file)
}

async fn finish(mut command: Command, input: Stdio, limit: Duration) -> Result<String, Error> {
    let shown = show(&command);
    let start_error = |source| Error::Start { command: shown.clone(), source };
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(start_error)?;
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .map_err(|_elapsed| Error::TimedOut { command: shown.clone(), seconds: limit.as_secs() })?
        .map_err(start_error)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    let mut from = said.len().saturating_sub(OUTPUT_SHOWN_BYTES);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    Err(Error::Failed { command: shown, status: output.status, output: said.split_off(from).trim().to_owned() })
}

fn show(command: &Command) -> String {
    let command = command.as_std();
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}
