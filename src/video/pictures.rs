//! Columns of decoded frames.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeListArray, UInt8Array};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};

use super::Video;
use crate::dataset::schema;
use crate::error::wording::number;
use crate::error::{Error, Result};
use crate::video::Frames;

/// A column of frames that is being built, as arrays or as PNG files.
pub(crate) struct Pictures {
    frames: Frames,
    /// Height and width of a frame.
    size: [usize; 2],
    bytes: Vec<u8>,
    /// The end of each PNG file in `bytes`, behind a leading 0.
    ends: Vec<i32>,
    valid: Vec<bool>,
}

/// Returns the field of a column `name` of frames with the given height and width.
///
/// # Errors
///
/// Returns an error if a frame is too large for a row.
pub(crate) fn field(name: &str, frames: Frames, [height, width]: [usize; 2]) -> Result<Field> {
    if frames == Frames::Png {
        return Ok(Field::new(name, DataType::Binary, true));
    }
    let values = height
        .checked_mul(width)
        .and_then(|pixels| i32::try_from(pixels.checked_mul(3)?).ok())
        .filter(|values| *values > 0);
    let values = values.ok_or_else(|| {
        Error::failed(format!(
            "frames of {height} × {width} pixels are too large for a row"
        ))
    })?;
    let shape = [("shape".to_owned(), format!("{height},{width},3"))];
    Ok(Field::new(name, schema::vector(DataType::UInt8, values), true).with_metadata(shape.into()))
}

impl Pictures {
    /// Begins a column of `rows` frames with the given height and width.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory.
    pub(crate) fn new(frames: Frames, size: [usize; 2], rows: usize) -> Result<Pictures> {
        let mut bytes = Vec::new();
        if frames == Frames::Array {
            let wanted = (3 * size[0] * size[1]).saturating_mul(rows);
            bytes.try_reserve_exact(wanted).map_err(|_| large(wanted))?;
        }
        Ok(Pictures {
            frames,
            size,
            bytes,
            ends: vec![0],
            valid: Vec::with_capacity(rows),
        })
    }

    /// Appends the frame of `video` that is nearest to `seconds`, and nearer than `tolerance`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such frame, or if it differs in size from the column.
    pub(crate) fn push(&mut self, video: &mut Video, seconds: f64, tolerance: f64) -> Result<()> {
        let before = self.bytes.len();
        video.frame(seconds, tolerance, self.frames, &mut self.bytes)?;
        let [height, width] = self.size;
        if self.frames == Frames::Array && self.bytes.len() - before != 3 * height * width {
            let [found_height, found_width] = video.size();
            let message = format!(
                "{}: frames have {found_height} × {found_width} pixels, but those of the first \
                 video have {height} × {width}",
                video.path().display()
            );
            return Err(Error::failed(message).hint(
                "the arrays of a column have one shape: use `frames: png`, or re-encode the video",
            ));
        }
        self.close(true)
            .map_err(|error| error.at(video.path().display()))
    }

    /// Appends a row without a frame.
    ///
    /// # Errors
    ///
    /// Returns an error if the column becomes too large.
    pub(crate) fn skip(&mut self) -> Result<()> {
        if self.frames == Frames::Array {
            self.bytes
                .resize(self.bytes.len() + 3 * self.size[0] * self.size[1], 0);
        }
        self.close(false)
    }

    /// Ends a row.
    fn close(&mut self, valid: bool) -> Result<()> {
        self.valid.push(valid);
        if self.frames == Frames::Png {
            self.ends
                .push(i32::try_from(self.bytes.len()).map_err(|_| large(self.bytes.len()))?);
        }
        Ok(())
    }

    /// Returns the column.
    ///
    /// # Errors
    ///
    /// Returns an error if the number of rows differs from the number of frames.
    pub(crate) fn finish(self) -> Result<ArrayRef> {
        let nulls = Some(NullBuffer::from(self.valid)).filter(|nulls| nulls.null_count() > 0);
        if self.frames == Frames::Png {
            let offsets = OffsetBuffer::new(self.ends.into());
            return Ok(Arc::new(BinaryArray::try_new(
                offsets,
                Buffer::from_vec(self.bytes),
                nulls,
            )?));
        }
        let DataType::FixedSizeList(child, size) =
            field("", self.frames, self.size)?.data_type().clone()
        else {
            return Err(Error::failed("frames are not vectors"));
        };
        Ok(Arc::new(FixedSizeListArray::try_new(
            child,
            size,
            Arc::new(UInt8Array::from(self.bytes)),
            nulls,
        )?))
    }
}

/// The error for frames that need more memory, or more room in a column, than there is.
fn large(bytes: usize) -> Error {
    Error::failed(format!(
        "the frames of one episode or block need {} MiB, which is too much",
        number((bytes >> 20) as u64)
    ))
    .hint("split the episode with LeRobot's own tools, or keep references with `frames: reference`")
}
