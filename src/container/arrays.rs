//! The contract of containers of arrays: the layout of an array, reading and writing its rows, and
//! the Arrow columns that its rows become.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BooleanArray, FixedSizeListArray, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};

use crate::dataset::schema;
use crate::error::{Error, Result};

/// The layout of an array.
pub(crate) struct ArrayLayout {
    /// The array's name in its file.
    pub(crate) name: String,
    /// The type of an element; `Null` if no column can hold it. Booleans are bytes.
    pub(crate) element: DataType,
    /// The file's own name of the type.
    pub(crate) kind: String,
    /// Whether the byte order of the elements is not this machine's.
    pub(crate) swap: bool,
    /// The number of rows: the length of the first axis.
    pub(crate) rows: u64,
    /// The lengths of the other axes.
    pub(crate) row: Vec<usize>,
    /// The names of the values of a row; none if they have no names.
    pub(crate) names: Vec<String>,
}

impl ArrayLayout {
    fn element_bytes(&self) -> usize {
        self.element.primitive_width().unwrap_or(1)
    }

    pub(crate) fn width(&self) -> usize {
        self.row.iter().product()
    }

    /// Returns the bytes of one row. The reader has verified that the product does not overflow.
    pub(crate) fn row_bytes(&self) -> usize {
        self.width() * self.element_bytes()
    }

    pub(crate) fn shape(&self) -> String {
        let axes = std::iter::once(self.rows).chain(self.row.iter().map(|axis| *axis as u64));
        format!(
            "({})",
            axes.map(|axis| axis.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        )
    }
}

/// Reads the rows of an array from first to last.
pub(crate) trait ArrayReader {
    /// Returns the bytes of the next `rows` rows.
    ///
    /// # Errors
    /// Returns an error if the file is damaged or ends early. The message names file and array.
    fn read(&mut self, rows: u64) -> Result<Vec<u8>>;
}

/// An array of a file.
pub(crate) struct StoredArray {
    pub(crate) layout: ArrayLayout,
    pub(crate) reader: Box<dyn ArrayReader>,
}

/// Writes arrays, one after the other.
pub(crate) trait ArraySink {
    /// Begins the array `name` of `rows` rows of the shape `row`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    fn begin(&mut self, name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<()>;

    /// Appends little-endian elements; booleans are bytes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the array.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    fn end(&mut self) -> Result<()>;
}

/// Arrays by name, with their groups before slashes: a column each.
pub(crate) type ArrayColumns = BTreeMap<String, (Field, ArrayRef)>;

/// Decodes the bytes of elements.
pub(crate) fn decode(layout: &ArrayLayout, mut bytes: Vec<u8>) -> Result<ArrayRef> {
    if layout.element == DataType::Boolean {
        return Ok(Arc::new(BooleanArray::from_iter(
            bytes.iter().map(|byte| Some(*byte != 0)),
        )));
    }
    let size = layout.element_bytes();
    if layout.swap {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    let builder = ArrayData::builder(layout.element.clone())
        .len(bytes.len() / size)
        .add_buffer(Buffer::from_vec(bytes))
        .align_buffers(true);
    Ok(make_array(builder.build()?))
}

/// Returns the field of the column that an array becomes: vectors if `vector`, else single values.
pub(crate) fn field(
    name: &str,
    layout: &ArrayLayout,
    vector: bool,
    nullable: bool,
) -> Result<Field> {
    if !vector {
        return Ok(Field::new(name, layout.element.clone(), nullable));
    }
    let width = i32::try_from(layout.width())
        .ok()
        .filter(|width| *width > 0);
    let width = width.ok_or_else(|| {
        Error::failed(format!(
            "`{}` has the shape {}: its rows have no values",
            layout.name,
            layout.shape()
        ))
        .hint("remove the array from the source, or map another one with `--map`")
    })?;
    let field = Field::new(
        name,
        schema::vector(layout.element.clone(), width),
        nullable,
    );
    if !layout.names.is_empty() {
        return Ok(schema::with_names(field, &layout.names));
    }
    if layout.row.len() < 2 {
        return Ok(field);
    }
    let shape = layout
        .row
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(",");
    Ok(field.with_metadata([("shape".to_owned(), shape)].into()))
}

/// Returns a whole array as a column: vectors if its rows have axes.
///
/// # Errors
/// Returns an error if its rows have no values.
pub(crate) fn whole_column(
    name: &str,
    layout: &ArrayLayout,
    bytes: Vec<u8>,
) -> Result<(Field, ArrayRef)> {
    let field = field(name, layout, !layout.row.is_empty(), true)?;
    let values = decode(layout, bytes)?;
    let column: ArrayRef = match field.data_type() {
        DataType::FixedSizeList(child, width) => Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            values,
            None,
        )?),
        _ => values,
    };
    Ok((field, column))
}
