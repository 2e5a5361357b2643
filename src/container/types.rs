//! The types of a table's columns: which one holds the values of two others, and which one of its
//! kind is the plainest. Values are converted exactly or not at all; only decimals become the
//! nearest float64.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, GenericListArray, ListArray,
    StructArray, new_null_array,
};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Fields, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::dataset::schema::type_name;
use crate::error::{Error, Result};

/// Returns the type that holds the values of both; `None` if there is none.
///
/// Where only the values decide, as for int64 and float64, [`convert`] refuses those that do not
/// fit.
pub(crate) fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{
        Date32, Date64, Decimal128, Decimal256, Dictionary, Duration, FixedSizeList, Map, Null,
        RunEndEncoded, Struct, Time32, Time64, Timestamp,
    };
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (Null, other) | (other, Null) => return Some(other.clone()),
        (Dictionary(_, value), other) | (other, Dictionary(_, value)) => {
            return common(value, other);
        }
        (RunEndEncoded(_, value), other) | (other, RunEndEncoded(_, value)) => {
            return common(value.data_type(), other);
        }
        (FixedSizeList(one, width), FixedSizeList(two, other)) if width == other => {
            return Some(FixedSizeList(common_field(one, two)?, *width));
        }
        (Struct(one), Struct(two)) => return Some(Struct(common_fields(one, two)?)),
        (Map(one, sorted), Map(two, _)) => return Some(Map(common_field(one, two)?, *sorted)),
        _ => {}
    }
    if let (Some(one), Some(two)) = (child(a), child(b)) {
        return Some(DataType::List(common_field(one, two)?));
    }
    if is_text(a) && is_text(b) {
        return Some(DataType::Utf8);
    }
    if is_binary(a) && is_binary(b) {
        return Some(DataType::Binary);
    }
    match (a, b) {
        (Date32, Date64) | (Date64, Date32) => Some(Date64),
        (Time32(one) | Time64(one), Time32(two) | Time64(two)) => match finer(*one, *two) {
            unit @ (TimeUnit::Second | TimeUnit::Millisecond) => Some(Time32(unit)),
            unit => Some(Time64(unit)),
        },
        (Duration(one), Duration(two)) => Some(Duration(finer(*one, *two))),
        (Timestamp(one, zone), Timestamp(two, other)) => {
            let universal = |zone: &Option<Arc<str>>| {
                let names = ["UTC", "+00:00", "Etc/UTC", "Z"];
                zone.as_ref()
                    .is_some_and(|zone| names.contains(&zone.as_ref()))
            };
            (zone == other || universal(zone) && universal(other))
                .then(|| Timestamp(finer(*one, *two), zone.clone()))
        }
        _ if is_decimal(a) && is_decimal(b) => {
            let parts = |data_type: &DataType| match *data_type {
                DataType::Decimal32(digits, scale)
                | DataType::Decimal64(digits, scale)
                | Decimal128(digits, scale)
                | Decimal256(digits, scale) => (i16::from(digits), scale),
                _ => (0, 0),
            };
            let ((digits, scale), (others, other)) = (parts(a), parts(b));
            let common = scale.max(other);
            let whole = (digits - i16::from(scale)).max(others - i16::from(other));
            match u8::try_from(whole + i16::from(common)) {
                Ok(digits @ ..=38) => Some(Decimal128(digits, common)),
                Ok(digits @ ..=76) => Some(Decimal256(digits, common)),
                _ => None,
            }
        }
        _ => number(a, b),
    }
}

/// Returns the type of numbers that holds both.
fn number(a: &DataType, b: &DataType) -> Option<DataType> {
    if !a.is_numeric() || !b.is_numeric() {
        return None;
    }
    if is_decimal(a) || is_decimal(b) {
        return Some(DataType::Float64);
    }
    let bits = |data_type: &DataType| data_type.primitive_width().map_or(64, |bytes| bytes * 8);
    let wider = |a: &DataType, b: &DataType| {
        if bits(a) >= bits(b) {
            a.clone()
        } else {
            b.clone()
        }
    };
    let signed = |bits: usize| match bits {
        0..=8 => DataType::Int8,
        9..=16 => DataType::Int16,
        17..=32 => DataType::Int32,
        _ => DataType::Int64,
    };
    Some(match (a.is_floating(), b.is_floating()) {
        (true, true) => wider(a, b),
        (true, false) | (false, true) => {
            let (float, whole) = if a.is_floating() { (a, b) } else { (b, a) };
            // A float holds whole numbers of half its bits.
            match bits(float).max(bits(whole) * 2) {
                0..=16 => DataType::Float16,
                17..=32 => DataType::Float32,
                _ => DataType::Float64,
            }
        }
        (false, false) if a.is_signed_integer() == b.is_signed_integer() => wider(a, b),
        (false, false) => {
            let (one, unsigned) = if a.is_signed_integer() {
                (a, b)
            } else {
                (b, a)
            };
            signed(bits(one).max(bits(unsigned) * 2))
        }
    })
}

/// Returns the field with the type that holds both.
fn common_field(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let data_type = common(a.data_type(), b.data_type())?;
    let nullable = a.is_nullable() || b.is_nullable();
    let field = a.as_ref().clone().with_data_type(data_type);
    Some(Arc::new(field.with_nullable(nullable)))
}

/// Returns the fields of both structs. A field that one of them lacks may be null.
fn common_fields(a: &Fields, b: &Fields) -> Option<Fields> {
    let named = |fields: &Fields, name: &str| {
        let field = fields.iter().find(|field| field.name() == name);
        field.map(Arc::clone)
    };
    let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
    let mut fields = Vec::with_capacity(a.len());
    for field in a {
        fields.push(match named(b, field.name()) {
            Some(other) => common_field(field, &other)?,
            None => nullable(field),
        });
    }
    let more = b.iter().filter(|field| named(a, field.name()).is_none());
    fields.extend(more.map(nullable));
    Some(fields.into())
}

/// Returns the type that has the values of `data_type`, and is the only one of its kind: one type
/// for text, one for bytes, and one for lists of varying length; dictionaries and runs as their
/// values, maps as lists of pairs, and times in units that Parquet has.
pub(crate) fn plain(data_type: &DataType) -> DataType {
    use DataType::{Date32, Date64, FixedSizeList, List, Time32, Timestamp};
    let field = |field: &FieldRef, data_type: DataType| -> FieldRef {
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    // Readers of Parquet know lists of lists, and not all know fixed lengths within them.
    let list = |child: &FieldRef| match plain(child.data_type()) {
        FixedSizeList(inner, _) => List(field(child, List(inner))),
        other => List(field(child, other)),
    };
    match data_type {
        DataType::Dictionary(_, value) => plain(value),
        DataType::RunEndEncoded(_, value) => plain(value.data_type()),
        text if is_text(text) => DataType::Utf8,
        bytes if is_binary(bytes) => DataType::Binary,
        Date64 => Date32,
        Time32(TimeUnit::Second) => Time32(TimeUnit::Millisecond),
        Timestamp(TimeUnit::Second, zone) => Timestamp(TimeUnit::Millisecond, zone.clone()),
        FixedSizeList(child, width) => {
            FixedSizeList(field(child, plain(child.data_type())), *width)
        }
        DataType::Map(entries, _) => list(entries),
        DataType::Struct(fields) => {
            let plain = |child: &FieldRef| field(child, plain(child.data_type()));
            DataType::Struct(fields.iter().map(plain).collect())
        }
        other => child(other).map_or_else(|| other.clone(), list),
    }
}

/// Converts `column` to the type `to`, which holds its values according to [`common`] or [`plain`];
/// `place` names a row in messages.
///
/// # Errors
/// Returns an error if a value would change.
pub(crate) fn convert(
    column: &ArrayRef,
    to: &DataType,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    if let Some(converted) = exact(column, to)? {
        return Ok(converted);
    }
    let fails = |row: &usize| matches!(exact(&column.slice(*row, 1), to), Ok(None));
    let row = (0..column.len()).find(fails).unwrap_or(0);
    let options = FormatOptions::new();
    let value = ArrayFormatter::try_new(column, &options)?
        .value(row)
        .to_string();
    Err(Error::failed(format!(
        "{value} at {} would change as {}",
        place(row),
        type_name(to)
    ))
    .hint("convert the column in the source to a type that holds all of its values"))
}

/// Converts `column` to the type `to`. Returns `None` if a value would change.
fn exact(column: &ArrayRef, to: &DataType) -> Result<Option<ArrayRef>> {
    let from = column.data_type();
    if from == to {
        return Ok(Some(Arc::clone(column)));
    }
    match (from, to) {
        (DataType::Null, _) => return Ok(Some(new_null_array(to, column.len()))),
        (DataType::Dictionary(_, value), _) => return exact(&cast(column, value)?, to),
        (DataType::RunEndEncoded(_, value), _) => {
            return exact(&cast(column, value.data_type())?, to);
        }
        (DataType::Struct(_), DataType::Struct(fields)) => return structs(column, fields),
        (_, DataType::List(field)) => return list(column, field),
        (DataType::FixedSizeList(..), DataType::FixedSizeList(field, width)) => {
            let vectors = column.as_fixed_size_list();
            let first = vectors.value_offset(0) as usize;
            let values = vectors.values();
            let values = values.slice(first, vectors.len() * usize::try_from(*width).unwrap_or(0));
            return Ok(match exact(&values, field.data_type())? {
                Some(values) => Some(Arc::new(FixedSizeListArray::try_new(
                    Arc::clone(field),
                    *width,
                    values,
                    vectors.nulls().cloned(),
                )?)),
                None => None,
            });
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = column.as_map();
            let Some(pairs) = exact(
                &(Arc::new(map.entries().clone()) as ArrayRef),
                entries.data_type(),
            )?
            else {
                return Ok(None);
            };
            return Ok(Some(Arc::new(arrow::array::MapArray::try_new(
                Arc::clone(entries),
                map.offsets().clone(),
                pairs.as_struct().clone(),
                map.nulls().cloned(),
                *sorted,
            )?)));
        }
        (decimal, DataType::Float64) if is_decimal(decimal) => {
            return Ok(Some(Arc::new(decimals(column)?)));
        }
        _ => {}
    }
    let converted = cast(column, to)?;
    if converted.null_count() > column.null_count() {
        return Ok(None);
    }
    // Text, bytes and wider numbers of the same kind keep every value.
    let may_change = from.is_primitive() && !(from.is_floating() && to.is_floating());
    if may_change && distinct(&cast(&converted, from)?, column)?.true_count() > 0 {
        return Ok(None);
    }
    Ok(Some(converted))
}

fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    // What does not fit becomes null, and the caller compares.
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    Ok(cast_with_options(column, to, &options)?)
}

/// Converts a column of structs to structs with `fields`; those that it lacks are null.
fn structs(column: &ArrayRef, fields: &Fields) -> Result<Option<ArrayRef>> {
    let rows = column.as_struct();
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let own = rows.column_by_name(field.name());
        columns.push(match own {
            Some(own) => match exact(own, field.data_type())? {
                Some(own) => own,
                None => return Ok(None),
            },
            None => new_null_array(field.data_type(), rows.len()),
        });
    }
    Ok(Some(Arc::new(StructArray::try_new_with_length(
        fields.clone(),
        columns,
        rows.nulls().cloned(),
        rows.len(),
    )?)))
}

/// Converts a column of lists of any kind, or of maps, to lists of `field`.
fn list(column: &ArrayRef, field: &FieldRef) -> Result<Option<ArrayRef>> {
    let plain = match column.data_type() {
        DataType::Map(entries, _) => {
            let map = column.as_map();
            Arc::new(ListArray::try_new(
                Arc::clone(entries),
                map.offsets().clone(),
                Arc::new(map.entries().clone()),
                map.nulls().cloned(),
            )?)
        }
        DataType::List(_) => Arc::clone(column),
        other => match child(other) {
            Some(child) => cast(column, &DataType::List(Arc::clone(child)))?,
            None => return Err(Error::failed("a column is no list")),
        },
    };
    let lists: &GenericListArray<i32> = plain.as_list();
    let offsets = lists.offsets();
    // The values of other rows may be in the same buffer.
    let (first, last) = (offsets[0] as usize, offsets[lists.len()] as usize);
    let values = lists.values().slice(first, last - first);
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(
        offsets.windows(2).map(|ends| (ends[1] - ends[0]) as usize),
    );
    Ok(match exact(&values, field.data_type())? {
        Some(values) => Some(Arc::new(ListArray::try_new(
            Arc::clone(field),
            offsets,
            values,
            lists.nulls().cloned(),
        )?)),
        None => None,
    })
}

/// Converts a column of decimals to the nearest floats.
fn decimals(column: &ArrayRef) -> Result<Float64Array> {
    let options = FormatOptions::new();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let float = |row: usize| {
        if column.is_null(row) {
            return Ok(None);
        }
        let text = formatter.value(row).to_string();
        let number = text.parse::<f64>();
        number
            .map(Some)
            .map_err(|_| Error::failed(format!("the decimal `{text}` is no number")))
    };
    (0..column.len()).map(float).collect()
}

/// Returns the field of the elements of a list of any kind.
pub(crate) fn child(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _) => Some(child),
        _ => None,
    }
}

fn is_text(data_type: &DataType) -> bool {
    use DataType::{LargeUtf8, Utf8, Utf8View};
    matches!(data_type, Utf8 | LargeUtf8 | Utf8View)
}

fn is_binary(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, FixedSizeBinary, LargeBinary};
    matches!(
        data_type,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_)
    )
}

/// Returns whether `data_type` is a decimal of any size.
pub(crate) fn is_decimal(data_type: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    matches!(
        data_type,
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..)
    )
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    a.max(b)
}
