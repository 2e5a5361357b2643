//! A table with one row per step and any column names: which columns mean what, and their values as columns of steps.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{cast, interleave, nullif};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};

use super::pattern::{glob, natural};
use super::{Options, free_name};
use crate::dataset::schema::{self, step};
use crate::error::{Error, Result, nearest};

/// The observation that a step led to; of a trajectory's last one it is the final observation.
const NEXT_OBSERVATION: &str = "next_observation";

/// Names that columns go by.
const NAMES: [(&str, &[&str]); 9] = [
    (
        step::TRAJECTORY_ID,
        &[
            "trajectory_id",
            "traj_id",
            "trajectory",
            "episode_id",
            "episode_index",
            "episode",
        ],
    ),
    (step::STEP, &["step"]),
    (step::OBSERVATION, &["observation", "observations", "obs"]),
    (step::ACTION, &["action", "actions", "acts", "act"]),
    (
        NEXT_OBSERVATION,
        &[NEXT_OBSERVATION, "next_observations", "next_obs"],
    ),
    (step::REWARD, &["reward", "rewards", "rews", "rew"]),
    (
        step::TERMINATED,
        &[
            "terminated",
            "terminals",
            "terminal",
            "terminations",
            "done",
            "dones",
        ],
    ),
    (
        step::TRUNCATED,
        &["truncated", "timeouts", "timeout", "truncations"],
    ),
    (step::IS_FINAL, &["is_final"]),
];

/// Which columns of the table a column of steps is made of: one, or one for each coordinate.
type Columns = Vec<String>;

/// What the columns of a table mean.
pub(super) struct Roles {
    /// Tells trajectories apart.
    pub(super) trajectory: Option<String>,
    /// Numbers the steps of a trajectory.
    pub(super) step: Option<String>,
    observation: Columns,
    action: Option<Columns>,
    next_observation: Option<Columns>,
    reward: Option<String>,
    terminated: Option<String>,
    truncated: Option<String>,
    is_final: Option<String>,
    extras: Vec<String>,
}

impl Roles {
    /// Finds the columns of `table` that `options` or their names give a meaning.
    ///
    /// # Errors
    /// Where `options` names a column that is not there, or there is no observation.
    pub(super) fn find(table: &Schema, options: &Options) -> Result<Roles> {
        if let Some((target, _)) = options
            .map
            .iter()
            .find(|(target, _)| !NAMES.iter().any(|(name, _)| name == target))
        {
            let targets = NAMES.map(|(name, _)| name).join(", ");
            return Err(Error::usage(format!("--map cannot give `{target}`"))
                .hint(format!("one of {targets}; other columns keep their names")));
        }
        let (mut vectors, mut singles) = (Vec::new(), Vec::new());
        for (target, names) in NAMES {
            let own = match target {
                step::TRAJECTORY_ID => options.trajectory.as_deref(),
                step::STEP => options.step.as_deref(),
                _ => None,
            };
            let named = own.or_else(|| {
                options
                    .map
                    .iter()
                    .find(|(name, _)| name == target)
                    .map(|(_, source)| source.as_str())
            });
            let found = match named {
                Some(pattern) => Some(matching(table, pattern, target)?),
                None => names
                    .iter()
                    .find(|name| table.field_with_name(name).is_ok())
                    .map(|name| vec![(*name).to_owned()]),
            };
            if [step::OBSERVATION, step::ACTION, NEXT_OBSERVATION].contains(&target) {
                vectors.push(found);
            } else {
                if let Some([first, second, ..]) = found.as_deref() {
                    return Err(Error::usage(format!(
                        "`{target}` takes one column, not `{first}`, `{second}` …"
                    )));
                }
                singles.push(found.and_then(|columns| columns.into_iter().next()));
            }
        }
        let (mut vectors, mut singles) = (vectors.into_iter(), singles.into_iter());
        let observation = vectors.next().flatten().ok_or_else(|| {
            Error::failed("there is no column `observation`").hint(format!(
                "name one with --map observation=COLUMN; the columns are {}",
                listing(table)
            ))
        })?;
        let (action, mut next_observation) = (vectors.next().flatten(), vectors.next().flatten());
        let mut single = || singles.next().flatten();
        let (trajectory, step, reward, terminated, truncated, is_final) =
            (single(), single(), single(), single(), single(), single());
        // Where final observations have rows of their own, or the column is of another kind, it is one like any other.
        let kind = |columns: &Columns| {
            columns
                .first()
                .and_then(|name| table.field_with_name(name).ok())
                .map(Field::data_type)
        };
        let named = options
            .map
            .iter()
            .any(|(target, _)| target == NEXT_OBSERVATION);
        if !named
            && (is_final.is_some()
                || next_observation
                    .as_ref()
                    .is_some_and(|next| kind(next) != kind(&observation)))
        {
            next_observation = None;
        }
        let extras = Vec::new();
        let mut roles = Roles {
            trajectory,
            step,
            observation,
            action,
            next_observation,
            reward,
            terminated,
            truncated,
            is_final,
            extras,
        };
        roles.extras = table
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| !roles.uses(name))
            .collect();
        Ok(roles)
    }

    fn uses(&self, name: &str) -> bool {
        let singles = [
            &self.trajectory,
            &self.step,
            &self.reward,
            &self.terminated,
            &self.truncated,
            &self.is_final,
        ];
        let vectors = self
            .observation
            .iter()
            .chain(self.action.iter().flatten())
            .chain(self.next_observation.iter().flatten());
        singles
            .into_iter()
            .flatten()
            .chain(vectors)
            .any(|used| used == name)
    }

    /// Whether steps say where a trajectory ends.
    pub(super) fn has_ends(&self) -> bool {
        [&self.terminated, &self.truncated, &self.is_final]
            .into_iter()
            .any(Option::is_some)
    }

    /// Whether steps say where a trajectory was cut off.
    pub(super) fn has_cuts(&self) -> bool {
        self.truncated.is_some()
    }

    /// The list columns of `table` whose width must be known: those that become vectors, then those that may.
    pub(super) fn lists(&self, table: &Schema) -> (Vec<String>, Vec<String>) {
        let list = |name: &&String| {
            table
                .field_with_name(name)
                .is_ok_and(|field| is_list(field.data_type()))
        };
        let vectors = self
            .observation
            .iter()
            .chain(self.action.iter().flatten())
            .chain(&self.reward);
        (
            vectors.filter(list).cloned().collect(),
            self.extras.iter().filter(list).cloned().collect(),
        )
    }
}

/// The columns that `pattern` names: one, or with `*` and `?` all that match, in natural order.
fn matching(table: &Schema, pattern: &str, target: &str) -> Result<Columns> {
    if table.field_with_name(pattern).is_ok() {
        return Ok(vec![pattern.to_owned()]);
    }
    let names = || table.fields().iter().map(|field| field.name().as_str());
    let mut found: Vec<String> = names()
        .filter(|name| glob(pattern.as_bytes(), name.as_bytes()))
        .map(str::to_owned)
        .collect();
    if found.is_empty() {
        let hint = nearest(pattern, names()).map_or_else(
            || format!("the columns are {}", listing(table)),
            |meant| format!("did you mean `{meant}`?"),
        );
        return Err(
            Error::failed(format!("there is no column `{pattern}` to be `{target}`")).hint(hint),
        );
    }
    found.sort_by(|a, b| natural(a, b));
    Ok(found)
}

fn listing(table: &Schema) -> String {
    table
        .fields()
        .iter()
        .map(|field| format!("`{}`", field.name()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _)
    )
}

/// The element of a list that can be a vector.
fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Some(child.data_type())
                .filter(|element| element.is_numeric() || **element == DataType::Boolean)
        }
        _ => None,
    }
}

/// Width of every list in `column` that is not null; `None` where they differ, hold nulls or are no numbers, and
/// `Some(None)` where there is none.
pub(super) fn common_width(column: &ArrayRef) -> Option<Option<i32>> {
    element(column.data_type())?;
    let list = as_list(column).ok()?;
    let list = list.as_list::<i32>();
    let mut width = None;
    for row in (0..list.len()).filter(|row| list.is_valid(*row)) {
        let values = list.value_length(row);
        if *width.get_or_insert(values) != values || values == 0 {
            return None;
        }
    }
    if list.values().null_count() > 0
        && (0..list.len()).any(|row| list.is_valid(row) && list.value(row).null_count() > 0)
    {
        return None;
    }
    Some(width)
}

/// Any kind of list as a list with 32-bit offsets.
fn as_list(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Ok(cast(column, &DataType::List(Arc::clone(child)))?)
        }
        _ => Ok(Arc::clone(column)),
    }
}

/// How the rows of a table become rows of steps.
pub(super) struct Table {
    roles: Roles,
    /// Columns of steps less `trajectory_id` and `step`.
    pub(super) schema: SchemaRef,
}

/// The flags of rows of a table.
pub(super) struct Flags {
    pub(super) terminated: Vec<bool>,
    pub(super) truncated: Vec<bool>,
    pub(super) is_final: Vec<bool>,
}

impl Flags {
    /// Those of some of the rows.
    pub(super) fn of(&self, rows: Range<usize>) -> Flags {
        let of = |flags: &[bool]| flags[rows.clone()].to_vec();
        Flags {
            terminated: of(&self.terminated),
            truncated: of(&self.truncated),
            is_final: of(&self.is_final),
        }
    }
}

impl Table {
    /// The steps of a table of the schema `table` whose list columns have the widths that `width` says.
    ///
    /// # Errors
    /// Where a column's type does not suit its meaning.
    pub(super) fn new(
        table: &Schema,
        roles: Roles,
        width: impl Fn(&str) -> Option<i32>,
    ) -> Result<Table> {
        let column = |name: &str| Ok::<_, Error>(table.field_with_name(name)?);
        let vector = |target: &str, columns: &Columns, nullable: bool| -> Result<Field> {
            let Some((first, others)) = columns.split_first() else {
                return Err(Error::failed(format!("no column for `{target}`")));
            };
            let field = column(first)?;
            let data_type = field.data_type();
            if others.is_empty() && is_list(data_type) {
                let element = element(data_type).ok_or_else(|| unsuitable(field, target))?;
                let width = width(first).ok_or_else(|| {
                    Error::failed(format!(
                        "column `{first}` holds no value that says how wide `{target}` is"
                    ))
                    .hint("leave the column out of the source")
                })?;
                return Ok(vector_field(target, element, width, nullable, field));
            }
            if others.is_empty()
                && matches!(
                    data_type,
                    DataType::Binary | DataType::LargeBinary | DataType::Struct(_)
                )
                && target == step::OBSERVATION
            {
                return Ok(Field::new(target, data_type.clone(), nullable)
                    .with_metadata(field.metadata().clone()));
            }
            let numeric = |field: &Field| {
                field.data_type().is_numeric() || *field.data_type() == DataType::Boolean
            };
            if !numeric(field) {
                return Err(unsuitable(field, target));
            }
            if others.is_empty() && target == step::ACTION && data_type.is_integer() {
                return Ok(Field::new(target, data_type.clone(), nullable));
            }
            for other in others {
                let other = column(other)?;
                if other.data_type() != data_type {
                    return Err(Error::failed(format!(
                        "column `{}` is {} where `{first}` is {data_type}: the coordinates of `{target}` must have one type",
                        other.name(),
                        other.data_type()
                    )));
                }
            }
            Ok(vector_field(
                target,
                data_type,
                columns.len() as i32,
                nullable,
                field,
            ))
        };
        if let Some(next) = &roles.next_observation {
            let kinds = |columns: &Columns| {
                columns
                    .iter()
                    .map(|name| Ok(column(name)?.data_type()))
                    .collect::<Result<Vec<_>>>()
            };
            if kinds(next)? != kinds(&roles.observation)? {
                return Err(Error::failed(format!(
                    "`{}` is not of the type and width of `{}`",
                    next.join("`, `"),
                    roles.observation.join("`, `")
                ))
                .hint("the observation after a step is one like that before it: name another column with --map next_observation=COLUMN"));
            }
        }
        let mut fields = vec![vector(step::OBSERVATION, &roles.observation, false)?];
        if let Some(action) = &roles.action {
            fields.push(vector(step::ACTION, action, true)?);
        }
        if let Some(reward) = &roles.reward {
            let field = column(reward)?;
            let single = if is_list(field.data_type()) && width(reward) == Some(1) {
                element(field.data_type())
            } else {
                Some(field.data_type())
            };
            let data_type = single
                .filter(|single| single.is_numeric())
                .ok_or_else(|| unsuitable(field, step::REWARD))?;
            fields.push(Field::new(step::REWARD, data_type.clone(), true));
        }
        fields.extend(
            [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
                .map(|name| Field::new(name, DataType::Boolean, false)),
        );
        for name in &roles.extras {
            let field = column(name)?;
            let own = free_name(name);
            let data_type = match field.data_type() {
                DataType::Dictionary(_, values) => values.as_ref().clone(),
                DataType::Utf8View => DataType::Utf8,
                DataType::BinaryView => DataType::Binary,
                other => other.clone(),
            };
            fields.push(match (element(&data_type), width(name)) {
                (Some(element), Some(width)) => vector_field(&own, element, width, true, field),
                _ => Field::new(own, data_type, true),
            });
        }
        for single in [&roles.terminated, &roles.truncated, &roles.is_final]
            .into_iter()
            .flatten()
        {
            let field = column(single)?;
            if !(field.data_type().is_numeric()
                || [DataType::Boolean, DataType::Null].contains(field.data_type()))
            {
                return Err(unsuitable(field, "a flag"));
            }
        }
        Ok(Table {
            roles,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The flags of the rows of `batch`; `place` names a row of it in messages.
    ///
    /// # Errors
    /// Where a flag is none.
    pub(super) fn flags(
        &self,
        batch: &RecordBatch,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Flags> {
        let flag = |name: &Option<String>, finals: &[bool]| -> Result<Vec<bool>> {
            match name {
                Some(name) => flags(name, named(batch, name, place)?, finals, place),
                None => Ok(vec![false; batch.num_rows()]),
            }
        };
        let is_final = flag(&self.roles.is_final, &[])?;
        let (terminated, truncated) = (
            flag(&self.roles.terminated, &is_final)?,
            flag(&self.roles.truncated, &is_final)?,
        );
        Ok(Flags {
            terminated,
            truncated,
            is_final,
        })
    }

    /// The rows of `batch` as steps with these flags; `place` names a row of it in messages.
    ///
    /// # Errors
    /// Where a value does not suit the meaning of its column.
    pub(super) fn steps(
        &self,
        batch: &RecordBatch,
        own: Flags,
        place: &dyn Fn(usize) -> String,
    ) -> Result<RecordBatch> {
        let column = |name: &str| named(batch, name, place);
        let has_final = own
            .is_final
            .contains(&true)
            .then(|| BooleanArray::from(own.is_final.clone()));
        let mut fields = self.schema.fields().iter();
        let mut columns = Vec::with_capacity(fields.len());
        let mut push = |sources: &[String], target: &str| -> Result<()> {
            let Some(field) = fields.next() else {
                return Ok(());
            };
            let sources = sources
                .iter()
                .map(|name| Ok((name.as_str(), column(name)?)))
                .collect::<Result<Vec<_>>>()?;
            let mut values = values(&sources, field, place)?;
            if let Some(finals) = has_final.as_ref().filter(|_| field.is_nullable()) {
                // What a source writes beside a final observation is filler.
                values = nullif(&values, finals)?;
            }
            if !field.is_nullable() && values.null_count() > 0 {
                let row = (0..values.len())
                    .find(|row| values.is_null(*row))
                    .unwrap_or(0);
                return Err(
                    Error::failed(format!("`{target}` is null at {}", place(row)))
                        .hint("every row needs an observation: drop the row, or fill it"),
                );
            }
            columns.push(values);
            Ok(())
        };
        push(&self.roles.observation, step::OBSERVATION)?;
        if let Some(action) = &self.roles.action {
            push(action, step::ACTION)?;
        }
        if let Some(reward) = &self.roles.reward {
            push(std::slice::from_ref(reward), step::REWARD)?;
        }
        let mut extras = Vec::with_capacity(self.roles.extras.len());
        for (name, field) in self.roles.extras.iter().zip(fields.skip(3)) {
            extras.push(values(&[(name.as_str(), column(name)?)], field, place)?);
        }
        let flags = [own.terminated, own.truncated, own.is_final]
            .map(|flags| Arc::new(BooleanArray::from(flags)) as ArrayRef);
        columns.extend(flags.into_iter().chain(extras));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// The observation that the one row of `batch` led to, where the table has it; `place` names the row in messages.
    ///
    /// # Errors
    /// Where a value does not suit its column.
    pub(super) fn following(
        &self,
        batch: &RecordBatch,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Option<ArrayRef>> {
        let Some(names) = &self.roles.next_observation else {
            return Ok(None);
        };
        let sources = names
            .iter()
            .map(|name| Ok((name.as_str(), named(batch, name, place)?)))
            .collect::<Result<Vec<_>>>()?;
        let next = values(&sources, &Arc::new(self.schema.field(0).clone()), place)?;
        Ok(Some(next).filter(|next| next.is_valid(0)))
    }

    /// The row that holds the observation after the last action and nothing else.
    ///
    /// # Errors
    /// Never: the columns are those of the schema.
    pub(super) fn final_row(&self, observation: &ArrayRef) -> Result<RecordBatch> {
        let flag = |value: bool| -> ArrayRef { Arc::new(BooleanArray::from(vec![value])) };
        let column = |field: &Arc<Field>| match field.name().as_str() {
            step::OBSERVATION => Arc::clone(observation),
            step::IS_FINAL => flag(true),
            step::TERMINATED | step::TRUNCATED => flag(false),
            _ => new_null_array(field.data_type(), 1),
        };
        let columns = self.schema.fields().iter().map(column).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// What the table's columns mean.
    pub(super) fn roles(&self) -> &Roles {
        &self.roles
    }
}

fn named<'a>(
    batch: &'a RecordBatch,
    name: &str,
    place: &dyn Fn(usize) -> String,
) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::failed(format!("column `{name}` is missing in {}", place(0))))
}

fn unsuitable(field: &Field, target: &str) -> Error {
    Error::failed(format!("column `{}` is {}, which cannot be {}", field.name(), field.data_type(), if target == "a flag" { target.to_owned() } else { format!("`{target}`") }))
        .hint("vectors are lists of numbers of one length, or one column of numbers for each coordinate; rewards are numbers; flags are booleans, or 0 and 1")
}

fn vector_field(
    name: &str,
    element: &DataType,
    width: i32,
    nullable: bool,
    source: &Field,
) -> Field {
    let field = Field::new(name, schema::vector(element.clone(), width), nullable);
    match source.metadata().get("shape") {
        Some(shape) => field.with_metadata([("shape".to_owned(), shape.clone())].into()),
        None => field,
    }
}

/// The values of one column of steps, made of the columns `sources`.
fn values(
    sources: &[(&str, &ArrayRef)],
    field: &Arc<Field>,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let Some((name, column)) = sources.first() else {
        return Err(Error::failed(format!("no column for `{}`", field.name())));
    };
    match field.data_type() {
        DataType::FixedSizeList(child, width) if is_list(column.data_type()) => {
            vector(name, column, child, *width, place)
        }
        DataType::FixedSizeList(_, _) => joined(sources, field, place),
        single if is_list(column.data_type()) && single.is_numeric() => {
            let child = Arc::new(Field::new("element", single.clone(), false));
            let vector = vector(name, column, &child, 1, place)?;
            let vector = vector.as_fixed_size_list();
            let values = vector
                .values()
                .to_data()
                .into_builder()
                .nulls(vector.nulls().cloned());
            Ok(arrow::array::make_array(values.build()?))
        }
        other if other == column.data_type() => Ok(Arc::clone(column)),
        other => Ok(cast(column, other)?),
    }
}

/// Lists of one length as vectors.
pub(super) fn vector(
    name: &str,
    column: &ArrayRef,
    child: &Arc<Field>,
    width: i32,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let column = as_list(column)?;
    let list = column.as_list::<i32>();
    let has_nulls = list.values().null_count() > 0;
    for row in (0..list.len()).filter(|row| list.is_valid(*row)) {
        if list.value_length(row) != width {
            return Err(Error::failed(format!(
                "column `{name}` holds {} values at {} where the first vector has {width}",
                list.value_length(row),
                place(row)
            ))
            .hint("the vectors of a column must all have one length"));
        }
        if has_nulls && list.value(row).null_count() > 0 {
            return Err(Error::failed(format!(
                "column `{name}` holds a null inside its vector at {}",
                place(row)
            ))
            .hint("fill it, or make the whole vector null"));
        }
    }
    let nullable =
        |data_type: DataType| Arc::new(Schema::new(vec![Field::new(name, data_type, true)]));
    let batch = RecordBatch::try_new(
        nullable(column.data_type().clone()),
        vec![Arc::clone(&column)],
    )?;
    Ok(Arc::clone(
        schema::convert(
            &batch,
            &nullable(DataType::FixedSizeList(Arc::clone(child), width)),
        )?
        .column(0),
    ))
}

/// One column for each coordinate as vectors: null where all of them are.
fn joined(
    sources: &[(&str, &ArrayRef)],
    field: &Field,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, width) = field.data_type() else {
        return Err(Error::failed(format!("`{}` is no vector", field.name())));
    };
    let rows = sources.first().map_or(0, |(_, column)| column.len());
    let is_null = |row: usize| {
        sources
            .iter()
            .filter(|(_, column)| column.is_null(row))
            .count()
    };
    let any_null = sources.iter().any(|(_, column)| column.null_count() > 0);
    let mut nulls = None;
    if any_null {
        if let Some(row) = (0..rows).find(|row| ![0, sources.len()].contains(&is_null(*row))) {
            let name = sources
                .iter()
                .find(|(_, column)| column.is_null(row))
                .map_or("", |(name, _)| name);
            return Err(Error::failed(format!(
                "column `{name}` is null at {} where other coordinates of `{}` are not",
                place(row),
                field.name()
            )));
        }
        nulls = Some(arrow::buffer::NullBuffer::from_iter(
            (0..rows).map(|row| is_null(row) == 0),
        ));
    }
    let columns: Vec<&dyn Array> = sources.iter().map(|(_, column)| column.as_ref()).collect();
    let order: Vec<(usize, usize)> = (0..rows)
        .flat_map(|row| (0..columns.len()).map(move |column| (column, row)))
        .collect();
    let values = interleave(&columns, &order)?;
    let values = arrow::array::make_array(values.to_data().into_builder().nulls(None).build()?);
    Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(
        Arc::clone(child),
        *width,
        values,
        nulls,
    )?))
}

/// A column of flags; on final rows they are false, whatever the source says.
pub(super) fn flags(
    name: &str,
    column: &ArrayRef,
    is_final: &[bool],
    place: &dyn Fn(usize) -> String,
) -> Result<Vec<bool>> {
    let values = cast(column, &DataType::Float64)?;
    let values = values.as_primitive::<Float64Type>();
    let flag = |row: usize| {
        if is_final.get(row) == Some(&true) {
            return Ok(false);
        }
        let wrong = |what: String| {
            Error::failed(format!(
                "column `{name}` is {what} at {}: a flag is true or false, 1 or 0",
                place(row)
            ))
            .hint("correct the flags in the source: they say where trajectories end")
        };
        match (values.is_valid(row), values.value(row)) {
            (false, _) => Err(wrong("null".to_owned())),
            (_, 0.0) => Ok(false),
            (_, 1.0) => Ok(true),
            (_, other) => Err(wrong(other.to_string())),
        }
    };
    (0..values.len()).map(flag).collect()
}
