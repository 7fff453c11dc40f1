//! Random choices that a printed seed repeats.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// Splitmix64: small, and good enough to choose with.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// With the seed in `CORACLE_TEST_SEED`, else one from the clock; it is printed either way.
    ///
    /// # Panics
    /// When the variable is no number.
    #[must_use]
    pub fn seeded() -> Self {
        let named = env::var("CORACLE_TEST_SEED").ok();
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seed = named.map_or_else(clock, |text| text.parse().expect("CORACLE_TEST_SEED is a number"));
        println!("CORACLE_TEST_SEED={seed}");
        Self(seed)
    }

    /// Another source of choices, decided by this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When the bound is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        let mixed = self.next();
        usize::try_from(mixed % u64::try_from(bound).expect("a bound")).expect("below the bound")
    }
}
