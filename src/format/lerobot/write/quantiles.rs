//! Exact quantiles in bounded memory.
//!
//! The quantiles of a whole cannot be computed from the quantiles of its parts. Here values become
//! integer keys of the same order, which are counted in bins. A further pass collects the values of
//! the few bins that hold the wanted ranks, or counts them in finer bins if there are too many. Two
//! passes are enough for most data.

/// The quantiles that LeRobot stores, interpolated between two values as `numpy.quantile` does.
pub(crate) const QUANTILES: [(&str, f64); 5] = [
    ("q01", 0.01),
    ("q10", 0.10),
    ("q50", 0.50),
    ("q90", 0.90),
    ("q99", 0.99),
];

/// The number of bins that a range of keys is divided into.
const BINS: u64 = 1 << 14;

/// A range with at most this many values is collected instead of counted.
const COLLECTED: u64 = 1 << 14;

/// How numbers become integer keys of the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    /// Floats of at most 32 bits.
    Float32,
    /// Floats of 64 bits.
    Float64,
    /// Integers and booleans.
    Int64,
}

impl KeyType {
    fn key(self, value: f64) -> u64 {
        match self {
            KeyType::Float32 => {
                let bits = (value as f32).to_bits();
                u64::from(if bits >> 31 == 1 {
                    !bits
                } else {
                    bits | 1 << 31
                })
            }
            KeyType::Float64 => {
                let bits = value.to_bits();
                if bits >> 63 == 1 {
                    !bits
                } else {
                    bits | 1 << 63
                }
            }
            KeyType::Int64 => (value as i64 as u64) ^ (1 << 63),
        }
    }

    fn value(self, key: u64) -> f64 {
        match self {
            KeyType::Float32 => {
                let key = key as u32;
                f64::from(f32::from_bits(if key >> 31 == 1 {
                    key & !(1 << 31)
                } else {
                    !key
                }))
            }
            KeyType::Float64 => f64::from_bits(if key >> 63 == 1 {
                key & !(1 << 63)
            } else {
                !key
            }),
            KeyType::Int64 => (key ^ (1 << 63)) as i64 as f64,
        }
    }

    fn last(self) -> u64 {
        if self == KeyType::Float32 {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        }
    }
}

/// Returns the two ranks between which a quantile of `count` values lies, and the fraction of the
/// way from the first to the second.
pub(crate) fn between(count: u64, quantile: f64) -> (u64, u64, f64) {
    let place = count.saturating_sub(1) as f64 * quantile;
    let low = place.floor();
    (
        low as u64,
        (low as u64 + 1).min(count.saturating_sub(1)),
        place - low,
    )
}

/// Interpolates as numpy does: exact at both ends.
pub(crate) fn interpolate(low: f64, high: f64, part: f64) -> f64 {
    if part < 0.5 {
        low + (high - low) * part
    } else {
        high - (high - low) * (1.0 - part)
    }
}

/// Finds the exact quantiles of a feature in several passes over its values.
pub(crate) struct QuantileSearch {
    key_type: KeyType,
    dimensions: Vec<Dimension>,
}

/// The search for one of the values of a frame.
struct Dimension {
    count: u64,
    smallest: u64,
    largest: u64,
    /// Ranges of keys that hold wanted ranks, in ascending order.
    open: Vec<KeyRange>,
    /// The ranks that are known, with their keys.
    known: Vec<(u64, u64)>,
    /// Whether this is the first pass.
    first: bool,
}

/// A range of keys that holds wanted ranks.
struct KeyRange {
    first: u64,
    last: u64,
    /// The number of values with smaller keys.
    below: u64,
    ranks: Vec<u64>,
    tally: Tally,
}

/// What a pass has found in a range.
enum Tally {
    /// The number of values in each bin.
    Bins(Vec<u64>),
    /// The keys themselves.
    Keys(Vec<u64>),
}

impl KeyRange {
    /// The number of keys in a bin.
    fn bin_width(&self) -> u64 {
        (self.last - self.first) / BINS + 1
    }
}

impl QuantileSearch {
    /// Begins a search for a feature with `width` values in a frame.
    pub(crate) fn new(key_type: KeyType, width: usize) -> QuantileSearch {
        let open = || KeyRange {
            first: 0,
            last: key_type.last(),
            below: 0,
            ranks: Vec::new(),
            tally: Tally::Bins(vec![0; BINS as usize]),
        };
        let dimension = || Dimension {
            count: 0,
            smallest: u64::MAX,
            largest: 0,
            open: vec![open()],
            known: Vec::new(),
            first: true,
        };
        QuantileSearch {
            key_type,
            dimensions: (0..width).map(|_| dimension()).collect(),
        }
    }

    /// Adds values of the present pass, laid out frame by frame.
    pub(crate) fn add(&mut self, values: &[f64]) {
        let key_type = self.key_type;
        for frame in values.chunks_exact(self.dimensions.len().max(1)) {
            for (value, dimension) in frame.iter().zip(&mut self.dimensions) {
                if !value.is_nan() {
                    dimension.add(key_type.key(*value));
                }
            }
        }
    }

    /// Ends a pass and returns whether all quantiles are known.
    pub(crate) fn settle(&mut self) -> bool {
        self.dimensions.iter_mut().for_each(Dimension::settle);
        self.dimensions
            .iter()
            .all(|dimension| dimension.open.is_empty())
    }

    /// Returns each of [`QUANTILES`] for each value of a frame, once all are known.
    pub(crate) fn quantiles(&self) -> Vec<Vec<f64>> {
        let of = |dimension: &Dimension, quantile: f64| {
            let (low, high, part) = between(dimension.count, quantile);
            let at = |rank: u64| {
                dimension
                    .known
                    .iter()
                    .find(|(known, _)| *known == rank)
                    .map_or(0.0, |(_, key)| self.key_type.value(*key))
            };
            interpolate(at(low), at(high), part)
        };
        QUANTILES
            .iter()
            .map(|(_, quantile)| {
                self.dimensions
                    .iter()
                    .map(|dimension| of(dimension, *quantile))
                    .collect()
            })
            .collect()
    }
}

impl Dimension {
    fn add(&mut self, key: u64) {
        if self.first {
            self.count += 1;
            self.smallest = self.smallest.min(key);
            self.largest = self.largest.max(key);
        }
        let after = self.open.partition_point(|open| open.last < key);
        let Some(open) = self.open.get_mut(after).filter(|open| open.first <= key) else {
            return;
        };
        let bin = (key - open.first) / open.bin_width();
        match &mut open.tally {
            Tally::Bins(bins) => bins[bin as usize] += 1,
            Tally::Keys(keys) => keys.push(key),
        }
    }

    fn settle(&mut self) {
        if self.first {
            self.first = false;
            let ranks = QUANTILES
                .iter()
                .map(|(_, quantile)| between(self.count, *quantile))
                .flat_map(|(low, high, _)| [low, high]);
            let mut ranks: Vec<u64> = ranks.filter(|_| self.count > 0).collect();
            ranks.sort_unstable();
            ranks.dedup();
            self.open
                .iter_mut()
                .for_each(|open| open.ranks.clone_from(&ranks));
        }
        for open in std::mem::take(&mut self.open) {
            let width = open.bin_width();
            match open.tally {
                Tally::Keys(mut keys) => {
                    keys.sort_unstable();
                    let key = |rank: &u64| {
                        keys.get((rank - open.below) as usize)
                            .map(|key| (*rank, *key))
                    };
                    self.known.extend(open.ranks.iter().filter_map(key));
                }
                Tally::Bins(bins) => {
                    let mut below = open.below;
                    let mut ranks = open.ranks.iter().copied().peekable();
                    for (bin, held) in bins.into_iter().enumerate() {
                        let mut here = Vec::new();
                        while let Some(rank) = ranks.next_if(|rank| *rank < below + held) {
                            here.push(rank);
                        }
                        if !here.is_empty() {
                            let first = open.first + bin as u64 * width;
                            let last = first
                                .saturating_add(width - 1)
                                .min(open.last)
                                .min(self.largest);
                            self.narrow(first.max(self.smallest), last, below, held, here);
                        }
                        below += held;
                    }
                }
            }
        }
    }

    /// Notes that `ranks` are in a range of keys that holds `held` values.
    fn narrow(&mut self, first: u64, last: u64, below: u64, held: u64, ranks: Vec<u64>) {
        if first == last {
            self.known
                .extend(ranks.into_iter().map(|rank| (rank, first)));
            return;
        }
        let tally = if held <= COLLECTED {
            Tally::Keys(Vec::with_capacity(held as usize))
        } else {
            Tally::Bins(vec![0; BINS as usize])
        };
        self.open.push(KeyRange {
            first,
            last,
            below,
            ranks,
            tally,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::lerobot::write::stats::{RunningSummary, summary};

    /// Finds all quantiles by search; returns them and the number of passes.
    fn search(key_type: KeyType, values: &[f64], width: usize) -> (Vec<Vec<f64>>, usize) {
        let mut search = QuantileSearch::new(key_type, width);
        for pass in 1..10 {
            values.chunks(width * 7).for_each(|part| search.add(part));
            if search.settle() {
                return (search.quantiles(), pass);
            }
        }
        panic!("the search does not end");
    }

    #[test]
    fn keys_have_the_order_of_values() {
        for key_type in [KeyType::Float32, KeyType::Float64, KeyType::Int64] {
            let values = [-5e9, -2.0, -1.0, 0.0, 1.0, 2.0, 300.0, 5e9];
            assert!(
                values
                    .windows(2)
                    .all(|pair| key_type.key(pair[0]) < key_type.key(pair[1])),
                "{key_type:?}"
            );
            assert!(
                values
                    .iter()
                    .all(|value| key_type.value(key_type.key(*value)) == *value),
                "{key_type:?}"
            );
        }
    }

    #[test]
    fn many_equal_and_many_different_values() {
        // More values than a range may collect, so that bins are refined.
        let different: Vec<f64> = (0..200_000_u64)
            .map(|row| (row.wrapping_mul(2_654_435_761) % 1_000_003) as f64 / 1000.0 + 1.0)
            .collect();
        for (key_type, values) in [
            (KeyType::Float64, different.clone()),
            (
                KeyType::Float32,
                different
                    .iter()
                    .map(|value| f64::from(*value as f32))
                    .collect(),
            ),
            (
                KeyType::Int64,
                different
                    .iter()
                    .map(|value| (value * 1000.0).trunc())
                    .collect(),
            ),
            (
                KeyType::Float64,
                different.iter().map(|value| value.trunc() / 8.0).collect(),
            ),
        ] {
            let (found, passes) = search(key_type, &values, 1);
            assert_eq!(found, summary(&values, 1).quantiles);
            assert!(passes <= 5, "{passes}");
        }
        assert_eq!(
            search(KeyType::Float64, &vec![1.5; 100_000], 1),
            (vec![vec![1.5]; 5], 1)
        );
    }

    #[test]
    fn numbers_of_numpy() {
        // numpy.quantile(numpy.arange(500.0), [0.01, 0.5, 0.99]), and numpy's mean and std.
        let values: Vec<f64> = (0..500).map(f64::from).collect();
        let summary = summary(&values, 1);
        assert_eq!(
            (
                summary.quantiles[0][0],
                summary.quantiles[2][0],
                summary.quantiles[4][0]
            ),
            (4.99, 249.5, 494.01)
        );
        assert_eq!(
            (summary.mean[0], summary.std[0]),
            (249.5, 144.337_278_621_983_16)
        );
    }

    proptest! {
        #[test]
        fn a_search_finds_what_sorting_finds(
            values in prop::collection::vec(-1e3..1e3_f64, 3..400),
            nan in any::<bool>(),
        ) {
            let width = 3;
            let mut values = values[..values.len() / width * width].to_vec();
            if nan {
                values[0] = f64::NAN;
            }
            let sorted = summary(&values, width);
            if !nan || values.len() > width {
                let (found, _) = search(KeyType::Float64, &values, width);
                prop_assert_eq!(found, sorted.quantiles.clone());
            }
            let mut total = RunningSummary::default();
            values.chunks(width * 11).for_each(|part| total.add(&summary(part, width)));
            let total = total.finish(Vec::new()).unwrap();
            prop_assert_eq!(total.count, sorted.count);
            if !nan {
                prop_assert_eq!((&total.min, &total.max), (&sorted.min, &sorted.max));
                for at in 0..width {
                    prop_assert!((total.mean[at] - sorted.mean[at]).abs() < 1e-9);
                    prop_assert!((total.std[at] - sorted.std[at]).abs() < 1e-9);
                }
            }
        }
    }
}
