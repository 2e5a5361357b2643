//! What is not the same in two datasets of ours: which trajectories, which columns, by how much actions moved and where
//! they come from now.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float64Type};
use serde::Serialize;

use crate::dataset::Dataset;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, Pass, WriteOptions};

/// What is not the same.
#[derive(Debug, Default, Serialize)]
pub struct Diff {
    /// Trajectories that only the first has, only the second, both alike, both and not alike.
    pub trajectories: Counts,
    /// Rows of each dataset.
    pub rows: [u64; 2],
    /// Columns of steps that only the first has.
    pub removed: Vec<String>,
    /// Columns of steps that only the second has.
    pub added: Vec<String>,
    /// Columns of steps whose type is not the same: name, first type, second type.
    pub retyped: Vec<(String, String, String)>,
    /// Rows that differ, by column, in trajectories that both have.
    pub changed_rows: BTreeMap<String, u64>,
    /// Trajectories that both have and whose lengths differ.
    pub other_length: u64,
    /// How far actions moved that both have, a dimension each.
    pub actions: Vec<Moved>,
    /// Steps by where their action came from in the first and in the second: `missing → proxy` and so on.
    pub provenance: BTreeMap<String, u64>,
}

/// Numbers of trajectories, matched by `uid`.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// Only in the first.
    pub only_first: u64,
    /// Only in the second.
    pub only_second: u64,
    /// In both, the same to the last bit.
    pub same: u64,
    /// In both, not the same.
    pub changed: u64,
}

/// How far one dimension of the actions moved.
#[derive(Debug, Default, Serialize)]
pub struct Moved {
    /// Steps with an action in both that is not the same.
    pub steps: u64,
    /// Mean of |Δ| over them.
    pub mean: f64,
    /// Quantiles 0.5, 0.9 and 0.99 of |Δ|, within 1 %.
    pub quantiles: [f64; 3],
    /// Greatest |Δ|.
    pub max: f64,
    /// Steps of which one action is not finite and the other is not the same: they have no |Δ|.
    pub non_finite: u64,
    #[serde(skip)]
    buckets: BTreeMap<i32, u64>,
}

/// Ratio of the bounds of a bucket of |Δ|: what is in one is known within 1 %.
const RATIO: f64 = 1.02;

impl Moved {
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

/// Where a trajectory is known by, and its content.
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
                    "{}: trajectories have no text `{name}`",
                    dataset.path.display()
                ))
            })
        };
        let (uids, hashes) = (text(trajectory::UID)?, text(trajectory::CONTENT_HASH)?);
        for row in 0..batch.num_rows() {
            // Copies of one trajectory are told apart by how many came before.
            let mut uid = uids.value(row).to_owned();
            while known.contains_key(&uid) {
                uid.push('+');
            }
            known.insert(uid, hashes.value(row).to_owned());
        }
    }
    Ok(known)
}

/// Compares two datasets; memory holds the identities of their trajectories and a block of each.
///
/// # Errors
/// Where one cannot be read.
pub fn diff(first: Dataset, second: Dataset) -> Result<Diff> {
    // Trajectories are the same if the files of trajectories say so: that is true of files of steps that are right.
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
                    field.data_type().to_string(),
                    other.data_type().to_string(),
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
        while let Some((one, other)) = pairs.next()? {
            diff.compare(&one, &other)?;
        }
    }
    diff.actions.iter_mut().for_each(Moved::finish);
    Ok(diff)
}

/// One dataset, trajectory by trajectory, those that had to wait for their like kept.
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

    /// The next trajectory that `others` have too, and its identity.
    fn next(
        &mut self,
        others: &HashMap<String, String>,
    ) -> Result<Option<(String, OutgoingTrajectory)>> {
        while let Some(leaving) = self.pass.next().transpose()? {
            let uid = leaving.text(trajectory::UID).unwrap_or_default().to_owned();
            let count = self.seen.entry(uid.clone()).or_default();
            let uid = format!("{uid}{}", "+".repeat(usize::try_from(*count).unwrap_or(0)));
            *count += 1;
            if others.contains_key(&uid) {
                return Ok(Some((uid, leaving)));
            }
        }
        Ok(None)
    }
}

/// Trajectories that both have, in pairs: what is in another order waits.
struct Pairs<'a> {
    first: Side<'a>,
    second: Side<'a>,
    known: HashMap<String, String>,
    others: HashMap<String, String>,
}

impl Pairs<'_> {
    fn next(&mut self) -> Result<Option<(OutgoingTrajectory, OutgoingTrajectory)>> {
        let Some((uid, one)) = self.first.next(&self.others)? else {
            return Ok(None);
        };
        if let Some(other) = self.second.waiting.remove(&uid) {
            return Ok(Some((one, other)));
        }
        while let Some((found, other)) = self.second.next(&self.known)? {
            if found == uid {
                return Ok(Some((one, other)));
            }
            self.second.waiting.insert(found, other);
        }
        Err(Error::failed(format!(
            "trajectory {uid} is listed in both datasets and found in one"
        )))
    }
}

impl Diff {
    fn compare(&mut self, one: &OutgoingTrajectory, other: &OutgoingTrajectory) -> Result<()> {
        if one.steps.num_rows() != other.steps.num_rows() {
            self.other_length += 1;
            return Ok(());
        }
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
            return Ok(());
        };
        if width != other_width {
            return Ok(());
        }
        self.actions
            .resize_with(width.max(self.actions.len()), Moved::default);
        let (Some(action), Some(like)) = (one.column(step::ACTION), other.column(step::ACTION))
        else {
            return Ok(());
        };
        for row in (0..one.length).filter(|row| action.is_valid(*row) && like.is_valid(*row)) {
            for dimension in 0..width {
                let at = row * width + dimension;
                self.actions[dimension].add(a[at], b[at]);
            }
        }
        Ok(())
    }
}

/// Where the action of each step came from.
fn sources(steps: &RecordBatch, length: usize) -> Vec<&'static str> {
    let action = steps.column_by_name(step::ACTION);
    let source = steps
        .column_by_name(step::ACTION_SOURCE)
        .and_then(|column| column.as_string_opt::<i32>());
    let of = |row: usize| match (action.is_some_and(|action| action.is_valid(row)), source) {
        (false, _) => "missing",
        (true, Some(source)) if source.is_valid(row) && source.value(row) == "proxy" => "proxy",
        (true, _) => "recorded",
    };
    (0..length).map(of).collect()
}

/// Elements of the actions as float64, and how many each has; `None` where they are no numbers.
fn actions(leaving: &OutgoingTrajectory) -> Result<Option<(Vec<f64>, usize)>> {
    let Some(action) = leaving.column(step::ACTION) else {
        return Ok(None);
    };
    let (values, width): (ArrayRef, usize) = match action.as_fixed_size_list_opt() {
        Some(vectors) => {
            let width = vectors.value_length() as usize;
            (
                vectors
                    .values()
                    .slice(vectors.value_offset(0) as usize, vectors.len() * width),
                width,
            )
        }
        None if action.data_type().is_numeric() => (ArrayRef::clone(&action), 1),
        None => return Ok(None),
    };
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
        let mut moved = Moved::default();
        (0..1000).for_each(|value| moved.add(f64::from(value), f64::from(value)));
        (1..=1000)
            .rev()
            .for_each(|value| moved.add(0.0, f64::from(value)));
        for (before, after) in [
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
            (f64::NAN, f64::NAN),
            (f64::INFINITY, f64::INFINITY),
        ] {
            moved.add(before, after);
        }
        moved.finish();
        assert_eq!(
            (moved.steps, moved.max, moved.non_finite),
            (1000, 1000.0, 2)
        );
        assert!((moved.mean - 500.5).abs() < 1e-9);
        for (found, exact) in moved.quantiles.iter().zip([500.0, 900.0, 990.0]) {
            assert!((found / exact - 1.0).abs() < 0.011, "{found} {exact}");
        }
    }
}
