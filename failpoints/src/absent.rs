//! In a release: no points, and guards that always stand.

use crate::{Fault, Guard};

#[inline(always)]
pub fn hit(_: &'static str) -> Option<Fault> {
    None
}

#[inline(always)]
pub fn stands(_: Guard) -> bool {
    true
}
