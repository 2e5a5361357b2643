//! Finds faults in the steps of a dataset of any format: values that a trainer accepts without
//! complaint, and trains on.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};

use super::Findings;
use crate::dataset::block::flattened;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::trajectory_hash;
use crate::error::Result;
use crate::error::wording::{count, number};
use crate::transfer::read::Source;

/// The rule that a trajectory has steps.
pub(super) const EMPTY: &str = "empty";

/// Reads every trajectory of `source`, and adds the faults of its steps to `findings`.
pub(crate) fn read_through(mut source: Box<dyn Source>, findings: &mut Findings) {
    let mut steps = Steps::default();
    loop {
        match source.next() {
            Ok(Some(trajectory)) => {
                let place = format!("trajectory `{}`", trajectory.key);
                findings.trajectories += 1;
                findings.rows += trajectory.steps.num_rows() as u64;
                let uid = trajectory.about.as_ref().and_then(|about| {
                    about
                        .column_by_name(trajectory::UID)?
                        .as_string_opt::<i32>()
                        .map(|uid| uid.value(0).to_owned())
                });
                // The segments of a trajectory share its `uid`, but not its steps.
                let content = || trajectory_hash::hash(&trajectory.steps);
                if uid.is_some_and(|uid| !steps.seen.insert((uid, content()))) {
                    findings.warning(
                        "repeated",
                        &place,
                        "the trajectory occurs more than once: drop the copies, or its steps have \
                         more weight than others",
                    );
                }
                if let Err(error) = steps.add(&place, &trajectory.steps, findings) {
                    findings.error("unreadable", &place, error.to_string());
                }
            }
            Ok(None) => break,
            Err(error) => {
                findings.error("unreadable", "", error.to_string());
                if source.lost().is_none() {
                    break;
                }
            }
        }
    }
    steps.finish(findings);
}

/// Finds faults in the steps of trajectories, one trajectory after the other.
#[derive(Default)]
pub(crate) struct Steps {
    /// Identity and content of the trajectories so far.
    seen: HashSet<(String, String)>,
    /// The numbers of trajectories without and with a final observation.
    finals: [u64; 2],
    /// The numbers of trajectories whose every action equals the observation of the same step, or
    /// of the next step.
    copied: [u64; 2],
    /// The number of trajectories whose actions were compared with their observations.
    comparable: u64,
    /// The number of trajectories that are neither terminated nor truncated.
    open: u64,
}

impl Steps {
    /// Adds the faults of one trajectory, whose `steps` have the columns of a source, to
    /// `findings`.
    ///
    /// # Errors
    /// Returns an error if a column cannot be compared.
    pub(crate) fn add(
        &mut self,
        place: &str,
        steps: &RecordBatch,
        findings: &mut Findings,
    ) -> Result<()> {
        let flags = |name: &str| {
            steps
                .column_by_name(name)
                .and_then(|column| column.as_boolean_opt())
        };
        let rows = steps.num_rows();
        let last = rows
            .checked_sub(1)
            .filter(|last| flags(step::IS_FINAL).is_some_and(|finals| finals.value(*last)));
        let length = last.unwrap_or(rows);
        self.finals[usize::from(last.is_some())] += 1;
        if length == 0 {
            findings.error(EMPTY, place, "the trajectory has no steps");
            return Ok(());
        }
        for (name, rule) in [
            (step::TERMINATED, "early-end"),
            (step::TRUNCATED, "early-cut"),
        ] {
            let early = flags(name).and_then(|flags| (0..length - 1).find(|row| flags.value(*row)));
            if let Some(row) = early {
                findings.error(
                    rule,
                    place,
                    format!(
                        "`{name}` is set at step {row} of {length}, but the trajectory continues: \
                         split it there"
                    ),
                );
            }
        }
        let ended = [step::TERMINATED, step::TRUNCATED]
            .iter()
            .any(|name| flags(name).is_some_and(|flags| flags.value(length - 1)));
        self.open += u64::from(!ended);
        for (name, rule, error) in [
            (step::ACTION, "nan-action", true),
            (step::OBSERVATION, "nan-observation", true),
            (step::REWARD, "nan-reward", true),
        ] {
            let count = if name == step::OBSERVATION {
                rows
            } else {
                length
            };
            let Some(column) = steps
                .column_by_name(name)
                .map(|column| column.slice(0, count))
            else {
                continue;
            };
            if let Some(row) = non_finite(&column)? {
                let message = format!(
                    "`{name}` is not finite at step {row}: \
                     a loader passes it on, and the loss becomes NaN"
                );
                if error {
                    findings.error(rule, place, message)
                } else {
                    findings.warning(rule, place, message)
                }
            }
            if name == step::ACTION && column.null_count() > 0 && column.null_count() < count {
                findings.warning(
                    "some-actions",
                    place,
                    format!(
                        "{} of {length} actions are missing: label these steps, or drop them",
                        column.null_count()
                    ),
                );
            }
        }
        self.compare(steps, length)
    }

    /// Compares the actions of one trajectory with its observations.
    fn compare(&mut self, steps: &RecordBatch, length: usize) -> Result<()> {
        let (Some(action), Some(observation)) = (
            steps.column_by_name(step::ACTION),
            steps.column_by_name(step::OBSERVATION),
        ) else {
            return Ok(());
        };
        let vectors = action.data_type() == observation.data_type()
            && matches!(action.data_type(), DataType::FixedSizeList(..));
        if !vectors || length < 2 || action.slice(0, length).null_count() > 0 {
            return Ok(());
        }
        self.comparable += 1;
        let after = length.min(observation.len() - 1);
        self.copied[0] +=
            u64::from(action.slice(0, length).to_data() == observation.slice(0, length).to_data());
        self.copied[1] +=
            u64::from(action.slice(0, after).to_data() == observation.slice(1, after).to_data());
        Ok(())
    }

    /// Adds the faults that only all trajectories together show to `findings`.
    pub(crate) fn finish(&self, findings: &mut Findings) {
        let [without, with] = self.finals;
        if without > 0 && with > 0 {
            findings.warning(
                "some-finals",
                "",
                format!(
                    "{} of {} have no observation after the last action",
                    number(without),
                    count(without + with, "trajectory")
                ),
            );
        } else if without > 0 {
            findings.warning(
                "no-finals",
                "",
                "no trajectory has an observation after its last action: \
                 a learner cannot use the last transition of any trajectory",
            );
        }
        for (count, which) in self
            .copied
            .iter()
            .zip(["the observation of its step", "the next observation"])
        {
            if *count > 0 && *count == self.comparable {
                findings.error(
                    "copied-state",
                    "",
                    format!(
                        "every action equals {which}: states were copied into `action`, \
                         and no policy can be trained on them"
                    ),
                );
            }
        }
        if self.open > 0 {
            findings.warning(
                "open-ends",
                "",
                format!(
                    "{}: neither `terminated` nor `truncated` is set at the last step",
                    count(self.open, "trajectory")
                ),
            );
        }
    }
}

/// Whether every number is finite, also where a column is null.
fn all_finite<T: ArrowPrimitiveType<Native: Into<f64>>>(values: &ArrayRef) -> bool {
    let values = values.as_primitive::<T>().values();
    values.iter().all(|value| (*value).into().is_finite())
}

/// Returns the first row with a value that is not finite.
fn non_finite(column: &ArrayRef) -> Result<Option<usize>> {
    if let Some(fields) = column.as_struct_opt() {
        let mut first = None;
        for field in fields.columns() {
            first = [first, non_finite(field)?].into_iter().flatten().min();
        }
        return Ok(first);
    }
    let (values, width) = flattened(column);
    let is_finite = match values.data_type() {
        DataType::Float32 => all_finite::<Float32Type>(&values),
        DataType::Float64 => all_finite::<Float64Type>(&values),
        other => !other.is_floating(),
    };
    if is_finite {
        return Ok(None);
    }
    let values = arrow::compute::cast(&values, &DataType::Float64)?;
    let values = values.as_primitive::<Float64Type>();
    let wrong = values.values().iter().enumerate().find(|(index, value)| {
        !value.is_finite() && values.is_valid(*index) && column.is_valid(index / width)
    });
    Ok(wrong.map(|(index, _)| index / width))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, FixedSizeListArray, Float32Array};
    use arrow::datatypes::Field;

    use super::*;

    fn vectors(values: &[f32]) -> ArrayRef {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        Arc::new(
            FixedSizeListArray::try_new(
                child,
                1,
                Arc::new(Float32Array::from(values.to_vec())),
                None,
            )
            .unwrap(),
        )
    }

    fn look(observation: &[f32], action: &[f32], terminated: &[bool]) -> Vec<&'static str> {
        let rows = observation.len();
        let flags = |flags: Vec<bool>| -> ArrayRef { Arc::new(BooleanArray::from(flags)) };
        let steps = RecordBatch::try_from_iter([
            (step::OBSERVATION, vectors(observation)),
            (step::ACTION, vectors(action)),
            (step::TERMINATED, flags(terminated.to_vec())),
            (step::TRUNCATED, flags(vec![false; rows])),
            (
                step::IS_FINAL,
                flags((0..rows).map(|row| row + 1 == rows).collect()),
            ),
        ]);
        let (mut findings, mut all) = (Findings::default(), Steps::default());
        all.add("t", &steps.unwrap(), &mut findings).unwrap();
        all.finish(&mut findings);
        findings.faults.iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn each_fault_is_found_and_nothing_else() {
        let end = [false, false, true, false];
        assert_eq!(
            look(&[0.0, 1.0, 2.0, 3.0], &[5.0, 6.0, 7.0, 0.0], &end),
            Vec::<&str>::new()
        );
        assert_eq!(
            look(&[0.0, 1.0, 2.0, 3.0], &[5.0, f32::NAN, 7.0, 0.0], &end),
            ["nan-action"]
        );
        assert_eq!(
            look(&[0.0, 1.0, 2.0, f32::INFINITY], &[5.0, 6.0, 7.0, 0.0], &end),
            ["nan-observation"]
        );
        assert_eq!(
            look(&[0.0, 1.0, 2.0, 3.0], &[0.0, 1.0, 2.0, 0.0], &end),
            ["copied-state"]
        );
        assert_eq!(
            look(&[0.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 0.0], &end),
            ["copied-state"]
        );
        assert_eq!(
            look(
                &[0.0, 1.0, 2.0, 3.0],
                &[5.0, 6.0, 7.0, 0.0],
                &[true, false, true, false]
            ),
            ["early-end"]
        );
        assert_eq!(
            look(&[0.0, 1.0, 2.0, 3.0], &[5.0, 6.0, 7.0, 0.0], &[false; 4]),
            ["open-ends"]
        );
        // The action in the row of a final observation is filler.
        assert_eq!(
            look(&[0.0, 1.0, 2.0, 3.0], &[5.0, 6.0, 7.0, f32::NAN], &end),
            Vec::<&str>::new()
        );
    }
}
