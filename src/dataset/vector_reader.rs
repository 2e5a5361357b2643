//! A fast reader for vector columns without nulls.
//!
//! Such a column is a flat sequence of numbers. Arrow's reader rebuilds every list from its levels
//! and copies the numbers, which takes longer than decoding them. This reader decodes the numbers
//! and only verifies the levels.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, FixedSizeListArray, PrimitiveArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{self, FieldRef, Schema};
use parquet::arrow::arrow_reader::RowSelector;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader};
use parquet::data_type::{DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use crate::error::{Error, Result, wording};

/// Number of vectors that are decoded at once, so that their levels stay in the processor's cache.
const AT_ONCE: usize = 4096;

/// The index of a row group, and its rows to skip and to read, in order.
pub(super) type Part = (usize, Vec<RowSelector>);

/// A vector column of a file that this reader can read.
pub(super) struct Vector<'a> {
    metadata: &'a ParquetMetaData,
    /// Index of the column among the file's leaf columns.
    leaf: usize,
    child: FieldRef,
    width: usize,
}

impl<'a> Vector<'a> {
    /// Returns the column of `file` at `index` if it holds vectors of numbers without nulls.
    pub(super) fn of(
        metadata: &'a ParquetMetaData,
        file: &Schema,
        index: usize,
    ) -> Option<Vector<'a>> {
        let field = file.field(index);
        let datatypes::DataType::FixedSizeList(child, width) = field.data_type() else {
            return None;
        };
        let schema = metadata.file_metadata().schema_descr();
        let leaf =
            (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == index)?;
        let column = schema.column(leaf);
        let same = matches!(
            (child.data_type(), column.physical_type()),
            (datatypes::DataType::Float32, Type::FLOAT)
                | (datatypes::DataType::Float64, Type::DOUBLE)
                | (datatypes::DataType::Int32, Type::INT32)
                | (datatypes::DataType::Int64, Type::INT64)
        );
        // Lists that are never null, of elements that are never null, have one level of each kind.
        let plain = !field.is_nullable()
            && !child.is_nullable()
            && (column.max_def_level(), column.max_rep_level()) == (1, 1);
        let width = usize::try_from(*width).ok().filter(|width| *width > 0)?;
        (same && plain).then(|| Vector {
            metadata,
            leaf,
            child: Arc::clone(child),
            width,
        })
    }

    /// Reads the rows of `parts`, `rows` in total.
    ///
    /// # Errors
    /// Returns an error if the file is damaged, or if a vector has another width.
    pub(super) fn read(&self, file: &Arc<File>, parts: &[Part], rows: usize) -> Result<ArrayRef> {
        match self
            .metadata
            .file_metadata()
            .schema_descr()
            .column(self.leaf)
            .physical_type()
        {
            Type::FLOAT => self.numbers::<FloatType, datatypes::Float32Type>(file, parts, rows),
            Type::DOUBLE => self.numbers::<DoubleType, datatypes::Float64Type>(file, parts, rows),
            Type::INT32 => self.numbers::<Int32Type, datatypes::Int32Type>(file, parts, rows),
            _ => self.numbers::<Int64Type, datatypes::Int64Type>(file, parts, rows),
        }
    }

    fn numbers<P, A>(&self, file: &Arc<File>, parts: &[Part], rows: usize) -> Result<ArrayRef>
    where
        P: DataType<T = A::Native>,
        A: ArrowPrimitiveType,
    {
        let mut values: Vec<A::Native> = Vec::with_capacity(rows * self.width);
        let (mut defined, mut repeated) = (Vec::new(), Vec::new());
        for (group, selectors) in parts {
            let mut reader = self.open::<P>(file, *group)?;
            for selector in selectors {
                if selector.skip {
                    reader.skip_records(selector.row_count)?;
                    continue;
                }
                let mut left = selector.row_count;
                while left > 0 {
                    defined.clear();
                    repeated.clear();
                    let wanted = left.min(AT_ONCE);
                    let (records, numbers, levels) = reader.read_records(
                        wanted,
                        Some(&mut defined),
                        Some(&mut repeated),
                        &mut values,
                    )?;
                    if records == 0 {
                        return Err(Error::failed(format!(
                            "row group {group} ends {} early",
                            wording::count(left, "row")
                        )));
                    }
                    let whole = |levels: &[i16]| {
                        levels[0] == 0 && levels[1..].iter().all(|level| *level == 1)
                    };
                    let exact = numbers == levels
                        && levels == records * self.width
                        && repeated.chunks_exact(self.width).all(whole);
                    if !exact {
                        return Err(Error::failed(format!(
                            "row group {group} has vectors that do not have {}",
                            wording::count(self.width, "value")
                        )));
                    }
                    left -= records;
                }
            }
        }
        let values = PrimitiveArray::<A>::new(ScalarBuffer::from(values), None);
        let width =
            i32::try_from(self.width).map_err(|_| Error::failed("the vectors are too wide"))?;
        Ok(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(&self.child),
            width,
            Arc::new(values),
            None,
        )?))
    }

    fn open<P: DataType>(&self, file: &Arc<File>, group: usize) -> Result<ColumnReaderImpl<P>> {
        let (rows, chunk) = (
            self.metadata.row_group(group).num_rows(),
            self.metadata.row_group(group).column(self.leaf),
        );
        let pages = self
            .metadata
            .offset_index()
            .and_then(|groups| groups.get(group)?.get(self.leaf));
        let pages = pages.map(|pages| pages.page_locations().clone());
        let pages = SerializedPageReader::new(
            Arc::clone(file),
            chunk,
            usize::try_from(rows).unwrap_or(0),
            pages,
        )?;
        let reader = get_column_reader(
            self.metadata
                .file_metadata()
                .schema_descr()
                .column(self.leaf),
            Box::new(pages),
        );
        P::get_column_reader(reader)
            .ok_or_else(|| Error::failed("the type of a column differs from the file's schema"))
    }
}
