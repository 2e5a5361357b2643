//! Restores struct columns, which formats of plain columns hold as a column for each part.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::dataset::schema::step;
use crate::dataset::videos;
use crate::error::{Error, Result};

/// A struct column of an exported dataset.
pub(super) struct Exported {
    field: Field,
    /// For each part that is no struct itself, the position of its column in the file; `None` if
    /// the export left it out.
    pub(super) places: Vec<Option<usize>>,
}

impl Exported {
    /// Returns the struct column `name`, if the dataset had it with the type `data_type`, as its
    /// manifest writes it, and if `found`, the columns of the file, hold it in parts.
    pub(super) fn new(name: &str, data_type: &str, found: &Schema) -> Option<Exported> {
        let data_type: DataType = data_type.parse().ok()?;
        let field = Field::new(name, data_type, true);
        let is_whole = place(name, found).is_some();
        if is_whole || name == step::OBSERVATION || videos::refers(&field) {
            return None;
        }
        let DataType::Struct(fields) = field.data_type() else {
            return None;
        };
        let mut places = Vec::new();
        part_places(name, fields, found, &mut places);
        Some(Exported { field, places })
    }

    /// Returns the parts, if there are any and `found` has all of them.
    pub(super) fn parts(&self, found: &Schema) -> Option<Parts> {
        let places: Vec<usize> = self.places.iter().copied().collect::<Option<_>>()?;
        places.first()?;
        let field = with_types(&self.field, &mut places.iter(), found)?;
        Some(Parts { field, places })
    }
}

/// Returns the position of the column or part `name`, whose groups are before slashes. Names of
/// LeRobot's features contain no slashes; D4RL and Minari have further columns under `infos`.
pub(super) fn place(name: &str, found: &Schema) -> Option<usize> {
    let names = [
        name.to_owned(),
        format!("infos/{name}"),
        format!("source_{name}"),
        name.replace('/', "."),
    ];
    names.iter().find_map(|name| found.index_of(name).ok())
}

/// Adds the positions of the parts of the struct `name` to `places`.
fn part_places(name: &str, fields: &Fields, found: &Schema, places: &mut Vec<Option<usize>>) {
    for field in fields {
        let name = format!("{name}/{}", field.name());
        match field.data_type() {
            DataType::Struct(fields) => part_places(&name, fields, found, places),
            _ => places.push(place(&name, found)),
        }
    }
}

/// Returns `field` with the types that its parts have in `found`, at the next of `places`.
fn with_types<'a>(
    field: &Field,
    places: &mut impl Iterator<Item = &'a usize>,
    found: &Schema,
) -> Option<Field> {
    let DataType::Struct(fields) = field.data_type() else {
        let stored = found.field(*places.next()?).clone();
        return Some(stored.with_name(field.name()).with_nullable(true));
    };
    let fields: Option<Fields> = fields
        .iter()
        .map(|field| with_types(field, places, found))
        .collect::<Option<Vec<_>>>()
        .map(Fields::from);
    Some(Field::new(field.name(), DataType::Struct(fields?), true))
}

/// A struct column that is made from the columns of its parts.
pub(super) struct Parts {
    pub(super) field: Field,
    /// The positions of the parts that are no structs themselves.
    pub(super) places: Vec<usize>,
}

impl Parts {
    /// Returns the column of `steps`. It is null where `missing` says so, and where all parts are
    /// null, such as beside a final observation.
    ///
    /// # Errors
    /// Returns an error if the columns of `steps` are not those of the schema.
    pub(super) fn column(
        &self,
        steps: &RecordBatch,
        missing: Option<&BooleanArray>,
    ) -> Result<ArrayRef> {
        assembled(&self.field, &mut self.places.iter(), steps, missing)
    }
}

fn assembled<'a>(
    field: &Field,
    places: &mut impl Iterator<Item = &'a usize>,
    steps: &RecordBatch,
    missing: Option<&BooleanArray>,
) -> Result<ArrayRef> {
    let DataType::Struct(fields) = field.data_type() else {
        let place = places.next();
        let place = place.ok_or_else(|| Error::failed("a part of a struct has no column"))?;
        let values = steps.column(*place);
        return Ok(match missing {
            Some(missing) => nullif(values, missing)?,
            None => Arc::clone(values),
        });
    };
    let parts = fields.iter();
    let parts = parts.map(|field| assembled(field, places, steps, missing));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let valid = (0..steps.num_rows()).map(|row| parts.iter().any(|part| part.is_valid(row)));
    let valid = NullBuffer::from_iter(valid);
    let valid = (valid.null_count() > 0).then_some(valid);
    Ok(Arc::new(StructArray::try_new(
        fields.clone(),
        parts,
        valid,
    )?))
}
