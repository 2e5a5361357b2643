//! The dataset that a writer reads.
//!
//! A writer makes as many passes through the dataset as it needs, in the dataset's order, each with
//! the columns that it needs. Memory holds one block of whole trajectories, never the dataset.
//! Steps without an action are refused, dropped or filled before the writer receives them, as the
//! user chose, unless the format has nulls.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::pass::{Pass, Passes};
use super::{ACTION_VALID, REWARD_VALID, Unlabelled, Watch};
use crate::dataset::block::with_field;
use crate::dataset::late_frames::LateFrames;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::videos::SourceVideo;
use crate::dataset::{Dataset, Manifest};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::models::{CODES, Models};
use crate::transfer::write::WriteOptions;

/// The columns that may need a validity column, each with the name of that column.
const MASKS: [(&str, &str); 2] = [(step::ACTION, ACTION_VALID), (step::REWARD, REWARD_VALID)];

/// A dataset that is written in a foreign format.
pub struct OutgoingDataset<'w> {
    passes: Passes<'w>,
    trajectories: u64,
    rows: u64,
    length: u64,
}

impl<'w> OutgoingDataset<'w> {
    /// Prepares `dataset` for a format that has null actions if `nulls` is true.
    ///
    /// # Errors
    /// Returns an error if steps have no action, the format has no nulls, and `options` does not
    /// say what to do; or if files cannot be read.
    pub fn new(
        dataset: Dataset,
        nulls: bool,
        options: &WriteOptions,
    ) -> Result<OutgoingDataset<'w>> {
        OutgoingDataset::watched(dataset, nulls, options, &|_| Ok(()))
    }

    /// Does the same as [`OutgoingDataset::new`]; `watch` observes every pass through the dataset.
    ///
    /// # Errors
    /// Returns the errors of [`OutgoingDataset::new`] and of `watch`.
    pub fn watched(
        dataset: Dataset,
        nulls: bool,
        options: &WriteOptions,
        watch: Watch<'w>,
    ) -> Result<OutgoingDataset<'w>> {
        let total = &dataset.manifest.statistics;
        let missing = total.missing_actions();
        let has_actions = dataset.steps.column_with_name(step::ACTION).is_some();
        let unlabelled =
            if nulls || !has_actions || (missing == 0 && options.unlabelled == Unlabelled::Drop) {
                Unlabelled::Refuse
            } else {
                options.unlabelled
            };
        if !nulls && has_actions && missing > 0 && unlabelled == Unlabelled::Refuse {
            return Err(Error::failed(format!(
                "{} of {} {} no action, and the format has no place for missing actions",
                number(missing),
                count(total.steps, "step"),
                if missing == 1 { "has" } else { "have" }
            ))
            .hint(
                "label the steps first, or choose `--unlabelled drop` or `--unlabelled fill` \
                 (in a pipeline, `unlabelled: …` under `with:` of `materialise`)",
            ));
        }
        let kept = dataset
            .trajectories
            .fields()
            .iter()
            .filter(|field| !trajectory::COMPUTED.contains(&field.name().as_str()));
        let carried = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
        let (trajectories, rows, length) = (total.trajectories, total.rows, total.steps);
        let passes = Passes {
            steps: Arc::clone(&dataset.steps),
            dataset,
            whole: None,
            unlabelled,
            fill: options.fill,
            masks: Vec::new(),
            models: None,
            carried,
            watch,
        };
        let mut outgoing = OutgoingDataset {
            passes,
            trajectories,
            rows,
            length,
        };
        for mask in MASKS {
            let is_needed = if mask.0 == step::ACTION {
                unlabelled == Unlabelled::Fill
            } else {
                !nulls && outgoing.has_gaps(mask.0)?
            };
            if is_needed {
                outgoing.mark(mask)?;
            }
        }
        if unlabelled == Unlabelled::Drop {
            let (mut trajectories, mut rows, mut length) = (0, 0, 0);
            for trajectory in outgoing.pass(Some(&[step::ACTION]))? {
                let trajectory = trajectory?;
                (trajectories, rows, length) = (
                    trajectories + 1,
                    rows + trajectory.steps.num_rows() as u64,
                    length + trajectory.length as u64,
                );
            }
            (outgoing.trajectories, outgoing.rows, outgoing.length) = (trajectories, rows, length);
        }
        Ok(outgoing)
    }

    /// Refuses values of which only a part is null in all later passes, if `whole` is given: see
    /// [`Writer::whole`](super::Writer::whole).
    pub(super) fn whole(mut self, whole: Option<fn(&Field) -> bool>) -> OutgoingDataset<'w> {
        self.passes.whole = whole;
        self
    }

    /// Replaces the column `action_model`, if there is one, by codes into
    /// [`OutgoingDataset::models`] in all later passes, for a format without text.
    ///
    /// # Errors
    /// Returns an error if the dataset cannot be read, or if it has a column with the name of the
    /// codes.
    pub(super) fn coded(mut self) -> Result<OutgoingDataset<'w>> {
        let Ok(at) = self.passes.steps.index_of(step::ACTION_MODEL) else {
            return Ok(self);
        };
        if self.passes.steps.index_of(CODES).is_ok() {
            return Err(Error::failed(format!(
                "the dataset already has a column `{CODES}`, the name of the column that says \
                 which model predicted an action"
            ))
            .hint("drop it first with `materialise: {columns: …}`"));
        }
        let columns = self.pass(Some(&[step::ACTION_MODEL]))?.map(|trajectory| {
            let column = trajectory?
                .steps
                .column_by_name(step::ACTION_MODEL)
                .cloned();
            column.ok_or_else(|| Error::failed("the column `action_model` was not read"))
        });
        let models = Models::of(columns)?;
        let mut fields = self.passes.steps.fields().to_vec();
        fields[at] = Arc::new(Models::field());
        self.passes.steps = Arc::new(Schema::new(fields));
        self.passes.models = Some(models);
        Ok(self)
    }

    /// Returns whether the column `name` is null in some step.
    fn has_gaps(&self, name: &str) -> Result<bool> {
        if !self
            .passes
            .dataset
            .steps
            .field_with_name(name)
            .is_ok_and(Field::is_nullable)
        {
            return Ok(false);
        }
        for trajectory in self.pass(Some(&[name]))? {
            if trajectory?
                .column(name)
                .is_some_and(|column| column.null_count() > 0)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a validity column to the columns that are written.
    ///
    /// # Errors
    /// Returns an error if the dataset has a column of that name.
    fn mark(&mut self, mask: (&'static str, &'static str)) -> Result<()> {
        let (name, valid) = mask;
        if self.passes.steps.column_with_name(valid).is_some() {
            return Err(Error::failed(format!(
                "the dataset already has a column `{valid}`, the name of the column that says \
                 which values of `{name}` are missing"
            ))
            .hint("drop it first with `materialise: {columns: …}`"));
        }
        self.passes.steps = Arc::new(
            with_field(
                &self.passes.steps,
                Field::new(valid, DataType::Boolean, false),
            )
            .0,
        );
        self.passes.masks.push(mask);
        Ok(())
    }

    /// Returns the columns of steps that are written: those of the dataset, in its order, and the
    /// validity columns.
    pub fn steps(&self) -> &SchemaRef {
        &self.passes.steps
    }

    /// Returns the columns of [`OutgoingTrajectory::about`].
    pub fn carried(&self) -> &SchemaRef {
        &self.passes.carried
    }

    /// Returns the number of trajectories that are written.
    pub fn trajectories(&self) -> u64 {
        self.trajectories
    }

    /// Returns the number of rows that are written, including final observations.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the number of steps that are written: rows that are not final observations.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the manifest of the dataset.
    pub fn manifest(&self) -> &Manifest {
        &self.passes.dataset.manifest
    }

    /// Returns the file that a reference of the dataset names by `path`: see [`Dataset::video`].
    ///
    /// # Errors
    /// Returns the errors of [`Dataset::video`].
    pub fn video(&self, path: &str) -> Result<PathBuf> {
        self.passes.dataset.video(path)
    }

    /// Returns the same file after verifying its bytes, if the dataset owns it and this process has
    /// not done so already.
    ///
    /// # Errors
    /// Returns the errors of [`Dataset::video`], and an error if the bytes are not those that the
    /// manifest lists.
    pub(crate) fn verified_video(&self, path: &str) -> Result<PathBuf> {
        self.passes.dataset.verify_video(path)?;
        self.video(path)
    }

    /// Returns the video that a reference names by `path`: see [`Dataset::source_video`].
    ///
    /// # Errors
    /// Returns the errors of [`Dataset::source_video`].
    pub(crate) fn source_video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.passes.dataset.source_video(path)
    }

    /// Returns the table of models that codes point into; `None` unless codes are written in place
    /// of `action_model`.
    pub(crate) fn models(&self) -> Option<&Models> {
        self.passes.models.as_ref()
    }

    /// Returns the values of `action_source` that a format without text has a flag for.
    pub(crate) fn flagged_sources(&self) -> Vec<&'static str> {
        self.passes.flagged_sources()
    }

    /// Starts a pass through the dataset, in its order, with the given columns of steps, or all
    /// columns if `columns` is `None`.
    ///
    /// # Errors
    /// Returns an error if a column is not one of [`OutgoingDataset::steps`], or if the observer
    /// returns one.
    pub fn pass(&self, columns: Option<&[&str]>) -> Result<Pass<'_>> {
        self.passes.start(columns, false)
    }

    /// Starts a pass like [`OutgoingDataset::pass`] in which frames stay references, for writers
    /// that decode them in parts with [`OutgoingDataset::late_frames`].
    ///
    /// # Errors
    /// Returns the errors of [`OutgoingDataset::pass`].
    pub(crate) fn referring(&self, columns: Option<&[&str]>) -> Result<Pass<'_>> {
        self.passes.start(columns, true)
    }

    /// Returns what decodes the frames that the steps of [`OutgoingDataset::referring`] refer to.
    pub(crate) fn late_frames(&self) -> LateFrames {
        self.passes.late_frames()
    }

    /// Starts a pass through a column of frames. The caller reports its progress with
    /// [`OutgoingDataset::advance`].
    ///
    /// # Errors
    /// Returns the errors of [`OutgoingDataset::pass`].
    pub(crate) fn frames(&self, column: &str) -> Result<Pass<'_>> {
        Ok(self.passes.start(Some(&[column]), false)?.unreported())
    }

    /// Reports that `rows` more rows of the present pass are done.
    ///
    /// # Errors
    /// Returns an error if the observer returns one.
    pub(crate) fn advance(&self, rows: u64) -> Result<()> {
        (self.passes.watch)(Some(rows))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::{ArrayRef, AsArray, BooleanArray, Float32Array, RecordBatch};
    use arrow::datatypes::Float32Type;
    use proptest::prelude::*;

    use super::super::OutgoingTrajectory;
    use super::*;
    use crate::dataset::manifest::{Lineage, Statistics, VERSION};
    use crate::dataset::schema;
    use crate::dataset::write::ShardWriter;
    use crate::dataset::{Block, store};

    /// A dataset with one trajectory per element of `actions`, which says which steps have an
    /// action. The last row is final if `known`.
    fn dataset(folder: &Path, actions: &[Vec<bool>], known: bool) -> Dataset {
        for part in ["steps", "trajectories"] {
            store::create_dir(&folder.join(part)).unwrap();
        }
        let fields = vec![
            Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
            Field::new(step::STEP, DataType::Int32, false),
            Field::new(step::ACTION, DataType::Float32, true),
            Field::new(step::TERMINATED, DataType::Boolean, false),
            Field::new(step::TRUNCATED, DataType::Boolean, false),
            Field::new(step::IS_FINAL, DataType::Boolean, false),
        ];
        let steps: SchemaRef = Arc::new(Schema::new(fields));
        let carried = Arc::new(Schema::new(vec![
            Field::new(trajectory::TRAJECTORY_ID, DataType::Int64, false),
            Field::new(trajectory::UID, DataType::Utf8, false),
        ]));
        let mut writer = ShardWriter::create(folder, 0, &steps, &carried, true).unwrap();
        for (id, actions) in actions.iter().enumerate() {
            let (length, rows) = (actions.len(), actions.len() + usize::from(known));
            let flags = |of: &dyn Fn(usize) -> bool| -> ArrayRef {
                Arc::new(BooleanArray::from_iter((0..rows).map(|row| Some(of(row)))))
            };
            let action = (0..rows)
                .map(|row| (row < length && actions[row]).then_some((id * 1000 + row) as f32));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(arrow::array::Int64Array::from(vec![id as i64; rows])),
                Arc::new(arrow::array::Int32Array::from_iter_values(0..rows as i32)),
                Arc::new(action.collect::<Float32Array>()),
                flags(&|row| row + 1 == length),
                flags(&|_| false),
                flags(&|row| row >= length),
            ];
            let batch = RecordBatch::try_new(Arc::clone(&steps), columns).unwrap();
            let about: Vec<ArrayRef> = vec![
                Arc::new(arrow::array::Int64Array::from(vec![id as i64])),
                Arc::new(arrow::array::StringArray::from(vec![format!("u{id}")])),
            ];
            let about = RecordBatch::try_new(Arc::clone(&carried), about).unwrap();
            writer
                .write(&Block::new(batch, about, vec![0, rows]))
                .unwrap();
        }
        let shard = writer.finish().unwrap();
        let manifest = Manifest {
            trajmill: VERSION,
            tool: String::new(),
            fingerprint: String::new(),
            columns: schema::describe(&steps),
            statistics: Statistics {
                ..shard.statistics.clone()
            },
            shards: vec![shard],
            videos: Vec::new(),
            lineage: Lineage::default(),
        };
        store::write(
            &crate::dataset::layout::manifest(folder),
            &manifest.to_bytes().unwrap(),
        )
        .unwrap();
        Dataset::open(folder).unwrap()
    }

    fn with(unlabelled: Unlabelled) -> WriteOptions {
        WriteOptions {
            unlabelled,
            fill: -3.0,
            ..WriteOptions::default()
        }
    }

    fn all(outgoing: &OutgoingDataset) -> Vec<OutgoingTrajectory> {
        outgoing
            .pass(None)
            .unwrap()
            .collect::<Result<Vec<_>>>()
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Every labelled step is written once, with the observation after it if that is known, and
        /// nothing else is written.
        #[test]
        fn dropped_steps_cut_and_nothing_is_lost(
            actions in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..12), 1..6),
            known in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let outgoing = OutgoingDataset::new(
                dataset(folder.path(), &actions, known),
                false,
                &with(Unlabelled::Drop),
            )
            .unwrap();
            let trajectories = all(&outgoing);
            let mut expected = Vec::new();
            for (id, actions) in actions.iter().enumerate() {
                expected.extend(
                    actions
                        .iter()
                        .enumerate()
                        .filter(|(_, there)| **there)
                        .map(|(row, _)| (id * 1000 + row) as f32),
                );
            }
            let mut found = Vec::new();
            for trajectory in &trajectories {
                let action = trajectory.column(step::ACTION).unwrap();
                prop_assert_eq!(action.null_count(), 0);
                found.extend(
                    action
                        .as_primitive::<Float32Type>()
                        .values()
                        .iter()
                        .copied(),
                );
                let id: usize = trajectory.text(trajectory::UID).unwrap()[1..]
                    .parse()
                    .unwrap();
                let flag = |name: &str, row: usize| trajectory.steps[name].as_boolean().value(row);
                let end = trajectory.steps["step"]
                    .as_primitive::<arrow::datatypes::Int32Type>()
                    .value(trajectory.length - 1) as usize
                    + 1;
                let whole = end == actions[id].len();
                prop_assert_eq!(trajectory.has_final(), known || !whole);
                prop_assert_eq!(flag(step::TERMINATED, trajectory.length - 1), whole);
                prop_assert_eq!(flag(step::TRUNCATED, trajectory.length - 1), !whole);
                prop_assert!(
                    (0..trajectory.steps.num_rows())
                        .all(|row| flag(step::IS_FINAL, row) == (row == trajectory.length))
                );
                prop_assert!(
                    trajectory.length == trajectory.steps.num_rows()
                        || trajectory.steps[step::ACTION].is_null(trajectory.length)
                );
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(outgoing.trajectories(), trajectories.len() as u64);
            prop_assert_eq!(
                outgoing.length(),
                trajectories
                    .iter()
                    .map(|trajectory| trajectory.length as u64)
                    .sum::<u64>()
            );
            prop_assert_eq!(
                outgoing.rows(),
                trajectories
                    .iter()
                    .map(|trajectory| trajectory.steps.num_rows() as u64)
                    .sum::<u64>()
            );
        }

        #[test]
        fn filled_steps_are_marked(
            actions in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..12), 1..6),
            known in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let outgoing = OutgoingDataset::new(
                dataset(folder.path(), &actions, known),
                false,
                &with(Unlabelled::Fill),
            )
            .unwrap();
            for (trajectory, actions) in all(&outgoing).iter().zip(&actions) {
                prop_assert_eq!(&trajectory.steps.schema(), outgoing.steps());
                let (action, valid) = (
                    trajectory.column(step::ACTION).unwrap(),
                    trajectory.column(ACTION_VALID).unwrap(),
                );
                for (row, there) in actions.iter().enumerate() {
                    prop_assert_eq!(valid.as_boolean().value(row), *there);
                    prop_assert!(
                        action.is_valid(row)
                            && (*there || action.as_primitive::<Float32Type>().value(row) == -3.0)
                    );
                }
            }
        }
    }

    #[test]
    fn steps_without_an_action_are_refused_unless_the_user_or_the_format_allows_them() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path(), &[vec![true, false, true]], true);
        let error = OutgoingDataset::new(dataset.clone(), false, &with(Unlabelled::Refuse))
            .err()
            .unwrap();
        assert!(
            error.message.contains("1 of 3 steps has no action"),
            "{error}"
        );
        let kept = OutgoingDataset::new(dataset.clone(), true, &with(Unlabelled::Drop)).unwrap();
        assert_eq!(
            (
                kept.trajectories(),
                kept.rows(),
                kept.steps().fields().len()
            ),
            (1, 4, 6)
        );
        let few: Vec<OutgoingTrajectory> = kept
            .pass(Some(&[step::ACTION]))
            .unwrap()
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(
            (
                few[0].steps.num_columns(),
                few[0].length,
                few[0].has_final()
            ),
            (1, 3, true)
        );
        assert!(kept.pass(Some(&["nothing"])).is_err());
        // A byte that changes after a pass verified the file ends the next pass.
        let path = folder.path().join("steps/00000.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        store::remove(&path).unwrap();
        store::write(&path, &bytes).unwrap();
        let outgoing = OutgoingDataset::new(dataset, true, &with(Unlabelled::Refuse)).unwrap();
        assert!(
            outgoing
                .pass(None)
                .unwrap()
                .next()
                .unwrap()
                .err()
                .unwrap()
                .message
                .contains("replaced")
        );
    }
}
