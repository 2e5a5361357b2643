//! Columns as plain arrays, written one after the other: what D4RL HDF5, npz and npy have in common on the way out.
//!
//! Each array is one passage through the dataset that reads its columns alone, so memory holds a block of them whatever
//! the dataset's size. Where a plain array cannot hold a null, NaN or zero stands for it, and `NAME_valid` beside it says
//! where.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Map, Value};

use crate::container::arrays::ArraySink;
use crate::container::hdf5::{Element, Hdf5Writer};
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, Written};

/// One plain array that a column, or a part of a struct column, becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainArray {
    /// The array's name.
    pub(crate) name: String,
    /// Indices of children, from the column inwards.
    pub(crate) path: Vec<usize>,
    /// Type of an element.
    pub(crate) element: DataType,
    /// Lengths of the axes after the first.
    pub(crate) row: Vec<u64>,
}

/// The plain arrays that `field` becomes, the parts of a struct under `name/PART`; `None` where it holds what no plain
/// array can: text, lists, bytes.
pub(crate) fn plain(field: &Field, name: &str) -> Option<Vec<PlainArray>> {
    let one = |element: &DataType, row: Vec<u64>| {
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
            let shape = field.metadata().get("shape").map(|text| {
                text.split(',')
                    .filter_map(|axis| axis.parse().ok())
                    .collect::<Vec<u64>>()
            });
            let width = u64::try_from(*width).ok()?;
            let row = shape
                .filter(|shape| shape.iter().product::<u64>() == width)
                .unwrap_or_else(|| vec![width]);
            one(child.data_type(), row)
        }
        DataType::Struct(fields) => {
            let mut all = Vec::new();
            for (index, child) in fields.iter().enumerate() {
                for mut part in plain(child, &format!("{name}/{}", child.name()))? {
                    part.path.insert(0, index);
                    all.push(part);
                }
            }
            Some(all)
        }
        other => one(other, Vec::new()),
    }
}

/// Appends the elements of `column` to `bytes`; NaN or zero stands for what is null.
///
/// # Errors
/// Where the column is not of a type that [`plain`] takes.
pub(crate) fn append(column: &dyn Array, bytes: &mut Vec<u8>) -> Result<()> {
    if let Some(vectors) = column.as_fixed_size_list_opt() {
        let width = vectors.value_length() as usize;
        let values = vectors
            .values()
            .slice(vectors.value_offset(0) as usize, vectors.len() * width);
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
    let size = column
        .data_type()
        .primitive_width()
        .ok_or_else(|| Error::failed(format!("{} is no plain array", column.data_type())))?;
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

/// What stands for a null element.
fn missing(element: &DataType) -> Vec<u8> {
    match element {
        DataType::Float64 => f64::NAN.to_le_bytes().to_vec(),
        DataType::Float32 => f32::NAN.to_le_bytes().to_vec(),
        DataType::Float16 => 0x7e00_u16.to_le_bytes().to_vec(),
        other => vec![0; other.primitive_width().unwrap_or(1)],
    }
}

/// The part of `column` that `plain` is.
fn part(column: &ArrayRef, path: &[usize]) -> Result<ArrayRef> {
    path.iter().try_fold(Arc::clone(column), |column, index| {
        let child = column
            .as_struct_opt()
            .and_then(|parts| parts.columns().get(*index))
            .cloned();
        child.ok_or_else(|| Error::failed("a struct column has lost a part"))
    })
}

/// Streams one array: `of` takes its rows from each trajectory, which has the columns `reads`. Returns whether nulls
/// were among them.
///
/// # Errors
/// Where the dataset cannot be read or the sink not written.
pub(crate) fn stream(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    plain: &PlainArray,
    rows: u64,
    reads: &[&str],
    of: &dyn Fn(&OutgoingTrajectory) -> Result<ArrayRef>,
) -> Result<bool> {
    let mut nulls = false;
    sink.begin(&plain.name, &plain.element, rows, &plain.row)?;
    let mut bytes = Vec::new();
    for leaving in outgoing.pass(Some(reads))? {
        let column = of(&leaving?)?;
        let values = part(&column, &plain.path)?;
        nulls |= column.null_count() > 0 || values.null_count() > 0;
        append(&values, &mut bytes)?;
        if bytes.len() >= 1 << 18 {
            sink.write(&bytes)?;
            bytes.clear();
        }
    }
    sink.write(&bytes)?;
    sink.end()?;
    Ok(nulls)
}

/// Streams the column `column` of steps as the array or arrays `name`, and `NAME_valid` where it has nulls; `finals` says
/// whether the rows of final observations come along.
///
/// Returns whether the column could be written.
///
/// # Errors
/// As [`stream`].
pub(crate) fn column(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    column: &str,
    name: &str,
    finals: bool,
) -> Result<bool> {
    let Some(parts) = plain(outgoing.steps().field_with_name(column)?, name) else {
        return Ok(false);
    };
    let rows = if finals {
        outgoing.rows()
    } else {
        outgoing.length()
    };
    let take = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
        let column = if finals {
            leaving.steps.column_by_name(column).cloned()
        } else {
            leaving.column(column)
        };
        column.ok_or_else(|| Error::failed("a column was not read"))
    };
    let mut nulls = false;
    for part in &parts {
        nulls |= stream(outgoing, sink, part, rows, &[column], &take)?;
    }
    if nulls
        && outgoing
            .steps()
            .column_with_name(&format!("{column}_valid"))
            .is_none()
    {
        let valid = PlainArray {
            name: format!("{name}_valid"),
            path: Vec::new(),
            element: DataType::Boolean,
            row: Vec::new(),
        };
        let of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
            let column = take(leaving)?;
            Ok(Arc::new(BooleanArray::from_iter(
                (0..column.len()).map(|row| Some(column.is_valid(row))),
            )))
        };
        stream(outgoing, sink, &valid, rows, &[column], &of)?;
    }
    Ok(true)
}

/// Streams whether each action is a proxy as the array `name`; `finals` says whether each trajectory has a row more than
/// known steps.
///
/// # Errors
/// As [`stream`].
pub(crate) fn proxies(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    name: &str,
    rows: u64,
    of_each: &dyn Fn(&OutgoingTrajectory) -> usize,
) -> Result<()> {
    let plain = PlainArray {
        name: name.to_owned(),
        path: Vec::new(),
        element: DataType::Boolean,
        row: Vec::new(),
    };
    let of = |leaving: &OutgoingTrajectory| {
        proxy(leaving, of_each(leaving))
            .ok_or_else(|| Error::failed(format!("`{}` is not text", step::ACTION_SOURCE)))
    };
    stream(outgoing, sink, &plain, rows, &[step::ACTION_SOURCE], &of).map(|_| ())
}

/// Whether each action of a trajectory is a proxy, for its first `rows` rows; `None` where the dataset does not say.
pub(crate) fn proxy(leaving: &OutgoingTrajectory, rows: usize) -> Option<ArrayRef> {
    let source = leaving
        .steps
        .column_by_name(step::ACTION_SOURCE)?
        .as_string_opt::<i32>()?;
    let proxy =
        |row: usize| row < source.len() && source.is_valid(row) && source.value(row) == "proxy";
    Some(Arc::new(BooleanArray::from_iter(
        (0..rows).map(|row| Some(proxy(row))),
    )))
}

/// Names of the columns of steps that have no place of their own in formats of plain arrays.
pub(crate) fn extras(steps: &Schema) -> Vec<String> {
    let fixed = [
        step::TRAJECTORY_ID,
        step::STEP,
        step::OBSERVATION,
        step::ACTION,
        step::REWARD,
        step::TERMINATED,
        step::TRUNCATED,
        step::IS_FINAL,
        step::ACTION_SOURCE,
    ];
    steps
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| !fixed.contains(&name.as_str()))
        .collect()
}

/// What `leaving` is known by, and what else came along with it, as JSON.
///
/// # Errors
/// Where a value has no JSON form.
pub(crate) fn about(leaving: &OutgoingTrajectory) -> Result<Map<String, Value>> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write(&leaving.about)?;
    writer.finish()?;
    let rows: Vec<Map<String, Value>> =
        serde_json::from_slice(&writer.into_inner()).map_err(|error| {
            Error::failed(format!(
                "cannot keep what a trajectory is known by: {error}"
            ))
        })?;
    let mut about = rows.into_iter().next().unwrap_or_default();
    about.remove(trajectory::TRAJECTORY_ID);
    Ok(about)
}

/// Writes the column `values` of one trajectory as the array or arrays `name`.
///
/// # Errors
/// Where it is no array of numbers or cannot be written.
pub(crate) fn array(
    file: &mut Hdf5Writer,
    name: &str,
    field: &Field,
    values: &ArrayRef,
) -> Result<()> {
    let parts = plain(field, name)
        .ok_or_else(|| Error::failed(format!("`{name}` is no array of numbers")))?;
    parts
        .iter()
        .try_for_each(|plain| one(file, &plain.name, plain, values))
}

/// Writes the part `plain` of the column `values` of one trajectory as the array `name`.
///
/// # Errors
/// Where it cannot be written.
pub(crate) fn one(
    file: &mut Hdf5Writer,
    name: &str,
    plain: &PlainArray,
    values: &ArrayRef,
) -> Result<()> {
    let values = part(values, &plain.path)?;
    let mut bytes = Vec::new();
    append(&values, &mut bytes)?;
    let shape: Vec<u64> = std::iter::once(values.len() as u64)
        .chain(plain.row.iter().copied())
        .collect();
    file.array(name, Element::Plain(plain.element.clone()), &shape, &bytes)
}

/// Says of columns that no array can hold that they stay behind.
pub(crate) fn left(written: &mut Written, names: &[String]) {
    for name in names {
        written.moved(
            format!("column `{name}`"),
            "left out: it is no array of numbers",
        );
    }
}
