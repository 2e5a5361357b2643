//! Names and types of columns: the columns with a fixed meaning, how types are written for users,
//! and how vectors are stored in memory and in files.
//!
//! In memory a vector column is a `FixedSizeList<T, n>`. In a file a nullable vector is a plain
//! list, because pyarrow before version 26 cannot read fixed-size lists with nulls; the manifest
//! records its width.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, ListArray, MutableArrayData, RecordBatch, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::manifest::Column;
use crate::error::{Error, Result, wording};

/// The metadata key of a column of frames that is decoded when its values are needed. It is never
/// written.
pub(crate) const LAZY: &str = "lazy";

/// Columns of `steps` with a fixed meaning.
pub mod step {
    /// Id of the trajectory that the row belongs to, int64.
    pub const TRAJECTORY_ID: &str = "trajectory_id";
    /// Position in the trajectory from 0, int32.
    pub const STEP: &str = "step";
    /// o_t: vector, struct, image or encoded image.
    pub const OBSERVATION: &str = "observation";
    /// a_t, taken in o_t: vector or integer; null if it was not recorded.
    pub const ACTION: &str = "action";
    /// r_t, received for a_t; null if it was not recorded.
    pub const REWARD: &str = "reward";
    /// Whether the environment terminated after a_t, boolean.
    pub const TERMINATED: &str = "terminated";
    /// Whether the trajectory was cut off after a_t, boolean.
    pub const TRUNCATED: &str = "truncated";
    /// Whether the row holds nothing but the observation after the last action, boolean.
    pub const IS_FINAL: &str = "is_final";
    /// Where the action comes from, one of [`action_source`](super::action_source); null if there
    /// is no action.
    pub const ACTION_SOURCE: &str = "action_source";
    /// Standard deviation of a proxy action, one per dimension.
    pub const ACTION_STD: &str = "action_std";
    /// What the step is part of, in words, such as an instruction to a robot. Not every dataset has
    /// it.
    pub const TASK: &str = "task";
    /// Id of the model that predicted a proxy action: the first 16 digits of its blake3 hash,
    /// joined with `+` for an ensemble; null for any other action.
    pub const ACTION_MODEL: &str = "action_model";
    /// The recorded action of a step whose `action` is a label; null if none was recorded.
    pub const ACTION_RECORDED: &str = "action_recorded";

    /// Every column of `steps` with a fixed meaning.
    pub const CANONICAL: [&str; 10] = [
        TRAJECTORY_ID,
        STEP,
        OBSERVATION,
        ACTION,
        REWARD,
        TERMINATED,
        TRUNCATED,
        IS_FINAL,
        ACTION_SOURCE,
        ACTION_STD,
    ];

    /// The columns that every dataset has.
    pub const REQUIRED: [&str; 5] = [TRAJECTORY_ID, STEP, TERMINATED, TRUNCATED, IS_FINAL];

    /// The columns that a dataset keeps, if it has them, whatever columns are chosen: those of
    /// (o_t, a_t, r_t), and what tells recorded actions from predicted ones.
    pub const KEPT: [&str; 10] = [
        TRAJECTORY_ID,
        STEP,
        OBSERVATION,
        ACTION,
        REWARD,
        TERMINATED,
        TRUNCATED,
        IS_FINAL,
        ACTION_SOURCE,
        ACTION_MODEL,
    ];

    /// The columns with a fixed meaning that are null in a row that holds nothing but the final
    /// observation.
    pub const NULL_IN_FINAL_ROWS: [&str; 5] =
        [ACTION, REWARD, ACTION_SOURCE, ACTION_STD, ACTION_MODEL];
}

/// The values of [`step::ACTION_SOURCE`].
pub(crate) mod action_source {
    /// The action came with the data.
    pub(crate) const RECORDED: &str = "recorded";
    /// A model predicted the action.
    pub(crate) const PROXY: &str = "proxy";
    /// An expression computed the action from recorded data.
    pub(crate) const DERIVED: &str = "derived";
    /// A correction of single actions set the action.
    pub(crate) const PATCHED: &str = "patched";

    /// Every value, the usual one first.
    pub(crate) const ALL: [&str; 4] = [RECORDED, PROXY, DERIVED, PATCHED];
    /// The values that a format without text has a flag `action_is_VALUE` for.
    pub(crate) const FLAGGED: [&str; 3] = [PROXY, DERIVED, PATCHED];
}

/// Columns of `trajectories` with a fixed meaning.
pub mod trajectory {
    /// Id of the trajectory, unique in the dataset, int64.
    pub const TRAJECTORY_ID: &str = "trajectory_id";
    /// Identity that survives filters and merges: the hash of the source and its key, hexadecimal.
    pub const UID: &str = "uid";
    /// The trajectory's id in the source, as text.
    pub const SOURCE_KEY: &str = "source_key";
    /// Name of the source.
    pub const SOURCE: &str = "source";
    /// Number of steps, the final observation excluded, int64.
    pub const LENGTH: &str = "length";
    /// Undiscounted sum of recorded rewards, float64; null if no reward was recorded.
    pub const RETURN: &str = "return";
    /// Whether the environment terminated, boolean.
    pub const TERMINATED: &str = "terminated";
    /// Whether the trajectory was cut off, boolean.
    pub const TRUNCATED: &str = "truncated";
    /// Whether every action was recorded, boolean.
    pub const LABELLED: &str = "labelled";
    /// Whether every step has an action, wherever it comes from, boolean. Datasets of older
    /// versions do not have the column.
    pub const HAS_ACTIONS: &str = "has_actions";
    /// Number of recorded actions, int64.
    pub const RECORDED_ACTIONS: &str = "recorded_actions";
    /// Index of the shard, int32.
    pub const SHARD: &str = "shard";
    /// Index of the first row in the shard's file of steps, int64.
    pub const FIRST_ROW: &str = "first_row";
    /// Number of rows in the shard's file of steps, the final observation included, int64.
    pub const ROWS: &str = "rows";
    /// blake3 of the trajectory's columns, 128 bits in hexadecimal.
    pub const CONTENT_HASH: &str = "content_hash";
    /// Per-dimension sum of observations, the final one included, list of float64.
    pub const OBSERVATION_SUM: &str = "observation_sum";
    /// Per-dimension sum of squares of observations.
    pub const OBSERVATION_SUM_SQ: &str = "observation_sum_sq";
    /// Per-dimension sum of actions that are not null.
    pub const ACTION_SUM: &str = "action_sum";
    /// Per-dimension sum of squares of actions that are not null.
    pub const ACTION_SUM_SQ: &str = "action_sum_sq";

    /// Text of the first step that has a task, if steps have one. Otherwise it is carried along.
    pub const TASK: &str = "task";

    /// Columns that are computed from the steps whenever a dataset is written. All other columns
    /// are carried along.
    pub const COMPUTED: [&str; 15] = [
        LENGTH,
        RETURN,
        TERMINATED,
        TRUNCATED,
        LABELLED,
        HAS_ACTIONS,
        RECORDED_ACTIONS,
        SHARD,
        FIRST_ROW,
        ROWS,
        CONTENT_HASH,
        OBSERVATION_SUM,
        OBSERVATION_SUM_SQ,
        ACTION_SUM,
        ACTION_SUM_SQ,
    ];
}

/// Returns the width of a vector type; `None` for any other type.
pub(crate) fn width(data_type: &DataType) -> Option<i32> {
    match data_type {
        DataType::FixedSizeList(_, width) => Some(*width),
        _ => None,
    }
}

/// Returns the type of vectors with `width` elements that are never null.
pub fn vector(element: DataType, width: i32) -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new("element", element, false)), width)
}

/// Returns `data_type` as users write it: `float32`, `float32[11]`, `uint8[64, 64, 3]`,
/// `list[float32]`, `text`, `bytes`, `bool`, `struct[position: float32[3], time: float64]`.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "bytes".to_owned(),
        DataType::FixedSizeList(child, width) => {
            let (mut element, mut shape) = (child.data_type(), width.to_string());
            while let DataType::FixedSizeList(child, width) = element {
                element = child.data_type();
                shape = format!("{shape}, {width}");
            }
            format!("{}[{shape}]", type_name(element))
        }
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child) => format!("list[{}]", type_name(child.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{}: {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("struct[{}]", fields.join(", "))
        }
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("time[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp[{}, {zone}]", unit_name(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", unit_name(*unit)),
        DataType::Interval(_) => "interval".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// Returns a unit of time as pyarrow and numpy write it.
fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// Returns the approximate number of bytes that one row takes in memory.
pub(crate) fn row_bytes(schema: &Schema) -> usize {
    fn of(data_type: &DataType) -> usize {
        match data_type {
            DataType::FixedSizeList(child, width) => {
                of(child.data_type()) * usize::try_from(*width).unwrap_or(0)
            }
            DataType::Struct(fields) => fields.iter().map(|field| of(field.data_type())).sum(),
            // The type does not tell the size of encoded images. Assume 32 KiB, so that a block of
            // them fits into memory.
            DataType::Binary | DataType::LargeBinary => 32 << 10,
            other => other.primitive_width().unwrap_or(24),
        }
    }
    schema
        .fields()
        .iter()
        .map(|field| of(field.data_type()))
        .sum::<usize>()
        .max(1)
}

/// Returns the number of rows that a row group, and so a block, aims at. It depends only on the
/// schema.
pub(crate) fn block_rows(schema: &Schema) -> usize {
    ((32 << 20) / row_bytes(schema)).clamp(256, 65_536)
}

/// Returns the number of rows of the schema `schema`, some of them decoded frames, that are in
/// memory at once.
pub(crate) fn frame_rows(schema: &Schema) -> usize {
    ((16 << 20) / row_bytes(schema)).clamp(1, 128)
}

/// Returns the description of `schema` that the manifest holds.
pub fn describe(schema: &Schema) -> Vec<Column> {
    let describe = |field: &Arc<Field>| Column {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
        width: width(field.data_type()),
        nullable: field.is_nullable(),
    };
    schema.fields().iter().map(describe).collect()
}

/// Returns the schema in memory of a file of steps with the schema `file`; `columns` are the
/// manifest's.
///
/// # Errors
/// Returns an error if the file and the manifest name different columns.
pub(crate) fn logical(file: &Schema, columns: &[Column]) -> Result<SchemaRef> {
    let names = |schema: &Schema| {
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect::<Vec<_>>()
    };
    if names(file)
        != columns
            .iter()
            .map(|column| column.name.clone())
            .collect::<Vec<_>>()
    {
        return Err(
            Error::failed("the manifest and the shard files name different columns")
                .hint("the dataset is damaged: import or materialise it again"),
        );
    }
    let fields = file.fields().iter().zip(columns).map(|(field, column)| {
        match (field.data_type(), column.width) {
            (DataType::List(child), Some(width)) => {
                let child = Arc::new(child.as_ref().clone().with_nullable(false));
                Arc::new(
                    field
                        .as_ref()
                        .clone()
                        .with_data_type(DataType::FixedSizeList(child, width)),
                )
            }
            _ => Arc::clone(field),
        }
    });
    Ok(Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        file.metadata().clone(),
    )))
}

/// Returns the schema in the file of steps that have `schema` in memory.
pub(crate) fn physical(schema: &Schema) -> SchemaRef {
    let stored = |field: &Arc<Field>| {
        let mut metadata = field.metadata().clone();
        match metadata.remove(LAZY) {
            Some(_) => Arc::new(field.as_ref().clone().with_metadata(metadata)),
            None => Arc::clone(field),
        }
    };
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::FixedSizeList(child, _) if field.is_nullable() => Arc::new(
            stored(field)
                .as_ref()
                .clone()
                .with_data_type(DataType::List(Arc::clone(child))),
        ),
        _ => stored(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Converts the columns of `batch` to the types of `schema`: lists to vectors and vectors to lists,
/// nothing else.
///
/// # Errors
/// Returns an error if the length of a list is not the width of the vector.
pub(crate) fn convert(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(
            |(column, field)| match (column.data_type(), field.data_type()) {
                (DataType::List(_), DataType::FixedSizeList(child, width)) => {
                    to_fixed(column, child, *width)
                        .map_err(|error| error.at(format!("column `{}`", field.name())))
                }
                (DataType::FixedSizeList(_, _), DataType::List(child)) => to_list(column, child),
                _ => Ok(Arc::clone(column)),
            },
        );
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        columns.collect::<Result<Vec<_>>>()?,
    )?)
}

/// Converts a list array whose values all have `width` elements to a vector array.
fn to_fixed(column: &ArrayRef, child: &Arc<Field>, width: i32) -> Result<ArrayRef> {
    let list = arrow::array::AsArray::as_list::<i32>(column.as_ref());
    let offsets = list.value_offsets();
    let wrong = offsets
        .windows(2)
        .enumerate()
        .find(|(row, ends)| list.is_valid(*row) && ends[1] - ends[0] != width);
    if let Some((row, ends)) = wrong {
        return Err(Error::failed(format!(
            "row {row} has {} where the vector has {width}",
            wording::count(ends[1] - ends[0], "value")
        )));
    }
    let values = match list.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => {
            let (first, last) = (offsets[0] as usize, offsets[list.len()] as usize);
            list.values().slice(first, last - first)
        }
        Some(nulls) => {
            let source = list.values().to_data();
            let mut values =
                MutableArrayData::new(vec![&source], true, list.len() * width as usize);
            let mut at = 0;
            for (start, end) in nulls.valid_slices() {
                values.try_extend_nulls((start - at) * width as usize)?;
                values.try_extend(0, offsets[start] as usize, offsets[end] as usize)?;
                at = end;
            }
            values.try_extend_nulls((list.len() - at) * width as usize)?;
            // The elements of a null vector are zeros, not nulls.
            make_array(values.freeze().into_builder().nulls(None).build()?)
        }
    };
    Ok(Arc::new(FixedSizeListArray::try_new(
        Arc::clone(child),
        width,
        values,
        list.nulls().cloned(),
    )?))
}

/// Returns the lengths of the axes of the vectors in `field`, whose number of elements is `width`:
/// those in the metadata of the field, if they fit, or the one axis of `width` elements.
pub(crate) fn axes(field: &Field, width: i32) -> Vec<usize> {
    let width = usize::try_from(width).unwrap_or(0);
    let shape = field.metadata().get("shape").and_then(|shape| {
        let axes = shape.split(',').map(|axis| axis.parse().ok());
        axes.collect::<Option<Vec<usize>>>()
    });
    shape
        .filter(|axes| axes.iter().product::<usize>() == width)
        .unwrap_or_else(|| vec![width])
}

/// Returns the column of vectors `field` with the names of its dimensions.
pub(crate) fn with_names(field: Field, names: &[String]) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(
        "names".to_owned(),
        serde_json::Value::from(names).to_string(),
    );
    field.with_metadata(metadata)
}

/// Returns the names of the dimensions of the vectors in `field`; `None` if they have no names.
pub(crate) fn names(field: &Field) -> Option<Vec<String>> {
    serde_json::from_str(field.metadata().get("names")?).ok()
}

/// Converts a vector array to a list array. Null vectors become lists without elements.
fn to_list(column: &ArrayRef, child: &Arc<Field>) -> Result<ArrayRef> {
    let fixed = arrow::array::AsArray::as_fixed_size_list(column.as_ref());
    let width = fixed.value_length() as usize;
    let lengths = (0..fixed.len()).map(|row| if fixed.is_valid(row) { width } else { 0 });
    let offsets = OffsetBuffer::from_lengths(lengths);
    let start = fixed.value_offset(0) as usize;
    let values = fixed.values().slice(start, fixed.len() * width);
    let values = match fixed.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => values,
        Some(nulls) => {
            let source = values.to_data();
            let mut kept = MutableArrayData::new(
                vec![&source],
                false,
                (fixed.len() - nulls.null_count()) * width,
            );
            for (start, end) in nulls.valid_slices() {
                kept.try_extend(0, start * width, end * width)?;
            }
            make_array(kept.freeze())
        }
    };
    Ok(Arc::new(ListArray::try_new(
        Arc::clone(child),
        offsets,
        values,
        fixed.nulls().cloned(),
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_users_write_them() {
        let list = |child| DataType::List(Arc::new(Field::new("item", child, true)));
        let fields = vec![
            Field::new("position", vector(DataType::Float32, 3), false),
            Field::new("time", DataType::Float64, false),
        ];
        for (data_type, name) in [
            (DataType::Int64, "int64"),
            (DataType::UInt8, "uint8"),
            (DataType::Boolean, "bool"),
            (DataType::LargeUtf8, "text"),
            (DataType::Binary, "bytes"),
            (vector(DataType::Float32, 11), "float32[11]"),
            (vector(vector(DataType::UInt8, 3), 64), "uint8[64, 3]"),
            (list(DataType::Float32), "list[float32]"),
            (
                DataType::Struct(fields.into()),
                "struct[position: float32[3], time: float64]",
            ),
        ] {
            assert_eq!(type_name(&data_type), name);
        }
    }
}
