//! Tables with a row a step, in one file or several.
//!
//! Rows are read in batches through all files in order; a trajectory may span batches, row groups and files.

mod convert;
mod roles;
mod values;

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

use self::convert::{Flags, Table};
use self::roles::Roles;
use self::values::common_width;
use super::{IncomingTrajectory, Options, Source};
use crate::container::record_batches::{Batches, TableFile, damaged};
use crate::dataset::schema;
use crate::error::{Error, Result};

pub(crate) use self::values::{flags, vector};

/// The options of reading that mean something to tables.
pub(crate) const TAKES: &[&str] = &["map", "trajectory", "step", "max_steps"];

/// Bytes of steps that a batch aims at.
const BATCH_BYTES: usize = 8 << 20;

/// Opens tables of steps in `files`, which `path` names.
///
/// # Errors
/// Where they cannot be read, do not fit one another or do not say where trajectories end.
pub(crate) fn tables(
    path: &Path,
    files: Vec<PathBuf>,
    kind: TableFile,
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
    kind: TableFile,
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

/// Where a file that is being read is in its rows.
pub(super) struct Open {
    pub(super) path: PathBuf,
    pub(super) batches: Batches,
    /// Rows read.
    pub(super) row: usize,
}

/// A dataset of plain Parquet files.
struct Parquet {
    table: Table,
    /// Files not yet opened.
    files: VecDeque<PathBuf>,
    kind: TableFile,
    batch_rows: usize,
    reader: Option<Open>,
    rows: Option<u64>,
    max_steps: Option<usize>,
    pending: Pending,
    ready: VecDeque<Result<IncomingTrajectory>>,
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
        self.ready.push_back(Ok(IncomingTrajectory {
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

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
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
