//! Statistics of features: of one episode, and of all, with exact quantiles in bounded memory.
//!
//! A quantile of everything cannot be had from quantiles of parts. Here values are counted in bins of an order-preserving
//! integer key; a further passage collects the values of the few bins that hold the wanted ranks, or counts those in
//! finer bins where they are too many. Two passages are enough for most data.

/// Quantiles that LeRobot keeps, by name. Between two values they are interpolated, as `numpy.quantile` does.
pub(crate) const QUANTILES: [(&str, f64); 5] = [
    ("q01", 0.01),
    ("q10", 0.10),
    ("q50", 0.50),
    ("q90", 0.90),
    ("q99", 0.99),
];

/// Bins that a range of keys is divided into.
const BINS: u64 = 1 << 14;

/// Values that are collected instead of counted, where a range holds no more.
const COLLECTED: u64 = 1 << 14;

/// How numbers become keys that have their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Floats of 32 bits or less.
    Single,
    /// Floats of 64 bits.
    Double,
    /// Whole numbers and flags.
    Whole,
}

impl Scale {
    fn key(self, value: f64) -> u64 {
        match self {
            Scale::Single => {
                let bits = (value as f32).to_bits();
                u64::from(if bits >> 31 == 1 {
                    !bits
                } else {
                    bits | 1 << 31
                })
            }
            Scale::Double => {
                let bits = value.to_bits();
                if bits >> 63 == 1 {
                    !bits
                } else {
                    bits | 1 << 63
                }
            }
            Scale::Whole => (value as i64 as u64) ^ (1 << 63),
        }
    }

    fn value(self, key: u64) -> f64 {
        match self {
            Scale::Single => {
                let key = key as u32;
                f64::from(f32::from_bits(if key >> 31 == 1 {
                    key & !(1 << 31)
                } else {
                    !key
                }))
            }
            Scale::Double => f64::from_bits(if key >> 63 == 1 {
                key & !(1 << 63)
            } else {
                !key
            }),
            Scale::Whole => (key ^ (1 << 63)) as i64 as f64,
        }
    }

    fn last(self) -> u64 {
        if self == Scale::Single {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        }
    }
}

/// What is said of a feature, value by value of a frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// Frames.
    pub(crate) count: u64,
    pub(crate) min: Vec<f64>,
    pub(crate) max: Vec<f64>,
    pub(crate) mean: Vec<f64>,
    /// Of the population.
    pub(crate) std: Vec<f64>,
    /// For each of [`QUANTILES`].
    pub(crate) quantiles: Vec<Vec<f64>>,
}

/// The ranks between which a quantile of `count` values lies, and how far it is from the first to the second.
fn between(count: u64, quantile: f64) -> (u64, u64, f64) {
    let place = count.saturating_sub(1) as f64 * quantile;
    let low = place.floor();
    (
        low as u64,
        (low as u64 + 1).min(count.saturating_sub(1)),
        place - low,
    )
}

/// numpy's interpolation: exact at both ends.
fn interpolate(low: f64, high: f64, part: f64) -> f64 {
    if part < 0.5 {
        low + (high - low) * part
    } else {
        high - (high - low) * (1.0 - part)
    }
}

/// The summary of `width` values a frame, laid out frame by frame. NaN is not a value; where there is no other, all are 0.
pub(crate) fn summary(values: &[f64], width: usize) -> Summary {
    let count = (values.len() / width.max(1)) as u64;
    let mut summary = Summary {
        count,
        min: Vec::with_capacity(width),
        max: Vec::with_capacity(width),
        mean: Vec::with_capacity(width),
        std: Vec::with_capacity(width),
        quantiles: vec![Vec::with_capacity(width); QUANTILES.len()],
    };
    let mut column = Vec::with_capacity(count as usize);
    for at in 0..width {
        column.clear();
        column.extend(
            values
                .iter()
                .skip(at)
                .step_by(width)
                .filter(|value| !value.is_nan()),
        );
        if column.is_empty() {
            column.push(0.0);
        }
        let held = column.len() as f64;
        let mean = column.iter().sum::<f64>() / held;
        let variance = column
            .iter()
            .map(|value| (value - mean) * (value - mean))
            .sum::<f64>()
            / held;
        column.sort_unstable_by(f64::total_cmp);
        summary.min.push(column[0]);
        summary.max.push(column[column.len() - 1]);
        summary.mean.push(mean);
        summary.std.push(variance.sqrt());
        for ((_, quantile), into) in QUANTILES.iter().zip(&mut summary.quantiles) {
            let (low, high, part) = between(column.len() as u64, *quantile);
            into.push(interpolate(
                column[low as usize],
                column[high as usize],
                part,
            ));
        }
    }
    summary
}

/// The summary of everything, put together from those of parts; its quantiles are not known yet.
#[derive(Debug, Default)]
pub(crate) struct Total {
    summary: Option<Summary>,
}

impl Total {
    /// Adds a part, by the parallel formula for means and variances (Chan, Golub, LeVeque 1979).
    pub(crate) fn add(&mut self, part: &Summary) {
        let Some(total) = &mut self.summary else {
            self.summary = Some(part.clone());
            return;
        };
        let (n, m) = (total.count as f64, part.count as f64);
        for at in 0..total.mean.len() {
            let delta = part.mean[at] - total.mean[at];
            let squares = total.std[at].powi(2) * n
                + part.std[at].powi(2) * m
                + delta * delta * n * m / (n + m);
            total.mean[at] += delta * m / (n + m);
            total.std[at] = (squares / (n + m)).max(0.0).sqrt();
            total.min[at] = total.min[at].min(part.min[at]);
            total.max[at] = total.max[at].max(part.max[at]);
        }
        total.count += part.count;
    }

    /// The summary, with `quantiles`; `None` where nothing was added.
    pub(crate) fn finish(self, quantiles: Vec<Vec<f64>>) -> Option<Summary> {
        self.summary.map(|summary| Summary {
            quantiles,
            ..summary
        })
    }
}

/// Finds exact quantiles of a feature in several passages over its values.
pub(crate) struct Search {
    scale: Scale,
    dimensions: Vec<Dimension>,
}

/// One value of a frame.
struct Dimension {
    count: u64,
    smallest: u64,
    largest: u64,
    /// Ranges of keys that hold wanted ranks, ascending.
    open: Vec<Open>,
    /// Keys of the ranks that are known.
    known: Vec<(u64, u64)>,
    first: bool,
}

/// A range of keys.
struct Open {
    first: u64,
    last: u64,
    /// Values with smaller keys.
    below: u64,
    ranks: Vec<u64>,
    seen: Seen,
}

enum Seen {
    /// Values in each bin.
    Bins(Vec<u64>),
    /// Keys.
    Keys(Vec<u64>),
}

impl Open {
    fn step(&self) -> u64 {
        (self.last - self.first) / BINS + 1
    }
}

impl Search {
    /// A search among `width` values a frame.
    pub(crate) fn new(scale: Scale, width: usize) -> Search {
        let open = || Open {
            first: 0,
            last: scale.last(),
            below: 0,
            ranks: Vec::new(),
            seen: Seen::Bins(vec![0; BINS as usize]),
        };
        let dimension = || Dimension {
            count: 0,
            smallest: u64::MAX,
            largest: 0,
            open: vec![open()],
            known: Vec::new(),
            first: true,
        };
        Search {
            scale,
            dimensions: (0..width).map(|_| dimension()).collect(),
        }
    }

    /// Takes values of the passage, laid out frame by frame.
    pub(crate) fn add(&mut self, values: &[f64]) {
        let scale = self.scale;
        for frame in values.chunks_exact(self.dimensions.len().max(1)) {
            for (value, dimension) in frame.iter().zip(&mut self.dimensions) {
                if !value.is_nan() {
                    dimension.add(scale.key(*value));
                }
            }
        }
    }

    /// Ends a passage; whether all is known.
    pub(crate) fn settle(&mut self) -> bool {
        self.dimensions.iter_mut().for_each(Dimension::settle);
        self.dimensions
            .iter()
            .all(|dimension| dimension.open.is_empty())
    }

    /// Each of [`QUANTILES`], once all is known.
    pub(crate) fn quantiles(&self) -> Vec<Vec<f64>> {
        let of = |dimension: &Dimension, quantile: f64| {
            let (low, high, part) = between(dimension.count, quantile);
            let at = |rank: u64| {
                dimension
                    .known
                    .iter()
                    .find(|(known, _)| *known == rank)
                    .map_or(0.0, |(_, key)| self.scale.value(*key))
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
        let bin = (key - open.first) / open.step();
        match &mut open.seen {
            Seen::Bins(bins) => bins[bin as usize] += 1,
            Seen::Keys(keys) => keys.push(key),
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
            let step = open.step();
            match open.seen {
                Seen::Keys(mut keys) => {
                    keys.sort_unstable();
                    let key = |rank: &u64| {
                        keys.get((rank - open.below) as usize)
                            .map(|key| (*rank, *key))
                    };
                    self.known.extend(open.ranks.iter().filter_map(key));
                }
                Seen::Bins(bins) => {
                    let mut below = open.below;
                    let mut ranks = open.ranks.iter().copied().peekable();
                    for (bin, held) in bins.into_iter().enumerate() {
                        let mut here = Vec::new();
                        while let Some(rank) = ranks.next_if(|rank| *rank < below + held) {
                            here.push(rank);
                        }
                        if !here.is_empty() {
                            let first = open.first + bin as u64 * step;
                            let last = first
                                .saturating_add(step - 1)
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

    /// The ranks `ranks` are in a range that holds `held` values.
    fn narrow(&mut self, first: u64, last: u64, below: u64, held: u64, ranks: Vec<u64>) {
        if first == last {
            self.known
                .extend(ranks.into_iter().map(|rank| (rank, first)));
            return;
        }
        let seen = if held <= COLLECTED {
            Seen::Keys(Vec::with_capacity(held as usize))
        } else {
            Seen::Bins(vec![0; BINS as usize])
        };
        self.open.push(Open {
            first,
            last,
            below,
            ranks,
            seen,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All quantiles by search, and the passages that it took.
    fn search(scale: Scale, values: &[f64], width: usize) -> (Vec<Vec<f64>>, usize) {
        let mut search = Search::new(scale, width);
        for passage in 1..10 {
            values.chunks(width * 7).for_each(|part| search.add(part));
            if search.settle() {
                return (search.quantiles(), passage);
            }
        }
        panic!("no end of passages");
    }

    #[test]
    fn keys_have_the_order_of_values() {
        for scale in [Scale::Single, Scale::Double, Scale::Whole] {
            let values = [-5e9, -2.0, -1.0, 0.0, 1.0, 2.0, 300.0, 5e9];
            assert!(
                values
                    .windows(2)
                    .all(|pair| scale.key(pair[0]) < scale.key(pair[1])),
                "{scale:?}"
            );
            assert!(
                values
                    .iter()
                    .all(|value| scale.value(scale.key(*value)) == *value),
                "{scale:?}"
            );
        }
    }

    #[test]
    fn many_equal_and_many_different_values() {
        // More than a bin may collect, so that bins are refined.
        let different: Vec<f64> = (0..200_000_u64)
            .map(|row| (row.wrapping_mul(2_654_435_761) % 1_000_003) as f64 / 1000.0 + 1.0)
            .collect();
        for (scale, values) in [
            (Scale::Double, different.clone()),
            (
                Scale::Single,
                different
                    .iter()
                    .map(|value| f64::from(*value as f32))
                    .collect(),
            ),
            (
                Scale::Whole,
                different
                    .iter()
                    .map(|value| (value * 1000.0).trunc())
                    .collect(),
            ),
            (
                Scale::Double,
                different.iter().map(|value| value.trunc() / 8.0).collect(),
            ),
        ] {
            let (found, passages) = search(scale, &values, 1);
            assert_eq!(found, summary(&values, 1).quantiles);
            assert!(passages <= 5, "{passages}");
        }
        assert_eq!(
            search(Scale::Double, &vec![1.5; 100_000], 1),
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
        fn a_search_finds_what_sorting_finds(values in prop::collection::vec(-1e3..1e3_f64, 3..400), nan in any::<bool>()) {
            let width = 3;
            let mut values = values[..values.len() / width * width].to_vec();
            if nan {
                values[0] = f64::NAN;
            }
            let sorted = summary(&values, width);
            if !nan || values.len() > width {
                prop_assert_eq!(search(Scale::Double, &values, width).0, sorted.quantiles.clone());
            }
            let mut total = Total::default();
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
