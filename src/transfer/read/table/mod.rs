//! Reads tables with one row per step, or with one row per trajectory, from one file or several.
//!
//! Rows are read in batches through all files, in order. A trajectory with a row per step may span
//! batches, row groups and files.

mod convert;
mod cut;
mod episodes;
mod files;
mod layout;
mod order;
mod pending;
mod roles;
mod rows;
mod sort;
mod values;
mod widths;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use self::convert::Table;
use self::cut::Cutter;
use self::episodes::Episodes;
use self::layout::Layout;
use self::order::Order;
use self::roles::Roles;
use self::rows::FileRows;
use self::sort::SortedRows;
use self::widths::widths;
use super::{Choice, IncomingTrajectory, Options, Source, no_effect};
use crate::container::record_batches::TableFile;
use crate::container::table::FileTable;
use crate::dataset::Account;
use crate::dataset::account::LeftOut;
use crate::dataset::schema::{self, type_name};
use crate::error::{Error, Result};

pub(crate) use self::episodes::fact;
pub(crate) use self::files::{Found, is_folder_of, is_text_table, text_files};
pub(crate) use self::values::{flags, vector};

/// The names of the options that a reader of tables takes.
pub(crate) const OPTIONS: &[&str] = &[
    "map",
    "trajectory",
    "step",
    "environment",
    "sort",
    "max_steps",
    "split_on_gaps",
];

/// The target size of a batch of steps, in bytes.
const BATCH_BYTES: usize = 8 << 20;

/// Opens the files `found` of the source `path` as one table of steps.
///
/// # Errors
/// Returns an error if a file cannot be read, if the columns of the files contradict each other, or
/// if no column shows where trajectories end.
pub(crate) fn open(
    path: &Path,
    found: impl Into<Found>,
    kind: TableFile,
    options: &Options,
) -> Result<Box<dyn Source>> {
    let Found { files, others } = found.into();
    if files.is_empty() {
        return Err(Error::failed(format!(
            "there is no file of this format in {}",
            path.display()
        ))
        .hint(
            "files are found by their extensions; names that begin with `.` or `_` are ignored",
        ));
    }
    let choice = Choice::new(options, roles::is_marker);
    let paths = files;
    let mut files = FileTable::open(kind, path, &paths, &|name| choice.reads(name))?;
    if Roles::find(files.schema(), options).is_err() {
        files.spread(&|columns| Roles::find(columns, options).is_ok());
    }
    let files = Arc::new(files);
    choice.verify().map_err(|error| error.at(path.display()))?;
    let table = files.schema();
    if files.rows == Some(0) {
        return Err(Error::failed(format!("{} holds no rows", path.display()))
            .hint("there is nothing to import"));
    }
    let mut unread = choice.account(Account::default());
    for column in &files.empty {
        unread.leave_out(column, "its vectors or objects have no values");
    }
    for other in others {
        unread.leave_out(other.display().to_string(), "the file is of another format");
    }
    let left_out = unread.left_out;
    let roles = Roles::find(table, options).map_err(|error| error.at(path.display()))?;
    let layout = Layout::find(&files, &roles, options).map_err(|error| error.at(path.display()))?;
    if let Some(layout) = layout {
        let without_effect = [
            (options.max_steps.is_some(), "--max-steps"),
            (options.step.is_some(), "--step"),
            (options.environment.is_some(), "--environment"),
            (options.sort, "--sort"),
        ];
        let given = without_effect.into_iter().find(|(given, _)| *given);
        episodes::refuse(path, given.map(|(_, name)| name))?;
        let episodes = Episodes::new(files, layout, left_out);
        return Ok(Box::new(
            episodes.map_err(|error| error.at(path.display()))?,
        ));
    }
    if roles.trajectory.is_none() && !roles.has_ends() && options.max_steps.is_none() {
        return Err(Error::failed(format!(
            "{}: no trajectory boundaries: there is neither a column of trajectory ids nor a \
             column of end flags",
            path.display()
        ))
        .hint(
            "choose columns with `--map trajectory_id=COLUMN` or \
             `--map terminated=COLUMN,truncated=COLUMN`",
        ));
    }
    let widths = widths(&files, &roles)?;
    let width = |name: &str| {
        widths
            .iter()
            .find(|(column, _)| column == name)
            .and_then(|(_, width)| *width)
    };
    verify_options(&roles, options).map_err(|error| error.at(path.display()))?;
    let order = order(table, &roles, options).map_err(|error| error.at(path.display()))?;
    let keys = roles.environment.iter().chain(&roles.trajectory);
    let sorts = order.iter().filter(|order| order.sorts == Some(true));
    let keys = keys.chain(sorts.map(|order| &order.name));
    let keys = keys.cloned().collect();
    let columns = SchemaRef::clone(table);
    let table = Table::new(&columns, roles, width).map_err(|error| error.at(path.display()))?;
    let batch_rows = (BATCH_BYTES / schema::row_bytes(&table.schema)).clamp(16, 8192);
    let in_order = FileRows::new(Arc::clone(&files), batch_rows);
    let rows = match options.sort {
        true => TableRows::Sorted(Box::new(SortedRows::new(
            in_order,
            &columns,
            keys,
            &options.scratch(),
            sort::MEMORY,
        )?)),
        false => TableRows::InOrder(in_order),
    };
    Ok(Box::new(TableSource {
        path: path.to_owned(),
        cutter: Cutter::new(table, options.max_steps, order, options.split_on_gaps),
        total: files.rows,
        left_out,
        rows,
        resumable: false,
    }))
}

/// Verifies that every option has an effect.
///
/// # Errors
/// Returns an error that names an option without one.
fn verify_options(roles: &Roles, options: &Options) -> Result<()> {
    let ends = roles.trajectory.as_ref().or(roles.truncated.as_ref());
    if let Some(ends) = ends.filter(|_| options.max_steps.is_some()) {
        let reason = format!("column `{ends}` tells where trajectories end");
        return Err(no_effect("max_steps", &reason));
    }
    if options.split_on_gaps && roles.next_observation.is_none() {
        let reason = "there is no column of next observations, such as `next_observation`";
        return Err(no_effect("split_on_gaps", reason));
    }
    Ok(())
}

/// Returns the column of `table` whose values increase within a trajectory.
///
/// # Errors
/// Returns an error if the rows are to be sorted, and nothing tells by what.
fn order(table: &Schema, roles: &Roles, options: &Options) -> Result<Option<Order>> {
    let found = roles.order(table);
    let compared = |sorts: Option<bool>| {
        let order = |name| Order {
            is_stated: roles.step.as_ref() == Some(&name),
            sorts,
            name,
        };
        found.clone().map(order)
    };
    if !options.sort {
        return Ok(compared(None));
    }
    if roles.trajectory.is_none() && roles.environment.is_none() {
        return Err(Error::failed(
            "`--sort` needs a column of trajectory ids, or one of environments",
        )
        .hint("name it with `--trajectory COLUMN` or `--environment COLUMN`"));
    }
    if roles.trajectory.is_none() && options.step.is_none() {
        // A log of environments is written as time goes by, and a column that numbers steps may
        // start again in every trajectory: the rows of an environment stay in their order.
        return Ok(compared(Some(false)));
    }
    let order = found.ok_or_else(|| {
        Error::failed("`--sort` needs a column that numbers the steps or has their times")
            .hint("name it with `--step COLUMN`")
    })?;
    let data_type = table.field_with_name(&order)?.data_type();
    if data_type.is_numeric() || data_type.is_temporal() {
        return Ok(Some(Order {
            name: order,
            is_stated: true,
            sorts: Some(true),
        }));
    }
    Err(Error::failed(format!(
        "column `{order}` is {}, which does not number steps",
        type_name(data_type)
    ))
    .hint("choose a column of numbers or times with `--step COLUMN`"))
}

/// The rows of a table.
enum TableRows {
    InOrder(FileRows),
    Sorted(Box<SortedRows>),
}

/// A table of steps in one file or several.
struct TableSource {
    path: PathBuf,
    cutter: Cutter,
    rows: TableRows,
    total: Option<u64>,
    /// The columns and files that are not read.
    left_out: Vec<LeftOut>,
    /// Whether the last error affects one trajectory only, so that the next one can be read.
    resumable: bool,
}

impl Source for TableSource {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(self.cutter.schema())
    }

    fn rows(&self) -> Option<u64> {
        self.total
    }

    fn account(&self) -> Account {
        let mut account = self.cutter.account();
        account.left_out.extend(self.left_out.iter().cloned());
        account
    }

    fn lost(&self) -> Option<u64> {
        self.resumable.then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        loop {
            if let Some(ready) = self.cutter.next() {
                self.resumable = ready.is_err();
                return ready.map(Some);
            }
            self.resumable = false;
            let added = match &mut self.rows {
                TableRows::InOrder(rows) => match rows.next()? {
                    Some((batch, path, first)) => {
                        let place = |row| format!("row {} of {}", first + row, path.display());
                        Some(self.cutter.add(&batch, &place)?)
                    }
                    None => None,
                },
                TableRows::Sorted(rows) => match rows.next()? {
                    Some((batch, places)) => Some(self.cutter.add(&batch, &|row| places.of(row))?),
                    None => None,
                },
            };
            match added {
                Some(()) => {}
                None if self.cutter.has_pending() => {
                    self.cutter
                        .verify_ends()
                        .map_err(|error| error.at(self.path.display()))?;
                    self.cutter.finish()?;
                }
                None => return Ok(None),
            }
        }
    }
}
