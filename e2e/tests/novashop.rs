//! The log that the demo is about, and the truth about it: two programs in two languages that must agree. Needs no cluster.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_e2e::layout::Layout;
use weir_e2e::novashop::{Settings, generate};

/// On one core, with all that it shares the machine with.
const MILLION_LIMIT: Duration = Duration::from_secs(60);

fn python(arguments: &[&str], folder: &Path) -> (bool, String) {
    let output = Command::new("python3").arg("-B").args(arguments).current_dir(folder).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (output.status.success(), said)
}

#[test]
fn the_truth_finds_every_kind_of_harm() {
    let (is_right, said) = python(&["-m", "unittest", "test_truth"], &Layout::from_environment().sources().join("truth"));
    assert!(is_right, "{said}");
}

fn generator_and_truth_agree(settings: Settings) {
    let folder = tempfile::tempdir().unwrap();
    let log = generate(settings, &folder.path().join("log")).unwrap();
    let planted = folder.path().join("planted.json");
    std::fs::write(&planted, serde_json::to_vec(&log.planted).unwrap()).unwrap();
    let compare = Layout::from_environment().sources().join("truth/compare.py");
    let paths = [compare.as_path(), log.folder.as_path(), planted.as_path()].map(|path| path.to_string_lossy().into_owned());
    let (is_right, said) = python(&[&paths[0], "--objects", &paths[1], "--planted", &paths[2]], folder.path());
    assert!(is_right, "{said}");
}

#[test]
fn what_was_planted_is_what_the_log_has() {
    for seed in [1, 2] {
        generator_and_truth_agree(Settings { seed, events: 15_000 });
    }
}

#[test]
fn a_million_events_take_less_than_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let log = generate(Settings { seed: 42, events: 1_000_000 }, folder.path()).unwrap();
    let took = began.elapsed();
    assert!(took < MILLION_LIMIT, "{took:?}");
    assert!(log.planted.objects.iter().all(|object| object.bytes < 8 << 20), "{:?}", log.planted.objects);
}
