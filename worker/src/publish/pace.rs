//! How much one transaction holds: as much as the brokers took of late in the time for which it may be open.
//!
//! While a transaction is open `read_committed` readers wait, and the coordinator aborts one that is open for too long.
//! How fast records are *handed over* says little of that: what was handed over is still on its way, and brokers that are
//! slow, or that a quota slows down, would be given more than they can take, again and again.

use std::time::{Duration, Instant};

/// How long a transaction is filled.
const FILLED_FOR: Duration = Duration::from_millis(1500);
/// From its begin to its commit; one that took longer is followed by a smaller one.
const OPEN_FOR: Duration = Duration::from_secs(2);
/// Records and bytes of one transaction: what is sent again if it is aborted.
const RECORDS_MAX: u64 = 100_000;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// However slow the brokers are: less is not worth a transaction.
const BYTES_MIN: u64 = 16 * 1024;
/// By how much the next one is smaller if a transaction failed: three in a row come from 16 MB in the client's queue to 256 kB.
const LESS_AFTER_FAILURE: u64 = 4;

/// One bucket's. It outlives transactions and sessions that fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    bytes_max: u64,
    /// What fitted when one took too long. Beyond it the next ones grow carefully: a quota is an average over seconds, which lets some
    /// pass at once before it holds one back for all of them.
    fitted: u64,
    begun: Instant,
    records: u64,
    bytes: u64,
}

impl Pace {
    pub const fn new(now: Instant) -> Self {
        Self { bytes_max: BYTES_MAX, fitted: BYTES_MAX, begun: now, records: 0, bytes: 0 }
    }

    pub const fn begin(&mut self, now: Instant) {
        *self = Self { begun: now, records: 0, bytes: 0, ..*self };
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

    pub fn is_full(&self, now: Instant) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= self.bytes_max || now - self.begun >= FILLED_FOR
    }

    /// The transaction is committed: the next is as large as what fits in the time, and larger if this one was full and soon over.
    pub fn committed(&mut self, now: Instant) {
        let (took, aim) = ((now - self.begun).as_millis().max(1), OPEN_FOR.as_millis());
        if took > aim {
            self.limit(u64::try_from(u128::from(self.bytes) * aim / took).unwrap_or(u64::MAX));
        } else if took <= aim / 2 && self.bytes >= self.bytes_max {
            let next =
                if self.bytes_max < self.fitted { (self.bytes_max * 2).min(self.fitted) } else { self.bytes_max + self.bytes_max / 8 };
            self.bytes_max = next.min(BYTES_MAX);
        }
    }

    /// The transaction failed. Only one that was open for longer than it should be says anything of how much is too much.
    pub fn failed(&mut self, now: Instant) {
        if self.bytes > 0 && now - self.begun > OPEN_FOR {
            self.limit(self.bytes.min(self.bytes_max) / LESS_AFTER_FAILURE);
        }
    }

    fn limit(&mut self, fitted: u64) {
        self.fitted = fitted.clamp(BYTES_MIN, BYTES_MAX);
        self.bytes_max = self.fitted;
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
        let mut now = pace.begun;
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
            pace.committed(now);
            Some(u64::try_from(drained.as_millis()).unwrap_or(u64::MAX))
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn fast_brokers_get_full_transactions() {
        let mut pace = Pace::new(Instant::now());
        let open = transactions(&mut pace, 200_000_000, 5);
        assert_eq!(pace.bytes_max, BYTES_MAX);
        assert!(open.iter().all(|ms| ms.is_some_and(|ms| ms < 600)), "{open:?}");
    }

    #[test]
    fn slow_brokers_get_as_much_as_they_take_in_the_time() {
        for bytes_a_second in [50_000, 300_000, 1_000_000, 3_000_000] {
            let open = transactions(&mut Pace::new(Instant::now()), bytes_a_second, 12);
            let failed = open.iter().filter(|ms| ms.is_none()).count();
            assert!(failed <= 4 && open[..failed].iter().all(Option::is_none), "{bytes_a_second}: {open:?}");
            assert!(open[failed + 2..].iter().all(|ms| ms.is_some_and(|ms| ms <= 2100)), "{bytes_a_second}: {open:?}");
        }
    }

    #[test]
    fn brokers_that_are_fast_again_get_full_transactions_again() {
        let mut pace = Pace::new(Instant::now());
        transactions(&mut pace, 100_000, 8);
        assert!(pace.bytes_max < 1_000_000);
        transactions(&mut pace, 200_000_000, 80);
        assert_eq!(pace.bytes_max, BYTES_MAX);
    }

    #[test]
    fn an_error_that_comes_early_says_nothing_of_the_pace() {
        let now = Instant::now();
        let (mut pace, before) = (Pace::new(now), Pace::new(now).bytes_max);
        pace.begin(now);
        pace.passed(1000);
        pace.failed(now + OPEN_FOR / 2);
        assert_eq!(pace.bytes_max, before);
        pace.begin(now);
        pace.failed(now + OPEN_FOR * 30);
        assert_eq!(pace.bytes_max, before, "nothing was handed over");
    }

    #[test]
    fn a_record_that_is_larger_than_the_limit_passes_alone() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.bytes_max = BYTES_MIN;
        pace.begin(now);
        assert!(!pace.is_full(now));
        pace.passed(BYTES_MAX);
        assert!(pace.is_full(now));
    }
}
