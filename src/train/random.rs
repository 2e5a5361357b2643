//! Seeded chance: SplitMix64 (Steele, Lea and Flood, 2014), one stream for each use, told apart by seed and salt.

/// A stream of numbers that look random.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// The stream of `seed` for the use that `salt` names.
    pub(super) fn new(seed: u64, salt: &[u64]) -> Random {
        Random(
            salt.iter()
                .fold(mix(seed.wrapping_add(STRIDE)), |state, salt| {
                    mix(state ^ mix(salt.wrapping_add(STRIDE)))
                }),
        )
    }

    /// The next 64 bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STRIDE);
        mix(self.0)
    }

    /// The next number from 0 to 1, 1 excluded.
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The next number below `n`; 0 where `n` is.
    pub(super) fn below(&mut self, n: usize) -> usize {
        // Multiply and shift: the bias is below n / 2^64.
        usize::try_from((u128::from(self.bits()) * n as u128) >> 64).unwrap_or(0)
    }

    /// Brings `items` into random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A draw from the Poisson distribution of mean 1 (Knuth).
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
    fn draws_are_spread_as_they_should_be() {
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
    fn streams_of_other_salts_are_others() {
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
