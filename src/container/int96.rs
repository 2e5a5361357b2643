//! The old timestamps of Parquet, INT96, which Spark and Impala write. They hold more than a
//! timestamp of 64 bits: every nanosecond of every date. Columns are read in microseconds if a date
//! needs that, and in nanoseconds otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, TimeUnit};
use parquet::basic::Type;
use parquet::schema::types::SchemaDescriptor;

/// The columns of a table that hold such timestamps, and the unit in which each is read.
pub(crate) type Units = BTreeMap<String, TimeUnit>;

/// Returns `schema`, that of a file whose types are `file`, with the timestamps in the columns of
/// `units` in these units. Columns of the file that hold such timestamps and are not in `units` are
/// left as they are.
pub(crate) fn hinted(schema: &Schema, file: &SchemaDescriptor, units: &Units) -> Schema {
    let mut leaf = 0;
    let fields = schema.fields().iter().map(|field| {
        let unit = units.get(field.name()).copied();
        with_unit(field, file, unit, &mut leaf)
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

/// Returns `field` with its timestamps in `unit`. `leaf` is the number of the file's columns before
/// it.
fn with_unit(
    field: &FieldRef,
    file: &SchemaDescriptor,
    unit: Option<TimeUnit>,
    leaf: &mut usize,
) -> FieldRef {
    let mut within = |child: &FieldRef| with_unit(child, file, unit, leaf);
    let data_type = match field.data_type() {
        DataType::List(child) => DataType::List(within(child)),
        DataType::LargeList(child) => DataType::LargeList(within(child)),
        DataType::FixedSizeList(child, width) => DataType::FixedSizeList(within(child), *width),
        DataType::Map(entries, sorted) => DataType::Map(within(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(within).collect()),
        own => {
            let is_old =
                *leaf < file.num_columns() && file.column(*leaf).physical_type() == Type::INT96;
            *leaf += 1;
            match (own, unit) {
                (DataType::Timestamp(_, zone), Some(unit)) if is_old => {
                    DataType::Timestamp(unit, zone.clone())
                }
                _ => own.clone(),
            }
        }
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// Returns the names of the columns of a file that hold such timestamps.
pub(crate) fn columns(file: &SchemaDescriptor) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (leaf, column) in file.columns().iter().enumerate() {
        let name = file.get_column_root(leaf).name();
        if column.physical_type() == Type::INT96 && names.last().is_none_or(|last| last != name) {
            names.push(name.to_owned());
        }
    }
    names
}
