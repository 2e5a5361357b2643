//! Seeded random numbers: SplitMix64 (Steele, Lea and Flood, 2014), with one stream per use.
//!
//! The seed and a salt identify a stream.

/// A stream of pseudorandom numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// Returns the stream of `seed` for the use that `salt` identifies.
    pub(super) fn new(seed: u64, salt: &[u64]) -> Random {
        Random(
            salt.iter()
                .fold(mix(seed.wrapping_add(STRIDE)), |state, salt| {
                    mix(state ^ mix(salt.wrapping_add(STRIDE)))
                }),
        )
    }

    /// Returns the next 64 bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STRIDE);
        mix(self.0)
    }

    /// Returns the next number in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns the next integer below `n`, or 0 if `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        // Multiply and shift: the bias is below n / 2^64.
        usize::try_from((u128::from(self.bits()) * n as u128) >> 64).unwrap_or(0)
    }

    /// Shuffles `items` (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Draws from the Poisson distribution with mean 1 (Knuth, TAOCP vol. 2, section 3.4.1).
    pub(super) fn poisson(&mut self) -> usize {
        let (limit, mut product, mut count) = ((-1.0_f64).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_their_distributions() {
        let mut random = Random::new(7, &[1]);
        let n = 40_000;
        let mean = (0..n).map(|_| random.unit()).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let counts: Vec<usize> = (0..n).map(|_| random.poisson()).collect();
        let mean = counts.iter().sum::<usize>() as f64 / f64::from(n);
        let none = counts.iter().filter(|count| **count == 0).count() as f64 / f64::from(n);
        assert!(
            (mean - 1.0).abs() < 0.03 && (none - 0.3679).abs() < 0.01,
            "{mean} {none}"
        );
        let mut order: Vec<usize> = (0..1000).collect();
        random.shuffle(&mut order);
        assert!(
            order
                .iter()
                .enumerate()
                .filter(|(place, item)| place == *item)
                .count()
                < 10
        );
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn streams_differ_by_seed_and_salt() {
        let first = |seed, salt: &[u64]| Random::new(seed, salt).bits();
        assert_eq!(first(1, &[2, 3]), first(1, &[2, 3]));
        for other in [
            first(2, &[2, 3]),
            first(1, &[3, 2]),
            first(1, &[2]),
            first(1, &[]),
        ] {
            assert_ne!(first(1, &[2, 3]), other);
        }
    }
}
