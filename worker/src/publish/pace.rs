//! How much one transaction holds: as much as the brokers took of late in the time for which it may be open.
//!
//! While a transaction is open `read_committed` readers wait, and the coordinator aborts one that is open for too long.
//! How fast records are *handed over* says little of that: what was handed over is still on its way, and brokers that are
//! slow, or that a quota slows down, would be given more than they can take, again and again.

use std::time::{Duration, Instant};

/// How long a transaction is filled.
const FILLED_FOR: Duration = Duration::from_millis(1500);
/// From its begin until all its records are acknowledged; one that took longer is followed by a smaller one. The commit comes on
/// top: how long that takes does not follow from the size.
const OPEN_FOR: Duration = Duration::from_secs(2);
/// One that was full and took less is followed by a larger one.
const SOON: Duration = Duration::from_millis(1400);
/// Records and bytes of one transaction: what is sent again if it is aborted.
const RECORDS_MAX: u64 = 100_000;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// However slow the brokers are: less is not worth a transaction.
const BYTES_MIN: u64 = 16 * 1024;
/// The next one is smaller by no more than this, whatever happened: three in a row come from 16 MB in the client's queue to 256 kB.
const LESS_AT_ONCE: u64 = 4;

/// One bucket's. It outlives transactions and sessions that fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    bytes_max: u64,
    /// When the transaction was begun whose records are under way; `None` between transactions.
    begun: Option<Instant>,
    records: u64,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes_max: BYTES_MAX, begun: None, records: 0, bytes: 0 }
    }
}

impl Pace {
    /// A transaction is open, and waits for its records.
    pub const fn begin(&mut self, now: Instant) {
        *self = Self { begun: Some(now), records: 0, bytes: 0, ..*self };
    }

    /// A record of so many bytes went into the transaction; none, if it was there already.
    pub const fn passed(&mut self, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
    }

    pub const fn records(&self) -> u64 {
        self.records
    }

    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Never without a record: each transaction gets on.
    pub fn is_full(&self, now: Instant) -> bool {
        let is_late = self.begun.is_some_and(|begun| now - begun >= FILLED_FOR);
        self.records > 0 && (is_late || self.records >= RECORDS_MAX || self.bytes >= self.bytes_max)
    }

    /// All records are acknowledged: the next transaction is as large as what fits in the time, and somewhat larger if this one
    /// was full and soon over. Carefully: a quota is an average over seconds, which lets some pass at once before it holds one
    /// back for all of them.
    pub fn delivered(&mut self, now: Instant) {
        let Some(begun) = self.begun.take() else { return };
        let took = now - begun;
        if took > OPEN_FOR {
            let fitting = u128::from(self.bytes) * OPEN_FOR.as_millis() / took.as_millis();
            self.lower_to(u64::try_from(fitting).unwrap_or(u64::MAX));
        } else if took <= SOON && self.bytes >= self.bytes_max {
            self.bytes_max = (self.bytes_max + self.bytes_max / 8).min(BYTES_MAX);
        }
    }

    /// The transaction failed. Only one whose records were under way for longer than they should be says anything of how much is
    /// too much.
    pub fn failed(&mut self, now: Instant) {
        if self.begun.take().is_some_and(|begun| self.bytes > 0 && now - begun > OPEN_FOR) {
            self.lower_to(self.bytes / LESS_AT_ONCE);
        }
    }

    /// What the end of a slice left for a transaction, or nearly nothing, says little of how much fits.
    fn lower_to(&mut self, bytes: u64) {
        self.bytes_max = bytes.max(self.bytes_max / LESS_AT_ONCE).clamp(BYTES_MIN, self.bytes_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client's queue takes at once.
    const QUEUE: u64 = 16 * 1024 * 1024;

    /// Transactions against brokers that take so many bytes a second: how long each was open, in milliseconds; `None` of one
    /// that was aborted.
    fn transactions(pace: &mut Pace, bytes_a_second: u64, count: usize) -> Vec<Option<u64>> {
        let mut now = Instant::now();
        let one = |_| {
            pace.begin(now);
            let mut open = Duration::ZERO;
            while !pace.is_full(now + open) {
                pace.passed(1000);
                // Beyond the queue, records are handed over as fast as others arrive.
                open = Duration::from_micros(pace.bytes.saturating_sub(QUEUE) * 1_000_000 / bytes_a_second);
            }
            let drained = Duration::from_micros(pace.bytes * 1_000_000 / bytes_a_second);
            now += drained;
            if drained > weir_kafka::transaction::TRANSACTION_TIMEOUT {
                pace.failed(now);
                return None;
            }
            pace.delivered(now);
            Some(u64::try_from(drained.as_millis()).unwrap_or(u64::MAX))
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn fast_brokers_get_full_transactions() {
        let mut pace = Pace::default();
        let open = transactions(&mut pace, 200_000_000, 5);
        assert_eq!(pace.bytes_max, BYTES_MAX);
        assert!(open.iter().all(|ms| ms.is_some_and(|ms| ms < 600)), "{open:?}");
    }

    #[test]
    fn slow_brokers_get_as_much_as_they_take_in_the_time() {
        for bytes_a_second in [50_000, 300_000, 1_000_000, 3_000_000] {
            let open = transactions(&mut Pace::default(), bytes_a_second, 12);
            let failed = open.iter().filter(|ms| ms.is_none()).count();
            assert!(failed <= 4 && open[..failed].iter().all(Option::is_none), "{bytes_a_second}: {open:?}");
            assert!(open[failed + 2..].iter().all(|ms| ms.is_some_and(|ms| ms <= 2100)), "{bytes_a_second}: {open:?}");
        }
    }

    #[test]
    fn brokers_that_are_fast_again_get_full_transactions_again() {
        let mut pace = Pace::default();
        transactions(&mut pace, 100_000, 8);
        assert!(pace.bytes_max < 1_000_000);
        transactions(&mut pace, 200_000_000, 80);
        assert_eq!(pace.bytes_max, BYTES_MAX);
    }

    #[test]
    fn an_error_that_comes_early_says_nothing_of_the_pace() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(now);
        pace.passed(1000);
        pace.failed(now + OPEN_FOR / 2);
        assert_eq!(pace.bytes_max, BYTES_MAX);
        pace.begin(now);
        pace.failed(now + OPEN_FOR * 30);
        assert_eq!(pace.bytes_max, BYTES_MAX, "nothing was handed over");
        pace.begin(now);
        pace.passed(1000);
        pace.delivered(now + OPEN_FOR / 2);
        pace.failed(now + OPEN_FOR * 30);
        assert_eq!(pace.bytes_max, BYTES_MAX, "it was the commit that failed, or the next one did not begin");
    }

    #[test]
    fn a_transaction_holds_something_however_late_its_first_record_comes() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(now);
        assert!(!pace.is_full(now + FILLED_FOR * 10));
        pace.passed(0);
        assert!(pace.is_full(now + FILLED_FOR), "also one that was there already");
    }

    #[test]
    fn one_that_was_slow_with_little_does_not_make_all_others_small() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(now);
        pace.passed(2000);
        pace.delivered(now + OPEN_FOR * 2);
        assert_eq!(pace.bytes_max, BYTES_MAX / LESS_AT_ONCE);
    }

    #[test]
    fn a_record_that_is_larger_than_the_limit_passes_alone() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.bytes_max = BYTES_MIN;
        pace.begin(now);
        assert!(!pace.is_full(now));
        pace.passed(BYTES_MAX);
        assert!(pace.is_full(now));
    }
}
