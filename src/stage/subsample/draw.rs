//! Keeps a part of the trajectories, by chance or by rank.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Float64Array, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type};

use super::Subsample;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};
use crate::expr::Expression;
use crate::stage::support::condition::{self, Condition, Nulls};
use crate::stage::support::rank;
use crate::stage::{Bound, Context, Dropped, Misfit, Selected, Selection};

/// Salt of the draws, so that they differ from those of other stages with the same seed.
const SALT: &str = "subsample";

#[derive(Debug, Clone, Copy)]
enum Size {
    Fraction(f64),
    Count(usize),
    PerGroup(usize),
    MaxSteps(i64),
}

/// The order in which trajectories are taken.
enum Line {
    Chance,
    Weighted(Expression),
    Top(Expression),
}

struct Sample {
    size: Size,
    line: Line,
    stratify: Option<Expression>,
    among: Option<Condition>,
    replacement: bool,
    seed: u64,
}

pub(super) fn bind(given: Subsample, context: &Context) -> Result<Bound, Misfit> {
    if given.reward.is_some() {
        return Err(Misfit::new("`reward` goes with `stride`").at("reward"));
    }
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let max_steps = |steps: u64| i64::try_from(steps).unwrap_or(i64::MAX);
    let size = match (
        given.fraction,
        given.count,
        given.per_group,
        given.max_steps,
    ) {
        (Some(fraction), None, None, None) => Size::Fraction(fraction),
        (None, Some(n), None, None) => Size::Count(count(n)),
        (None, None, Some(n), None) => Size::PerGroup(count(n)),
        (None, None, None, Some(steps)) => Size::MaxSteps(max_steps(steps)),
        _ => {
            return Err(Misfit::new(
                "`subsample` needs exactly one of `fraction`, `count`, `per_group`, `max_steps` \
                 and `stride`",
            )
            .help("give one of them, such as {fraction: 0.25, seed: 7}"));
        }
    };
    if let Size::Fraction(fraction) = size
        && !(fraction >= 0.0 && fraction.is_finite() && (fraction <= 1.0 || given.replacement))
    {
        return Err(Misfit::new(format!(
            "`fraction` must be a share from 0 to 1, not {fraction}"
        ))
        .at("fraction"));
    }
    let conflicts = [
        (
            given.nulls.is_some() && given.among.is_none(),
            "nulls",
            "`nulls` needs `where`, the condition that may be null",
        ),
        (
            given.top.is_some() && given.weight.is_some(),
            "weight",
            "`top` and `weight` exclude each other: one ranks trajectories, the other draws them",
        ),
        (
            given.top.is_some() && given.replacement,
            "replacement",
            "`replacement` does not go with `top`, which takes each trajectory once",
        ),
        (
            matches!(size, Size::MaxSteps(_)) && given.replacement,
            "replacement",
            "`replacement` does not go with `max_steps`, which takes each trajectory once",
        ),
        (
            matches!(size, Size::MaxSteps(_)) && given.stratify.is_some(),
            "stratify",
            "`stratify` needs `fraction`, `count` or `per_group`, not `max_steps`",
        ),
        (
            matches!(size, Size::PerGroup(_)) && given.stratify.is_none(),
            "per_group",
            "`per_group` needs `stratify`, which defines the groups",
        ),
    ];
    if let Some((_, key, message)) = conflicts.into_iter().find(|(conflict, _, _)| *conflict) {
        return Err(Misfit::new(message).at(key));
    }
    let line = match (given.top, given.weight) {
        (Some(top), _) => Line::Top(
            rank::bind_key(&top.by, context.trajectories)
                .map_err(|misfit| misfit.at("by").at("top"))?,
        ),
        (None, Some(weight)) => {
            let weight = rank::bind_key(&weight, context.trajectories)
                .map_err(|misfit| misfit.at("weight"))?;
            if *weight.data_type() == DataType::Utf8 {
                return Err(Misfit::new("a weight must be a number, not text").at("weight"));
            }
            Line::Weighted(weight)
        }
        (None, None) => Line::Chance,
    };
    let stratify = given
        .stratify
        .map(|sql| rank::bind_key(&sql, context.trajectories))
        .transpose();
    let stratify = stratify.map_err(|misfit| misfit.at("stratify"))?;
    let among = given
        .among
        .map(|sql| {
            let nulls = given.nulls.unwrap_or_default();
            Condition::bind(&sql, context.trajectories, None, nulls, |_| {
                "choose what to do with these trajectories: `nulls: drop` drops them, and `nulls: \
                 keep` keeps them all"
                    .to_owned()
            })
        })
        .transpose();
    let among = among.map_err(|misfit| Misfit::from(misfit).at("where"))?;
    Bound::selection(Sample {
        size,
        line,
        stratify,
        among,
        replacement: given.replacement,
        seed: given.seed,
    })
}

impl Sample {
    /// Returns the weights of the trajectories.
    fn weights(&self, expression: &Expression, table: &RecordBatch) -> Result<Vec<f64>> {
        let weights = cast(&expression.evaluate(table, &[])?, &DataType::Float64)?;
        let weights: Vec<f64> = weights
            .as_primitive::<Float64Type>()
            .iter()
            .map(|weight| weight.unwrap_or(0.0))
            .collect();
        match weights
            .iter()
            .position(|weight| !(*weight >= 0.0 && weight.is_finite()))
        {
            None => Ok(weights),
            Some(row) => {
                let id = rank::ids(table)?.value(row);
                Err(
                    Error::failed(format!("the weight of trajectory {id} is {}", weights[row]))
                        .hint("weights must be finite and not negative"),
                )
            }
        }
    }

    /// Returns the rows that can be drawn, in the order in which they are taken.
    fn line_up(&self, table: &RecordBatch) -> Result<Vec<u32>> {
        match &self.line {
            Line::Chance => rank::shuffled(table, SALT, self.seed),
            Line::Top(key) => rank::order(table, key.evaluate(table, &[])?, true),
            Line::Weighted(weight) => {
                // The rows with the smallest -ln(u) / weight are a weighted sample (Efraimidis and
                // Spirakis, 2006).
                let weights = self.weights(weight, table)?;
                let ids = rank::ids(table)?.values();
                let key = |(id, weight): (&i64, &f64)| {
                    -rank::uniform(rank::chance(SALT, self.seed, *id)).ln() / weight
                };
                let keys = Float64Array::from_iter_values(ids.iter().zip(&weights).map(key));
                let line = rank::order(table, Arc::new(keys), false)?;
                Ok(line
                    .into_iter()
                    .filter(|row| weights[*row as usize] > 0.0)
                    .collect())
            }
        }
    }

    /// Returns how many trajectories to take from groups of these sizes.
    fn quotas(&self, sizes: &[usize]) -> Vec<usize> {
        let n: usize = sizes.iter().sum();
        let total = match self.size {
            Size::Fraction(fraction) if self.replacement => {
                (fraction * n as f64 + 1e-9).floor() as usize
            }
            Size::Fraction(fraction) => rank::share_of(fraction, n),
            Size::Count(count) if self.replacement => count,
            Size::Count(count) => count.min(n),
            Size::PerGroup(count) if self.replacement => {
                return sizes.iter().map(|_| count).collect();
            }
            Size::PerGroup(count) => return sizes.iter().map(|size| count.min(*size)).collect(),
            Size::MaxSteps(_) => n,
        };
        // Shares are exact integers, so that no group gains by the rounding error of another.
        let whole = |size: usize| (total as u128 * size as u128) / n.max(1) as u128;
        let part = |size: usize| (total as u128 * size as u128) % n.max(1) as u128;
        let mut quotas: Vec<usize> = match self.size {
            // Every group gets the same fraction before the rest is distributed.
            Size::Fraction(fraction) => sizes
                .iter()
                .map(|size| (fraction * *size as f64 + 1e-9).floor() as usize)
                .collect(),
            _ => sizes.iter().map(|size| whole(*size) as usize).collect(),
        };
        let fractional = |size: usize| match self.size {
            Size::Fraction(fraction) => (fraction * size as f64 + 1e-9).fract(),
            _ => part(size) as f64 / n.max(1) as f64,
        };
        let mut by_loss: Vec<usize> = (0..sizes.len()).collect();
        by_loss.sort_by(|a, b| {
            fractional(sizes[*b])
                .total_cmp(&fractional(sizes[*a]))
                .then(a.cmp(b))
        });
        let rest = total.saturating_sub(quotas.iter().sum());
        by_loss
            .into_iter()
            .take(rest)
            .for_each(|group| quotas[group] += 1);
        quotas
    }

    /// Draws `quota` rows from `group` with replacement. `drawn` numbers the draws over all groups.
    fn draw(
        &self,
        table: &RecordBatch,
        group: &[u32],
        quota: usize,
        drawn: &mut i64,
    ) -> Result<Vec<u32>> {
        let ids = rank::ids(table)?;
        let mut group = group.to_vec();
        group.sort_by_key(|row| ids.value(*row as usize));
        let weights = match &self.line {
            Line::Weighted(weight) => self.weights(weight, table)?,
            _ => vec![1.0; table.num_rows()],
        };
        let mut sums: Vec<f64> = Vec::with_capacity(group.len());
        for row in &group {
            sums.push(sums.last().copied().unwrap_or(0.0) + weights[*row as usize]);
        }
        let total = sums.last().copied().unwrap_or(0.0);
        if total <= 0.0 {
            return Ok(Vec::new());
        }
        let draw = |number: i64| {
            let point = rank::uniform(rank::chance(
                "subsample with replacement",
                self.seed,
                number,
            )) * total;
            group[sums
                .partition_point(|sum| *sum <= point)
                .min(group.len() - 1)]
        };
        let first = *drawn;
        *drawn += i64::try_from(quota).unwrap_or(i64::MAX);
        Ok((first..*drawn).map(draw).collect())
    }

    /// Returns the first rows of the line whose lengths add up to no more than `max_steps`.
    fn fitting(table: &RecordBatch, line: &[u32], max_steps: i64) -> Result<Vec<u32>> {
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let mut left = max_steps;
        let fits = line.iter().take_while(|row| {
            left = left.saturating_sub(lengths[**row as usize]);
            left >= 0
        });
        Ok(fits.copied().collect())
    }

    /// Returns the rows of `table` that are drawn.
    fn drawn(&self, table: &RecordBatch) -> Result<Vec<u32>> {
        let groups = rank::groups(table, self.stratify.as_ref())?;
        let mut rows = Vec::new();
        if self.replacement {
            let quotas = self.quotas(&groups.iter().map(Vec::len).collect::<Vec<_>>());
            let most = quotas
                .iter()
                .fold(0_usize, |sum, quota| sum.saturating_add(*quota));
            if u32::try_from(most).is_err() {
                return Err(Error::failed(format!(
                    "`subsample` would draw {most} trajectories, but a result can have at most 2³²"
                ))
                .hint("reduce the count or fraction"));
            }
            let mut drawn = 0;
            for (group, quota) in groups.iter().zip(quotas) {
                rows.extend(self.draw(table, group, quota, &mut drawn)?);
            }
            return Ok(rows);
        }
        let line = self.line_up(table)?;
        if let Size::MaxSteps(max_steps) = self.size {
            return Sample::fitting(table, &line, max_steps);
        }
        let mut group_of = vec![0; table.num_rows()];
        for (index, group) in groups.iter().enumerate() {
            group.iter().for_each(|row| group_of[*row as usize] = index);
        }
        let mut left = self.quotas(&groups.iter().map(Vec::len).collect::<Vec<_>>());
        for row in line {
            let left = &mut left[group_of[row as usize]];
            if *left > 0 {
                *left -= 1;
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

impl Selection for Sample {
    fn reads(&self) -> Vec<String> {
        let among = self.among.as_ref().map(|among| &among.expression);
        let mut expressions: Vec<&Expression> = self.stratify.iter().chain(among).collect();
        if let Line::Weighted(key) | Line::Top(key) = &self.line {
            expressions.push(key);
        }
        rank::reads(&expressions, &[])
    }

    fn repeats(&self) -> bool {
        self.replacement
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let mut null = Vec::new();
        let mut counts = BTreeMap::new();
        let mut rows = match &self.among {
            None => self.drawn(table)?,
            Some(among) => {
                let verdicts = among.trajectories(table)?;
                let keep = among.nulls == Nulls::Keep;
                counts = condition::kept("trajectories", keep, &verdicts);
                let mask = verdicts.mask(false);
                let (these, mut others): (Vec<u32>, Vec<u32>) = (0..)
                    .take(mask.len())
                    .partition(|row| mask.value(*row as usize));
                if !keep {
                    (null, others) = others
                        .into_iter()
                        .partition(|row| verdicts.is_unknown(*row as usize));
                }
                let drawn = self.drawn(&filter_record_batch(table, &mask)?)?;
                others.extend(drawn.into_iter().map(|row| these[row as usize]));
                others
            }
        };
        rows.sort_unstable();
        let mut kept = vec![false; table.num_rows()];
        rows.iter()
            .chain(&null)
            .for_each(|row| kept[*row as usize] = true);
        let dropped: Vec<u32> = kept
            .iter()
            .zip(0..)
            .filter(|(kept, _)| !**kept)
            .map(|(_, row)| row)
            .collect();
        let reason = match self.line {
            Line::Top(_) => "not among the highest values",
            _ => "not drawn",
        };
        let reasons = [(reason, dropped), (condition::NULL, null)];
        let dropped = reasons.into_iter().filter(|(_, rows)| !rows.is_empty());
        let dropped = dropped.map(|(reason, rows)| Dropped {
            reason: reason.to_owned(),
            rows,
        });
        Ok(Selected {
            rows,
            dropped: dropped.collect(),
            counts,
            ..Selected::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::Field;
    use proptest::prelude::*;

    use super::super::STAGE;
    use super::*;
    use crate::stage::support::fixture::{self, float};

    fn select(rows: &[(i64, f64, &str, i64)], options: &str) -> Vec<i64> {
        let (ids, lengths): (Vec<i64>, Vec<i64>) = rows.iter().map(|row| (row.0, row.3)).unzip();
        let values: Vec<Option<f64>> = rows.iter().map(|row| Some(row.1)).collect();
        let groups = StringArray::from_iter_values(rows.iter().map(|row| row.2));
        let groups = (
            Field::new("group", DataType::Utf8, true),
            Arc::new(groups) as ArrayRef,
        );
        let table = fixture::table(&ids, &lengths, vec![float("return", &values), groups]);
        fixture::selected_ids(&table, &*fixture::selection(&STAGE, options, &table))
    }

    fn rows(n: usize) -> Vec<(i64, f64, &'static str, i64)> {
        (0..n)
            .map(|id| {
                (
                    id as i64,
                    (id * 7 % 13) as f64,
                    ["a", "b", "c"][id % 7 % 3],
                    1 + id as i64 % 5,
                )
            })
            .collect()
    }

    proptest! {
        #[test]
        fn sizes_are_exact_and_the_tables_order_is_without_effect(
            n in 0usize..60,
            percent in 0usize..=100,
            seed in 0u64..1000,
            turn in 0usize..60,
        ) {
            let straight = rows(n);
            let mut turned = straight.clone();
            turned.rotate_left(turn % n.max(1));
            turned.reverse();
            let fraction = percent as f64 / 100.0;
            let line_ups = [
                format!(r#"{{"fraction": {fraction}, "seed": {seed}}}"#),
                format!(r#"{{"fraction": {fraction}, "seed": {seed}, "stratify": "group"}}"#),
                format!(r#"{{"fraction": {fraction}, "seed": {seed}, "weight": "length"}}"#),
                format!(r#"{{"fraction": {fraction}, "top": {{"by": "return"}}}}"#),
                format!(
                    r#"{{"count": {}, "seed": {seed}, "stratify": "group"}}"#,
                    n * percent / 100
                ),
                format!(
                    r#"{{
                        "count": {}, "seed": {seed}, "replacement": true,
                        "weight": "return + 1", "stratify": "group"
                    }}"#,
                    n * percent / 100
                ),
            ];
            for options in line_ups {
                let (kept, mut again) = (select(&straight, &options), select(&turned, &options));
                prop_assert_eq!(kept.len(), n * percent / 100, "{}", options);
                prop_assert!(kept.is_sorted(), "the table's order is kept");
                again.sort_unstable();
                prop_assert_eq!(&kept, &again);
                let mut sizes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
                for row in &straight {
                    let size = sizes.entry(row.2).or_default();
                    *size = (
                        size.0 + 1,
                        size.1 + kept.iter().filter(|id| **id == row.0).count(),
                    );
                }
                if options.contains("stratify") && n > 0 {
                    let exact = |size: usize| (n * percent / 100) as f64 / n as f64 * size as f64;
                    let near = sizes
                        .values()
                        .all(|(size, kept)| (*kept as f64 - exact(*size)).abs() <= 1.0 + 1e-9);
                    prop_assert!(near, "{:?} of {}", sizes, options);
                }
            }
        }

        #[test]
        fn a_draw_in_steps_takes_the_line_until_it_is_full(
            n in 0usize..40,
            max_steps in 0i64..120,
            seed in 0u64..50,
        ) {
            let table = rows(n);
            let kept = select(
                &table,
                &format!(r#"{{"max_steps": {max_steps}, "seed": {seed}}}"#),
            );
            let mut line: Vec<_> = table
                .iter()
                .map(|row| (rank::chance("subsample", seed, row.0), row.0, row.3))
                .collect();
            line.sort_unstable();
            let mut sum = 0;
            let wanted: BTreeSet<i64> = line
                .iter()
                .take_while(|row| {
                    sum += row.2;
                    sum <= max_steps
                })
                .map(|row| row.1)
                .collect();
            prop_assert_eq!(kept.into_iter().collect::<BTreeSet<_>>(), wanted);
        }
    }

    #[test]
    fn a_draw_among_some_leaves_the_others_and_is_that_of_these_alone() {
        let table = rows(30);
        let (these, others): (Vec<_>, Vec<_>) = table.iter().partition(|row| row.2 == "a");
        for size in [
            r#""fraction": 0.5"#,
            r#""max_steps": 9"#,
            r#""count": 4, "top": {"by": "return"}"#,
            r#""count": 20, "replacement": true"#,
        ] {
            let options = |more: &str| format!(r#"{{{size}, "seed": 2{more}}}"#);
            let mut wanted = select(&these, &options(""));
            wanted.extend(others.iter().map(|row| row.0));
            wanted.sort_unstable();
            assert_eq!(
                select(&table, &options(r#", "where": "\"group\" = 'a'""#)),
                wanted,
                "{size}"
            );
        }
        assert_eq!(
            select(&table, r#"{"count": 0, "where": "\"group\" = 'nobody'"}"#).len(),
            30
        );
    }

    #[test]
    fn the_rest_goes_to_the_groups_that_lost_most() {
        let mut table = rows(0);
        table.extend((0..10).map(|id| (id, 0.0, "a", 1)));
        table.extend((10..16).map(|id| (id, 0.0, "b", 1)));
        table.extend((16..20).map(|id| (id, 0.0, "c", 1)));
        // 0.25 of 10, 6 and 4 is 2.5, 1.5 and 1; of 20 it is 5, so one is left over, and equal
        // losses go by the group's value.
        let kept = select(
            &table,
            r#"{"fraction": 0.25, "stratify": "group", "seed": 3}"#,
        );
        let of = |range: std::ops::Range<i64>| kept.iter().filter(|id| range.contains(id)).count();
        assert_eq!((of(0..10), of(10..16), of(16..20)), (3, 1, 1));
    }

    #[test]
    fn the_highest_are_kept_nan_counting_as_the_highest_and_ties_by_id() {
        let table = [
            (5, 1.0, "a", 1),
            (3, 1.0, "a", 1),
            (4, 9.0, "b", 1),
            (1, 0.0, "b", 1),
        ];
        assert_eq!(
            select(&table, r#"{"count": 2, "top": {"by": "return"}}"#),
            [3, 4]
        );
        assert_eq!(
            select(
                &table,
                r#"{"fraction": 0.5, "top": {"by": "return"}, "stratify": "group"}"#
            ),
            [3, 4]
        );
        assert_eq!(
            select(&table, r#"{"count": 1, "top": {"by": "-\"return\""}}"#),
            [1]
        );
    }

    #[test]
    fn weights_are_chances() {
        let table: Vec<_> = (0..3000)
            .map(|id| (id, if id % 3 == 0 { 0.0 } else { (id % 3) as f64 }, "a", 1))
            .collect();
        let kept = select(&table, r#"{"count": 300, "weight": "return", "seed": 1}"#);
        let of = |kept: &[i64], class: i64| kept.iter().filter(|id| **id % 3 == class).count();
        assert_eq!(of(&kept, 0), 0);
        // One in three against two in three, less what without replacement takes off: four standard
        // deviations wide.
        assert!((170..=225).contains(&of(&kept, 2)), "{}", of(&kept, 2));
        let drawn = select(
            &table,
            r#"{"count": 3000, "weight": "return", "replacement": true, "seed": 1}"#,
        );
        assert_eq!((drawn.len(), of(&drawn, 0)), (3000, 0));
        assert!((1896..=2104).contains(&of(&drawn, 2)), "{}", of(&drawn, 2));
        let all = select(&table, r#"{"fraction": 1, "weight": "return"}"#);
        assert_eq!(all.len(), 2000, "a weight of 0 is never drawn");
    }

    #[test]
    fn impossible_weights_and_options_are_refused() {
        let table = fixture::table(
            &[7, 8],
            &[1, 1],
            vec![float("return", &[Some(1.0), Some(-2.0)])],
        );
        let selection = fixture::selection(&STAGE, r#"{"count": 1, "weight": "return"}"#, &table);
        assert_eq!(
            selection.select(&table).err().unwrap().message,
            "the weight of trajectory 8 is -2"
        );
        let misfit =
            |options: &str| fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
        assert_eq!(
            misfit("{}").message,
            "`subsample` needs exactly one of `fraction`, `count`, `per_group`, `max_steps` and \
             `stride`"
        );
        assert_eq!(
            misfit(r#"{"fraction": 0.1, "count": 3}"#).message,
            misfit("{}").message
        );
        assert_eq!(misfit(r#"{"fraction": 1.5}"#).path, ["fraction"]);
        assert_eq!(
            misfit(r#"{"stride": 2, "seed": 1, "weight": "length"}"#).path,
            ["weight"]
        );
        assert_eq!(
            misfit(r#"{"stride": 2, "where": "length > 1"}"#).path,
            ["where"]
        );
        assert_eq!(misfit(r#"{"count": 2, "where": "length"}"#).path, ["where"]);
        assert_eq!(
            misfit(r#"{"count": 2, "top": {"by": "retrun"}}"#).path,
            ["top", "by"]
        );
        assert_eq!(
            misfit(r#"{"count": 2, "replacement": true, "top": {"by": "return"}}"#).path,
            ["replacement"]
        );
    }
}
