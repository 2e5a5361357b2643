//! Functions on vectors with a known width, in which expressions over vectors end up: see
//! [`vector`](super::vector). They keep the width in the type, and work on the plain numbers of
//! whole columns.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, RecordBatch, RecordBatchOptions,
    UInt64Array, make_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, filter, interleave, take};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use datafusion::common::{DataFusionError, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;

use crate::dataset::schema::{type_name, vector, width};

/// The name of all functions in this file. Messages show how a call was written instead.
pub(super) const VECTOR: &str = "vector";

fn any() -> Signature {
    Signature::variadic_any(Volatility::Immutable)
}

/// Returns the call `vector[index]`.
pub(super) fn element(arguments: Vec<Expr>) -> Expr {
    ScalarUDF::new_from_impl(Element { signature: any() }).call(arguments)
}

/// Returns the call that computes `mapped` on the arguments.
pub(super) fn map(mapped: Mapped, arguments: Vec<Expr>) -> Expr {
    let function = Map {
        signature: any(),
        mapped,
    };
    ScalarUDF::new_from_impl(function).call(arguments)
}

/// Returns the call that takes the coordinates with the given indices, which count from 0, out of a
/// vector.
pub(super) fn pick(vector: Expr, indices: Vec<usize>, element: DataType, written: String) -> Expr {
    let function = Pick {
        signature: any(),
        data_type: vector_type(element, indices.len()),
        indices,
        written,
    };
    ScalarUDF::new_from_impl(function).call(vec![vector])
}

/// Returns the call that joins vectors and numbers to a vector of `width` numbers.
pub(super) fn join(parts: Vec<Expr>, element: DataType, width: usize, written: String) -> Expr {
    let function = Join {
        signature: any(),
        data_type: vector_type(element, width),
        written,
    };
    ScalarUDF::new_from_impl(function).call(parts)
}

fn vector_type(element: DataType, width: usize) -> DataType {
    vector(element, i32::try_from(width).unwrap_or(i32::MAX))
}

/// `vector[index]`: one coordinate of a vector column. DataFusion's own function would first
/// convert all vectors to lists.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Element {
    signature: Signature,
}

impl ScalarUDFImpl for Element {
    fn name(&self) -> &str {
        VECTOR
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String, DataFusionError> {
        let names: Vec<String> = arguments
            .iter()
            .map(|argument| argument.human_display().to_string())
            .collect();
        Ok(format!("{}[{}]", names[0], names[1..].join(", ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match arguments.first() {
            Some(DataType::FixedSizeList(child, _)) => Ok(child.data_type().clone()),
            _ => internal_err!("element takes a vector"),
        }
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let [vector, index] = &arguments.args[..] else {
            return exec_err!("element takes a vector and an index");
        };
        let rows = arguments.number_rows;
        let vector = vector.to_array(rows)?;
        let index = index.cast_to(&DataType::Int64, None)?;
        let width = match vector.data_type() {
            DataType::FixedSizeList(_, width) => i64::from(*width),
            other => {
                return exec_err!(
                    "an index needs a vector, not a value of type {}",
                    type_name(other)
                );
            }
        };
        // Indices count from 1, negative ones from the end. An index out of range gives null, as in
        // SQL.
        let place = |index: i64| match index {
            index if (1..=width).contains(&index) => Some(index - 1),
            index if (-width..0).contains(&index) => Some(index + width),
            _ => None,
        };
        let values = match &index {
            ColumnarValue::Scalar(ScalarValue::Int64(index)) => {
                coordinate(&vector, width, |_| index.and_then(place))?
            }
            ColumnarValue::Array(indices) => {
                let indices = indices.as_primitive::<Int64Type>();
                coordinate(&vector, width, |row| {
                    indices
                        .is_valid(row)
                        .then(|| place(indices.value(row)))
                        .flatten()
                })?
            }
            other => return exec_err!("the index must be an integer, not {other}"),
        };
        Ok(ColumnarValue::Array(values))
    }
}

/// Returns of every vector the coordinate that `place` names.
fn coordinate(
    vector: &ArrayRef,
    width: i64,
    place: impl Fn(usize) -> Option<i64>,
) -> Result<ArrayRef, DataFusionError> {
    let list = vector.as_fixed_size_list();
    let index = |row: usize| {
        u64::try_from(row as i64 * width + place(row).filter(|_| list.is_valid(row))?).ok()
    };
    let rows: UInt64Array = (0..list.len()).map(index).collect();
    Ok(take(list.values(), &rows, None)?)
}

/// A function of single values that [`map`] applies to every coordinate.
#[derive(Debug, Clone)]
pub(super) struct Mapped {
    /// The function, over the columns of `schema`.
    pub(super) inner: Expr,
    /// The same, in the form that is evaluated.
    pub(super) physical: Arc<dyn PhysicalExpr>,
    /// One column for each argument: the type of a single value.
    pub(super) schema: SchemaRef,
    /// The type of the function's values.
    pub(super) element: DataType,
    /// The number of coordinates.
    pub(super) width: usize,
    /// How the call was written.
    pub(super) written: String,
}

/// `a - b`, `abs(a)`, …: a function of every coordinate. A number that is an argument counts for
/// all coordinates of its row. A null in any argument makes the vector null.
#[derive(Debug)]
struct Map {
    signature: Signature,
    mapped: Mapped,
}

impl PartialEq for Map {
    fn eq(&self, other: &Map) -> bool {
        self.mapped.inner == other.mapped.inner
            && self.mapped.schema == other.mapped.schema
            && self.mapped.width == other.mapped.width
    }
}

impl Eq for Map {}

impl Hash for Map {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.mapped.inner.hash(state);
        self.mapped.width.hash(state);
    }
}

impl ScalarUDFImpl for Map {
    fn name(&self) -> &str {
        VECTOR
    }

    fn schema_name(&self, _arguments: &[Expr]) -> Result<String, DataFusionError> {
        Ok(self.mapped.written.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(vector_type(self.mapped.element.clone(), self.mapped.width))
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let (arrays, nulls) = rows(&arguments)?;
        let valid = nulls
            .as_ref()
            .map(|nulls| BooleanArray::from(nulls.inner().clone()));
        let arrays = match &valid {
            None => arrays,
            Some(valid) => arrays
                .iter()
                .map(|array| filter(array, valid))
                .collect::<Result<Vec<_>, _>>()?,
        };
        let rows = arrays.first().map_or(0, |array| array.len());
        let width = self.mapped.width;
        let flat = arrays.iter().map(|array| match array.data_type() {
            DataType::FixedSizeList(..) => Ok(coordinates(array)),
            _ => {
                let each: UInt64Array = (0..rows)
                    .flat_map(|row| std::iter::repeat_n(row as u64, width))
                    .collect();
                take(array, &each, None)
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows * width));
        let schema = Arc::clone(&self.mapped.schema);
        let flat = flat.collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new_with_options(schema, flat, &options)?;
        let values = self.mapped.physical.evaluate(&batch)?;
        let values = values.into_array(batch.num_rows())?;
        // A vector is null if one of its coordinates is.
        let whole = values.nulls().map(|nulls| {
            let row = |row: usize| nulls.slice(row * width, width).null_count() == 0;
            NullBuffer::from_iter((0..rows).map(row))
        });
        let vectors = vectors(&self.mapped.element, width, values, whole)?;
        let Some(valid) = valid else {
            return Ok(ColumnarValue::Array(vectors));
        };
        let mut next = 0..;
        let places = valid.values().iter();
        let places: UInt64Array = places
            .map(|valid| if valid { next.next() } else { None })
            .collect();
        // The coordinates of a null vector are zeros, not nulls.
        let spread = take(&vectors, &places, None)?;
        let (values, nulls) = (coordinates(&spread), spread.nulls().cloned());
        Ok(ColumnarValue::Array(self::vectors(
            &self.mapped.element,
            width,
            values,
            nulls,
        )?))
    }
}

/// `vector[2:4]`: some coordinates of a vector.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Pick {
    signature: Signature,
    indices: Vec<usize>,
    data_type: DataType,
    written: String,
}

impl ScalarUDFImpl for Pick {
    fn name(&self) -> &str {
        VECTOR
    }

    fn schema_name(&self, _arguments: &[Expr]) -> Result<String, DataFusionError> {
        Ok(self.written.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let (arrays, nulls) = rows(&arguments)?;
        let [vector] = &arrays[..] else {
            return internal_err!("a slice takes one vector");
        };
        let wide = width(vector.data_type()).unwrap_or(0) as u64;
        let of_row = |row: u64| {
            self.indices
                .iter()
                .map(move |index| row * wide + *index as u64)
        };
        let places: UInt64Array = (0..vector.len() as u64).flat_map(of_row).collect();
        let values = take(&coordinates(vector), &places, None)?;
        let element = values.data_type().clone();
        Ok(ColumnarValue::Array(vectors(
            &element,
            self.indices.len(),
            values,
            nulls,
        )?))
    }
}

/// `array_concat(a, b)`: vectors and numbers, one after another.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Join {
    signature: Signature,
    data_type: DataType,
    written: String,
}

impl ScalarUDFImpl for Join {
    fn name(&self) -> &str {
        VECTOR
    }

    fn schema_name(&self, _arguments: &[Expr]) -> Result<String, DataFusionError> {
        Ok(self.written.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let (arrays, nulls) = rows(&arguments)?;
        let DataType::FixedSizeList(child, wide) = &self.data_type else {
            return internal_err!("vectors are joined to a vector");
        };
        let parts = arrays.iter().map(|array| {
            let wide = width(array.data_type()).map_or(1, |width| width as usize);
            let values = match array.data_type() {
                DataType::FixedSizeList(..) => coordinates(array),
                _ => Arc::clone(array),
            };
            Ok((cast(&values, child.data_type())?, wide))
        });
        let parts = parts.collect::<Result<Vec<_>, DataFusionError>>()?;
        let mut places = Vec::with_capacity(arguments.number_rows * *wide as usize);
        for row in 0..arguments.number_rows {
            for (part, (_, wide)) in parts.iter().enumerate() {
                places.extend((row * wide..(row + 1) * wide).map(|place| (part, place)));
            }
        }
        let sources: Vec<&dyn Array> = parts.iter().map(|(values, _)| values.as_ref()).collect();
        let values = interleave(&sources, &places)?;
        let wide = *wide as usize;
        Ok(ColumnarValue::Array(vectors(
            child.data_type(),
            wide,
            values,
            nulls,
        )?))
    }
}

/// Returns the arguments as arrays, and the rows in which none of them is null.
fn rows(
    arguments: &ScalarFunctionArgs,
) -> Result<(Vec<ArrayRef>, Option<NullBuffer>), DataFusionError> {
    let arrays = arguments
        .args
        .iter()
        .map(|argument| argument.to_array(arguments.number_rows))
        .collect::<Result<Vec<_>, _>>()?;
    let nulls = arrays.iter().fold(None, |nulls, array| {
        NullBuffer::union(nulls.as_ref(), array.nulls())
    });
    Ok((arrays, nulls.filter(|nulls| nulls.null_count() > 0)))
}

/// Returns the numbers of an array of vectors, row after row.
fn coordinates(vectors: &ArrayRef) -> ArrayRef {
    let list = vectors.as_fixed_size_list();
    let width = list.value_length() as usize;
    let start = list.value_offset(0) as usize;
    list.values().slice(start, list.len() * width)
}

/// Returns vectors with these coordinates, whose nulls are those of whole vectors.
fn vectors(
    element: &DataType,
    width: usize,
    values: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, DataFusionError> {
    let values = match values.null_count() {
        0 => values,
        _ => make_array(values.to_data().into_builder().nulls(None).build()?),
    };
    let field = Arc::new(Field::new("element", element.clone(), false));
    let width = i32::try_from(width).unwrap_or(i32::MAX);
    Ok(Arc::new(FixedSizeListArray::try_new(
        field, width, values, nulls,
    )?))
}
