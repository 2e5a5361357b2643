//! Writes columns as plain arrays, one after the other, for formats such as D4RL HDF5, npz and npy.
//!
//! Each array takes one pass through the dataset, which reads only the columns of the array, so
//! that memory holds one block of them, whatever the size of the dataset. A null is written as NaN
//! or zero, and the array `NAME_valid` says which values are not null.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, Schema};

use crate::container::arrays::ArraySink;
use crate::container::hdf5::{Element, Hdf5Writer};
use crate::dataset::block::elements;
use crate::dataset::late_frames::LateFrames;
use crate::dataset::schema::{self, action_source, step, type_name};
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, Pass, Written};

/// The plain array that a column, or a field of a struct column, becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainArray {
    /// The array's name.
    pub(crate) name: String,
    /// The index of the field in each struct, from the column inwards.
    pub(crate) path: Vec<usize>,
    /// The type of an element.
    pub(crate) element: DataType,
    /// The lengths of the axes after the first.
    pub(crate) row: Vec<u64>,
}

impl PlainArray {
    /// Returns the array `name` of one flag for each row.
    pub(crate) fn flags(name: impl Into<String>) -> PlainArray {
        PlainArray {
            name: name.into(),
            path: Vec::new(),
            element: DataType::Boolean,
            row: Vec::new(),
        }
    }
}

/// Returns the plain arrays that `field` becomes: one named `name`, or `name/FIELD` for each field
/// of a struct. Returns `None` if a plain array cannot hold the values: text, lists, bytes.
pub(crate) fn plain_arrays(field: &Field, name: &str) -> Option<Vec<PlainArray>> {
    let single = |element: &DataType, row: Vec<u64>| {
        let known = element.is_numeric()
            && element.primitive_width().is_some_and(|width| width <= 8)
            || *element == DataType::Boolean;
        known.then(|| {
            vec![PlainArray {
                name: name.to_owned(),
                path: Vec::new(),
                element: element.clone(),
                row,
            }]
        })
    };
    match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            let axes = schema::axes(field, *width).into_iter();
            single(child.data_type(), axes.map(|axis| axis as u64).collect())
        }
        DataType::Struct(fields) => {
            let mut all = Vec::new();
            for (index, child) in fields.iter().enumerate() {
                for mut array in plain_arrays(child, &format!("{name}/{}", child.name()))? {
                    array.path.insert(0, index);
                    all.push(array);
                }
            }
            Some(all)
        }
        other => single(other, Vec::new()),
    }
}

/// Appends the elements of `column` to `bytes`. A null becomes NaN or zero.
///
/// # Errors
/// Returns an error if [`plain_arrays`] does not take the type of the column.
pub(crate) fn append(column: &dyn Array, bytes: &mut Vec<u8>) -> Result<()> {
    if let Some(vectors) = column.as_fixed_size_list_opt() {
        let width = vectors.value_length() as usize;
        let values = elements(vectors);
        let start = bytes.len();
        append(&values, bytes)?;
        let size = values.data_type().primitive_width().unwrap_or(1) * width;
        let missing = missing(values.data_type());
        for row in (0..vectors.len()).filter(|row| vectors.is_null(*row)) {
            let slot = &mut bytes[start + row * size..start + (row + 1) * size];
            slot.chunks_exact_mut(missing.len())
                .for_each(|element| element.copy_from_slice(&missing));
        }
        return Ok(());
    }
    if let Some(flags) = column.as_boolean_opt() {
        bytes.extend((0..flags.len()).map(|row| u8::from(flags.is_valid(row) && flags.value(row))));
        return Ok(());
    }
    let size = column.data_type().primitive_width().ok_or_else(|| {
        Error::failed(format!(
            "{} cannot be written as a plain array",
            type_name(column.data_type())
        ))
    })?;
    let data = column.to_data();
    let values = data
        .buffers()
        .first()
        .map(|buffer| buffer.as_slice())
        .unwrap_or_default();
    let start = bytes.len();
    bytes.extend_from_slice(&values[data.offset() * size..(data.offset() + data.len()) * size]);
    let missing = missing(column.data_type());
    for row in (0..column.len()).filter(|row| column.is_null(*row)) {
        bytes[start + row * size..start + (row + 1) * size].copy_from_slice(&missing);
    }
    if cfg!(target_endian = "big") {
        bytes[start..]
            .chunks_exact_mut(size)
            .for_each(<[u8]>::reverse);
    }
    Ok(())
}

/// Returns the bytes that are written for a null element.
fn missing(element: &DataType) -> Vec<u8> {
    match element {
        DataType::Float64 => f64::NAN.to_le_bytes().to_vec(),
        DataType::Float32 => f32::NAN.to_le_bytes().to_vec(),
        DataType::Float16 => 0x7e00_u16.to_le_bytes().to_vec(),
        other => vec![0; other.primitive_width().unwrap_or(1)],
    }
}

/// Returns the field of the struct column `column` at `path`, or the column itself if `path` is
/// empty.
fn child(column: &ArrayRef, path: &[usize]) -> Result<ArrayRef> {
    path.iter().try_fold(Arc::clone(column), |column, index| {
        let field = column
            .as_struct_opt()
            .and_then(|fields| fields.columns().get(*index))
            .cloned();
        field.ok_or_else(|| Error::failed("a struct column lacks one of its fields"))
    })
}

/// Calls `each` with values of one trajectory, whose frames may have stayed references. If `values`
/// are references of its column `name`, they are decoded, in parts.
fn in_parts(
    frames: &mut LateFrames,
    trajectory: &OutgoingTrajectory,
    name: &str,
    values: &ArrayRef,
    each: &mut dyn FnMut(&ArrayRef) -> Result<()>,
) -> Result<()> {
    let field = Field::new(name, values.data_type().clone(), true);
    if !frames.decodes(&field) {
        return each(values);
    }
    let (rows, place) = (values.len(), trajectory.place());
    for from in (0..rows).step_by(frames.at_once) {
        let part = values.slice(from, frames.at_once.min(rows - from));
        each(&frames.column(name, &part, &place)?)?;
    }
    Ok(())
}

/// Writes one array in a pass through the dataset that reads the columns `reads`; `values` returns
/// the rows of a trajectory. Returns whether some of the values were null.
///
/// # Errors
/// Returns an error if the dataset cannot be read or the array cannot be written.
pub(crate) fn stream(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    plain: &PlainArray,
    rows: u64,
    reads: &[&str],
    values: &dyn Fn(&OutgoingTrajectory) -> Result<ArrayRef>,
) -> Result<bool> {
    let name = reads.first().copied().unwrap_or_default();
    let pass = outgoing.pass(Some(reads))?;
    stream_pass(outgoing, pass, sink, plain, (rows, name), values)
}

/// Writes one array of `rows` rows in a pass in which frames may stay references: those of the
/// column `name` that `values` returns are decoded in parts.
fn stream_pass(
    outgoing: &OutgoingDataset,
    pass: Pass,
    sink: &mut dyn ArraySink,
    plain: &PlainArray,
    (rows, name): (u64, &str),
    values: &dyn Fn(&OutgoingTrajectory) -> Result<ArrayRef>,
) -> Result<bool> {
    let mut nulls = false;
    sink.begin(&plain.name, &plain.element, rows, &plain.row)?;
    let mut bytes = Vec::new();
    let mut frames = outgoing.late_frames();
    for trajectory in pass {
        let trajectory = trajectory?;
        let column = values(&trajectory)?;
        in_parts(&mut frames, &trajectory, name, &column, &mut |part| {
            let elements = child(part, &plain.path)?;
            nulls |= part.null_count() > 0 || elements.null_count() > 0;
            append(&elements, &mut bytes)?;
            if bytes.len() >= 1 << 18 {
                sink.write(&bytes)?;
                bytes.clear();
            }
            Ok(())
        })?;
    }
    sink.write(&bytes)?;
    sink.end()?;
    Ok(nulls)
}

/// Writes the column `column` of steps as the array or arrays `name`, and `NAME_valid` if it has
/// nulls. Final rows are included if `finals` is true. Returns false if plain arrays cannot hold
/// the column.
///
/// # Errors
/// Returns the errors of [`stream`].
pub(crate) fn stream_column(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    column: &str,
    name: &str,
    finals: bool,
) -> Result<bool> {
    let Some(arrays) = plain_arrays(outgoing.steps().field_with_name(column)?, name) else {
        return Ok(false);
    };
    let rows = if finals {
        outgoing.rows()
    } else {
        outgoing.length()
    };
    let take = |trajectory: &OutgoingTrajectory| -> Result<ArrayRef> {
        let values = if finals {
            trajectory.steps.column_by_name(column).cloned()
        } else {
            trajectory.column(column)
        };
        values.ok_or_else(|| Error::failed(format!("the column `{column}` was not read")))
    };
    let mut nulls = false;
    for array in &arrays {
        let pass = outgoing.referring(Some(&[column]))?;
        nulls |= stream_pass(outgoing, pass, sink, array, (rows, column), &take)?;
    }
    if nulls
        && outgoing
            .steps()
            .column_with_name(&format!("{column}_valid"))
            .is_none()
    {
        let valid = PlainArray::flags(format!("{name}_valid"));
        let validity = |trajectory: &OutgoingTrajectory| -> Result<ArrayRef> {
            let column = take(trajectory)?;
            Ok(Arc::new(BooleanArray::from_iter(
                (0..column.len()).map(|row| Some(column.is_valid(row))),
            )))
        };
        let pass = outgoing.referring(Some(&[column]))?;
        stream_pass(outgoing, pass, sink, &valid, (rows, column), &validity)?;
    }
    Ok(true)
}

/// Writes the array `name`, which says of each action whether it is a proxy. It has `rows` rows, of
/// which each trajectory has as many as `rows_of` returns.
///
/// # Errors
/// Returns the errors of [`stream`].
pub(crate) fn stream_proxies(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    name: &str,
    rows: u64,
    rows_of: &dyn Fn(&OutgoingTrajectory) -> usize,
) -> Result<()> {
    for word in outgoing.flagged_sources() {
        let plain = PlainArray::flags(name.replace(action_source::PROXY, word));
        let flags = |trajectory: &OutgoingTrajectory| {
            source_flags(trajectory, word, rows_of(trajectory))
                .ok_or_else(|| Error::failed(format!("`{}` is not text", step::ACTION_SOURCE)))
        };
        stream(outgoing, sink, &plain, rows, &[step::ACTION_SOURCE], &flags)?;
    }
    Ok(())
}

/// Returns the names of the arrays that say where actions come from, if `name` is the one that says
/// which are proxies.
pub(crate) fn source_names(outgoing: &OutgoingDataset, name: &str) -> String {
    let names = outgoing.flagged_sources().into_iter();
    let names = names.map(|word| format!("`{}`", name.replace(action_source::PROXY, word)));
    names.collect::<Vec<_>>().join(", ")
}

/// Returns for each of the first `rows` rows of a trajectory whether its action comes from the
/// source `word`; `None` if the dataset does not say.
fn source_flags(trajectory: &OutgoingTrajectory, word: &str, rows: usize) -> Option<ArrayRef> {
    let source = trajectory
        .steps
        .column_by_name(step::ACTION_SOURCE)?
        .as_string_opt::<i32>()?;
    let is = |row: usize| row < source.len() && source.is_valid(row) && source.value(row) == word;
    Some(Arc::new(BooleanArray::from_iter(
        (0..rows).map(|row| Some(is(row))),
    )))
}

/// Writes the arrays that say where the first `rows` actions of one trajectory come from, if the
/// dataset says it. `name` is the name of the array that says which are proxies.
///
/// # Errors
/// Returns an error if they cannot be written.
pub(crate) fn write_sources(
    file: &mut Hdf5Writer,
    name: &str,
    trajectory: &OutgoingTrajectory,
    rows: usize,
) -> Result<()> {
    for word in &trajectory.flagged_sources {
        if let Some(flags) = source_flags(trajectory, word, rows) {
            let name = name.replace(action_source::PROXY, word);
            write_column(
                file,
                &name,
                &Field::new(*word, DataType::Boolean, false),
                &flags,
            )?;
        }
    }
    Ok(())
}

/// Returns the names of the columns of steps without a fixed meaning in formats of plain arrays,
/// which include `action_std`.
pub(crate) fn extra_columns(steps: &Schema) -> Vec<String> {
    let is_extra = |name: &str| name == step::ACTION_STD || !step::CANONICAL.contains(&name);
    let names = steps.fields().iter().map(|field| field.name());
    names.filter(|name| is_extra(name)).cloned().collect()
}

/// Returns the name of the array in the group `infos` that holds the column `column`.
pub(crate) fn info_name(column: &str) -> String {
    if column.starts_with("infos/") {
        column.to_owned()
    } else {
        format!("infos/{column}")
    }
}

/// Writes the column `values` of one trajectory as the array or arrays `name`.
///
/// # Errors
/// Returns an error if plain arrays cannot hold the column, or if they cannot be written.
pub(crate) fn write_column(
    file: &mut Hdf5Writer,
    name: &str,
    field: &Field,
    values: &ArrayRef,
) -> Result<()> {
    let arrays = plain_arrays(field, name).ok_or_else(|| {
        Error::failed(format!(
            "`{name}` is {}, which cannot be written as an array of numbers",
            type_name(field.data_type())
        ))
    })?;
    arrays
        .iter()
        .try_for_each(|plain| write_array(file, &plain.name, plain, values))
}

/// Writes `plain`, one of the arrays of the column `values` of one trajectory, as the array `name`.
///
/// # Errors
/// Returns an error if it cannot be written.
pub(crate) fn write_array(
    file: &mut Hdf5Writer,
    name: &str,
    plain: &PlainArray,
    values: &ArrayRef,
) -> Result<()> {
    let values = child(values, &plain.path)?;
    let mut bytes = Vec::new();
    append(&values, &mut bytes)?;
    let shape: Vec<u64> = std::iter::once(values.len() as u64)
        .chain(plain.row.iter().copied())
        .collect();
    file.array(name, Element::Plain(plain.element.clone()), &shape, &bytes)
}

/// Writes values of the column `field` of one trajectory, whose frames may have stayed references,
/// as the array or arrays `name`. Frames are decoded in parts.
///
/// # Errors
/// Returns the errors of [`write_column`], and an error if a frame cannot be decoded.
pub(crate) fn write_frames(
    file: &mut Hdf5Writer,
    name: &str,
    field: &Field,
    values: &ArrayRef,
    trajectory: &OutgoingTrajectory,
    frames: &mut LateFrames,
) -> Result<()> {
    if values.data_type() == field.data_type() {
        return write_column(file, name, field, values);
    }
    let mut bytes = Vec::new();
    for plain in plain_arrays(field, name).unwrap_or_default() {
        let sink: &mut dyn ArraySink = file;
        sink.begin(&plain.name, &plain.element, values.len() as u64, &plain.row)?;
        in_parts(frames, trajectory, field.name(), values, &mut |part| {
            bytes.clear();
            append(&child(part, &plain.path)?, &mut bytes)?;
            sink.write(&bytes)
        })?;
        sink.end()?;
    }
    Ok(())
}

/// Reports the columns `names` of steps as left out, because plain arrays cannot hold them. Tasks
/// are kept in `tasks`, one for each trajectory.
pub(crate) fn report_left_out(
    outgoing: &OutgoingDataset,
    written: &mut Written,
    names: &[String],
    tasks: &str,
) {
    let of = |schema: &Schema, name: &str| schema.field_with_name(name).cloned().ok();
    for name in names {
        let Some(field) = of(outgoing.steps(), name) else {
            continue;
        };
        let what = format!("column `{name}`");
        let carried = of(outgoing.carried(), name);
        let is_task = name == step::TASK && *field.data_type() == DataType::Utf8;
        if is_task && carried.is_some_and(|carried| carried.data_type() == field.data_type()) {
            written.cannot_hold(
                what,
                format!("{tasks}, one for each trajectory: that of its first step"),
            );
        } else {
            written.cannot_hold(what, format!("left out: {}", why_not_plain(&field)));
        }
    }
}

/// Returns the reason why no plain array holds a column.
fn why_not_plain(field: &Field) -> String {
    fn odd(field: &Field, name: &str) -> Option<String> {
        match field.data_type() {
            DataType::Struct(fields) => fields
                .iter()
                .find_map(|part| odd(part, &format!("{name}['{}']", part.name()))),
            _ if plain_arrays(field, name).is_some() => None,
            DataType::List(_) => Some(format!(
                "`{name}` is {}, and the rows of an array have one length",
                type_name(field.data_type())
            )),
            other => Some(format!(
                "`{name}` is {}, and arrays hold numbers",
                type_name(other)
            )),
        }
    }
    odd(field, field.name()).unwrap_or_else(|| "arrays cannot hold it".to_owned())
}
