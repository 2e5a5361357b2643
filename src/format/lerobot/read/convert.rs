//! Converts columns of a data file to columns of steps.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, StructArray, UInt8Array,
    make_array, new_null_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type};

use crate::container::png;
use crate::dataset::files;
use crate::dataset::schema::type_name;
use crate::error::{Error, Result};
use crate::format::lerobot::info::{INFO, Info, PIXELS};
use crate::transfer::read::table::vector;
use crate::video::reference;

/// Returns a column of one value in each frame as the type `to`; lists of one value are unpacked.
pub(crate) fn scalar_column(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let mut column = ArrayRef::clone(column);
    if let DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) =
        column.data_type()
    {
        let child = Arc::new(child.as_ref().clone().with_nullable(false));
        let list = vector(name, &column, &child, 1, &|row| format!("frame {row}"))?;
        let list = list.as_fixed_size_list();
        column = make_array(
            list.values()
                .to_data()
                .into_builder()
                .nulls(list.nulls().cloned())
                .build()?,
        );
    }
    cast_column(name, &column, to)
}

/// Casts a column to the declared type; a value that does not fit is an error.
fn cast_column(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &options).map_err(|error| {
        Error::failed(format!(
            "feature `{name}` has the type {}, which cannot be read as {}: {error}",
            type_name(column.data_type()),
            type_name(to)
        ))
        .hint(format!("correct its `dtype` in {INFO}"))
    })
}

/// Returns nested lists of the declared shape as one vector in each row.
pub(crate) fn vector_column(
    name: &str,
    column: &ArrayRef,
    element: &DataType,
    shape: &[usize],
    field: &Field,
) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, width) = field.data_type() else {
        return Err(Error::failed(format!("`{name}` is not a vector")));
    };
    let mut values = ArrayRef::clone(column);
    let mut nulls = column.nulls().cloned();
    let mut per_row = 1;
    for axis in shape {
        let inner = match values.data_type() {
            DataType::List(inner)
            | DataType::LargeList(inner)
            | DataType::FixedSizeList(inner, _) => inner,
            // A feature of one value may be stored without lists.
            _ if shape.iter().product::<usize>() == 1 => break,
            other => {
                return Err(Error::failed(format!(
                    "feature `{name}` has the type {}, but its shape is {shape:?}",
                    type_name(other)
                ))
                .hint(format!("correct its `shape` in {INFO}")));
            }
        };
        let inner = Arc::new(inner.as_ref().clone().with_nullable(false));
        let axis = i32::try_from(*axis)
            .map_err(|_| Error::failed(format!("feature `{name}` has an axis that is too long")))?;
        let list = vector(name, &values, &inner, axis, &|row| {
            format!("frame {}", row / per_row)
        })
        .map_err(|error| {
            error.hint(format!("`features` in {INFO} declares the shape {shape:?}"))
        })?;
        let list = list.as_fixed_size_list();
        if per_row == 1 {
            nulls = list.nulls().cloned();
        }
        values = ArrayRef::clone(list.values());
        per_row *= axis.max(1) as usize;
    }
    let values = cast_column(name, &values, element)?;
    let values = make_array(values.to_data().into_builder().nulls(None).build()?);
    Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(
        Arc::clone(child),
        *width,
        values,
        nulls,
    )?))
}

/// Returns encoded images: the bytes in the table, or those of the files that it names.
pub(crate) fn images(root: &Path, name: &str, column: &ArrayRef) -> Result<ArrayRef> {
    let Some(parts) = column.as_struct_opt() else {
        return cast(column, &DataType::Binary).map_err(|_| {
            Error::failed(format!(
                "feature `{name}` has the type {}, but encoded images are expected",
                type_name(column.data_type())
            ))
        });
    };
    let part = |part: &str, data_type: &DataType| {
        parts
            .column_by_name(part)
            .and_then(|values| cast(values, data_type).ok())
    };
    let (bytes, paths) = (
        part("bytes", &DataType::Binary),
        part("path", &DataType::Utf8),
    );
    let bytes = bytes.as_ref().map(|bytes| bytes.as_binary::<i32>());
    let paths = paths.as_ref().map(|paths| paths.as_string::<i32>());
    let mut images = arrow::array::BinaryBuilder::new();
    for row in 0..column.len() {
        let inline = bytes
            .filter(|bytes| bytes.is_valid(row))
            .map(|bytes| bytes.value(row));
        match (
            inline,
            paths
                .filter(|paths| paths.is_valid(row))
                .map(|paths| paths.value(row)),
        ) {
            _ if parts.is_null(row) => images.append_null(),
            (Some(bytes), _) => images.append_value(bytes),
            (None, Some(path))
                if !path.starts_with('/') && !path.split('/').any(|part| part == "..") =>
            {
                let path = root.join(path);
                let bytes = files::read(&path).map_err(|error| {
                    Error::failed(format!(
                        "feature `{name}` at frame {row}: cannot read {}: {error}",
                        path.display()
                    ))
                    .hint("the dataset is incomplete: fetch it again")
                })?;
                images.append_value(bytes);
            }
            (None, Some(path)) => {
                return Err(Error::failed(format!(
                    "feature `{name}` at frame {row} names `{path}`, a file outside the dataset"
                ))
                .hint("write the dataset again with the bytes of the images in its tables"));
            }
            (None, None) => images.append_null(),
        }
    }
    Ok(Arc::new(images.finish()))
}

/// Decodes images that trajmill encoded to vectors of pixels, as `field` describes them.
pub(crate) fn pixels(
    name: &str,
    images: &ArrayRef,
    [height, width]: [usize; 2],
    field: &Field,
) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, values) = field.data_type() else {
        return Err(Error::failed(format!("`{name}` is not a vector")));
    };
    let images = images.as_binary::<i32>();
    let mut decoded: Vec<u8> = Vec::new();
    for (row, image) in images.iter().enumerate() {
        match image {
            None => decoded.resize(decoded.len() + *values as usize, 0),
            Some(image) => decoded.extend(png::decode(image, height, width).ok_or_else(|| {
                Error::failed(format!(
                    "feature `{name}` at frame {row} is not the PNG of {height} × {width} \
                         pixels that {INFO} promises"
                ))
                .hint(format!(
                    "if another program wrote the images, remove `{PIXELS}` from the feature \
                         in {INFO}: then they are read as encoded images"
                ))
            })?),
        }
    }
    Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(
        Arc::clone(child),
        *values,
        Arc::new(UInt8Array::from(decoded)),
        images.nulls().cloned(),
    )?))
}

/// Returns the times of the rows of an episode in seconds, as the column `timestamp` or the rate of
/// the dataset gives them.
pub(crate) fn timestamps(info: &Info, table: &RecordBatch) -> Result<Float64Array> {
    let Some(times) = table.column_by_name("timestamp") else {
        return Ok(numbered(info, table));
    };
    let times = scalar_column("timestamp", times, &DataType::Float64)?;
    let times = times.as_primitive::<Float64Type>();
    if times.null_count() > 0 {
        return Err(Error::failed("`timestamp` contains nulls")
            .hint("every frame of a video needs a time: fetch the file again"));
    }
    Ok(times.clone())
}

/// Returns the times of the rows of an episode in seconds, by their numbers.
pub(crate) fn numbered(info: &Info, table: &RecordBatch) -> Float64Array {
    Float64Array::from_iter_values((0..table.num_rows()).map(|row| row as f64 / info.fps))
}

/// Returns references to frames; null in all `rows` rows if there are none.
pub(crate) fn references(frames: Option<(String, Float64Array)>, rows: usize) -> Result<ArrayRef> {
    let Some((path, times)) = frames else {
        return Ok(new_null_array(&DataType::Struct(reference()), rows));
    };
    let paths = StringArray::from_iter_values(std::iter::repeat_n(path, times.len()));
    Ok(Arc::new(StructArray::try_new(
        reference(),
        vec![Arc::new(paths), Arc::new(times)],
        None,
    )?))
}
