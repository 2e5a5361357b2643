//! The column that the frames of a video become.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeListArray, UInt8Array};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};

use super::Video;
use crate::dataset::schema;
use crate::error::{Error, Result};
use crate::video::Frames;

/// Frames one after the other, as arrays of bytes or as PNG.
pub(crate) struct Pictures {
    frames: Frames,
    size: [usize; 2],
    bytes: Vec<u8>,
    /// Where each PNG ends.
    ends: Vec<i32>,
    valid: Vec<bool>,
}

/// The column `name` of frames of such a height and width.
///
/// # Errors
/// Where a frame is larger than a row can be.
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
            "frames of {height} × {width} are more than a row can hold"
        ))
    })?;
    let shape = [("shape".to_owned(), format!("{height},{width},3"))];
    Ok(Field::new(name, schema::vector(DataType::UInt8, values), true).with_metadata(shape.into()))
}

impl Pictures {
    /// Room for `rows` frames of such a height and width.
    ///
    /// # Errors
    /// Where there is not so much memory.
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

    /// Appends the frame of `video` at `seconds`.
    ///
    /// # Errors
    /// Where there is none, or it has another size than the first of the column.
    pub(crate) fn push(&mut self, video: &mut Video, seconds: f64) -> Result<()> {
        let before = self.bytes.len();
        video.frame(seconds, self.frames, &mut self.bytes)?;
        let [height, width] = self.size;
        if self.frames == Frames::Array && self.bytes.len() - before != 3 * height * width {
            let [other, wide] = video.size();
            let message = format!(
                "{}: frames are {other} × {wide}, where the first video has {height} × {width}",
                video.path().display()
            );
            return Err(Error::failed(message)
                .hint("an array has one shape: take `png`, or re-encode the video"));
        }
        self.close(true)
            .map_err(|error| error.at(video.path().display()))
    }

    /// Appends a row without a frame.
    ///
    /// # Errors
    /// Where all of them are more than fits in a column.
    pub(crate) fn skip(&mut self) -> Result<()> {
        if self.frames == Frames::Array {
            self.bytes
                .resize(self.bytes.len() + 3 * self.size[0] * self.size[1], 0);
        }
        self.close(false)
    }

    fn close(&mut self, valid: bool) -> Result<()> {
        self.valid.push(valid);
        if self.frames == Frames::Png {
            self.ends
                .push(i32::try_from(self.bytes.len()).map_err(|_| large(self.bytes.len()))?);
        }
        Ok(())
    }

    /// The column.
    ///
    /// # Errors
    /// Never, as long as every row was pushed or skipped.
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
            return Err(Error::failed("frames are no vectors"));
        };
        Ok(Arc::new(FixedSizeListArray::try_new(
            child,
            size,
            Arc::new(UInt8Array::from(self.bytes)),
            nulls,
        )?))
    }
}

fn large(bytes: usize) -> Error {
    Error::failed(format!(
        "the frames of an episode take more than {} MiB",
        bytes >> 20
    ))
    .hint("split the episode with LeRobot's own tools, or keep references to videos")
}
