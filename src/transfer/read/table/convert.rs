//! Converts the rows of a table to rows of steps.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::roles::{Columns, Roles, verify_task};
use super::values::{element, flags, is_list, values};
use crate::container::csv::FIRST_TEXT;
use crate::dataset::Account;
use crate::dataset::account::LeftOut;
use crate::dataset::schema::{self, step, trajectory, type_name};
use crate::error::{Error, Result};
use crate::transfer::read::admit::admitted;
use crate::transfer::read::align::wider;
use crate::transfer::read::gaps::narrower;
use crate::transfer::read::parts;

/// Converts the rows of a table to rows of steps.
pub(crate) struct Table {
    roles: Roles,
    /// The columns that a dataset cannot have.
    left_out: Vec<LeftOut>,
    /// The columns of steps without `trajectory_id` and `step`.
    pub(crate) schema: SchemaRef,
    /// The type of fewer digits, if observations and next observations have different ones.
    pub(crate) narrow: Option<DataType>,
}

/// The flags of the rows of a table.
pub(crate) struct Flags {
    pub(crate) terminated: Vec<bool>,
    pub(crate) truncated: Vec<bool>,
    pub(crate) is_final: Vec<bool>,
}

impl Flags {
    /// Returns the flags of `rows`.
    pub(crate) fn of(&self, rows: Range<usize>) -> Flags {
        let of = |flags: &[bool]| flags[rows.clone()].to_vec();
        Flags {
            terminated: of(&self.terminated),
            truncated: of(&self.truncated),
            is_final: of(&self.is_final),
        }
    }
}

impl Table {
    /// Makes a converter for a table with the schema `table`; `width` returns the width of a list
    /// column that becomes a vector.
    ///
    /// # Errors
    /// Returns an error if the type of a column does not suit its meaning.
    pub(crate) fn new(
        table: &Schema,
        mut roles: Roles,
        width: impl Fn(&str) -> Option<i32>,
    ) -> Result<Table> {
        // A column that a dataset cannot have has no other meaning either.
        let mut left_out = Account::default();
        let fields = table.fields().iter().map(|field| {
            let data_type = admitted(field.name(), field.data_type(), &mut left_out);
            let data_type = data_type.unwrap_or_else(|_| field.data_type().clone());
            field.as_ref().clone().with_data_type(data_type)
        });
        let typed = Schema::new(fields.collect::<Vec<_>>());
        let column = |name: &str| Ok::<_, Error>(typed.field_with_name(name)?);
        let vector = |target: &str, columns: &Columns, nullable: bool| -> Result<Field> {
            let Some((first, others)) = columns.split_first() else {
                return Err(Error::failed(format!("no column for `{target}`")));
            };
            if !others.is_empty() {
                let part = |name: &String| -> Result<Field> {
                    let field = column(name)?;
                    let data_type = match (element(field.data_type()), width(name)) {
                        (Some(element), Some(width)) => schema::vector(element.clone(), width),
                        _ => field.data_type().clone(),
                    };
                    Ok(Field::new(name, data_type, nullable))
                };
                let fields = columns.iter().map(part).collect::<Result<Vec<_>>>()?;
                let joined =
                    parts::joined_field(target, &fields.iter().collect::<Vec<_>>(), joint)?;
                return Ok(joined.with_nullable(nullable));
            }
            let field = column(first)?;
            let data_type = field.data_type();
            if is_list(data_type) {
                let element = element(data_type).ok_or_else(|| unsuitable(field, target))?;
                let width = width(first).ok_or_else(|| {
                    Error::failed(format!(
                        "column `{first}` has no values, so the width of `{target}` is unknown"
                    ))
                    .hint(format!(
                        "remove the column from the source, or choose another with \
                         `--map {target}=COLUMN`"
                    ))
                })?;
                return Ok(vector_field(target, element, width, nullable, field));
            }
            if matches!(
                data_type,
                DataType::Binary | DataType::LargeBinary | DataType::Struct(_)
            ) && target == step::OBSERVATION
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
            if target == step::ACTION && data_type.is_integer() {
                return Ok(Field::new(target, data_type.clone(), nullable));
            }
            Ok(vector_field(target, data_type, 1, nullable, field))
        };
        let mut observation = vector(step::OBSERVATION, &roles.observation, false)?;
        let mut narrow = None;
        if let Some(next) = &roles.next_observation {
            let is_empty = |name: &String| match column(name) {
                Ok(field) => is_list(field.data_type()) && width(name).is_none(),
                Err(_) => false,
            };
            let following = match next.iter().any(is_empty) {
                true => observation.clone(),
                false => vector(step::OBSERVATION, next, false)?,
            };
            let (own, other) = (observation.data_type(), following.data_type());
            let Some(wide) = wider(own, other) else {
                return Err(Error::failed(format!(
                    "`{}` is {}, but `{}` is {}",
                    next.join("`, `"),
                    type_name(other),
                    roles.observation.join("`, `"),
                    type_name(own)
                ))
                .hint(
                    "the observations before and after a step have one width, and types of which \
                     one holds the values of the other: choose others with \
                     `--map next_observation=COLUMN`, or leave the column out with `--skip`",
                ));
            };
            narrow = narrower(own, other);
            observation = observation.with_data_type(wide);
        }
        let mut fields = vec![observation];
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
        roles.extras.retain(|name| {
            let reason = table
                .field_with_name(name)
                .map(|field| admitted(name, field.data_type(), &mut Account::default()));
            match reason {
                Ok(Err(reason)) => {
                    left_out.leave_out(name, reason);
                    false
                }
                _ => true,
            }
        });
        for name in &roles.extras {
            let field = column(name)?;
            let own = roles.own_name(name);
            if own == step::TASK {
                verify_task(field)?;
            }
            fields.push(match (field.data_type(), width(name)) {
                _ if own == step::TASK => Field::new(own, DataType::Utf8, true),
                (list, Some(width)) if let Some(element) = element(list) => {
                    vector_field(&own, element, width, true, field)
                }
                // Vectors have numbers only, and none is null.
                (DataType::FixedSizeList(child, _), _) => {
                    Field::new(own, DataType::List(Arc::clone(child)), true)
                }
                (other, _) => Field::new(own, other.clone(), true),
            });
        }
        unique(&fields)?;
        if let Some(name) = &roles.trajectory {
            let field = column(name)?;
            if field.data_type().is_nested() {
                return Err(unsuitable(field, step::TRAJECTORY_ID));
            }
        }
        for single in [&roles.terminated, &roles.truncated, &roles.is_final]
            .into_iter()
            .flatten()
        {
            let field = column(single)?;
            if !(field.data_type().is_numeric()
                || [DataType::Boolean, DataType::Null].contains(field.data_type()))
            {
                return Err(unsuitable(field, FLAG));
            }
        }
        Ok(Table {
            roles,
            schema: Arc::new(Schema::new(fields)),
            narrow,
            left_out: left_out.left_out,
        })
    }

    /// Returns the flags of the rows of `batch`; `place` names a row in messages.
    ///
    /// # Errors
    /// Returns an error if a flag is not true or false, 1 or 0.
    pub(crate) fn flags(
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

    /// Converts the rows of `batch`, whose flags are `own`, to steps; `place` names a row in
    /// messages.
    ///
    /// # Errors
    /// Returns an error if a value does not suit the meaning of its column.
    pub(crate) fn steps(
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
                // The other values in the row of a final observation are filler.
                values = nullif(&values, finals)?;
            }
            if !field.is_nullable() && values.null_count() > 0 {
                let row = (0..values.len())
                    .find(|row| values.is_null(*row))
                    .unwrap_or(0);
                return Err(
                    Error::failed(format!("`{target}` is null at {}", place(row)))
                        .hint("every row needs an observation: drop the row, or fill in the value"),
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

    /// Returns the observations after the rows of `batch`, if the table has them; `place` names a
    /// row in messages.
    ///
    /// # Errors
    /// Returns an error if a value does not suit its column.
    pub(crate) fn following(
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
        values(&sources, &Arc::new(self.schema.field(0).clone()), place).map(Some)
    }

    /// Returns the columns of next observations and of observations, for messages.
    pub(crate) fn observation_names(&self) -> (String, String) {
        let next = self.roles.next_observation.as_ref();
        (
            next.map(|columns| columns.join("`, `")).unwrap_or_default(),
            self.roles.observation.join("`, `"),
        )
    }

    /// Returns a final row, which holds the observation after the last action and nothing else.
    ///
    /// # Errors
    /// Returns an error if the row does not match the schema, which cannot happen.
    pub(crate) fn final_row(&self, observation: &ArrayRef) -> Result<RecordBatch> {
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

    /// Returns the account of the table's columns. `counts` tells whether the step numbers count
    /// from 0 in every trajectory.
    pub(crate) fn account(&self, counts: bool) -> Account {
        let roles = &self.roles;
        let mut account = Account {
            left_out: self.left_out.clone(),
            ..Account::default()
        };
        let kept = [
            (roles.observation.as_slice(), step::OBSERVATION),
            (roles.action.as_deref().unwrap_or_default(), step::ACTION),
            (roles.reward.as_slice(), step::REWARD),
            (roles.terminated.as_slice(), step::TERMINATED),
            (roles.truncated.as_slice(), step::TRUNCATED),
            (roles.is_final.as_slice(), step::IS_FINAL),
            (roles.environment.as_slice(), trajectory::SOURCE_KEY),
            (roles.trajectory.as_slice(), trajectory::SOURCE_KEY),
        ];
        for (columns, name) in kept {
            columns.iter().for_each(|column| account.keep(column, name));
        }
        for column in &roles.extras {
            account.keep(column, roles.own_name(column));
        }
        match &roles.step {
            // A column of times is a further column too.
            Some(column) if roles.extras.contains(column) => {}
            Some(column) if counts => account.keep(column, step::STEP),
            Some(column) => account.leave_out(
                column,
                "steps are numbered from 0, in the order of its values",
            ),
            None => {}
        }
        for column in roles.next_observation.iter().flatten() {
            account.leave_out(
                column,
                "only its last value in a trajectory is kept, as the final observation",
            );
        }
        account
    }

    /// Returns the meanings of the table's columns.
    pub(crate) fn roles(&self) -> &Roles {
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

/// The target of a column of flags in messages.
const FLAG: &str = "a flag";

fn unsuitable(field: &Field, target: &str) -> Error {
    let target = match target {
        FLAG => FLAG.to_owned(),
        column => format!("`{column}`"),
    };
    Error::failed(format!(
        "column `{}` is {}, which cannot be {target}",
        field.name(),
        type_name(field.data_type())
    ))
    .hint(remedy(
        field,
        "a vector is a list of numbers of fixed length, or one column of numbers per coordinate; \
         a reward is a number; a flag is a boolean, or 0 or 1; \
         an id is a number or text",
    ))
}

/// Returns the hint about a column of the wrong type: where its first text is if that made it text,
/// `otherwise` if not.
fn remedy(field: &Field, otherwise: &str) -> String {
    match field.metadata().get(FIRST_TEXT) {
        Some(place) => format!(
            "the column is text because of {place}: write numbers the usual way, and leave cells \
             without a value empty"
        ),
        None => otherwise.to_owned(),
    }
}

/// Returns the type of a vector whose coordinates have the types `a` and `b`. Whether it holds
/// every whole number is verified when rows are read.
fn joint(a: &DataType, b: &DataType) -> Option<DataType> {
    let is_number = |data_type: &DataType| data_type.is_integer() || data_type.is_floating();
    wider(a, b).or_else(|| (is_number(a) && is_number(b)).then_some(DataType::Float64))
}

/// Verifies that no two columns of steps have the same name.
fn unique(fields: &[Field]) -> Result<()> {
    let twice = fields.iter().enumerate().find(|(index, field)| {
        fields[..*index]
            .iter()
            .any(|other| other.name() == field.name())
    });
    match twice {
        None => Ok(()),
        Some((_, field)) => Err(Error::failed(format!(
            "two columns would be named `{}`",
            field.name()
        ))
        .hint(
            "rename one of them in the source: `source_NAME` is the name of a column NAME that \
               would clash with one that has a fixed meaning",
        )),
    }
}

fn vector_field(
    name: &str,
    element: &DataType,
    width: i32,
    nullable: bool,
    source: &Field,
) -> Field {
    let field = Field::new(name, schema::vector(element.clone(), width), nullable);
    let known = |key: &str| Some((key.to_owned(), source.metadata().get(key)?.clone()));
    field.with_metadata(["shape", "names"].into_iter().filter_map(known).collect())
}
