//! Formats that keep a trajectory as a group of arrays of its own: its arrays become the columns of one batch.
//!
//! The first trajectory that can be read says which columns there are; another that differs is an error of its own, so that
//! it can be set aside.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, RecordBatch, StructArray,
    make_array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use crate::container::arrays::ArrayColumns;
use crate::dataset::schema::{self, step};
use crate::error::{Error, Result};
use crate::transfer::read::{IncomingTrajectory, OnError, free_name, quarantine};

/// What was read of a source to learn its columns: the first trajectory that can be read, and what is the matter with those
/// before it.
#[derive(Default)]
pub(crate) struct FirstTrajectory {
    errors: VecDeque<Error>,
    first: Option<IncomingTrajectory>,
}

impl FirstTrajectory {
    /// Reads trajectories by `next` until one can be read; bad ones may come before it where `on_error` sets them aside.
    ///
    /// # Errors
    /// What is the matter with the first trajectory, where that ends it or there is no other.
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
                        .unwrap_or_else(|| Error::failed("there are no trajectories")));
                }
            }
        }
    }

    /// What comes next of it; `None` where all of it was handed on.
    pub(crate) fn next(&mut self) -> Option<Result<IncomingTrajectory>> {
        self.errors
            .pop_front()
            .map(Err)
            .or_else(|| self.first.take().map(Ok))
    }
}

/// A trajectory that is being put together of its arrays.
pub(crate) struct TrajectoryBuilder {
    /// Steps: rows that are not final.
    pub(crate) length: usize,
    /// Whether there is a row for the final observation.
    pub(crate) known_final: bool,
    columns: Vec<(Field, ArrayRef)>,
}

impl TrajectoryBuilder {
    pub(crate) fn new(length: usize, known_final: bool) -> TrajectoryBuilder {
        TrajectoryBuilder {
            length,
            known_final,
            columns: Vec::new(),
        }
    }

    /// Rows: the steps and the final observation.
    pub(crate) fn rows(&self) -> usize {
        self.length + usize::from(self.known_final)
    }

    /// Adds a column of steps, whose array has a row for each row or each step; where it is one short, the final is null.
    ///
    /// # Errors
    /// Where it has another number of rows.
    pub(crate) fn add(
        &mut self,
        name: &str,
        (field, values): (Field, ArrayRef),
        nullable: bool,
    ) -> Result<()> {
        let (rows, length) = (self.rows(), self.length);
        let values = match values.len() {
            count if count == rows => values,
            count if count == length => lengthened(&values, rows)?,
            count => {
                return Err(Error::failed(format!(
                    "`{}` has {count} rows where there are {length} steps",
                    field.name()
                )));
            }
        };
        self.columns
            .push((field.with_name(name).with_nullable(nullable), values));
        Ok(())
    }

    /// Adds flags, which are false on the final row.
    ///
    /// # Errors
    /// Where there are not as many as steps.
    pub(crate) fn flags(&mut self, name: &str, flags: &[bool]) -> Result<()> {
        if flags.len() != self.length {
            return Err(Error::failed(format!(
                "`{name}` has {} rows where there are {} steps",
                flags.len(),
                self.length
            )));
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

    /// Adds `is_final`.
    pub(crate) fn finals(&mut self) {
        let finals = (0..self.rows()).map(|row| Some(row == self.length));
        self.columns.push((
            Field::new(step::IS_FINAL, DataType::Boolean, false),
            Arc::new(BooleanArray::from_iter(finals)),
        ));
    }

    /// Adds what has no fixed meaning, under its own name.
    ///
    /// # Errors
    /// As [`TrajectoryBuilder::add`].
    pub(crate) fn others(&mut self, arrays: ArrayColumns) -> Result<()> {
        arrays
            .into_iter()
            .try_for_each(|(name, column)| self.add(&free_name(&name), column, true))
    }

    /// The trajectory; its columns must be those of `schema`, where that is known.
    ///
    /// # Errors
    /// Where they are not.
    pub(crate) fn finish(self, schema: Option<&SchemaRef>) -> Result<RecordBatch> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = self.columns.into_iter().unzip();
        let own: SchemaRef = Arc::new(Schema::new(fields));
        if let Some(schema) = schema.filter(|schema| ***schema != *own) {
            let describe = |field: &Field| format!("`{}` {}", field.name(), field.data_type());
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
                "its arrays are not those of the first trajectory: {}",
                differ.join(", ")
            )));
        }
        Ok(RecordBatch::try_new(own, columns)?)
    }
}

/// Takes the array `name` out of `arrays`, or the group of that name as a struct.
pub(crate) fn take(arrays: &mut ArrayColumns, name: &str) -> Option<(Field, ArrayRef)> {
    if let Some(found) = arrays.remove(name) {
        return Some(found);
    }
    let prefix = format!("{name}/");
    let inside: Vec<String> = arrays
        .keys()
        .filter(|key| key.starts_with(&prefix))
        .cloned()
        .collect();
    if inside.is_empty() {
        return None;
    }
    let (mut fields, mut columns): (Vec<FieldRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for key in inside {
        if let Some((field, column)) = arrays.remove(&key) {
            fields.push(Arc::new(
                field.with_name(&key[prefix.len()..]).with_nullable(false),
            ));
            columns.push(column);
        }
    }
    let columns = StructArray::try_new(Fields::from(fields), columns, None).ok()?;
    Some((
        Field::new(name, columns.data_type().clone(), false),
        Arc::new(columns),
    ))
}

/// A column of vectors as one of lists, whose rows may differ in length from trajectory to trajectory.
///
/// # Errors
/// Never in practice.
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

/// Drops a last axis of one from a column of vectors.
pub(crate) fn squeezed((field, values): (Field, ArrayRef)) -> (Field, ArrayRef) {
    match values.as_fixed_size_list_opt() {
        Some(vectors) if vectors.value_length() == 1 => {
            let values = vectors
                .values()
                .slice(vectors.value_offset(0) as usize, vectors.len());
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

/// Single values of any type of number.
///
/// # Errors
/// Where they are not numbers.
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

/// Columns of which those called `NAME_valid` say where `NAME` is null, where `ours` says that we wrote them.
///
/// # Errors
/// Where one has not as many rows as the other.
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
                    "`{name}_valid` has {} rows where `{name}` has {}",
                    valid.len(),
                    values.len()
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

/// Flags of any type of number.
///
/// # Errors
/// Where they are not numbers of 0 and 1.
pub(crate) fn booleans(column: (Field, ArrayRef)) -> Result<Vec<bool>> {
    let (field, numbers) = (column.0.clone(), numbers(&column)?);
    let flag = |(row, value): (usize, &f64)| match *value {
        0.0 => Ok(false),
        1.0 => Ok(true),
        other => Err(Error::failed(format!(
            "`{}` is {other} at row {row}: a flag is 0 or 1",
            field.name()
        ))),
    };
    numbers.iter().enumerate().map(flag).collect()
}

/// `values` with null rows after them, `rows` in all.
pub(crate) fn lengthened(values: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    let missing = absent(values.data_type(), rows - values.len())?;
    Ok(arrow::compute::concat(&[
        values.as_ref(),
        missing.as_ref(),
    ])?)
}

/// Rows of zeros.
pub(crate) fn zeros(data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let filler = match data_type {
        DataType::FixedSizeList(..) | DataType::Struct(_) => absent(data_type, rows)?,
        other => new_null_array(other, rows),
    };
    Ok(make_array(
        filler.into_data().into_builder().nulls(None).build()?,
    ))
}

/// Null rows, zeros under those of vectors.
fn absent(data_type: &DataType, rows: usize) -> Result<ArrayRef> {
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

/// A column of an Arrow file in the types of ours: lists of one length are vectors, structs keep their parts.
///
/// # Errors
/// Where a list's rows differ in length or hold nulls.
pub(crate) fn canonical(field: &Field, values: &ArrayRef) -> Result<(Field, ArrayRef)> {
    let ragged = || Error::failed(format!("the rows of `{}` differ in length", field.name()));
    let vectors = |width: usize, child: ArrayRef| -> Result<(Field, ArrayRef)> {
        if child.null_count() > 0 {
            return Err(Error::failed(format!(
                "`{}` holds nulls within its vectors",
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
        // One axis needs no shape.
        let shape = shape.filter(|(_, shape)| shape.contains(','));
        Ok((
            Field::new(field.name(), data_type.clone(), field.is_nullable())
                .with_metadata(shape.into_iter().collect()),
            Arc::new(values),
        ))
    };
    match values.data_type() {
        DataType::FixedSizeList(_, width) => {
            let list = values.as_fixed_size_list();
            let width = usize::try_from(*width).unwrap_or(0);
            vectors(
                width,
                list.values()
                    .slice(list.value_offset(0) as usize, list.len() * width),
            )
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
            let parts = values.as_struct();
            let parts = fields
                .iter()
                .zip(parts.columns())
                .map(|(field, values)| canonical(field, values))
                .collect::<Result<Vec<_>>>()?;
            let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = parts
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
