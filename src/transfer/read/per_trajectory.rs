//! Reads formats that store each trajectory as a group of arrays: the arrays become the columns of
//! one batch.
//!
//! The first trajectory that can be read determines the columns. A trajectory that differs is an
//! error, and can be set aside.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, RecordBatch, StructArray,
    make_array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use crate::container::arrays::ArrayColumns;
use crate::dataset::block::elements;
use crate::dataset::schema::{self, step, type_name};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::{IncomingTrajectory, OnError, free_name, quarantine};

/// The trajectories that were read to find out the columns of a source: the first one that can be
/// read, and the errors of those before it.
#[derive(Default)]
pub(crate) struct FirstTrajectory {
    errors: VecDeque<Error>,
    first: Option<IncomingTrajectory>,
}

impl FirstTrajectory {
    /// Calls `next` until a trajectory can be read. Returns it with its columns.
    ///
    /// # Errors
    /// Returns the error of the first trajectory, unless `on_error` sets it aside and another one
    /// can be read.
    pub(crate) fn read(
        on_error: OnError,
        mut next: impl FnMut() -> Result<Option<IncomingTrajectory>>,
    ) -> Result<(FirstTrajectory, SchemaRef)> {
        let mut errors = VecDeque::new();
        loop {
            match next() {
                Ok(Some(first)) => {
                    let schema = first.steps.schema();
                    return Ok((
                        FirstTrajectory {
                            errors,
                            first: Some(first),
                        },
                        schema,
                    ));
                }
                Err(error) if on_error == OnError::Quarantine => errors.push_back(error),
                Err(error) => return Err(error.hint(quarantine::REMEDY)),
                Ok(None) => {
                    return Err(errors
                        .pop_front()
                        .unwrap_or_else(|| Error::failed("the source holds no trajectories")));
                }
            }
        }
    }

    /// Returns the next result; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Result<IncomingTrajectory>> {
        self.errors
            .pop_front()
            .map(Err)
            .or_else(|| self.first.take().map(Ok))
    }
}

/// Assembles a trajectory from its arrays.
pub(crate) struct TrajectoryBuilder {
    /// The number of steps: rows that are not final.
    pub(crate) length: usize,
    /// Whether there is a row for the final observation.
    pub(crate) known_final: bool,
    columns: Vec<(Field, ArrayRef)>,
}

impl TrajectoryBuilder {
    /// Starts a trajectory of `length` steps, and a final row if `known_final`.
    pub(crate) fn new(length: usize, known_final: bool) -> TrajectoryBuilder {
        TrajectoryBuilder {
            length,
            known_final,
            columns: Vec::new(),
        }
    }

    /// Returns the number of rows: the steps and the final observation.
    pub(crate) fn rows(&self) -> usize {
        self.length + usize::from(self.known_final)
    }

    /// Adds a column of steps. Its array has one value per row, or one per step: then the value of
    /// the final row is null.
    ///
    /// # Errors
    /// Returns an error if the array has another number of rows.
    pub(crate) fn add(
        &mut self,
        name: &str,
        (field, values): (Field, ArrayRef),
        nullable: bool,
    ) -> Result<()> {
        let (rows, length) = (self.rows(), self.length);
        let values = match values.len() {
            found if found == rows => values,
            found if found == length => lengthened(&values, rows)?,
            found => return Err(other_length(field.name(), found, length)),
        };
        self.columns
            .push((field.with_name(name).with_nullable(nullable), values));
        Ok(())
    }

    /// Adds one flag per step. The flag of the final row is false.
    ///
    /// # Errors
    /// Returns an error if the number of flags is not the number of steps.
    pub(crate) fn flags(&mut self, name: &str, flags: &[bool]) -> Result<()> {
        if flags.len() != self.length {
            return Err(other_length(name, flags.len(), self.length));
        }
        let flags = flags
            .iter()
            .copied()
            .chain(self.known_final.then_some(false))
            .map(Some);
        self.columns.push((
            Field::new(name, DataType::Boolean, false),
            Arc::new(BooleanArray::from_iter(flags)),
        ));
        Ok(())
    }

    /// Adds the column `is_final`.
    pub(crate) fn finals(&mut self) {
        let finals = (0..self.rows()).map(|row| Some(row == self.length));
        self.columns.push((
            Field::new(step::IS_FINAL, DataType::Boolean, false),
            Arc::new(BooleanArray::from_iter(finals)),
        ));
    }

    /// Adds the columns without a fixed meaning, under their own names.
    ///
    /// # Errors
    /// Returns the errors of [`TrajectoryBuilder::add`].
    pub(crate) fn others(&mut self, arrays: ArrayColumns) -> Result<()> {
        arrays
            .into_iter()
            .try_for_each(|(name, column)| self.add(&free_name(&name), column, true))
    }

    /// Returns the trajectory.
    ///
    /// # Errors
    /// Returns an error if its columns are not those of `schema`, if there is one.
    pub(crate) fn finish(self, schema: Option<&SchemaRef>) -> Result<RecordBatch> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = self.columns.into_iter().unzip();
        let own: SchemaRef = Arc::new(Schema::new(fields));
        if let Some(schema) = schema.filter(|schema| ***schema != *own) {
            let describe =
                |field: &Field| format!("`{}` {}", field.name(), type_name(field.data_type()));
            let odd = own
                .fields()
                .iter()
                .find(|field| !schema.fields().iter().any(|known| known == *field))
                .map(|field| format!("it has {}", describe(field)));
            let missing = schema
                .fields()
                .iter()
                .find(|field| !own.fields().iter().any(|known| known == *field))
                .map(|field| format!("the first has {}", describe(field)));
            let differ: Vec<String> = [odd, missing].into_iter().flatten().collect();
            return Err(Error::failed(format!(
                "its arrays differ from those of the first trajectory: {}",
                differ.join(", ")
            ))
            .hint(SKIP));
        }
        Ok(RecordBatch::try_new(own, columns)?)
    }
}

/// Returns the error of an array that has `rows` rows in a trajectory of `steps` steps.
fn other_length(name: &str, rows: usize, steps: usize) -> Error {
    Error::failed(format!(
        "`{name}` has {} in a trajectory of {}",
        count(rows, "row"),
        count(steps, "step")
    ))
    .hint(SKIP)
}

/// The remedy for an array that does not fit.
const SKIP: &str = "to import without an array, leave it out by its name in the source, as in \
                    `--skip 'obs/camera'` (in a pipeline, `skip: [obs/camera]`)";

/// Removes the array `name` from `arrays` and returns it; a group with that name becomes a struct.
///
/// # Errors
/// Returns an error if the arrays of the group differ in their numbers of rows.
pub(crate) fn take(arrays: &mut ArrayColumns, name: &str) -> Result<Option<(Field, ArrayRef)>> {
    if let Some(found) = arrays.remove(name) {
        return Ok(Some(found));
    }
    let prefix = format!("{name}/");
    let inside: Vec<String> = arrays
        .keys()
        .filter(|key| key.starts_with(&prefix))
        .cloned()
        .collect();
    let Some(first) = inside.first().cloned() else {
        return Ok(None);
    };
    let (mut fields, mut columns): (Vec<FieldRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for key in inside {
        if let Some((field, column)) = arrays.remove(&key) {
            if let Some(other) = columns.first().filter(|other| other.len() != column.len()) {
                return Err(Error::failed(format!(
                    "`{key}` has {}, but `{first}` has {}",
                    count(column.len(), "row"),
                    number(other.len())
                ))
                .hint(format!("all arrays in `{name}` need one row per step")));
            }
            fields.push(Arc::new(
                field.with_name(&key[prefix.len()..]).with_nullable(false),
            ));
            columns.push(column);
        }
    }
    let columns = StructArray::try_new(Fields::from(fields), columns, None)?;
    Ok(Some((
        Field::new(name, columns.data_type().clone(), false),
        Arc::new(columns),
    )))
}

/// Converts a column of vectors to one of lists, whose lengths may differ between trajectories.
///
/// # Errors
/// Returns an error if the conversion fails, which cannot happen.
pub(crate) fn listed((field, values): &(Field, ArrayRef)) -> Result<(Field, ArrayRef)> {
    let values = match values.data_type() {
        DataType::FixedSizeList(child, _) => {
            arrow::compute::cast(values, &DataType::List(Arc::clone(child)))?
        }
        _ => Arc::clone(values),
    };
    Ok((
        Field::new(field.name(), values.data_type().clone(), true),
        values,
    ))
}

/// Converts a column of vectors of one element to one of single values. Returns any other column
/// unchanged.
pub(crate) fn squeezed((field, values): (Field, ArrayRef)) -> (Field, ArrayRef) {
    match values.as_fixed_size_list_opt() {
        Some(vectors) if vectors.value_length() == 1 => {
            let values = elements(vectors);
            (
                Field::new(
                    field.name(),
                    values.data_type().clone(),
                    field.is_nullable(),
                ),
                values,
            )
        }
        _ => (field, values),
    }
}

/// Returns a column of single numbers of any type as float64.
///
/// # Errors
/// Returns an error if the column does not hold numbers.
pub(crate) fn numbers(column: &(Field, ArrayRef)) -> Result<Vec<f64>> {
    let (field, values) = squeezed(column.clone());
    let numbers = arrow::compute::cast(&values, &DataType::Float64);
    let numbers = numbers.ok().and_then(|numbers| {
        numbers
            .as_primitive_opt::<arrow::datatypes::Float64Type>()
            .cloned()
    });
    Ok(numbers
        .ok_or_else(|| Error::failed(format!("`{}` is not an array of numbers", field.name())))?
        .values()
        .to_vec())
}

/// Makes values of `NAME` null where `NAME_valid` is false, and removes `NAME_valid`. Returns
/// `arrays` unchanged if trajmill did not write them, as `ours` says.
///
/// # Errors
/// Returns an error if the two have different numbers of rows.
pub(crate) fn with_valid(mut arrays: ArrayColumns, ours: bool) -> Result<ArrayColumns> {
    let names: Vec<String> = arrays
        .keys()
        .filter(|name| ours && arrays.contains_key(&format!("{name}_valid")))
        .cloned()
        .collect();
    for name in names {
        let valid = arrays
            .remove(&format!("{name}_valid"))
            .map(booleans)
            .transpose()?;
        if let (Some(valid), Some((_, values))) = (valid, arrays.get_mut(&name)) {
            if valid.len() != values.len() {
                return Err(Error::failed(format!(
                    "`{name}_valid` has {}, but `{name}` has {}",
                    count(valid.len(), "row"),
                    number(values.len())
                )));
            }
            *values = make_array(
                values
                    .to_data()
                    .into_builder()
                    .nulls(Some(NullBuffer::from(valid)))
                    .build()?,
            );
        }
    }
    Ok(arrays)
}

/// Returns a column of flags as booleans.
///
/// # Errors
/// Returns an error if a value is not 0 or 1.
pub(crate) fn booleans(column: (Field, ArrayRef)) -> Result<Vec<bool>> {
    let (field, numbers) = (column.0.clone(), numbers(&column)?);
    let flag = |(row, value): (usize, &f64)| match *value {
        0.0 => Ok(false),
        1.0 => Ok(true),
        other => Err(Error::failed(format!(
            "`{}` is {other} at row {row}, but a flag is 0 or 1",
            field.name()
        ))),
    };
    numbers.iter().enumerate().map(flag).collect()
}

/// Appends null rows to `values` until there are `rows`.
pub(crate) fn lengthened(values: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    let missing = nulls(values.data_type(), rows - values.len())?;
    Ok(arrow::compute::concat(&[
        values.as_ref(),
        missing.as_ref(),
    ])?)
}

/// Returns `rows` rows of zeros.
pub(crate) fn zeros(data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let filler = match data_type {
        DataType::FixedSizeList(..) | DataType::Struct(_) => nulls(data_type, rows)?,
        other => new_null_array(other, rows),
    };
    Ok(make_array(
        filler.into_data().into_builder().nulls(None).build()?,
    ))
}

/// Returns `rows` null rows. The elements of null vectors are zeros.
fn nulls(data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    Ok(match data_type {
        DataType::FixedSizeList(child, width) => {
            let values = zeros(
                child.data_type(),
                rows * usize::try_from(*width).unwrap_or(0),
            )?;
            Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                Some(NullBuffer::new_null(rows)),
            )?)
        }
        DataType::Struct(fields) => {
            let columns = fields
                .iter()
                .map(|field| zeros(field.data_type(), rows))
                .collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new(
                fields.clone(),
                columns,
                Some(NullBuffer::new_null(rows)),
            )?)
        }
        other => new_null_array(other, rows),
    })
}

/// Converts a column of an Arrow file to the types of a dataset: lists of equal length become
/// vectors, also inside structs.
///
/// # Errors
/// Returns an error if lists differ in length or contain nulls.
pub(crate) fn canonical(field: &Field, values: &ArrayRef) -> Result<(Field, ArrayRef)> {
    let ragged = || Error::failed(format!("the rows of `{}` differ in length", field.name()));
    let vectors = |width: usize, child: ArrayRef| -> Result<(Field, ArrayRef)> {
        if child.null_count() > 0 {
            return Err(Error::failed(format!(
                "`{}` holds vectors with nulls in them",
                field.name()
            )));
        }
        let width = i32::try_from(width).map_err(|_| ragged())?;
        let data_type = schema::vector(child.data_type().clone(), width);
        let DataType::FixedSizeList(element, _) = &data_type else {
            return Err(ragged());
        };
        let values = FixedSizeListArray::try_new(
            Arc::clone(element),
            width,
            child,
            values.nulls().cloned(),
        )?;
        let shape = field
            .metadata()
            .get("shape")
            .map(|shape| ("shape".to_owned(), shape.clone()));
        if width == 1 && shape.as_ref().is_some_and(|(_, shape)| shape.is_empty()) {
            return Ok(squeezed((
                Field::new(field.name(), data_type.clone(), field.is_nullable()),
                Arc::new(values),
            )));
        }
        let names = field.metadata().get("names");
        let names = names.map(|names| ("names".to_owned(), names.clone()));
        // A single axis needs no shape.
        let shape = shape.filter(|(_, shape)| shape.contains(','));
        Ok((
            Field::new(field.name(), data_type.clone(), field.is_nullable())
                .with_metadata(shape.into_iter().chain(names).collect()),
            Arc::new(values),
        ))
    };
    match values.data_type() {
        DataType::FixedSizeList(_, width) => {
            let list = values.as_fixed_size_list();
            let width = usize::try_from(*width).unwrap_or(0);
            vectors(width, elements(list))
        }
        DataType::List(child) if child.data_type().is_numeric() => {
            let list = values.as_list::<i32>();
            let offsets = list.value_offsets();
            let width = offsets
                .windows(2)
                .map(|ends| (ends[1] - ends[0]) as usize)
                .next()
                .unwrap_or(0);
            if offsets
                .windows(2)
                .any(|ends| (ends[1] - ends[0]) as usize != width)
            {
                return Err(ragged());
            }
            let first = offsets.first().copied().unwrap_or(0) as usize;
            vectors(width, list.values().slice(first, list.len() * width))
        }
        DataType::Struct(fields) => {
            let children = fields
                .iter()
                .zip(values.as_struct().columns())
                .map(|(field, values)| canonical(field, values))
                .collect::<Result<Vec<_>>>()?;
            let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = children
                .into_iter()
                .map(|(field, column)| (field.with_nullable(column.null_count() > 0), column))
                .unzip();
            let whole =
                StructArray::try_new(Fields::from(fields), columns, values.nulls().cloned())?;
            Ok((
                Field::new(field.name(), whole.data_type().clone(), field.is_nullable()),
                Arc::new(whole),
            ))
        }
        _ => Ok((field.clone(), Arc::clone(values))),
    }
}
