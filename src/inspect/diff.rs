//! Compares two datasets of trajmill: their trajectories, their columns, how far actions changed,
//! and where actions come from.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray, RecordBatch, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float64Type};
use serde::Serialize;

use crate::dataset::Dataset;
use crate::dataset::block::flattened;
use crate::dataset::schema::{action_source, step, trajectory, type_name};
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, Pass, WriteOptions};

/// The differences between two datasets.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Diff {
    /// The numbers of trajectories in one dataset or in both.
    pub trajectories: Counts,
    /// The number of rows of each dataset.
    pub rows: [u64; 2],
    /// The columns of steps that only the first dataset has.
    pub removed: Vec<String>,
    /// The columns of steps that only the second dataset has.
    pub added: Vec<String>,
    /// The columns of steps whose types differ: name, first type, second type.
    pub retyped: Vec<(String, String, String)>,
    /// The number of rows that differ in the trajectories of both datasets, by column.
    pub changed_rows: BTreeMap<String, u64>,
    /// The number of trajectories of both datasets whose lengths differ.
    pub other_length: u64,
    /// How far the actions of both datasets differ, by dimension.
    pub actions: Vec<ActionChange>,
    /// The number of steps by the origin of their action in the first and in the second dataset,
    /// for example `missing → proxy`.
    pub provenance: BTreeMap<String, u64>,
}

/// The numbers of trajectories, matched by `uid`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Only in the first dataset.
    pub only_first: u64,
    /// Only in the second dataset.
    pub only_second: u64,
    /// In both, with the same content to the last bit. The order of columns does not matter.
    pub same: u64,
    /// In both, with different content.
    pub changed: u64,
}

/// How far the actions of two datasets differ in one dimension. Δ is the difference of two actions.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ActionChange {
    /// The number of steps with different finite actions.
    pub steps: u64,
    /// The mean of |Δ| over these steps.
    pub mean: f64,
    /// The quantiles 0.5, 0.9 and 0.99 of |Δ|, within 1 %.
    pub quantiles: [f64; 3],
    /// The maximum of |Δ|.
    pub max: f64,
    /// The number of steps with different actions of which one is not finite. They have no |Δ|.
    pub non_finite: u64,
    #[serde(skip)]
    buckets: BTreeMap<i32, u64>,
}

/// The ratio of the bounds of a bucket of |Δ|. It determines values within 1 %.
const RATIO: f64 = 1.02;

impl ActionChange {
    /// Adds the actions of one step.
    fn add(&mut self, before: f64, after: f64) {
        let delta = (before - after).abs();
        if before == after || (before.is_nan() && after.is_nan()) {
            return;
        }
        if !delta.is_finite() {
            self.non_finite += 1;
            return;
        }
        self.steps += 1;
        self.mean += delta;
        self.max = self.max.max(delta);
        *self
            .buckets
            .entry((delta.ln() / RATIO.ln()).round() as i32)
            .or_default() += 1;
    }

    /// Computes the mean and the quantiles.
    fn finish(&mut self) {
        if self.steps == 0 {
            return;
        }
        self.mean /= self.steps as f64;
        for (quantile, share) in self.quantiles.iter_mut().zip([0.5, 0.9, 0.99]) {
            let rank = (share * self.steps as f64).ceil() as u64;
            let mut seen = 0;
            let bucket = self.buckets.iter().find(|(_, count)| {
                seen += **count;
                seen >= rank
            });
            *quantile = bucket
                .map_or(0.0, |(bucket, _)| RATIO.powi(*bucket))
                .min(self.max);
        }
    }
}

/// Returns the `uid` of each trajectory, and the hash of its content.
fn identities(dataset: &Dataset) -> Result<HashMap<String, String>> {
    let columns = [
        trajectory::UID.to_owned(),
        trajectory::CONTENT_HASH.to_owned(),
    ];
    let mut known = HashMap::new();
    for shard in &dataset.manifest.shards {
        let reader = dataset.open_trajectories(shard)?;
        let batch = reader.read(std::slice::from_ref(&(0..reader.rows())), Some(&columns))?;
        let text = |name: &str| {
            let column = batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>());
            column.ok_or_else(|| {
                Error::failed(format!(
                    "{}: `trajectories` has no text column `{name}`",
                    dataset.path.display()
                ))
            })
        };
        let (uids, hashes) = (text(trajectory::UID)?, text(trajectory::CONTENT_HASH)?);
        for row in 0..batch.num_rows() {
            // The copies of one trajectory are numbered by plus signs.
            let mut uid = uids.value(row).to_owned();
            while known.contains_key(&uid) {
                uid.push('+');
            }
            known.insert(uid, hashes.value(row).to_owned());
        }
    }
    Ok(known)
}

/// Compares two datasets. Memory holds the `uid`s of their trajectories and a block of each.
///
/// # Errors
/// Returns an error if one of them cannot be read.
pub(crate) fn diff(first: Dataset, second: Dataset) -> Result<Diff> {
    // Trajectories are compared by the hashes in the files of trajectories, which hold only if the
    // files of steps are right.
    first.verify()?;
    second.verify()?;
    let mut diff = Diff {
        rows: [first.rows(), second.rows()],
        ..Diff::default()
    };
    for field in first.steps.fields() {
        match second.steps.field_with_name(field.name()) {
            Err(_) => diff.removed.push(field.name().clone()),
            Ok(other) if other.data_type() != field.data_type() => {
                diff.retyped.push((
                    field.name().clone(),
                    type_name(field.data_type()),
                    type_name(other.data_type()),
                ));
            }
            Ok(_) => {}
        }
    }
    diff.added = second
        .steps
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| first.steps.index_of(name).is_err())
        .collect();
    let (known, others) = (identities(&first)?, identities(&second)?);
    for (uid, hash) in &known {
        match others.get(uid) {
            None => diff.trajectories.only_first += 1,
            Some(other) if other == hash => diff.trajectories.same += 1,
            Some(_) => diff.trajectories.changed += 1,
        }
    }
    diff.trajectories.only_second = others
        .keys()
        .filter(|uid| !known.contains_key(*uid))
        .count() as u64;
    let alike = diff.removed.is_empty() && diff.added.is_empty() && diff.retyped.is_empty();
    if diff.trajectories.changed > 0 || !alike {
        let options = WriteOptions::default();
        let (first, second) = (
            OutgoingDataset::new(first, true, &options)?,
            OutgoingDataset::new(second, true, &options)?,
        );
        let mut pairs = Pairs {
            first: Side::new(&first)?,
            second: Side::new(&second)?,
            known,
            others,
        };
        while let Some((uid, one, other)) = pairs.next()? {
            let equal = diff.compare(&one, &other)?;
            // The hash depends on the order of columns, which is not part of the content.
            if alike && equal && pairs.known.get(&uid) != pairs.others.get(&uid) {
                diff.trajectories.changed -= 1;
                diff.trajectories.same += 1;
            }
        }
    }
    diff.actions.iter_mut().for_each(ActionChange::finish);
    Ok(diff)
}

/// One of the two datasets, read trajectory by trajectory.
struct Side<'a> {
    pass: Pass<'a>,
    seen: HashMap<String, u64>,
    waiting: HashMap<String, OutgoingTrajectory>,
}

impl<'a> Side<'a> {
    fn new(outgoing: &'a OutgoingDataset<'a>) -> Result<Side<'a>> {
        Ok(Side {
            pass: outgoing.pass(None)?,
            seen: HashMap::new(),
            waiting: HashMap::new(),
        })
    }

    /// Returns the next trajectory that is in `others` too, with its numbered `uid`.
    fn next(
        &mut self,
        others: &HashMap<String, String>,
    ) -> Result<Option<(String, OutgoingTrajectory)>> {
        while let Some(trajectory) = self.pass.next().transpose()? {
            let uid = trajectory
                .text(trajectory::UID)
                .unwrap_or_default()
                .to_owned();
            let count = self.seen.entry(uid.clone()).or_default();
            let uid = format!("{uid}{}", "+".repeat(usize::try_from(*count).unwrap_or(0)));
            *count += 1;
            if others.contains_key(&uid) {
                return Ok(Some((uid, trajectory)));
            }
        }
        Ok(None)
    }
}

/// The pairs of trajectories that are in both datasets. If the orders differ, trajectories of the
/// second wait in memory.
struct Pairs<'a> {
    first: Side<'a>,
    second: Side<'a>,
    known: HashMap<String, String>,
    others: HashMap<String, String>,
}

impl Pairs<'_> {
    /// Returns the next pair, and the numbered `uid` of its trajectories.
    fn next(&mut self) -> Result<Option<(String, OutgoingTrajectory, OutgoingTrajectory)>> {
        let Some((uid, one)) = self.first.next(&self.others)? else {
            return Ok(None);
        };
        if let Some(other) = self.second.waiting.remove(&uid) {
            return Ok(Some((uid, one, other)));
        }
        while let Some((found, other)) = self.second.next(&self.known)? {
            if found == uid {
                return Ok(Some((uid, one, other)));
            }
            self.second.waiting.insert(found, other);
        }
        Err(Error::failed(format!(
            "the tables of trajectories of both datasets list trajectory {uid}, but only one has it"
        )))
    }
}

impl Diff {
    /// Compares two trajectories with the same `uid`. Returns whether their common columns are
    /// equal.
    fn compare(&mut self, one: &OutgoingTrajectory, other: &OutgoingTrajectory) -> Result<bool> {
        if one.steps.num_rows() != other.steps.num_rows() {
            self.other_length += 1;
            return Ok(false);
        }
        let mut equal = true;
        for (field, values) in one.steps.schema().fields().iter().zip(one.steps.columns()) {
            let ids = [step::TRAJECTORY_ID, step::STEP].contains(&field.name().as_str());
            let like = other
                .steps
                .column_by_name(field.name())
                .filter(|like| like.data_type() == values.data_type() && !ids);
            let Some(like) = like else { continue };
            let compare = make_comparator(values, like, SortOptions::default())?;
            let changed = (0..values.len())
                .filter(|row| compare(*row, *row).is_ne())
                .count() as u64;
            equal &= changed == 0;
            if changed > 0 {
                *self.changed_rows.entry(field.name().clone()).or_default() += changed;
            }
        }
        let (before, after) = (
            sources(&one.steps, one.length),
            sources(&other.steps, one.length),
        );
        for (before, after) in before.into_iter().zip(after) {
            *self
                .provenance
                .entry(format!("{before} → {after}"))
                .or_default() += 1;
        }
        let (Some((a, width)), Some((b, other_width))) = (actions(one)?, actions(other)?) else {
            return Ok(equal);
        };
        if width != other_width {
            return Ok(equal);
        }
        self.actions
            .resize_with(width.max(self.actions.len()), ActionChange::default);
        let (Some(action), Some(like)) = (one.column(step::ACTION), other.column(step::ACTION))
        else {
            return Ok(equal);
        };
        for row in (0..one.length).filter(|row| action.is_valid(*row) && like.is_valid(*row)) {
            for dimension in 0..width {
                let at = row * width + dimension;
                self.actions[dimension].add(a[at], b[at]);
            }
        }
        Ok(equal)
    }
}

/// Returns the origin of the action of each step.
fn sources(steps: &RecordBatch, length: usize) -> Vec<&'static str> {
    let action = steps.column_by_name(step::ACTION);
    let source = steps
        .column_by_name(step::ACTION_SOURCE)
        .and_then(|column| column.as_string_opt::<i32>());
    let of = |row: usize| match (action.is_some_and(|action| action.is_valid(row)), source) {
        (false, _) => "missing",
        (true, Some(source)) if source.is_valid(row) => action_source::ALL
            .into_iter()
            .find(|word| *word == source.value(row))
            .unwrap_or(action_source::RECORDED),
        (true, _) => action_source::RECORDED,
    };
    (0..length).map(of).collect()
}

/// Returns the elements of the actions as float64, and the number of elements of an action; `None`
/// if they are not numbers.
fn actions(trajectory: &OutgoingTrajectory) -> Result<Option<(Vec<f64>, usize)>> {
    let Some(action) = trajectory.column(step::ACTION) else {
        return Ok(None);
    };
    if !action.data_type().is_numeric() && action.as_fixed_size_list_opt().is_none() {
        return Ok(None);
    }
    let (values, width) = flattened(&action);
    let values = arrow::compute::cast(&values, &DataType::Float64)?;
    Ok(Some((
        values.as_primitive::<Float64Type>().values().to_vec(),
        width,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let mut change = ActionChange::default();
        (0..1000).for_each(|value| change.add(f64::from(value), f64::from(value)));
        (1..=1000)
            .rev()
            .for_each(|value| change.add(0.0, f64::from(value)));
        for (before, after) in [
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
            (f64::NAN, f64::NAN),
            (f64::INFINITY, f64::INFINITY),
        ] {
            change.add(before, after);
        }
        change.finish();
        assert_eq!(
            (change.steps, change.max, change.non_finite),
            (1000, 1000.0, 2)
        );
        assert!((change.mean - 500.5).abs() < 1e-9);
        for (found, exact) in change.quantiles.iter().zip([500.0, 900.0, 990.0]) {
            assert!((found / exact - 1.0).abs() < 0.011, "{found} {exact}");
        }
    }
}
