//! The sizes of encoded images.

use arrow::array::AsArray;

use crate::transfer::write::OutgoingTrajectory;

/// Returns height, width and channels of the first image in a column of encoded images; `None` if
/// it is not a PNG or JPEG.
pub(crate) fn first_image_size(
    trajectory: &OutgoingTrajectory,
    column: &str,
) -> Option<[usize; 3]> {
    let column = trajectory.column(column)?;
    let images = column.as_binary_opt::<i32>()?;
    measure(images.iter().flatten().next()?)
}

/// Returns height, width and channels of a PNG or JPEG.
fn measure(bytes: &[u8]) -> Option<[usize; 3]> {
    let short = |at: usize| {
        Some(usize::from(u16::from_be_bytes(
            bytes.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let long = |at: usize| {
        usize::try_from(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let channels = match bytes.get(25)? {
            0 => 1,
            4 => 2,
            6 => 4,
            _ => 3,
        };
        return Some([long(20)?, long(16)?, channels]);
    }
    let mut at = 2;
    while bytes.starts_with(b"\xff\xd8") && bytes.get(at)? == &0xff {
        let marker = *bytes.get(at + 1)?;
        // A frame header, whatever the coding, but not a table.
        if (0xc0..=0xcf).contains(&marker) && ![0xc4, 0xc8, 0xcc].contains(&marker) {
            return Some([
                short(at + 5)?,
                short(at + 7)?,
                usize::from(*bytes.get(at + 9)?),
            ]);
        }
        at += 2 + short(at + 2)?.max(2);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_measured() {
        let png = [
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(),
            &7_u32.to_be_bytes(),
            &5_u32.to_be_bytes(),
            &[8, 2],
        ]
        .concat();
        assert_eq!(measure(&png), Some([5, 7, 3]));
        let jpeg = [
            b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08".as_slice(),
            &[0, 64, 0, 48, 3],
        ]
        .concat();
        assert_eq!(measure(&jpeg), Some([64, 48, 3]));
        assert_eq!(measure(b"\xff\xd8\xff\xe0\0"), None);
        assert_eq!(measure(b"GIF89a"), None);
    }
}
