//! Plain Parquet: a file or a folder of files, one row per step, any column names.
//!
//! Rows are read in batches through all files in natural order; a trajectory may span batches, row groups and files.

#[path = "../../container/record_batches.rs"]
pub(super) mod kind;
mod write;

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

use self::kind::{Kind, Open, damaged};
use super::pattern::natural;
use super::table::{Flags, Roles, Table, common_width};
use super::{Format, Incoming, Opener, Options, Source, Writer};
use crate::dataset::schema;
use crate::error::{Error, Result};

/// The options of reading that mean something to tables.
pub(super) const TAKES: &[&str] = &["map", "trajectory", "step", "max_steps"];

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "parquet",
    about: "plain Parquet: a file or a folder of files, one row per step, any column names",
    detect,
    read: Some(Opener {
        takes: TAKES,
        open: read,
    }),
    write: Some(Writer {
        nulls: true,
        takes: &[],
        write: write::write,
        note: None,
    }),
    validate: None,
};

/// Bytes of steps that a batch aims at.
const BATCH_BYTES: usize = 8 << 20;

fn detect(path: &Path) -> bool {
    if path.is_dir() {
        files(path).is_ok_and(|files| !files.is_empty())
    } else {
        is_parquet(path) || super::starts_with(path, b"PAR1")
    }
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["parquet", "parq", "pq"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// The Parquet files under `path` in natural order; names that begin with a dot or an underscore are not data.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", path.display()));
    let mut entries = std::fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let name = |path: &PathBuf| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    entries.retain(|entry| {
        !name(entry).starts_with(['.', '_']) && (entry.is_dir() || is_parquet(entry))
    });
    entries.sort_by(|a, b| natural(&name(a), &name(b)));
    Ok(entries
        .iter()
        .map(|entry| files(entry))
        .collect::<Result<Vec<_>>>()?
        .concat())
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    if path.join("dataset.json").exists() && path.join("steps").is_dir() {
        return Err(
            Error::failed(format!("{} is a trajmill dataset already", path.display()))
                .hint("name it as `source:` in a pipeline; nothing has to be imported"),
        );
    }
    tables(path, files(path)?, Kind::Parquet, options)
}

/// Opens tables of steps in `files`, which `path` names.
///
/// # Errors
/// Where they cannot be read, do not fit one another or do not say where trajectories end.
pub(super) fn tables(
    path: &Path,
    files: Vec<PathBuf>,
    kind: Kind,
    options: &Options,
) -> Result<Box<dyn Source>> {
    let Some(first) = files.first() else {
        return Err(Error::failed(format!(
            "{} holds no Parquet file",
            path.display()
        )));
    };
    let (table, _) = kind.look(first)?;
    let mut rows = Some(0);
    for file in &files {
        let (own, count) = kind.look(file)?;
        rows = rows.zip(count).map(|(rows, count)| rows + count);
        for field in table.fields() {
            match own.field_with_name(field.name()) {
                Ok(own) if own.data_type() == field.data_type() => {}
                Ok(own) => {
                    let message = format!(
                        "{}: column `{}` is {} where {} has {}",
                        file.display(),
                        field.name(),
                        own.data_type(),
                        first.display(),
                        field.data_type()
                    );
                    return Err(Error::failed(message)
                        .hint("all files of a folder must have the same columns"));
                }
                Err(_) => {
                    let message = format!(
                        "{}: there is no column `{}`, which {} has",
                        file.display(),
                        field.name(),
                        first.display()
                    );
                    return Err(Error::failed(message)
                        .hint("all files of a folder must have the same columns"));
                }
            }
        }
    }
    if rows == Some(0) {
        return Err(Error::failed(format!("{} holds no rows", path.display()))
            .hint("there is nothing to import"));
    }
    let roles = Roles::find(&table, options).map_err(|error| error.at(path.display()))?;
    if roles.trajectory.is_none() && !roles.has_ends() && options.max_steps.is_none() {
        return Err(Error::failed(format!(
            "{}: no trajectory boundaries: there is neither a column of trajectory ids nor one of end flags",
            path.display()
        ))
        .hint("name one with --map trajectory_id=COLUMN, or --map terminated=COLUMN,truncated=COLUMN"));
    }
    let widths = widths(kind, &files, &table, &roles)?;
    let width = |name: &str| {
        widths
            .iter()
            .find(|(column, _)| column == name)
            .and_then(|(_, width)| *width)
    };
    let max_steps = options.max_steps.filter(|_| !roles.has_cuts());
    let table = Table::new(&table, roles, width).map_err(|error| error.at(path.display()))?;
    let batch_rows = (BATCH_BYTES / schema::row_bytes(&table.schema)).clamp(16, 8192);
    Ok(Box::new(Parquet {
        table,
        files: files.into(),
        kind,
        batch_rows,
        reader: None,
        rows,
        max_steps,
        pending: Pending::default(),
        ready: VecDeque::new(),
        one: false,
        seen: HashSet::new(),
        count: 0,
        steps: 0,
        last: Last::default(),
    }))
}

/// The width of each list column that becomes a vector, or that is one throughout.
fn widths(
    kind: Kind,
    files: &[PathBuf],
    table: &SchemaRef,
    roles: &Roles,
) -> Result<Vec<(String, Option<i32>)>> {
    let (vectors, others) = roles.lists(table);
    // Of the first kind the first vector is enough: any other width is an error when it comes.
    let mut widths: Vec<(String, Option<i32>)> =
        vectors.into_iter().map(|name| (name, None)).collect();
    let needed = widths.len();
    widths.extend(others.into_iter().map(|name| (name, None)));
    let mut ragged = vec![false; widths.len()];
    for (column, width) in &mut widths {
        if let DataType::FixedSizeList(_, fixed) = table.field_with_name(column)?.data_type() {
            *width = Some(*fixed);
        }
    }
    for path in files {
        let open_question = |index: usize, width: Option<i32>| {
            if index < needed {
                width.is_none()
            } else {
                true
            }
        };
        let wanted: Vec<usize> = (0..widths.len())
            .filter(|index| !ragged[*index] && open_question(*index, widths[*index].1))
            .collect();
        if wanted.is_empty() {
            break;
        }
        let names: Vec<String> = wanted
            .iter()
            .map(|index| widths[*index].0.clone())
            .collect();
        for batch in kind.batches(path, 1024, Some(&names))? {
            let batch = batch.map_err(|error| damaged(path, error))?;
            for index in &wanted {
                let (name, width) = &mut widths[*index];
                let Some(column) = batch.column_by_name(name).filter(|_| !ragged[*index]) else {
                    continue;
                };
                if *index < needed {
                    *width = width.or_else(|| first_width(column));
                    continue;
                }
                match (common_width(column), *width) {
                    (Some(Some(found)), Some(before)) if found != before => ragged[*index] = true,
                    (Some(found), before) => *width = before.or(found),
                    (None, _) => ragged[*index] = true,
                }
            }
            if wanted
                .iter()
                .all(|index| ragged[*index] || (*index < needed && widths[*index].1.is_some()))
            {
                break;
            }
        }
    }
    widths
        .iter_mut()
        .zip(ragged)
        .filter(|(_, ragged)| *ragged)
        .for_each(|((_, width), _)| *width = None);
    Ok(widths)
}

/// Length of the first list that is not null.
fn first_width(column: &ArrayRef) -> Option<i32> {
    let row = (0..column.len()).find(|row| column.is_valid(*row))?;
    // A vector with a null inside still says how long it is; the null is an error when its row comes.
    let width = match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value_length(row)),
        DataType::LargeList(_) => i32::try_from(column.as_list::<i64>().value_length(row)).ok(),
        _ => None,
    };
    width.filter(|width| *width > 0)
}

/// A dataset of plain Parquet files.
struct Parquet {
    table: Table,
    /// Files not yet opened.
    files: VecDeque<PathBuf>,
    kind: Kind,
    batch_rows: usize,
    reader: Option<Open>,
    rows: Option<u64>,
    max_steps: Option<usize>,
    pending: Pending,
    ready: VecDeque<Result<Incoming>>,
    /// Whether the last error is of one trajectory, so that those behind it can be read.
    one: bool,
    /// Hashes of the ids of finished trajectories.
    seen: HashSet<[u8; 16]>,
    /// Trajectories that flags have started.
    count: u64,
    /// Steps of the last of them, less final observations.
    steps: usize,
    last: Last,
}

/// Rows of a batch that belong to one trajectory.
struct Run {
    rows: Range<usize>,
    /// The trajectory's key, where it begins here.
    begins: Option<String>,
}

/// The trajectory that the rows read so far leave open.
#[derive(Default)]
struct Pending {
    slices: Vec<RecordBatch>,
    key: Option<String>,
    last_step: Option<f64>,
    /// Whether its last row holds a final observation.
    after_final: bool,
    /// The observation that the last row so far led to, where the source says it and has no row for it.
    after: Option<ArrayRef>,
    /// Whether something is wrong with it, which has been said: its other rows are passed over.
    bad: bool,
}

/// What flags say of the row before.
#[derive(Default, Clone, Copy, PartialEq)]
enum Last {
    #[default]
    Open,
    Ended,
    Final,
}

impl Parquet {
    /// The next batch of the table, and where it begins.
    fn batch(&mut self) -> Result<Option<(RecordBatch, PathBuf, usize)>> {
        loop {
            if self.reader.is_none() {
                let Some(path) = self.files.pop_front() else {
                    return Ok(None);
                };
                let batches = self.kind.batches(&path, self.batch_rows, None)?;
                self.reader = Some(Open {
                    path,
                    batches,
                    row: 0,
                });
            }
            if let Some(open) = &mut self.reader {
                match open.batches.next() {
                    Some(Ok(batch)) if batch.num_rows() == 0 => {}
                    Some(Ok(batch)) => {
                        let first = open.row;
                        open.row += batch.num_rows();
                        return Ok(Some((batch, open.path.clone(), first)));
                    }
                    Some(Err(error)) => return Err(damaged(&open.path, error)),
                    None => self.reader = None,
                }
            }
        }
    }

    /// Cuts a batch at the ends of trajectories.
    fn split(&mut self, batch: &RecordBatch, place: &dyn Fn(usize) -> String) -> Result<()> {
        let mut flags = self.table.flags(batch, place)?;
        let column = |name: &Option<String>| {
            name.as_ref().and_then(|name| {
                batch
                    .column_by_name(name)
                    .map(|column| (name.clone(), ArrayRef::clone(column)))
            })
        };
        let (ids, numbers) = (
            column(&self.table.roles().trajectory),
            column(&self.table.roles().step),
        );
        let runs = match &ids {
            Some((name, ids)) => self.runs_by_id(name, ids, place)?,
            None => self.runs_by_flags(&mut flags),
        };
        let numbers = numbers
            .map(|(name, column)| Ok::<_, Error>((name, cast(&column, &DataType::Float64)?)))
            .transpose()?;
        let whole = self
            .table
            .steps(batch, flags.of(0..batch.num_rows()), place)
            .ok();
        for Run { rows, begins } in runs {
            if begins.is_some() {
                self.finish()?;
                self.pending = Pending {
                    key: begins,
                    ..Pending::default()
                };
            }
            if self.pending.bad {
                continue;
            }
            // Where something in the batch is wrong, only the trajectory that it is in is.
            let steps = match &whole {
                Some(whole) => Ok(whole.slice(rows.start, rows.len())),
                None => self.table.steps(
                    &batch.slice(rows.start, rows.len()),
                    flags.of(rows.clone()),
                    &|row| place(rows.start + row),
                ),
            };
            let ordered = |pending: &mut Pending| match &numbers {
                Some((name, numbers)) => pending.check_order(name, numbers, rows.clone(), place),
                None => Ok(()),
            };
            let finals = &flags.is_final[rows.clone()];
            let steps = steps.and_then(|steps| ordered(&mut self.pending).map(|()| steps));
            let steps = steps.and_then(|steps| {
                self.pending
                    .check_final(finals, &|row| place(rows.start + row))
                    .map(|()| steps)
            });
            let last = rows.end - 1;
            let after = || match self.pending.after_final {
                true => Ok(None),
                false => self
                    .table
                    .following(&batch.slice(last, 1), &|_| place(last)),
            };
            match steps.and_then(|steps| Ok((steps, after()?))) {
                Ok((steps, after)) => {
                    self.pending.slices.push(steps);
                    self.pending.after = after;
                }
                Err(error) => {
                    let key = self.pending.key.as_deref().unwrap_or_default();
                    self.ready
                        .push_back(Err(error.at(format!("trajectory `{key}`"))));
                    self.pending.slices.clear();
                    self.pending.bad = true;
                }
            }
        }
        Ok(())
    }

    /// The rows of each trajectory in a batch, by its ids.
    fn runs_by_id(
        &mut self,
        name: &str,
        ids: &ArrayRef,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Run>> {
        if let Some(row) = (0..ids.len()).find(|row| ids.is_null(*row)) {
            return Err(Error::failed(format!(
                "column `{name}` is null at {}: the row belongs to no trajectory",
                place(row)
            ))
            .hint("drop the row, or give it the id of its trajectory"));
        }
        let ids = match ids.data_type() {
            DataType::Dictionary(_, values) => cast(ids, values)?,
            _ => ArrayRef::clone(ids),
        };
        let options = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(&ids, &options)?;
        let mut runs = Vec::new();
        let mut current = self.pending.key.clone();
        for rows in arrow::compute::partition(&[ArrayRef::clone(&ids)])?.ranges() {
            let key = formatter.value(rows.start).to_string();
            let begins = current.as_ref() != Some(&key);
            if begins && !self.seen.insert(hash(&key)) {
                return Err(Error::failed(format!(
                    "trajectory `{key}` of column `{name}` comes back at {}, after other trajectories",
                    place(rows.start)
                ))
                .hint("the rows of a trajectory must be together: sort the source by trajectory and step"));
            }
            current = Some(key);
            runs.push(Run {
                rows,
                begins: current.clone().filter(|_| begins),
            });
        }
        Ok(runs)
    }

    /// The rows of each trajectory in a batch, by its flags; the longest length adds cuts to these.
    fn runs_by_flags(&mut self, flags: &mut Flags) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for row in 0..flags.is_final.len() {
            let is_final = flags.is_final[row];
            let begins = match self.last {
                Last::Open => self.count == 0,
                Last::Ended => !is_final,
                Last::Final => true,
            };
            if begins {
                runs.push(Run {
                    rows: row..row,
                    begins: Some(self.count.to_string()),
                });
                self.count += 1;
                self.steps = 0;
            } else if row == 0 {
                runs.push(Run {
                    rows: 0..0,
                    begins: None,
                });
            }
            if let Some(run) = runs.last_mut() {
                run.rows.end = row + 1;
            }
            self.steps += usize::from(!is_final);
            let longest = self.max_steps == Some(self.steps) && !is_final;
            flags.truncated[row] |= longest && !flags.terminated[row];
            self.last = match (is_final, flags.terminated[row] || flags.truncated[row]) {
                (true, _) => Last::Final,
                (false, true) => Last::Ended,
                (false, false) => Last::Open,
            };
        }
        runs
    }

    /// Hands on the pending trajectory, where there is one.
    fn finish(&mut self) -> Result<()> {
        let Pending {
            mut slices,
            key,
            after,
            ..
        } = std::mem::take(&mut self.pending);
        if let Some(after) = after.filter(|_| !slices.is_empty()) {
            slices.push(self.table.final_row(&after)?);
        }
        let steps = match slices.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            several => concat_batches(&self.table.schema, several)?,
        };
        self.ready.push_back(Ok(Incoming {
            key: key.unwrap_or_default(),
            steps,
            about: None,
        }));
        Ok(())
    }
}

impl Pending {
    /// Checks that the numbers of steps ascend in these rows of a batch, and from those before.
    fn check_order(
        &mut self,
        name: &str,
        numbers: &ArrayRef,
        rows: Range<usize>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let numbers = numbers.as_primitive::<Float64Type>();
        for row in rows {
            let number = if numbers.is_valid(row) {
                numbers.value(row)
            } else {
                f64::NAN
            };
            let ascends = self.last_step.is_none_or(|last| number > last);
            if !ascends || number.is_nan() {
                let before = self
                    .last_step
                    .map_or_else(|| "a start".to_owned(), |last| last.to_string());
                return Err(Error::failed(format!(
                    "column `{name}` is {number} after {before} at {}: steps must ascend in a trajectory",
                    place(row)
                ))
                .hint("sort the source by trajectory and step"));
            }
            self.last_step = Some(number);
        }
        Ok(())
    }

    /// Checks that nothing follows a final observation in rows with these flags, or those before.
    fn check_final(&mut self, finals: &[bool], place: &dyn Fn(usize) -> String) -> Result<()> {
        let after = if self.after_final {
            Some(0)
        } else {
            (1..finals.len()).find(|row| finals[row - 1])
        };
        self.after_final = finals.last() == Some(&true);
        let Some(row) = after else { return Ok(()) };
        Err(Error::failed(format!("it goes on after its final observation at {}", place(row)))
            .hint("`is_final` marks the observation after the last action: only the last row of a trajectory can have it"))
    }
}

fn hash(key: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
    short
}

impl Source for Parquet {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.table.schema)
    }

    fn rows(&self) -> Option<u64> {
        self.rows
    }

    fn metadata(&self) -> Map<String, Value> {
        Map::new()
    }

    fn lost(&self) -> Option<u64> {
        self.one.then_some(1)
    }

    fn next(&mut self) -> Result<Option<Incoming>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                self.one = ready.is_err();
                return ready.map(Some);
            }
            self.one = false;
            match self.batch()? {
                Some((batch, path, first)) => self.split(&batch, &|row| {
                    format!("row {} of {}", first + row, path.display())
                })?,
                None if self.pending.slices.is_empty() => return Ok(None),
                None => self.finish()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    };
    use arrow::datatypes::{Float32Type, Int64Type};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
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

    fn all(path: &Path, options: &Options) -> Result<Vec<Incoming>> {
        let mut source = read(path, options)?;
        let mut found = Vec::new();
        while let Some(incoming) = source.next()? {
            assert_eq!(incoming.steps.schema(), source.schema());
            found.push(incoming);
        }
        Ok(found)
    }

    fn shape(found: &[Incoming]) -> Vec<(String, usize)> {
        found
            .iter()
            .map(|incoming| (incoming.key.clone(), incoming.steps.num_rows()))
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
            write(&folder.path().join(name), columns);
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
        write(
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
        let rows = |first: i64| {
            list(
                (first..first + 5)
                    .map(|row| Some(vec![Some(row), Some(-row)]))
                    .collect(),
            )
        };
        let columns = || {
            vec![
                ("obs", rows(0)),
                ("next_obs", rows(100)),
                ("done", flags(&[false, true, false, false, true])),
            ]
        };
        write(&path, columns());
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
        write(&folder.path().join("finals.parquet"), with_finals);
        let mut other = columns();
        other[1] = ("next_obs", numbers(0..5));
        write(&folder.path().join("other.parquet"), other);
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
            write(&path, columns);
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
                .contains("trajectory `1` of column `episode` comes back at row 2")
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
            message(vec![obs(), ids([1; 4]), ("step", steps)], &[]).contains("steps must ascend")
        );
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"; 4]));
        assert!(
            message(vec![("obs", text), ids([1; 4])], &[])
                .contains("Utf8, which cannot be `observation`")
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
            .contains("goes on after its final observation at row 2")
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
