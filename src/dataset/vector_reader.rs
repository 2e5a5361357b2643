//! Reads vector columns as the numbers they are made of.
//!
//! A vector that is never null and always of one width is its numbers in a row. Arrow's reader finds that out anew for every
//! list from its levels, and copies; that takes longer than the decoding. Here the levels are only held against what they must be.

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

use crate::error::{Error, Result};

/// Vectors that are decoded at once: their levels stay in the processor's cache.
const AT_ONCE: usize = 4096;

/// Rows of a row group to skip and to read, in turn.
pub(super) type Part = (usize, Vec<RowSelector>);

/// A vector column of a file that can be read so.
pub(super) struct Vector<'a> {
    metadata: &'a ParquetMetaData,
    /// Index of the column among those that hold values.
    leaf: usize,
    child: FieldRef,
    width: usize,
}

impl<'a> Vector<'a> {
    /// The column of `file` at `index`, where it is a vector of numbers with no null in it.
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
        // A list that is not null, of elements that are not null: one level of each kind.
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

    /// Reads the rows of `parts`, `rows` in all.
    ///
    /// # Errors
    /// Where the file is damaged, or a vector has another width.
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
                            "row group {group} ends {left} rows early"
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
                            "row group {group} holds vectors that do not have {} values",
                            self.width
                        )));
                    }
                    left -= records;
                }
            }
        }
        let values = PrimitiveArray::<A>::new(ScalarBuffer::from(values), None);
        let width = i32::try_from(self.width)
            .map_err(|_| Error::failed("a vector is wider than fits in memory"))?;
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
            .ok_or_else(|| Error::failed("a column's type is not the one that its file says"))
    }
}
