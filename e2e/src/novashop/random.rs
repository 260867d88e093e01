//! Random numbers that are the same on every machine and in every version: SplitMix64.

/// A stream of numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Random(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scatters a number. One to one, so that different numbers stay different.
pub fn scatter(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Random {
    /// The stream of one thing among many of a seed.
    pub fn of(seed: u64, number: u64) -> Self {
        Self(scatter(seed.wrapping_mul(STEP)) ^ scatter(number.wrapping_add(STEP)))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        scatter(self.0)
    }

    /// In `0..bound`; the bias of the remainder is far below what anyone could count here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// In `low..high`, as a time or a length of time.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low).max(1).unsigned_abs()).cast_signed()
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// In `[0, 1)`, with 53 random bits.
    pub fn fraction(&mut self) -> f64 {
        const BITS: u32 = 53;
        (self.draw() >> (64 - BITS)) as f64 / (1u64 << BITS) as f64
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
