//! Starts, stops and signals the processes that the cluster consists of.
//!
//! A process outlives the program that started it, so each has a record on disk: how it was started, its pid, and the
//! time at which that pid started, so that a pid which another process got later is never signalled. Whoever has the
//! state folder can stop a process and start it again. Every process carries [`MARK`] in its environment; `down` finds
//! by it what has no record, because we died between starting a process and writing its pid, or because a process
//! started children that outlive it, as containerd does.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// The variable that marks every process of a cluster; its value is the cluster's state folder.
pub const MARK: &str = "WEIR_E2E_SUPERVISED";

/// How long a killed process may take to be gone. The kernel needs milliseconds, except in uninterruptible I/O.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look whether a process is gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Closes whatever whoever started us left open, such as the lock of a flock(1), which the process would otherwise hold for
/// as long as it lives; then becomes the program. In bash, since not every shell knows descriptors above 9.
const CLOSE_INHERITED: &str = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done; exec "$@""#;

/// Why a process could not be started, found or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record could not be read or written.
    #[error("cannot access the process record {path}")]
    Record {
        /// The record.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A record is not what we write.
    #[error("the process record {path} is damaged")]
    DamagedRecord {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The log could not be opened.
    #[error("cannot open the log {path}")]
    OpenLog {
        /// The log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {name} ({program})")]
    Start {
        /// The process.
        name: String,
        /// Its program.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// There is no such process in this cluster.
    #[error("no process named {name} was ever started in this cluster")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// It has ended, or was stopped.
    #[error("{name} is not running")]
    NotRunning {
        /// The process.
        name: String,
    },
    /// It runs already.
    #[error("{name} is running already, as pid {pid}")]
    Running {
        /// The process.
        name: String,
        /// Its pid.
        pid: i32,
    },
    /// The kernel refused a signal.
    #[error("cannot signal {name} (pid {pid})")]
    Signal {
        /// The process.
        name: String,
        /// Its pid.
        pid: i32,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It was killed and is still there.
    #[error("{name} (pid {pid}) is still there {seconds} s after it was killed")]
    Survived {
        /// The process.
        name: String,
        /// Its pid.
        pid: i32,
        /// How long we waited.
        seconds: u64,
    },
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The name of its record and log.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables beyond those that are inherited.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The folder it runs in.
    pub folder: PathBuf,
}

impl Program {
    /// A program without variables of its own.
    pub fn new<S: Into<String>>(name: &str, folder: &Path, command: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.to_owned(),
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            folder: folder.to_path_buf(),
        }
    }

    /// Adds a variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    program: Program,
    /// None from before the start until the pid is known, and after a wanted stop.
    process: Option<Process>,
}

/// What a process can be told by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(&'static str);

impl Signal {
    /// End now.
    pub const KILL: Self = Self("KILL");
    /// End, please.
    pub const TERM: Self = Self("TERM");
    /// End at once, but put away what the kernel holds for you; PostgreSQL does.
    pub const QUIT: Self = Self("QUIT");
    /// Freeze.
    pub const STOP: Self = Self("STOP");
    /// Go on.
    pub const CONT: Self = Self("CONT");
}

/// One process, told apart from any other that gets the same pid later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    /// Clock ticks from boot to its start, as in `/proc/<pid>/stat`.
    started_ticks: u64,
}

impl Process {
    /// The process that has this pid now, unless it has ended.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started_ticks) = parse_stat(&stat)?;
        // A zombie holds nothing any more; only its parent has not asked for its end yet.
        (state != 'Z' && state != 'X').then_some(Self { pid, started_ticks })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it calls itself, unless it has ended: its program's name, of which the kernel keeps 15 characters.
    pub fn name(&self) -> Option<String> {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).ok()?;
        self.is_alive().then(|| name.trim_end().to_owned())
    }

    /// Sends a signal, unless the process has ended. By kill(1): the call itself would be unsafe code, or a dependency that
    /// changes how everything else is compiled.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let said = Command::new("kill").args(["-s", signal.0, &self.pid.to_string()]).output()?;
        // One that ended meanwhile got what it was told in another way.
        if said.status.success() || !self.is_alive() {
            return Ok(());
        }
        Err(std::io::Error::other(String::from_utf8_lossy(&said.stderr).trim().to_owned()))
    }

    /// Waits until it is gone; false if it is still there at the limit.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }
}

/// State and start time from `/proc/<pid>/stat`. The program's name stands in brackets and may hold anything, so the
/// fields are counted from the last bracket.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    const START_FIELD_AFTER_NAME: usize = 19;
    let fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect::<Vec<_>>();
    let state = fields.first()?.chars().next()?;
    Some((state, fields.get(START_FIELD_AFTER_NAME)?.parse().ok()?))
}

/// The processes of one cluster.
#[derive(Debug, Clone)]
pub struct Supervisor {
    records: PathBuf,
    logs: PathBuf,
    mark: String,
}

impl Supervisor {
    /// The processes of the cluster whose state lies there.
    pub fn new(layout: &Layout) -> Self {
        Self { records: layout.processes(), logs: layout.logs(), mark: layout.state().to_string_lossy().into_owned() }
    }

    /// Starts a program in a session of its own, so that it outlives us and the terminal.
    pub fn start(&self, program: Program) -> Result<Process, Error> {
        if let Ok(process) = self.find(&program.name) {
            return Err(Error::Running { name: program.name, pid: process.pid });
        }
        // If we die before the second write, the record names no process, and `down` finds it by its mark.
        self.write(&Record { program: program.clone(), process: None })?;
        let log = self.open_log(&program.name)?;
        let start_error =
            |source| Error::Start { name: program.name.clone(), program: program.command.first().cloned().unwrap_or_default(), source };
        let error_log = log.try_clone().map_err(start_error)?;
        // setsid(1) makes the session; it and bash become the program, so the child's pid is the program's.
        let child = Command::new("setsid")
            .args(["bash", "-c", CLOSE_INHERITED, "bash"])
            .args(&program.command)
            .envs(&program.environment)
            .env(MARK, &self.mark)
            .current_dir(&program.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            .spawn()
            .map_err(start_error)?;
        let pid = i32::try_from(child.id()).map_err(|source| start_error(std::io::Error::other(source)))?;
        reap(child);
        let process = Process::find(pid).ok_or_else(|| Error::NotRunning { name: program.name.clone() })?;
        self.write(&Record { program, process: Some(process) })?;
        Ok(process)
    }

    /// Starts a process as it was started before.
    pub fn start_again(&self, name: &str) -> Result<Process, Error> {
        self.start(self.read(name)?.program)
    }

    /// The running process of that name.
    pub fn find(&self, name: &str) -> Result<Process, Error> {
        self.read(name)?.process.filter(Process::is_alive).ok_or_else(|| Error::NotRunning { name: name.to_owned() })
    }

    /// Signals the running process of that name.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<(), Error> {
        let process = self.find(name)?;
        process.signal(signal).map_err(|source| Error::Signal { name: name.to_owned(), pid: process.pid, source })
    }

    /// Asks a process to end, kills it after `grace`, and returns when it is gone. One that does not run is fine.
    pub fn stop(&self, name: &str, signal: Signal, grace: Duration) -> Result<(), Error> {
        let process = match self.find(name) {
            Ok(process) => process,
            Err(Error::NotRunning { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let signal_error = |source| Error::Signal { name: name.to_owned(), pid: process.pid, source };
        process.signal(signal).map_err(signal_error)?;
        if !process.wait_gone(grace) {
            process.signal(Signal::KILL).map_err(signal_error)?;
            if !process.wait_gone(KILL_TIMEOUT) {
                return Err(Error::Survived { name: name.to_owned(), pid: process.pid, seconds: KILL_TIMEOUT.as_secs() });
            }
        }
        Ok(())
    }

    /// Kills a process and returns when it is gone. One that does not run is fine.
    pub fn kill(&self, name: &str) -> Result<(), Error> {
        self.stop(name, Signal::KILL, KILL_TIMEOUT)
    }

    /// The names of all that was ever started.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let record_error = |source| Error::Record { path: self.records.clone(), source };
        let entries = match std::fs::read_dir(&self.records) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(record_error)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.map_err(record_error)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Every living process that carries this cluster's mark, recorded or not. The kernel shows no environment at all for
    /// the moment in which a process becomes another program, as setsid(1) and bash do when one is started.
    pub fn marked(&self) -> Vec<Process> {
        let wanted = format!("{MARK}={}", self.mark).into_bytes();
        all_pids()
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == wanted))
            })
            .filter_map(Process::find)
            .collect()
    }

    /// The log of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn open_log(&self, name: &str) -> Result<File, Error> {
        let path = self.log(name);
        std::fs::create_dir_all(&self.logs)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
            .map_err(|source| Error::OpenLog { path, source })
    }

    fn record(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }

    fn read(&self, name: &str) -> Result<Record, Error> {
        let path = self.record(name);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::Unknown { name: name.to_owned() }),
            other => other.map_err(|source| Error::Record { path: path.clone(), source })?,
        };
        serde_json::from_slice(&text).map_err(|source| Error::DamagedRecord { path, source })
    }

    /// Written beside and renamed, so that a record is whole or not there.
    fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.record(&record.program.name);
        let record_error = |source| Error::Record { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(record).map_err(|source| Error::DamagedRecord { path: path.clone(), source })?;
        let beside = path.with_extension("new");
        std::fs::create_dir_all(&self.records).map_err(record_error)?;
        std::fs::write(&beside, text).map_err(record_error)?;
        std::fs::rename(&beside, &path).map_err(record_error)
    }
}

/// Collects the end of a child, so that it does not stay behind as a zombie while a test runs on.
fn reap(mut child: std::process::Child) {
    std::thread::spawn(move || child.wait());
}

/// The pids of all processes.
pub fn all_pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn supervisor() -> (tempfile::TempDir, Supervisor) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().to_path_buf(), folder.path().join("cache"), PathBuf::new());
        let supervisor = Supervisor::new(&layout);
        (folder, supervisor)
    }

    fn sleeper(folder: &Path) -> Program {
        Program::new("sleeper", folder, ["sleep", "1000"])
    }

    #[test]
    fn a_process_is_started_found_by_another_supervisor_and_stopped() {
        let (folder, supervisor) = supervisor();
        let process = supervisor.start(sleeper(folder.path())).unwrap();
        let other = supervisor.clone();
        assert_eq!(other.find("sleeper").unwrap(), process);
        assert!(matches!(other.start(sleeper(folder.path())), Err(Error::Running { .. })));
        other.stop("sleeper", Signal::TERM, Duration::from_secs(5)).unwrap();
        assert!(!process.is_alive());
        assert!(matches!(other.find("sleeper"), Err(Error::NotRunning { .. })));
        let again = other.start_again("sleeper").unwrap();
        assert_ne!(again, process);
        other.kill("sleeper").unwrap();
        assert!(!again.is_alive());
    }

    #[test]
    fn a_process_without_a_record_is_found_by_its_mark() {
        let (folder, supervisor) = supervisor();
        let process = supervisor.start(sleeper(folder.path())).unwrap();
        std::fs::remove_file(supervisor.record("sleeper")).unwrap();
        // It becomes the program by and by; for a moment of that, a process has no environment to be seen.
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut found = supervisor.marked();
        while found.first().and_then(Process::name).as_deref() != Some("sleep") && Instant::now() < deadline {
            std::thread::sleep(LOOK_INTERVAL);
            found = supervisor.marked();
        }
        assert_eq!(found, vec![process]);
        assert_eq!(process.name().as_deref(), Some("sleep"));
        process.signal(Signal::KILL).unwrap();
        assert!(process.wait_gone(Duration::from_secs(5)));
        assert_eq!(process.name(), None);
        assert!(supervisor.marked().is_empty());
    }

    #[test]
    fn a_process_does_not_hold_what_its_starter_had_open() {
        let folder = tempfile::tempdir().unwrap();
        let outlet = folder.path().join("inherited");
        // Opened by a shell without the flag that would close it, as flock(1) does.
        let script = format!("exec 17>{}; exec bash -c '{CLOSE_INHERITED}' bash ls /proc/self/fd", outlet.display());
        let open = Command::new("bash").args(["-c", &script]).output().unwrap();
        let open = String::from_utf8(open.stdout).unwrap();
        assert!(open.lines().any(|fd| fd == "1") && !open.lines().any(|fd| fd == "17"), "{open}");
    }

    #[test]
    fn another_process_with_a_recorded_pid_is_not_taken_for_ours() {
        let ourselves = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        let earlier = Process { started_ticks: ourselves.started_ticks - 1, ..ourselves };
        assert!(ourselves.is_alive());
        assert!(!earlier.is_alive());
    }

    #[test]
    fn stat_is_read_behind_a_name_with_brackets_and_blanks() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 100";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
        assert_eq!(parse_stat("7 (cut"), None);
    }
}
