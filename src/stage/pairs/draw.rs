//! Draws pairs of segments.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};

use super::{ORIGIN, PAIR, SIDE, START};
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};
use crate::expr::Expression;
use crate::stage::support::rank;
use crate::stage::{Dropped, Selected, Selection};

const SALT: &str = "pairs";

/// Draws pairs of segments from the table of trajectories.
pub(super) struct Draw {
    pub(super) length: i64,
    /// Number of pairs.
    pub(super) count: i64,
    pub(super) seed: u64,
    pub(super) group: Option<Expression>,
}

impl Draw {
    /// Returns a random integer below `bound`, from the draw with this number.
    fn below(&self, bound: i64, number: i64) -> i64 {
        let point = rank::uniform(rank::chance(SALT, self.seed, number)) * bound as f64;
        (point as i64).clamp(0, bound - 1)
    }
}

impl Selection for Draw {
    fn reads(&self) -> Vec<String> {
        let expressions: Vec<&Expression> = self.group.iter().collect();
        rank::reads(&expressions, &[trajectory::LENGTH])
    }

    fn writes(&self) -> Vec<Field> {
        let field = |name: &str, data_type| Field::new(name, data_type, false);
        vec![
            field(PAIR, DataType::Int64),
            field(SIDE, DataType::Int32),
            field(START, DataType::Int32),
            field(ORIGIN, DataType::Int64),
        ]
    }

    fn repeats(&self) -> bool {
        true
    }

    fn stays(&self) -> bool {
        true
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let ids = rank::ids(table)?;
        // Segments are numbered group by group, in the order of ids. `sums` has one past the number
        // of the last segment of each trajectory.
        let (mut line, mut sums, mut ends) = (
            Vec::<u32>::new(),
            Vec::<i64>::new(),
            Vec::<(i64, i64)>::new(),
        );
        let mut total = 0;
        for mut group in rank::groups(table, self.group.as_ref())? {
            group.sort_by_key(|row| ids.value(*row as usize));
            let first = total;
            for row in group {
                total += (lengths[row as usize] - self.length + 1).max(0);
                line.push(row);
                sums.push(total);
            }
            // The only segment of a group has no partner.
            if total - first >= 2 {
                ends.push((first, total));
            }
        }
        let upto: Vec<i64> = ends
            .iter()
            .scan(0, |sum, (first, end)| {
                *sum += end - first;
                Some(*sum)
            })
            .collect();
        let usable = upto.last().copied().unwrap_or(0);
        if usable == 0 && self.count > 0 {
            return Err(Error::failed(format!(
                "there are no two segments of length {} to draw",
                self.length
            ))
            .hint("reduce `length`, or keep more or longer trajectories before `pairs`"));
        }
        let place = |segment: i64| {
            let index = sums.partition_point(|end| *end <= segment);
            let before = index.checked_sub(1).map_or(0, |before| sums[before]);
            (
                line[index],
                i32::try_from(segment - before).unwrap_or(i32::MAX),
            )
        };
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for pair in 0..self.count {
            let first = self.below(usable, 2 * pair);
            let group = upto.partition_point(|end| *end <= first);
            let (begin, end) = ends[group];
            let first = first - (upto[group] - (end - begin));
            let other = self.below(end - begin - 1, 2 * pair + 1);
            let other = if other >= first { other + 1 } else { other };
            for segment in [begin + first, begin + other] {
                let (row, start) = place(segment);
                rows.push(row);
                starts.push(start);
            }
        }
        let mut drawn = vec![false; table.num_rows()];
        rows.iter().for_each(|row| drawn[*row as usize] = true);
        let rest: Vec<u32> = drawn
            .iter()
            .zip(0..)
            .filter(|(drawn, _)| !**drawn)
            .map(|(_, row)| row)
            .collect();
        let dropped = (!rest.is_empty()).then(|| Dropped {
            reason: "no segment was drawn".to_owned(),
            rows: rest,
        });
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                (0..self.count).flat_map(|pair| [pair, pair]),
            )),
            Arc::new(Int32Array::from_iter_values(
                (0..self.count).flat_map(|_| [1, 2]),
            )),
            Arc::new(Int32Array::from(starts)),
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| ids.value(*row as usize)),
            )),
        ];
        Ok(Selected {
            rows,
            columns,
            dropped: dropped.into_iter().collect(),
            ..Selected::default()
        })
    }
}
