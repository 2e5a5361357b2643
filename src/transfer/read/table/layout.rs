//! Finds out whether a table has one row per trajectory, and which of its columns are lists of
//! steps.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::convert::Table;
use super::roles::{Roles, verify_task};
use super::values::{as_list, common_width, is_list};
use super::widths::first_width;
use crate::container::table::FileTable;
use crate::dataset::Account;
use crate::dataset::schema::trajectory;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::read::{Options, free_fact};

/// Rows, each a whole trajectory, that are read at once.
pub(super) const BATCH_ROWS: usize = 32;

/// The columns of a table with one row per trajectory.
pub(super) struct Layout {
    /// The columns that are lists of steps, with the types of the elements.
    pub(super) steps: Vec<FieldRef>,
    /// The same columns as the schema of a table with one row per step.
    pub(super) exploded: SchemaRef,
    /// The columns that are facts about a trajectory.
    pub(super) facts: Vec<FieldRef>,
    /// The column of trajectory ids.
    pub(super) id: Option<String>,
    /// The columns with one flag for a trajectory.
    pub(super) terminated: Option<String>,
    pub(super) truncated: Option<String>,
    /// The column with the task of a trajectory.
    task: Option<String>,
    /// The number of steps and final observations of all trajectories.
    pub(super) rows: Option<u64>,
    options: Options,
    /// The positions in `steps` of the observation and of the columns that have one value per
    /// step.
    observation: usize,
    pub(super) counted: Vec<usize>,
    widths: Vec<(String, Option<i32>)>,
}

/// What the rows of a list column have in common.
#[derive(Default)]
struct Lengths {
    agree: u64,
    /// The first row whose length is not that of its trajectory: its position, its length, and the
    /// number of steps.
    odd: Option<(u64, usize, usize, bool)>,
    /// The length of all lists.
    constant: Option<usize>,
    varies: bool,
}

impl Layout {
    /// Returns how the table `table` in `files` holds trajectories in rows; `None` if its rows are
    /// steps, or if that is not certain.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, or if the lengths of a column contradict those of
    /// the others.
    pub(super) fn find(
        table: &Arc<FileTable>,
        roles: &Roles,
        options: &Options,
    ) -> Result<Option<Layout>> {
        if !table.is_spread() && !is_per_trajectory(table, roles)? {
            return Ok(None);
        }
        let columns = table.schema();
        let is_listed = |name: &str| {
            columns
                .field_with_name(name)
                .is_ok_and(|field| is_list(field.data_type()))
        };
        let single = |name: &Option<String>| name.clone().filter(|name| !is_listed(name));
        let (id, terminated, truncated) = (
            single(&roles.trajectory),
            single(&roles.terminated),
            single(&roles.truncated),
        );
        let task = single(&roles.task);
        let singles = [&id, &terminated, &truncated];
        let is_single = |name: &String| singles.iter().any(|single| single.as_ref() == Some(name));
        if let Some(task) = &task {
            verify_task(columns.field_with_name(task)?)?;
        }
        let (steps, facts): (Vec<FieldRef>, Vec<FieldRef>) = columns
            .fields()
            .iter()
            .filter(|field| !is_single(field.name()))
            .cloned()
            .partition(|field| is_list(field.data_type()));
        // The meanings of single values are known; all others are those of lists.
        let mut own = Options {
            map: options.map.clone(),
            ..Options::default()
        };
        own.map
            .retain(|(_, source)| !is_single(source) && task.as_ref() != Some(source));
        let mut layout = Layout {
            exploded: Arc::new(Schema::empty()),
            steps: Vec::new(),
            facts,
            id,
            terminated,
            truncated,
            task,
            rows: None,
            options: own,
            observation: 0,
            counted: Vec::new(),
            widths: Vec::new(),
        };
        layout.explode(&steps)?;
        layout.survey(table)?;
        Ok(Some(layout))
    }

    /// Takes `columns` for lists of steps.
    fn explode(&mut self, columns: &[FieldRef]) -> Result<()> {
        let element = |field: &FieldRef| match field.data_type() {
            DataType::List(child)
            | DataType::LargeList(child)
            | DataType::FixedSizeList(child, _) => Arc::new(
                Field::new(field.name(), child.data_type().clone(), true)
                    .with_metadata(field.metadata().clone()),
            ),
            _ => Arc::clone(field),
        };
        self.steps = columns.iter().map(element).collect();
        self.exploded = Arc::new(Schema::new(self.steps.clone()));
        let roles = Roles::find(&self.exploded, &self.options)?;
        let place = |name: &String| self.exploded.index_of(name).ok();
        self.observation = roles
            .observation
            .first()
            .and_then(place)
            .ok_or_else(|| Error::failed("there is no list of observations"))?;
        let action = roles.action.iter().flatten();
        self.counted = action
            .chain(&roles.reward)
            .chain(&roles.terminated)
            .chain(&roles.truncated)
            .filter_map(place)
            .collect();
        if roles.task.is_some() {
            // Every step has a task of its own.
            self.task = None;
        }
        Ok(())
    }

    /// Reads all lists, to find out the widths of vectors, and which columns have a value for each
    /// step.
    fn survey(&mut self, table: &Arc<FileTable>) -> Result<()> {
        let roles = Roles::find(&self.exploded, &self.options)?;
        let names: Vec<String> = self
            .steps
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let (vectors, _) = roles.lists(&self.exploded);
        let mut lengths: Vec<Lengths> = names.iter().map(|_| Lengths::default()).collect();
        let mut widths: Vec<Option<i32>> = vec![None; names.len()];
        let mut ragged = vec![false; names.len()];
        let (mut position, mut rows) = (0_u64, 0_u64);
        for file in 0..table.file_count() {
            let mut batches = table.batches(file, BATCH_ROWS, Some(&names))?;
            while let Some((batch, _)) = batches.next()? {
                for row in 0..batch.num_rows() {
                    let lists = self.lists(&batch, row)?;
                    // A row that contradicts itself is an error when it is read.
                    if let Ok((steps, known_final)) = self.length(&lists) {
                        rows += (steps + usize::from(known_final)) as u64;
                        for (list, seen) in lists.iter().zip(&mut lengths) {
                            if let Some(list) = list {
                                seen.add(position, list.len(), steps, known_final);
                            }
                        }
                    }
                    position += 1;
                }
                for (index, name) in names.iter().enumerate() {
                    let Some(column) = batch.column_by_name(name) else {
                        continue;
                    };
                    let values = elements(column)?;
                    if !is_list(values.data_type()) || ragged[index] {
                        continue;
                    }
                    if let DataType::FixedSizeList(_, width) = values.data_type() {
                        widths[index] = Some(*width);
                    } else if vectors.contains(name) {
                        widths[index] = widths[index].or_else(|| first_width(&values));
                    } else {
                        match (common_width(&values), widths[index]) {
                            (Some(Some(found)), Some(before)) if found != before => {
                                ragged[index] = true;
                            }
                            (Some(found), before) => widths[index] = before.or(found),
                            (None, _) => ragged[index] = true,
                        }
                    }
                }
            }
        }
        self.rows = Some(rows);
        let widths = widths.into_iter().zip(ragged);
        self.widths = names
            .iter()
            .cloned()
            .zip(widths.map(|(width, ragged)| width.filter(|_| !ragged)))
            .collect();
        self.set_facts_aside(table.schema(), &roles, &lengths)
    }

    /// Makes columns facts about trajectories whose lists are not lists of steps.
    fn set_facts_aside(
        &mut self,
        table: &Schema,
        roles: &Roles,
        lengths: &[Lengths],
    ) -> Result<()> {
        let mut facts = Vec::new();
        for (field, seen) in self.steps.iter().zip(lengths) {
            let Some((row, found, steps, known_final)) = seen.odd else {
                continue;
            };
            if !roles.extras.contains(field.name()) {
                // It is an error of the trajectory, when that is read.
                continue;
            }
            if seen.agree > 0 && seen.varies {
                return Err(self
                    .disagrees(field.name(), found, steps, known_final)
                    .at(format!("trajectory {row}")));
            }
            facts.push(field.name().clone());
        }
        if facts.is_empty() {
            return Ok(());
        }
        for name in &facts {
            self.facts
                .push(Arc::new(table.field_with_name(name)?.clone()));
        }
        let is_step = |field: &&FieldRef| self.steps.iter().any(|step| step.name() == field.name());
        let kept: Vec<FieldRef> = table
            .fields()
            .iter()
            .filter(is_step)
            .filter(|field| !facts.contains(field.name()))
            .cloned()
            .collect();
        self.explode(&kept)
    }

    /// Returns the lists of steps in the row `row` of `batch`; `None` for those that are null.
    pub(super) fn lists(&self, batch: &RecordBatch, row: usize) -> Result<Vec<Option<ArrayRef>>> {
        let list = |field: &FieldRef| {
            let column = batch.column_by_name(field.name());
            let column = column
                .ok_or_else(|| Error::failed(format!("column `{}` is missing", field.name())))?;
            list_at(column, row)
        };
        self.steps.iter().map(list).collect()
    }

    /// Returns the number of steps of the trajectory with these lists, and whether its final
    /// observation is known.
    pub(super) fn length(&self, lists: &[Option<ArrayRef>]) -> Result<(usize, bool)> {
        let length = |place: &usize| lists[*place].as_ref().map(|list| list.len());
        let name = self.steps[self.observation].name();
        let observations = length(&self.observation).ok_or_else(|| {
            Error::failed(format!("column `{name}` is null"))
                .hint("every trajectory needs observations: drop the row, or fill in the list")
        })?;
        let steps = self.counted.iter().find_map(length).unwrap_or(observations);
        if observations == steps || observations == steps + 1 {
            return Ok((steps, observations == steps + 1));
        }
        Err(self.disagrees(name, observations, steps, false))
    }

    /// Returns the error of the column `name`, whose list has `found` values in a trajectory of
    /// `steps` steps.
    pub(super) fn disagrees(
        &self,
        name: &str,
        found: usize,
        steps: usize,
        known_final: bool,
    ) -> Error {
        let by = self
            .counted
            .first()
            .map_or("", |place| self.steps[*place].name());
        let observations = if known_final {
            " and a final observation"
        } else {
            ""
        };
        Error::failed(format!(
            "column `{name}` holds {}, but there are {}{observations} by column `{by}`",
            count(found, "value"),
            count(steps, "step"),
        ))
        .hint(
            "every list of a row has a value for each step, and observations may have one more, \
             the final one: correct the lists in the source",
        )
    }

    /// Returns the converter of the steps of a trajectory.
    ///
    /// # Errors
    /// Returns an error if the type of a column does not suit its meaning.
    pub(super) fn table(&self) -> Result<Table> {
        let roles = Roles::find(&self.exploded, &self.options)?;
        // The lists are in the order of steps, so that numbers of steps are values like others.
        let roles = roles.without_order();
        let width = |name: &str| {
            let known = self.widths.iter().find(|(column, _)| column == name);
            known.and_then(|(_, width)| *width)
        };
        Table::new(&self.exploded, roles, width)
    }

    /// Adds the columns that are not lists of steps to `account`.
    pub(super) fn account(&self, account: &mut Account) {
        for fact in &self.facts {
            account.keep(fact.name(), self.fact_name(fact.name()));
        }
        let singles = [
            (&self.id, trajectory::SOURCE_KEY),
            (&self.terminated, trajectory::TERMINATED),
            (&self.truncated, trajectory::TRUNCATED),
        ];
        for (column, name) in singles {
            if let Some(column) = column {
                account.keep(column, name);
            }
        }
    }

    /// Returns the name of the fact `name` in the table of trajectories.
    pub(super) fn fact_name(&self, name: &str) -> String {
        match name {
            _ if self.task.as_deref() == Some(name) => trajectory::TASK.to_owned(),
            trajectory::TASK => format!("source_{name}"),
            _ => free_fact(name),
        }
    }
}

impl Lengths {
    fn add(&mut self, row: u64, found: usize, steps: usize, known_final: bool) {
        if found == steps || known_final && found == steps + 1 {
            self.agree += 1;
        } else {
            self.odd.get_or_insert((row, found, steps, known_final));
        }
        self.varies |= *self.constant.get_or_insert(found) != found;
    }
}

/// Returns the list in the row `row` of `column`; `None` if it is null.
fn list_at(column: &ArrayRef, row: usize) -> Result<Option<ArrayRef>> {
    let one = as_list(&column.slice(row, 1))?;
    let one = one.as_list::<i32>();
    Ok(one.is_valid(0).then(|| one.value(0)))
}

/// Returns the elements of all lists in `column`, end to end.
fn elements(column: &ArrayRef) -> Result<ArrayRef> {
    let list = as_list(column)?;
    let list = list.as_list::<i32>();
    let offsets = list.value_offsets();
    let first = offsets.first().copied().unwrap_or(0) as usize;
    let end = offsets.last().copied().unwrap_or(0) as usize;
    Ok(list.values().slice(first, end - first))
}

/// Whether the rows of a table are certainly trajectories: a flag is a list, or observations and
/// one of actions and rewards are lists of what steps hold.
fn is_per_trajectory(table: &Arc<FileTable>, roles: &Roles) -> Result<bool> {
    let columns = table.schema();
    let data_type = |name: &String| columns.field_with_name(name).ok().map(Field::data_type);
    let element = |name: &String| match data_type(name)? {
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Some(child.data_type().clone())
        }
        _ => None,
    };
    let [observation] = roles.observation.as_slice() else {
        return Ok(false);
    };
    let Some(of_observation) = element(observation) else {
        return Ok(false);
    };
    let flags = [&roles.terminated, &roles.truncated];
    let reward = roles.reward.as_ref().filter(|name| element(name).is_some());
    if flags
        .into_iter()
        .flatten()
        .any(|name| element(name).is_some())
    {
        return Ok(true);
    }
    let holds = |data_type: DataType| !data_type.is_primitive() && data_type != DataType::Boolean;
    let action = match roles.action.as_deref() {
        Some([action]) => element(action),
        _ => None,
    };
    if holds(of_observation) {
        return Ok(reward.is_some() || action.is_some_and(holds));
    }
    // A vector per step has the same length in all rows, and a reward is one number.
    let (Some(reward), true) = (reward, action.is_some()) else {
        return Ok(false);
    };
    let names = [reward.clone()];
    let mut known = None;
    for file in 0..table.file_count() {
        let mut batches = table.batches(file, BATCH_ROWS, Some(&names))?;
        while let Some((batch, _)) = batches.next()? {
            let Some(column) = batch.column_by_name(reward) else {
                continue;
            };
            for row in 0..column.len() {
                if let Some(list) = list_at(column, row)?
                    && *known.get_or_insert(list.len()) != list.len()
                {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
