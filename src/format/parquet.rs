//! Plain Parquet: a file or a folder of files, one row per step, any column names.
//!
//! The writer writes the steps only, with the columns of a dataset of trajmill.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;

use super::{Detection, Evidence, Format};
use crate::container::record_batches::TableFile;
use crate::container::starts_with;
use crate::dataset::files;
use crate::dataset::store::{self, HashingFile};
use crate::dataset::{schema, write};
use crate::error::{Error, Result};
use crate::transfer::read::{Options, Reader, Source, table};
use crate::transfer::write::{OutgoingDataset, WriteOptions, Writer, Written};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "parquet",
    detection: Some(Detection {
        evidence: Evidence::Container,
        probe: detect,
    }),
    read: Some(Reader {
        takes: table::OPTIONS,
        open: read,
    }),
    write: Some(Writer {
        nulls: true,
        whole: None,
        text: true,
        takes: &[],
        write,
        note: None,
    }),
    validate: None,
};

/// The target number of rows of a file, which closes at the first end of a trajectory at or after
/// it.
const FILE_ROWS: u64 = 1 << 20;

fn detect(path: &Path) -> Result<bool> {
    if files::is_dir(path)? {
        Ok(!table::Found::at(path, is_parquet)?.files.is_empty())
    } else {
        Ok(is_parquet(path) || starts_with(path, b"PAR1")?)
    }
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["parquet", "parq", "pq"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    if files::exists(&path.join("dataset.json"))? && files::is_dir(&path.join("steps"))? {
        return Err(
            Error::failed(format!("{} is already a trajmill dataset", path.display()))
                .hint("use it as `source:` of a pipeline without importing it"),
        );
    }
    table::open(
        path,
        table::Found::at(path, is_parquet)?,
        TableFile::Parquet,
        options,
    )
}

fn write(outgoing: &OutgoingDataset, to: &Path, _options: &WriteOptions) -> Result<Written> {
    store::create_dir(to)?;
    let logical = outgoing.steps();
    let physical = schema::physical(logical);
    let block_rows = schema::block_rows(logical);
    let mut file = File {
        to,
        index: 0,
        rows: 0,
        writer: None,
        schema: physical,
    };
    let (mut pending, mut rows) = (Vec::new(), 0);
    // A row group holds whole trajectories, or as many frames as are decoded at once.
    let mut frames = outgoing.late_frames();
    for trajectory in outgoing.referring(None)? {
        let trajectory = trajectory?;
        let (count, place) = (trajectory.steps.num_rows(), trajectory.place());
        let mut from = 0;
        while from < count {
            let part = frames.at_once.min(count - from);
            pending.push(frames.rows(&trajectory.steps.slice(from, part), &place)?);
            (from, rows) = (from + part, rows + part);
            if rows >= block_rows.min(frames.at_once) {
                file.group(&pending, logical)?;
                (pending, rows) = (Vec::new(), 0);
            }
        }
        if file.rows >= FILE_ROWS {
            file.group(&pending, logical)?;
            file.close()?;
            (pending, rows) = (Vec::new(), 0);
        }
    }
    file.group(&pending, logical)?;
    file.close()?;
    let mut written = Written::default();
    written.cannot_hold(
        "facts about trajectories (identity, source, statistics)",
        "left out: the files hold steps only",
    );
    Ok(written)
}

/// The file that is being written.
struct File<'a> {
    to: &'a Path,
    index: usize,
    rows: u64,
    writer: Option<ArrowWriter<HashingFile>>,
    schema: SchemaRef,
}

impl File<'_> {
    /// Writes a row group. The first call makes a file even if there are no rows.
    fn group(&mut self, steps: &[RecordBatch], logical: &SchemaRef) -> Result<()> {
        if steps.is_empty() && self.index + usize::from(self.writer.is_some()) > 0 {
            return Ok(());
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let file =
                    HashingFile::create(&self.to.join(format!("{:05}.parquet", self.index)))?;
                ArrowWriter::try_new(
                    file,
                    Arc::clone(&self.schema),
                    Some(write::properties(&self.schema, None)?),
                )?
            }
        };
        let batch = schema::convert(&concat_batches(logical, steps)?, &self.schema)?;
        if batch.num_rows() > 0 {
            writer.write(&batch)?;
            writer.flush()?;
        }
        self.rows += batch.num_rows() as u64;
        self.writer = Some(writer);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.into_inner()?.finish()?;
            self.index += 1;
            self.rows = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
        ListArray, StringArray,
    };
    use arrow::datatypes::{DataType, Float32Type, Int64Type};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::transfer::read::IncomingTrajectory;

    fn save(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        )
        .unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(3))
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        crate::dataset::store::write(path, &bytes).unwrap();
    }

    fn options(map: &[(&str, &str)]) -> Options {
        Options {
            map: map
                .iter()
                .map(|(target, source)| ((*target).to_owned(), (*source).to_owned()))
                .collect(),
            ..Options::default()
        }
    }

    fn all(path: &Path, options: &Options) -> Result<Vec<IncomingTrajectory>> {
        let mut source = read(path, options)?;
        let mut found = Vec::new();
        while let Some(trajectory) = source.next()? {
            assert_eq!(trajectory.steps.schema(), source.schema());
            found.push(trajectory);
        }
        Ok(found)
    }

    fn shape(found: &[IncomingTrajectory]) -> Vec<(String, usize)> {
        found
            .iter()
            .map(|trajectory| (trajectory.key.clone(), trajectory.steps.num_rows()))
            .collect()
    }

    fn numbers(values: impl IntoIterator<Item = i32>) -> ArrayRef {
        Arc::new(Float32Array::from_iter_values(
            values.into_iter().map(|value| value as f32),
        ))
    }

    fn flags(values: &[bool]) -> ArrayRef {
        Arc::new(BooleanArray::from(values.to_vec()))
    }

    fn list(rows: Vec<Option<Vec<Option<i64>>>>) -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows))
    }

    #[test]
    fn a_glob_joins_scalars_and_a_trajectory_spans_files() {
        let folder = tempfile::tempdir().unwrap();
        let ids = |values: &[&str]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
        for (name, ids, first) in [
            ("part-10.parquet", ids(&["b", "b", "c", "c", "c"]), 5),
            ("part-2.parquet", ids(&["a", "a", "a", "a", "b"]), 0),
        ] {
            let columns = (0..11)
                .rev()
                .map(|axis| {
                    (
                        format!("obs_{axis}"),
                        numbers((first..first + 5).map(|row| row * 100 + axis)),
                    )
                })
                .collect::<Vec<_>>();
            let mut columns: Vec<(&str, ArrayRef)> = columns
                .iter()
                .map(|(name, column)| (name.as_str(), ArrayRef::clone(column)))
                .collect();
            columns.extend([
                ("who", ids),
                (
                    "move",
                    list(
                        (0..5)
                            .map(|row| {
                                if row == 1 {
                                    None
                                } else {
                                    Some(vec![Some(row), Some(-row)])
                                }
                            })
                            .collect(),
                    ),
                ),
            ]);
            columns.push((
                "step",
                Arc::new(Int32Array::from_iter_values(
                    (first..first + 5).map(|row| row * 2),
                )),
            ));
            columns.push((
                "note",
                list((0..5).map(|row| Some(vec![Some(1); row])).collect()),
            ));
            save(&folder.path().join(name), columns);
        }
        let found = all(
            folder.path(),
            &options(&[
                ("observation", "obs_*"),
                ("action", "move"),
                ("trajectory_id", "who"),
            ]),
        )
        .unwrap();
        assert_eq!(
            shape(&found),
            [
                ("a".to_owned(), 4),
                ("b".to_owned(), 3),
                ("c".to_owned(), 3)
            ]
        );
        let second = &found[1].steps;
        let row = second["observation"].as_fixed_size_list().value(2);
        assert_eq!(
            row.as_primitive::<Float32Type>().values().to_vec(),
            (0..11).map(|axis| (600 + axis) as f32).collect::<Vec<_>>()
        );
        let action = second["action"].as_fixed_size_list();
        assert_eq!(
            (action.is_null(0), action.is_null(1), action.is_null(2)),
            (false, false, true)
        );
        assert_eq!(
            action
                .value(0)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec(),
            [4, -4]
        );
        assert!(
            matches!(second["note"].data_type(), DataType::List(_)),
            "a ragged column stays a list"
        );
        let names: Vec<String> = second
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(
            names,
            [
                "observation",
                "action",
                "terminated",
                "truncated",
                "is_final",
                "note"
            ]
        );
    }

    #[test]
    fn end_flags_final_rows_and_the_longest_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.parquet");
        let is_final = [false, false, true, false, false, false, false, false];
        save(
            &path,
            vec![
                (
                    "obs",
                    list((0..8).map(|row| Some(vec![Some(row)])).collect()),
                ),
                (
                    "rewards",
                    Arc::new(Float64Array::from_iter_values((0..8).map(f64::from))),
                ),
                (
                    "done",
                    flags(&[false, true, true, false, false, false, false, false]),
                ),
                ("is_final", flags(&is_final)),
                (
                    "score",
                    list((0..8).map(|row| Some(vec![Some(row), Some(0)])).collect()),
                ),
            ],
        );
        let found = all(
            &path,
            &Options {
                max_steps: Some(3),
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(
            shape(&found),
            [
                ("0".to_owned(), 3),
                ("1".to_owned(), 3),
                ("2".to_owned(), 2)
            ]
        );
        let trues = |index: usize, name: &str| {
            (0..found[index].steps.num_rows())
                .filter(|row| found[index].steps[name].as_boolean().value(*row))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (
                trues(0, "terminated"),
                trues(0, "is_final"),
                trues(1, "truncated"),
                trues(2, "truncated")
            ),
            (vec![1], vec![2], vec![2], vec![])
        );
        assert!(
            found[0].steps["reward"].is_null(2) && !found[0].steps["reward"].is_null(1),
            "what stands beside a final observation is filler"
        );
        assert_eq!(
            found[0].steps["score"].data_type(),
            &schema::vector(DataType::Int64, 2)
        );
    }

    #[test]
    fn the_last_next_observation_is_the_final_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.parquet");
        let rows =
            |first: [i64; 5]| list(first.map(|row| Some(vec![Some(row), Some(-row)])).into());
        let columns = || {
            vec![
                ("obs", rows([0, 1, 2, 3, 4])),
                ("next_obs", rows([1, 101, 3, 4, 104])),
                ("done", flags(&[false, true, false, false, true])),
            ]
        };
        save(&path, columns());
        let found = all(&path, &Options::default()).unwrap();
        assert_eq!(shape(&found), [("0".to_owned(), 3), ("1".to_owned(), 4)]);
        let first = |index: usize| -> Vec<i64> {
            let vectors = found[index].steps["observation"].as_fixed_size_list();
            (0..vectors.len())
                .map(|row| vectors.value(row).as_primitive::<Int64Type>().value(0))
                .collect()
        };
        assert_eq!((first(0), first(1)), (vec![0, 1, 101], vec![2, 3, 4, 104]));
        let last = |name: &str| {
            (0..4)
                .map(|row| found[1].steps[name].as_boolean().value(row))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (last("terminated"), last("is_final")),
            (
                vec![false, false, true, false],
                vec![false, false, false, true]
            )
        );
        assert!(found[0].steps.column_by_name("next_obs").is_none());

        // Beside final rows it says nothing new, and one of another kind is no observation.
        let mut with_finals = columns();
        with_finals.push(("is_final", flags(&[false; 5])));
        save(&folder.path().join("finals.parquet"), with_finals);
        let mut other = columns();
        other[1] = ("next_obs", numbers(0..5));
        save(&folder.path().join("other.parquet"), other);
        for name in ["finals.parquet", "other.parquet"] {
            let found = all(&folder.path().join(name), &Options::default()).unwrap();
            assert_eq!(
                shape(&found),
                [("0".to_owned(), 2), ("1".to_owned(), 3)],
                "{name}"
            );
            assert!(
                found[0].steps.column_by_name("next_obs").is_some(),
                "{name}"
            );
        }
    }

    #[test]
    fn bad_tables_say_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        let message = |columns: Vec<(&str, ArrayRef)>, map: &[(&str, &str)]| {
            count.set(count.get() + 1);
            let path = folder.path().join(format!("{}.parquet", count.get()));
            save(&path, columns);
            let error = all(&path, &options(map)).err().unwrap();
            assert!(
                error.message.contains(&format!("{}.parquet", count.get())),
                "{error}"
            );
            format!("{error}")
        };
        let obs = || ("obs", numbers(0..4));
        let ids = |values: [i64; 4]| {
            (
                "episode",
                Arc::new(Int64Array::from(values.to_vec())) as ArrayRef,
            )
        };
        assert!(
            message(vec![obs(), ids([1, 2, 1, 1])], &[])
                .contains("the rows of trajectory `1` (column `episode`) are not together")
        );
        assert!(message(vec![obs()], &[]).contains("no trajectory boundaries"));
        assert!(
            message(vec![("x", numbers(0..4)), ids([1; 4])], &[])
                .contains("no column `observation`")
        );
        assert!(
            message(vec![obs(), ids([1; 4])], &[("action", "obss")])
                .contains("did you mean `obs`?")
        );
        let nan: ArrayRef = Arc::new(Float64Array::from(vec![0.0, f64::NAN, 0.0, 1.0]));
        assert!(
            message(vec![obs(), ("terminals", nan)], &[]).contains("`terminals` is NaN at row 1")
        );
        let null: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, None, None]));
        assert!(message(vec![obs(), ("done", null)], &[]).contains("`done` is null at row 1"));
        let ragged = list(vec![
            Some(vec![Some(1)]),
            Some(vec![Some(1), Some(2)]),
            Some(vec![Some(1)]),
            Some(vec![]),
        ]);
        assert!(
            message(vec![("obs", ragged), ids([1; 4])], &[]).contains("holds 2 values at row 1")
        );
        let steps: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 1, 2]));
        assert!(
            message(vec![obs(), ids([1; 4]), ("step", steps)], &[])
                .contains("`step` is 1 at row 2")
        );
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"; 4]));
        assert!(
            message(vec![("obs", text), ids([1; 4])], &[])
                .contains("text, which cannot be `observation`")
        );
        assert!(
            message(
                vec![
                    obs(),
                    ids([1; 4]),
                    ("is_final", flags(&[false, true, false, false]))
                ],
                &[]
            )
            .contains("continues after its final observation, at row 2")
        );
        assert!(
            message(
                vec![
                    ("obs", numbers(0..0)),
                    (
                        "episode",
                        Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef
                    )
                ],
                &[]
            )
            .contains("holds no rows")
        );
        let cut = folder.path().join("cut.parquet");
        let bytes = std::fs::read(folder.path().join("1.parquet")).unwrap();
        crate::dataset::store::write(&cut, &bytes[..bytes.len() - 20]).unwrap();
        assert!(
            all(&cut, &Options::default())
                .err()
                .unwrap()
                .message
                .contains("cut.parquet: not a readable Parquet file")
        );
    }
}
