//! Breaking the glass: for a time, what a person allows stands in for the floor.

use crate::Retention;

/// An exception for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// As `namespace/name`.
    pub name: String,
    pub reason: String,
    pub floor_ms: i64,
    pub until_ms: i64,
}

/// The floor that is enforced, and the exception that lowers it. `needed` is what required groups need right now: no
/// exception goes below.
pub fn enforced(floor: Retention, exceptions: &[Exception], needed: Retention, now_ms: i64) -> (Retention, Option<&Exception>) {
    let active = exceptions.iter().filter(|e| now_ms < e.until_ms).min_by_key(|e| e.floor_ms);
    match active {
        Some(exception) => {
            let lowered = Retention::Millis(exception.floor_ms).max(needed);
            if lowered < floor { (lowered, Some(exception)) } else { (floor, None) }
        }
        None => (floor, None),
    }
}
