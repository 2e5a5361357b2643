//! A dataset of trajmill on its way out: what every writer reads.
//!
//! A writer goes through the dataset as often as it needs to, in the dataset's order, with the columns that it needs;
//! one block of whole trajectories is in memory, never the dataset. Steps without an action have been refused, dropped
//! or filled by then, as the user said, unless the format can say "null".

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::pass::Pass;
use super::{ACTION_VALID, REWARD_VALID, Unlabelled, Watch};
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::{Dataset, Manifest};
use crate::error::{Error, Result};
use crate::transfer::write::WriteOptions;

/// Columns that may get one beside them that says where they are null, and that one.
const MASKS: [(&str, &str); 2] = [(step::ACTION, ACTION_VALID), (step::REWARD, REWARD_VALID)];

/// A dataset to be written in a foreign format.
pub struct OutgoingDataset<'w> {
    pub(super) dataset: Dataset,
    pub(super) unlabelled: Unlabelled,
    pub(super) fill: f64,
    /// Those of [`MASKS`] that leave.
    masks: Vec<(&'static str, &'static str)>,
    steps: SchemaRef,
    pub(super) carried: SchemaRef,
    trajectories: u64,
    rows: u64,
    length: u64,
    pub(super) watch: Watch<'w>,
}

impl<'w> OutgoingDataset<'w> {
    /// The dataset as it is to be written by a format that can hold null actions or cannot.
    ///
    /// # Errors
    /// Where steps have no action, the format cannot say so and the user did not either; where files cannot be read.
    pub fn new(
        dataset: Dataset,
        nulls: bool,
        options: &WriteOptions,
    ) -> Result<OutgoingDataset<'w>> {
        OutgoingDataset::watched(dataset, nulls, options, &|_| Ok(()))
    }

    /// As [`OutgoingDataset::new`]; `watch` is told of every passage through the dataset.
    ///
    /// # Errors
    /// Those of [`OutgoingDataset::new`], and of `watch`.
    pub fn watched(
        dataset: Dataset,
        nulls: bool,
        options: &WriteOptions,
        watch: Watch<'w>,
    ) -> Result<OutgoingDataset<'w>> {
        let total = &dataset.manifest.statistics;
        let missing = total.steps - total.recorded_actions - total.proxy_actions;
        let has_actions = dataset.steps.column_with_name(step::ACTION).is_some();
        let unlabelled =
            if nulls || !has_actions || (missing == 0 && options.unlabelled == Unlabelled::Drop) {
                Unlabelled::Refuse
            } else {
                options.unlabelled
            };
        if !nulls && has_actions && missing > 0 && unlabelled == Unlabelled::Refuse {
            return Err(Error::failed(format!("{missing} of {} steps have no action, and the format cannot leave one out", total.steps))
                .hint("label them first, or say what becomes of them: `unlabelled: drop` or `unlabelled: fill`"));
        }
        let kept = dataset
            .trajectories
            .fields()
            .iter()
            .filter(|field| !trajectory::INTRINSIC.contains(&field.name().as_str()));
        let carried = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
        let (trajectories, rows, length) = (total.trajectories, total.rows, total.steps);
        let (steps, masks) = (Arc::clone(&dataset.steps), Vec::new());
        let mut outgoing = OutgoingDataset {
            dataset,
            unlabelled,
            fill: options.fill,
            masks,
            steps,
            carried,
            trajectories,
            rows,
            length,
            watch,
        };
        for mask in MASKS {
            let leaves = if mask.0 == step::ACTION {
                unlabelled == Unlabelled::Fill
            } else {
                !nulls && outgoing.has_gaps(mask.0)?
            };
            if leaves {
                outgoing.mark(mask)?;
            }
        }
        if unlabelled == Unlabelled::Drop {
            let (mut trajectories, mut rows, mut length) = (0, 0, 0);
            for leaving in outgoing.pass(Some(&[step::ACTION]))? {
                let leaving = leaving?;
                (trajectories, rows, length) = (
                    trajectories + 1,
                    rows + leaving.steps.num_rows() as u64,
                    length + leaving.length as u64,
                );
            }
            (outgoing.trajectories, outgoing.rows, outgoing.length) = (trajectories, rows, length);
        }
        Ok(outgoing)
    }

    /// Whether the column `name` is null at some step.
    fn has_gaps(&self, name: &str) -> Result<bool> {
        if !self
            .dataset
            .steps
            .field_with_name(name)
            .is_ok_and(Field::is_nullable)
        {
            return Ok(false);
        }
        for leaving in self.pass(Some(&[name]))? {
            if leaving?
                .column(name)
                .is_some_and(|column| column.null_count() > 0)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets a column leave that says where another is null.
    fn mark(&mut self, mask: (&'static str, &'static str)) -> Result<()> {
        let (name, valid) = mask;
        if self.steps.column_with_name(valid).is_some() {
            return Err(Error::failed(format!("the dataset has a column `{valid}` already, which is to say where `{name}` is missing"))
                .hint("leave it out with `columns`"));
        }
        self.steps =
            Arc::new(with_field(&self.steps, Field::new(valid, DataType::Boolean, false)).0);
        self.masks.push(mask);
        Ok(())
    }

    /// Columns of steps as they leave: those of the dataset, in its order, and those that say where others are missing.
    pub fn steps(&self) -> &SchemaRef {
        &self.steps
    }

    /// Columns of [`OutgoingTrajectory::about`].
    pub fn carried(&self) -> &SchemaRef {
        &self.carried
    }

    /// Number of trajectories that leave.
    pub fn trajectories(&self) -> u64 {
        self.trajectories
    }

    /// Rows that leave, final observations included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Steps that leave: rows that are not final observations.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What the dataset says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.dataset.manifest
    }

    /// Goes through the dataset in its order, with the columns of steps named, all where `None`.
    ///
    /// # Errors
    /// Where a column is not one of [`OutgoingDataset::steps`].
    pub fn pass(&self, columns: Option<&[&str]>) -> Result<Pass<'_>> {
        let known = |name: &str| self.dataset.steps.column_with_name(name).is_some();
        let masked = |name: &str| self.masks.iter().any(|(_, valid)| *valid == name);
        let wanted: Vec<String> = match columns {
            None => self
                .dataset
                .steps
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            Some(names) => {
                if let Some(name) = names.iter().find(|name| !known(name) && !masked(name)) {
                    return Err(Error::failed(format!(
                        "there is no column `{name}` to write"
                    )));
                }
                let mut wanted: Vec<String> = Vec::new();
                for name in names.iter().filter(|name| known(name)) {
                    if !wanted.iter().any(|known| known == name) {
                        wanted.push((*name).to_owned());
                    }
                }
                wanted
            }
        };
        let masks: Vec<_> = self
            .masks
            .iter()
            .copied()
            .filter(|(_, valid)| columns.is_none_or(|names| names.contains(valid)))
            .collect();
        let fills =
            self.unlabelled == Unlabelled::Fill && wanted.iter().any(|name| name == step::ACTION);
        let mut reads = wanted.clone();
        let mut also = |name: &str| {
            if !reads.iter().any(|read| read == name) {
                reads.push(name.to_owned());
            }
        };
        also(step::IS_FINAL);
        masks.iter().for_each(|(name, _)| also(name));
        if self.unlabelled == Unlabelled::Drop {
            also(step::ACTION);
            also(step::TERMINATED);
            also(step::TRUNCATED);
        }
        let mut schema = Schema::new(Vec::<Field>::new());
        let leaves =
            |name: &String| wanted.contains(name) || masks.iter().any(|(_, valid)| valid == name);
        for field in self
            .steps
            .fields()
            .iter()
            .filter(|field| leaves(field.name()))
        {
            schema = with_field(&schema, field.as_ref().clone()).0;
        }
        (self.watch)(None)?;
        let shards = self.dataset.manifest.shards.iter();
        Ok(Pass {
            outgoing: self,
            reads,
            masks,
            fills,
            schema: Arc::new(schema),
            shards,
            open: None,
            ready: VecDeque::new(),
            next: 0,
        })
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

    /// A dataset whose steps have an action where `actions` says so; a trajectory each, the last row final where `known`.
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

        /// Every labelled step leaves once, with the observation after it where that is known; nothing else leaves.
        #[test]
        fn dropped_steps_cut_and_nothing_is_lost(actions in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..12), 1..6), known in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let outgoing = OutgoingDataset::new(dataset(folder.path(), &actions, known), false, &with(Unlabelled::Drop)).unwrap();
            let leaving = all(&outgoing);
            let mut expected = Vec::new();
            for (id, actions) in actions.iter().enumerate() {
                expected.extend(actions.iter().enumerate().filter(|(_, there)| **there).map(|(row, _)| (id * 1000 + row) as f32));
            }
            let mut found = Vec::new();
            for leaving in &leaving {
                let action = leaving.column(step::ACTION).unwrap();
                prop_assert_eq!(action.null_count(), 0);
                found.extend(action.as_primitive::<Float32Type>().values().iter().copied());
                let id: usize = leaving.text(trajectory::UID).unwrap()[1..].parse().unwrap();
                let flag = |name: &str, row: usize| leaving.steps[name].as_boolean().value(row);
                let end = leaving.steps["step"].as_primitive::<arrow::datatypes::Int32Type>().value(leaving.length - 1) as usize + 1;
                let whole = end == actions[id].len();
                prop_assert_eq!(leaving.has_final(), known || !whole);
                prop_assert_eq!(flag(step::TERMINATED, leaving.length - 1), whole);
                prop_assert_eq!(flag(step::TRUNCATED, leaving.length - 1), !whole);
                prop_assert!((0..leaving.steps.num_rows()).all(|row| flag(step::IS_FINAL, row) == (row == leaving.length)));
                prop_assert!(leaving.length == leaving.steps.num_rows() || leaving.steps[step::ACTION].is_null(leaving.length));
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(outgoing.trajectories(), leaving.len() as u64);
            prop_assert_eq!(outgoing.length(), leaving.iter().map(|leaving| leaving.length as u64).sum::<u64>());
            prop_assert_eq!(outgoing.rows(), leaving.iter().map(|leaving| leaving.steps.num_rows() as u64).sum::<u64>());
        }

        #[test]
        fn filled_steps_are_marked(actions in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..12), 1..6), known in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let outgoing = OutgoingDataset::new(dataset(folder.path(), &actions, known), false, &with(Unlabelled::Fill)).unwrap();
            for (leaving, actions) in all(&outgoing).iter().zip(&actions) {
                prop_assert_eq!(&leaving.steps.schema(), outgoing.steps());
                let (action, valid) = (leaving.column(step::ACTION).unwrap(), leaving.column(ACTION_VALID).unwrap());
                for (row, there) in actions.iter().enumerate() {
                    prop_assert_eq!(valid.as_boolean().value(row), *there);
                    prop_assert!(action.is_valid(row) && (*there || action.as_primitive::<Float32Type>().value(row) == -3.0));
                }
            }
        }
    }

    #[test]
    fn what_has_no_action_is_refused_unless_the_user_or_the_format_says() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path(), &[vec![true, false, true]], true);
        let error = OutgoingDataset::new(dataset.clone(), false, &with(Unlabelled::Refuse))
            .err()
            .unwrap();
        assert!(
            error.message.contains("1 of 3 steps have no action"),
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
        // A byte that changes after a passage verified the file stops the next one.
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
