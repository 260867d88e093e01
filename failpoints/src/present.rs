//! In a test build: what the environment of the process asks for. It is read once.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::{
    FAULTS_ENV, FIRED_ENV, Fault, GUARDS_OUT_ENV, Guard,
    plan::{Action, Plan},
};

/// A request on the way needs about so long to the broker and not back again.
const SOON: Duration = Duration::from_millis(1);

struct Asked {
    plan: Mutex<Plan>,
    fired: Option<PathBuf>,
    guards_out: Vec<String>,
}

fn asked() -> Option<&'static Asked> {
    static ASKED: OnceLock<Option<Asked>> = OnceLock::new();
    let read = || {
        let (faults, guards_out) = (std::env::var(FAULTS_ENV).ok(), std::env::var(GUARDS_OUT_ENV).ok());
        if faults.is_none() && guards_out.is_none() {
            return None;
        }
        let plan = Plan::parse(&faults.unwrap_or_default());
        Some(Asked {
            plan: Mutex::new(plan.expect("whoever sets the variable knows its form: a fault that is left out proves nothing")),
            fired: std::env::var_os(FIRED_ENV).map(PathBuf::from),
            guards_out: guards_out.unwrap_or_default().split(',').map(str::to_owned).collect(),
        })
    };
    ASKED.get_or_init(read).as_ref()
}

pub fn hit(point: &'static str) -> Option<Fault> {
    let asked = asked()?;
    // The lock is held until the fault is written down, and where a process dies, until it is dead: nobody passes a
    // point meanwhile.
    let mut plan = asked.plan.lock().unwrap_or_else(PoisonError::into_inner);
    let (hit, action) = plan.come_to(point)?;
    asked.note(&format!("{point} {hit} {action} {}\n", std::process::id()));
    match action {
        Action::Trace => None,
        Action::Fail => Some(Fault::Fail),
        Action::Lose => Some(Fault::Lose),
        Action::Pause(milliseconds) => {
            drop(plan);
            std::thread::sleep(Duration::from_millis(milliseconds));
            None
        }
        // As with SIGKILL nothing of the process runs any more: no destructor, no handler, no goodbye to anyone.
        Action::Kill => std::process::abort(),
        Action::KillSoon => {
            std::thread::spawn(|| {
                std::thread::sleep(SOON);
                std::process::abort()
            });
            None
        }
    }
}

pub fn stands(guard: Guard) -> bool {
    let Some(asked) = asked() else { return true };
    if !asked.guards_out.iter().any(|out| out == guard.name()) {
        return true;
    }
    asked.note(&format!("guard:{} 0 out {}\n", guard.name(), std::process::id()));
    false
}

impl Asked {
    /// In one write, so that lines of several processes do not mix. A line that cannot be written is a fault that does
    /// not count as fired, which its test finds.
    fn note(&self, line: &str) {
        let Some(path) = &self.fired else { return };
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
