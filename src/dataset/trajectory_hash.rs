//! The hash of a trajectory's steps.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, UInt8Type};

use super::block::elements;
use super::schema::step;

/// Returns the first 128 bits of the blake3 hash of the columns of one trajectory's `steps`, its id
/// excluded. Equal steps have equal hashes in every shard.
pub(crate) fn hash(steps: &RecordBatch) -> String {
    hash_with(steps, &Digests::new())
}

pub(super) fn hash_with(steps: &RecordBatch, digests: &Digests) -> String {
    let mut hasher = blake3::Hasher::new();
    for (field, column) in steps.schema().fields().iter().zip(steps.columns()) {
        if field.name() != step::TRAJECTORY_ID {
            hasher.update(field.name().as_bytes());
            match digests.get(field.name()) {
                Some(digest) => {
                    hasher.update(digest);
                }
                None => feed(&mut hasher, column),
            }
        }
    }
    let hash = hasher.finalize();
    hash.to_hex()[..32].to_owned()
}

/// The digests of columns of images, by the names of the columns.
pub(crate) type Digests = BTreeMap<String, [u8; 32]>;

/// The digest of a column of images, which may come in parts: arrays of 8-bit values, or encoded
/// images. It stands for the values in the hash of a trajectory, so that no more than a part of
/// them has to be in memory.
#[derive(Default)]
pub(super) struct ImageDigest {
    values: blake3::Hasher,
    validity: Vec<u8>,
    bytes: usize,
}

impl ImageDigest {
    /// Whether columns of the type `data_type` have such a digest.
    pub(super) fn is_of(data_type: &DataType) -> bool {
        match data_type {
            DataType::Binary => true,
            DataType::FixedSizeList(child, _) => *child.data_type() == DataType::UInt8,
            _ => false,
        }
    }

    /// Returns the number of bytes of the values so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the values of the next rows of the column.
    pub(super) fn add(&mut self, column: &dyn Array) {
        let rows = 0..column.len();
        self.validity
            .extend(rows.clone().map(|row| u8::from(column.is_valid(row))));
        if let Some(images) = column.as_binary_opt::<i32>() {
            for image in images.iter().flatten() {
                self.values.update(&(image.len() as u64).to_le_bytes());
                self.values.update(image);
                self.bytes += image.len();
            }
        } else if let Some(arrays) = column.as_fixed_size_list_opt() {
            let width = arrays.value_length() as usize;
            let values = elements(arrays);
            let Some(values) = values.as_primitive_opt::<UInt8Type>() else {
                return;
            };
            for row in rows.filter(|row| arrays.is_valid(*row)) {
                let image = &values.values()[row * width..(row + 1) * width];
                self.values.update(image);
                self.bytes += image.len();
            }
        }
    }

    /// Returns the digest.
    pub(super) fn finish(mut self) -> [u8; 32] {
        if self.validity.contains(&0) {
            self.values.update(&self.validity);
        }
        *self.values.finalize().as_bytes()
    }
}

fn feed(hasher: &mut blake3::Hasher, array: &dyn Array) {
    if ImageDigest::is_of(array.data_type()) {
        let mut digest = ImageDigest::default();
        digest.add(array);
        hasher.update(&digest.finish());
        return;
    }
    if array.null_count() > 0 {
        let validity: Vec<u8> = (0..array.len())
            .map(|row| u8::from(array.is_valid(row)))
            .collect();
        hasher.update(&validity);
        if array.null_count() == array.len() {
            return;
        }
    }
    // The values of null rows are not part of the content.
    let runs = |width: usize, bytes: &[u8], hasher: &mut blake3::Hasher| match array.nulls() {
        None => {
            hasher.update(bytes);
        }
        Some(nulls) => nulls.valid_slices().for_each(|(start, end)| {
            hasher.update(&bytes[start * width..end * width]);
        }),
    };
    match array.data_type() {
        DataType::FixedSizeList(_, width) => {
            let list = array.as_fixed_size_list();
            let values = list
                .values()
                .slice(list.value_offset(0) as usize, list.len() * *width as usize);
            match values.data_type().primitive_width() {
                Some(size) => {
                    let data = values.to_data();
                    let start = data.offset() * size;
                    runs(
                        size * *width as usize,
                        &data.buffers()[0].as_slice()[start..start + values.len() * size],
                        hasher,
                    );
                }
                None => feed(hasher, &values),
            }
        }
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .for_each(|column| feed(hasher, column)),
        DataType::Boolean => {
            let bits: Vec<u8> = array
                .as_boolean()
                .iter()
                .map(|bit| bit.map_or(2, u8::from))
                .collect();
            hasher.update(&bits);
        }
        DataType::Utf8 => {
            let mut text = Vec::with_capacity(array.len() * 16);
            for value in array.as_string::<i32>() {
                text.extend_from_slice(value.unwrap_or("null").as_bytes());
                text.push(0);
            }
            hasher.update(&text);
        }
        other => match other.primitive_width() {
            Some(size) => {
                let data = array.to_data();
                let start = data.offset() * size;
                runs(
                    size,
                    &data.buffers()[0].as_slice()[start..start + array.len() * size],
                    hasher,
                );
            }
            None => {
                // Of all other types, the canonical text of each value.
                let options = arrow::util::display::FormatOptions::new().with_null("null");
                if let Ok(formatter) =
                    arrow::util::display::ArrayFormatter::try_new(array, &options)
                {
                    (0..array.len()).for_each(|row| {
                        hasher.update(formatter.value(row).to_string().as_bytes());
                        hasher.update(&[0]);
                    });
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, FixedSizeListArray, Int32Array, UInt8Array};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn steps(images: ArrayRef) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..images.len() as i32));
        let field = |name: &str, column: &ArrayRef| {
            Field::new(name, column.data_type().clone(), column.is_nullable())
        };
        let fields = vec![field("step", &numbers), field("image", &images)];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![numbers, images]).unwrap()
    }

    fn in_parts(images: &ArrayRef) -> Digests {
        let mut digest = ImageDigest::default();
        digest.add(&images.slice(0, 1));
        digest.add(&images.slice(1, images.len() - 1));
        [("image".to_owned(), digest.finish())].into()
    }

    #[test]
    fn images_that_come_in_parts_have_the_hash_of_the_whole_trajectory() {
        let arrays = |values: [u8; 6], valid: [bool; 3]| -> ArrayRef {
            let child = Arc::new(Field::new("element", DataType::UInt8, false));
            let values = Arc::new(UInt8Array::from(values.to_vec()));
            let nulls = Some(NullBuffer::from(valid.to_vec()));
            Arc::new(FixedSizeListArray::new(child, 2, values, nulls))
        };
        let files =
            |images: [Option<&[u8]>; 3]| -> ArrayRef { Arc::new(BinaryArray::from_iter(images)) };
        let columns = [
            arrays([1, 2, 3, 4, 5, 6], [true; 3]),
            arrays([1, 2, 3, 4, 5, 6], [true, false, true]),
            // Values of null rows do not count.
            arrays([1, 2, 0, 0, 5, 6], [true, false, true]),
            files([Some(b"ab"), Some(b""), Some(b"c")]),
            files([Some(b"a"), Some(b"b"), Some(b"c")]),
            files([Some(b"ab"), None, Some(b"c")]),
        ];
        let hashes: Vec<String> = columns
            .iter()
            .map(|column| hash(&steps(Arc::clone(column))))
            .collect();
        for (column, hash) in columns.iter().zip(&hashes) {
            let others: ArrayRef = Arc::new(Int32Array::from(vec![0; 3]));
            assert_eq!(hash_with(&steps(others), &in_parts(column)), *hash);
        }
        assert_eq!(hashes[1], hashes[2]);
        let distinct: std::collections::BTreeSet<&String> = hashes.iter().collect();
        assert_eq!(distinct.len(), 5);
    }
}
