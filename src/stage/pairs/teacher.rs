//! The preferences of a synthetic teacher, after B-Pref (Lee et al., NeurIPS 2021).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{FELT, MEMBERS, PAIR, SCORE, SIDE};
use crate::error::{Error, Result};
use crate::stage::support::rank;
use crate::stage::{Dropped, Misfit, Selected, Selection};

/// Column of trajectories: 1 for the preferred segment of a pair, 0 for the other, 0.5 for equal
/// segments.
pub(super) const PREFERENCE: &str = "preference";
/// Column of trajectories: the score of a segment minus that of the other.
pub(super) const MARGIN: &str = "margin";
/// Columns of trajectories: mean and standard deviation, over the models of an ensemble, of the
/// reward of a segment minus that of the other (Wang et al., "Secrets of RLHF in Large Language
/// Models, Part II", 2024).
pub(super) const STRENGTH: &str = "strength";
pub(super) const SPREAD: &str = "spread";

/// How a teacher errs. It first skips pairs, then judges by what it feels, then makes mistakes. If
/// two scores are nearly equal, it prefers both segments alike. A teacher without options is always
/// right.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Teacher {
    /// Rationality of the teacher: it prefers the second segment with probability
    /// 1 / (1 + exp(-beta (felt_2 - felt_1))). Default: it always prefers the better segment.
    #[serde(default)]
    #[schemars(range(min = 0))]
    beta: Option<f64>,
    /// Discount of a myopic teacher, from 0 to 1: it feels the sum of gamma^(length - 1 - t) r_t
    /// over the steps t of a segment, so that earlier steps count less. Default: 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    gamma: Option<f64>,
    /// Probability that a judgement is reversed, from 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    mistake: f64,
    /// Skips pairs whose better score is below this. Default: no pair is skipped.
    #[serde(default)]
    skip: Option<f64>,
    /// Largest difference between scores that count as equal. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    equal: f64,
}

impl Teacher {
    /// Returns the teacher, or an error if an option is out of range.
    pub(super) fn checked(self) -> Result<Teacher, Misfit> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let faults = [
            (
                "beta",
                self.beta
                    .is_some_and(|beta| !(beta >= 0.0 && beta.is_finite())),
                "at least 0",
            ),
            (
                "gamma",
                self.gamma.is_some_and(|gamma| !share(gamma)),
                "from 0 to 1",
            ),
            ("mistake", !share(self.mistake), "a probability from 0 to 1"),
            (
                "equal",
                !(self.equal >= 0.0 && self.equal.is_finite()),
                "at least 0",
            ),
        ];
        match faults.into_iter().find(|(_, wrong, _)| *wrong) {
            Some((key, _, wanted)) => Err(Misfit::new(format!("`{key}` must be {wanted}")).at(key)),
            None => Ok(self),
        }
    }

    /// Returns the discount of earlier steps.
    pub(super) fn gamma(&self) -> f64 {
        self.gamma.unwrap_or(1.0)
    }

    /// Returns the preference for the second of two segments; `None` if the pair is skipped.
    /// `draws` are two random numbers between 0 and 1, for the choice and for the mistake.
    fn prefers_second(&self, scores: [f64; 2], felt: [f64; 2], draws: [f64; 2]) -> Option<f64> {
        if self
            .skip
            .is_some_and(|skip| scores[0].max(scores[1]) < skip)
        {
            return None;
        }
        if (scores[1] - scores[0]).abs() <= self.equal {
            return Some(0.5);
        }
        let second = match self.beta {
            Some(beta) => draws[0] < sigmoid(beta * (felt[1] - felt[0])),
            None => felt[1] > felt[0],
        };
        Some(f64::from(u8::from(second != (draws[1] < self.mistake))))
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Keeps pairs by disagreement and lets the teacher judge them.
pub(super) struct Judge {
    pub(super) teacher: Teacher,
    pub(super) count: usize,
    pub(super) seed: u64,
    /// Whether segments have a score to judge by.
    pub(super) judged: bool,
    /// Whether there is an ensemble that can disagree.
    pub(super) members: bool,
}

fn lost(name: &str) -> Error {
    Error::failed(format!("`trajectories` has no column `{name}`"))
}

/// Returns a float64 column, with NaN for null.
fn floats(table: &RecordBatch, name: &str) -> Result<Vec<f64>> {
    let column = table
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<Float64Type>());
    let column = column.ok_or_else(|| lost(name))?;
    Ok(column
        .iter()
        .map(|value| value.unwrap_or(f64::NAN))
        .collect())
}

/// Returns, for each model of the ensemble, the reward of the second segment of a pair minus that
/// of the first; empty if one of them is null.
fn differences(table: &RecordBatch, pair: [u32; 2]) -> Result<Vec<f64>> {
    let lists = table
        .column_by_name(MEMBERS)
        .and_then(|column| column.as_list_opt::<i32>());
    let lists = lists.ok_or_else(|| lost(MEMBERS))?;
    if pair.iter().any(|row| lists.is_null(*row as usize)) {
        return Ok(Vec::new());
    }
    let [first, second] = pair.map(|row| lists.value(row as usize));
    let (first, second) = (
        first.as_primitive::<Float64Type>(),
        second.as_primitive::<Float64Type>(),
    );
    Ok(first
        .values()
        .iter()
        .zip(second.values())
        .map(|(first, second)| second - first)
        .collect())
}

/// Returns the mean and the population standard deviation; NaN if there are no values.
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (
        mean,
        (values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / values.len() as f64)
            .sqrt(),
    )
}

/// Returns the standard deviation of the models' probabilities that the second segment is better.
fn disagreement(differences: &[f64]) -> f64 {
    moments(
        &differences
            .iter()
            .map(|difference| sigmoid(*difference))
            .collect::<Vec<_>>(),
    )
    .1
}

impl Selection for Judge {
    fn reads(&self) -> Vec<String> {
        let scores = [SCORE, FELT].into_iter().filter(|_| self.judged);
        let members = self.members.then_some(MEMBERS);
        [PAIR, SIDE]
            .into_iter()
            .chain(scores)
            .chain(members)
            .map(str::to_owned)
            .collect()
    }

    fn writes(&self) -> Vec<Field> {
        let mut fields = vec![Field::new(PAIR, DataType::Int64, false)];
        if self.judged {
            fields.extend(
                [PREFERENCE, MARGIN].map(|name| Field::new(name, DataType::Float64, false)),
            );
        }
        if self.members {
            fields.extend([STRENGTH, SPREAD].map(|name| Field::new(name, DataType::Float64, true)));
        }
        fields
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let numbers = table
            .column_by_name(PAIR)
            .and_then(|column| column.as_primitive_opt::<Int64Type>());
        let numbers = numbers.ok_or_else(|| lost(PAIR))?.values();
        let sides = table
            .column_by_name(SIDE)
            .and_then(|column| column.as_primitive_opt::<Int32Type>());
        let sides = sides.ok_or_else(|| lost(SIDE))?.values();
        let mut line: Vec<u32> = (0..sides.len() as u32).collect();
        line.sort_by_key(|row| (numbers[*row as usize], sides[*row as usize]));
        let mut pairs: Vec<[u32; 2]> = line
            .chunks_exact(2)
            .map(|pair| [pair[0], pair[1]])
            .collect();
        let mut dropped: Vec<(&str, Vec<u32>)> = Vec::new();
        if self.members {
            let apart = pairs
                .iter()
                .map(|pair| Ok(disagreement(&differences(table, *pair)?)))
                .collect::<Result<Vec<_>>>()?;
            let mut order: Vec<usize> = (0..pairs.len()).collect();
            let key = |index: &usize| {
                if apart[*index].is_nan() {
                    f64::NEG_INFINITY
                } else {
                    apart[*index]
                }
            };
            order.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
            let rest = order.split_off(self.count.min(order.len()));
            dropped.push((
                "the ensemble disagrees more on other pairs",
                rest.iter().flat_map(|index| pairs[*index]).collect(),
            ));
            order.sort_unstable();
            pairs = order.into_iter().map(|index| pairs[index]).collect();
        }
        let (mut preferences, mut margins) = (Vec::new(), Vec::new());
        if self.judged {
            let (scores, felt) = (floats(table, SCORE)?, floats(table, FELT)?);
            let (mut skipped, mut unknown) = (Vec::new(), Vec::new());
            pairs.retain(|pair| {
                let of = |values: &[f64]| pair.map(|row| values[row as usize]);
                if of(&scores).iter().any(|score| score.is_nan()) {
                    unknown.extend(*pair);
                    return false;
                }
                let number = numbers[pair[0] as usize];
                let draw = |index: i64| {
                    rank::uniform(rank::chance("pairs teacher", self.seed, 2 * number + index))
                };
                let Some(second) =
                    self.teacher
                        .prefers_second(of(&scores), of(&felt), [draw(0), draw(1)])
                else {
                    skipped.extend(*pair);
                    return false;
                };
                preferences.extend([1.0 - second, second]);
                let margin = scores[pair[1] as usize] - scores[pair[0] as usize];
                margins.extend([-margin, margin]);
                true
            });
            dropped.extend([
                ("skipped by the teacher", skipped),
                ("a segment of the pair has no score", unknown),
            ]);
        }
        let dropped = dropped.into_iter().filter(|(_, rows)| !rows.is_empty());
        let dropped = dropped
            .map(|(reason, rows)| Dropped {
                reason: reason.to_owned(),
                rows,
            })
            .collect();
        let dense =
            Int64Array::from_iter_values((0..pairs.len() as i64).flat_map(|pair| [pair, pair]));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(dense)];
        if self.judged {
            columns.extend(
                [preferences, margins]
                    .map(|values| -> ArrayRef { Arc::new(Float64Array::from(values)) }),
            );
        }
        if self.members {
            let (mut strengths, mut spreads) = (Vec::new(), Vec::new());
            for pair in &pairs {
                let (mean, std) = moments(&differences(table, *pair)?);
                strengths.extend([-mean, mean].map(|value| (!value.is_nan()).then_some(value)));
                spreads.extend([std, std].map(|value| (!value.is_nan()).then_some(value)));
            }
            columns.extend(
                [strengths, spreads]
                    .map(|values| -> ArrayRef { Arc::new(Float64Array::from(values)) }),
            );
        }
        Ok(Selected {
            rows: pairs.into_iter().flatten().collect(),
            columns,
            dropped,
            ..Selected::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher(options: &str) -> Teacher {
        serde_json::from_str::<Teacher>(options)
            .unwrap()
            .checked()
            .unwrap()
    }

    #[test]
    fn the_teacher_errs_as_its_options_say() {
        let right = teacher("{}");
        assert_eq!(
            right.prefers_second([1.0, 2.0], [1.0, 2.0], [0.5, 0.5]),
            Some(1.0)
        );
        assert_eq!(
            right.prefers_second([2.0, 1.0], [2.0, 1.0], [0.5, 0.5]),
            Some(0.0)
        );
        assert_eq!(
            right.prefers_second([2.0, 2.0], [2.0, 2.0], [0.5, 0.5]),
            Some(0.5)
        );
        let skipping = teacher(r#"{"skip": 3, "equal": 0.5}"#);
        assert_eq!(
            skipping.prefers_second([1.0, 2.9], [1.0, 2.9], [0.5, 0.5]),
            None
        );
        assert_eq!(
            skipping.prefers_second([3.0, 3.5], [3.0, 3.5], [0.5, 0.5]),
            Some(0.5)
        );
        let mistaken = teacher(r#"{"mistake": 0.1}"#);
        assert_eq!(
            mistaken.prefers_second([1.0, 2.0], [1.0, 2.0], [0.5, 0.05]),
            Some(0.0)
        );
        let myopic = teacher(r#"{"gamma": 0.5}"#);
        assert_eq!(
            myopic.prefers_second([5.0, 2.0], [0.1, 2.0], [0.5, 0.5]),
            Some(1.0)
        );
        let noisy = teacher(r#"{"beta": 1}"#);
        let chance = 1.0 / (1.0 + (-1.0_f64).exp());
        assert_eq!(
            noisy.prefers_second([1.0, 2.0], [1.0, 2.0], [chance - 1e-9, 1.0]),
            Some(1.0)
        );
        assert_eq!(
            noisy.prefers_second([1.0, 2.0], [1.0, 2.0], [chance + 1e-9, 1.0]),
            Some(0.0)
        );
        let refused = serde_json::from_str::<Teacher>(r#"{"mistake": 2}"#)
            .unwrap()
            .checked()
            .unwrap_err();
        assert_eq!(
            (refused.path, refused.message),
            (
                vec!["mistake".to_owned()],
                "`mistake` must be a probability from 0 to 1".to_owned()
            )
        );
    }
}
