//! From predictions to labels: the rows to predict at, and the reduction of ensembles and
//! overlapping horizons to one value.

use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage::support::infer::windows::{Slot, Span};

/// How overlapping predictions for one step become its label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reduce {
    /// Their mean.
    #[default]
    Mean,
    /// The oldest prediction, made at the earliest step.
    First,
    /// The newest prediction, made at the step itself.
    Last,
}

/// The steps that a prediction covers, and how overlaps are reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Horizon {
    /// Number of steps that one prediction covers, starting with the row's own; 1 without a
    /// horizon.
    pub(super) length: usize,
    /// How overlapping predictions are reduced.
    pub(super) reduce: Reduce,
    /// Number of values that are predicted for one step.
    pub(super) width: usize,
}

/// Predictions of the models, ordered by member, slot, step of the horizon and dimension.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Predictions {
    /// Actions or logits.
    pub(super) means: Vec<f64>,
    /// Their standard deviations, if the models give them.
    pub(super) stds: Option<Vec<f64>>,
}

/// One value per target, not yet tested for being finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reduced {
    /// Values, one vector per target.
    pub(super) values: Vec<f64>,
    /// Standard deviations, one vector per target, if there is an ensemble or the models give them.
    pub(super) stds: Option<Vec<f64>>,
    /// Number of predictions, per member, that the value was reduced from; 0 if no prediction is
    /// possible.
    pub(super) votes: Vec<i32>,
}

/// Returns the rows to predict at so that every target gets its label, in order. `targets` are in
/// order, and `possible` says whether the models can run at a slot.
pub(super) fn needed(
    horizon: &Horizon,
    spans: &[Span],
    targets: &[Slot],
    possible: impl Fn(&Slot) -> bool,
) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::with_capacity(targets.len());
    for target in targets {
        let span = target.span;
        let mut candidates = reach(horizon, &spans[span], target.row)
            .map(|row| Slot { row, span })
            .filter(&possible);
        match horizon.reduce {
            Reduce::Mean => {
                let next = slots.last().map_or(0, |slot| slot.row + 1);
                slots.extend(candidates.filter(|slot| slot.row >= next));
            }
            Reduce::First => push_new(&mut slots, candidates.next()),
            Reduce::Last => push_new(&mut slots, candidates.next_back()),
        }
    }
    slots
}

/// Appends `slot` unless it is there. The oldest and the newest candidates never move back from one
/// target to the next, so a new one lies after all others.
fn push_new(slots: &mut Vec<Slot>, slot: Option<Slot>) {
    if let Some(slot) = slot.filter(|slot| slots.last().is_none_or(|last| slot.row > last.row)) {
        slots.push(slot);
    }
}

/// Returns the rows whose predictions cover `row`.
fn reach(horizon: &Horizon, span: &Span, row: usize) -> Range<usize> {
    span.start.max((row + 1).saturating_sub(horizon.length))..row + 1
}

/// Reduces the predictions of `members` models at `slots`, which are those of [`needed`], to one
/// value per target: the mean over members and, as the horizon says, over overlapping predictions,
/// in float64.
///
/// The standard deviation is that of the mixture of all predictions used: the root of the mean of
/// the models' own variances (0 if they give none) plus the population variance of the predictions.
pub(super) fn reduce(
    horizon: &Horizon,
    spans: &[Span],
    targets: &[Slot],
    slots: &[Slot],
    members: usize,
    made: Predictions,
) -> Reduced {
    // With one prediction per target, the prediction is the label.
    if members == 1 && horizon.length == 1 && slots.len() == targets.len() {
        return Reduced {
            values: made.means,
            stds: made.stds,
            votes: vec![1; targets.len()],
        };
    }
    let width = horizon.width;
    let mut reduced = Reduced {
        values: vec![0.0; targets.len() * width],
        stds: None,
        votes: vec![0; targets.len()],
    };
    let mut stds = (members > 1 || made.stds.is_some()).then(|| vec![0.0; targets.len() * width]);
    if members == 1 && horizon.length == 1 {
        let mut slots = slots.iter().zip(0..).peekable();
        for (index, target) in targets.iter().enumerate() {
            let Some((_, slot)) = slots.next_if(|(slot, _)| slot.row == target.row) else {
                continue;
            };
            let (own, place) = (
                index * width..(index + 1) * width,
                slot * width..(slot + 1) * width,
            );
            reduced.values[own.clone()].copy_from_slice(&made.means[place.clone()]);
            if let Some((stds, given)) = stds.as_mut().zip(made.stds.as_ref()) {
                stds[own].copy_from_slice(&given[place]);
            }
            reduced.votes[index] = 1;
        }
        reduced.stds = stds;
        return reduced;
    }
    let (mut oldest, mut newest) = (0, 0);
    for (index, target) in targets.iter().enumerate() {
        let rows = reach(horizon, &spans[target.span], target.row);
        while slots.get(newest).is_some_and(|slot| slot.row < rows.end) {
            newest += 1;
        }
        while oldest < newest && slots[oldest].row < rows.start {
            oldest += 1;
        }
        let used = match horizon.reduce {
            Reduce::Mean => oldest..newest,
            Reduce::First => oldest..newest.min(oldest + 1),
            Reduce::Last => newest.saturating_sub(1).max(oldest)..newest,
        };
        reduced.votes[index] = i32::try_from(used.len()).unwrap_or(i32::MAX);
        let count = members * used.len();
        if count == 0 {
            continue;
        }
        let places = (0..members).flat_map(|member| {
            used.clone().map(move |slot| {
                ((member * slots.len() + slot) * horizon.length + target.row - slots[slot].row)
                    * width
            })
        });
        let own = index * width..(index + 1) * width;
        let value = &mut reduced.values[own.clone()];
        for place in places.clone() {
            value
                .iter_mut()
                .zip(&made.means[place..])
                .for_each(|(sum, mean)| *sum += mean);
        }
        value.iter_mut().for_each(|sum| *sum /= count as f64);
        match (&mut stds, &made.stds) {
            (None, _) => {}
            // Squaring and taking the root again could change the value.
            (Some(stds), Some(given)) if count == 1 => {
                places.for_each(|place| {
                    stds[own.clone()].copy_from_slice(&given[place..place + width])
                });
            }
            (Some(stds), given) => {
                let std = &mut stds[own];
                for place in places {
                    for (dimension, (sum, mean)) in std.iter_mut().zip(value.iter()).enumerate() {
                        let off = made.means[place + dimension] - mean;
                        let given = given.as_ref().map_or(0.0, |given| given[place + dimension]);
                        *sum += off * off + given * given;
                    }
                }
                std.iter_mut()
                    .for_each(|sum| *sum = (*sum / count as f64).sqrt());
            }
        }
    }
    reduced.stds = stds;
    reduced
}

/// Returns the index of the largest of `logits`, the lowest index among equals; `None` if one of
/// them is NaN or the largest is not finite.
pub(super) fn argmax(logits: &[f64]) -> Option<usize> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let best = (1..logits.len()).fold(0, |best, index| {
        if logits[index] > logits[best] {
            index
        } else {
            best
        }
    });
    logits
        .get(best)
        .filter(|logit| logit.is_finite())
        .map(|_| best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reduces() -> impl Strategy<Value = Reduce> {
        prop_oneof![Just(Reduce::Mean), Just(Reduce::First), Just(Reduce::Last)]
    }

    proptest! {
        #[test]
        fn labels_are_reduced_from_the_predictions_that_cover_them(
            lengths in prop::collection::vec((1usize..9, any::<bool>()), 1..5),
            length in 1usize..5,
            width in 1usize..3,
            members in 1usize..4,
            own_std in any::<bool>(),
            reduce_by in reduces(),
            labelled in prop::collection::vec(any::<bool>(), 60),
            impossible in prop::collection::vec(prop::bool::weighted(0.2), 60),
        ) {
            let horizon = Horizon {
                length,
                reduce: reduce_by,
                width,
            };
            let (mut spans, mut targets, mut row) = (Vec::new(), Vec::new(), 0);
            for (index, (steps, has_final)) in lengths.iter().enumerate() {
                spans.push(Span {
                    start: row,
                    steps: row + steps,
                    end: row + steps + usize::from(*has_final),
                });
                targets.extend(
                    (row..row + steps)
                        .filter(|row| !labelled[*row])
                        .map(|row| Slot { row, span: index }),
                );
                row += steps + usize::from(*has_final);
            }
            // The prediction of member m at row s for step s + j and dimension d, and its standard
            // deviation.
            let mean =
                |m: usize, s: usize, j: usize, d: usize| ((m * 61 + s) * 7 + j * 3 + d) as f64;
            let std =
                |m: usize, s: usize, j: usize, d: usize| 0.5 + ((m + s * 5 + j + d) % 11) as f64;
            let slots = needed(&horizon, &spans, &targets, |slot| !impossible[slot.row]);
            prop_assert!(slots.windows(2).all(|pair| pair[0].row < pair[1].row));
            let mut made = Predictions {
                means: Vec::new(),
                stds: own_std.then(Vec::new),
            };
            for m in 0..members {
                for slot in &slots {
                    for (j, d) in (0..length).flat_map(|j| (0..width).map(move |d| (j, d))) {
                        made.means.push(mean(m, slot.row, j, d));
                        if let Some(stds) = &mut made.stds {
                            stds.push(std(m, slot.row, j, d));
                        }
                    }
                }
            }
            let reduced = reduce(&horizon, &spans, &targets, &slots, members, made.clone());
            prop_assert_eq!(reduced.stds.is_some(), own_std || members > 1);
            let mut wanted = std::collections::BTreeSet::new();
            for (index, target) in targets.iter().enumerate() {
                let start = spans[target.span].start as i64;
                let mut rows: Vec<i64> =
                    (target.row as i64 - length as i64 + 1..=target.row as i64).collect();
                rows.retain(|s| *s >= start && !impossible[*s as usize]);
                let rows: Vec<usize> = match reduce_by {
                    Reduce::Mean => rows.iter().map(|s| *s as usize).collect(),
                    Reduce::First => rows.first().iter().map(|s| **s as usize).collect(),
                    Reduce::Last => rows.last().iter().map(|s| **s as usize).collect(),
                };
                wanted.extend(rows.iter().copied());
                prop_assert_eq!(reduced.votes[index] as usize, rows.len());
                if rows.is_empty() {
                    continue;
                }
                for d in 0..width {
                    let parts: Vec<(f64, f64)> = (0..members)
                        .flat_map(|m| rows.iter().map(move |s| (m, *s)))
                        .map(|(m, s)| {
                            (
                                mean(m, s, target.row - s, d),
                                if own_std {
                                    std(m, s, target.row - s, d)
                                } else {
                                    0.0
                                },
                            )
                        })
                        .collect();
                    let n = parts.len() as f64;
                    let average = parts.iter().map(|(mean, _)| mean).sum::<f64>() / n;
                    let second = parts
                        .iter()
                        .map(|(mean, std)| mean * mean + std * std)
                        .sum::<f64>()
                        / n;
                    prop_assert!((reduced.values[index * width + d] - average).abs() < 1e-9);
                    if let Some(stds) = &reduced.stds {
                        let variance = (second - average * average).max(0.0);
                        prop_assert!((stds[index * width + d].powi(2) - variance).abs() < 1e-6);
                    }
                }
            }
            prop_assert_eq!(
                slots.iter().map(|slot| slot.row).collect::<Vec<_>>(),
                wanted.into_iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn ties_go_to_the_lowest_class_and_masked_classes_are_no_fault() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0]), Some(1));
        assert_eq!(argmax(&[f64::NEG_INFINITY, -3.0]), Some(1));
        assert_eq!(argmax(&[f64::NAN, 1.0]), None);
        assert_eq!(argmax(&[f64::NEG_INFINITY; 2]), None);
        assert_eq!(argmax(&[f64::INFINITY, 1.0]), None);
    }
}
