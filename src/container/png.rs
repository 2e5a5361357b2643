//! PNG files of 8-bit RGB pixels.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::Crc;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::error::{Error, Result};

/// The first bytes of every PNG file.
const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The number of bytes of a pixel.
const CHANNELS: usize = 3;

/// The number of the filter that predicts a byte from those to the left, above, and above left.
const PAETH: u8 = 4;

/// Encodes the pixels of a picture, row by row.
pub(crate) fn encode(pixels: &[u8], height: usize, width: usize) -> Result<Vec<u8>> {
    let line = width * CHANNELS;
    if pixels.len() != height * line || line == 0 {
        return Err(Error::failed(format!(
            "a picture of {height} × {width} has {} bytes",
            pixels.len()
        )));
    }
    let failed = |error: std::io::Error| Error::failed(format!("cannot encode a PNG: {error}"));
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    let (zeros, mut filtered) = (vec![0; line], vec![0; line]);
    let mut above: &[u8] = &zeros;
    for row in pixels.chunks_exact(line) {
        for (at, byte) in filtered.iter_mut().enumerate() {
            *byte = row[at].wrapping_sub(predicted(row, above, at));
        }
        packed.write_all(&[PAETH]).map_err(failed)?;
        packed.write_all(&filtered).map_err(failed)?;
        above = row;
    }
    let packed = packed.finish().map_err(failed)?;
    let size = |size: usize| {
        u32::try_from(size).map_err(|_| Error::failed("a picture is too large for a PNG"))
    };
    let mut header = Vec::new();
    header.extend(size(width)?.to_be_bytes());
    header.extend(size(height)?.to_be_bytes());
    // 8 bits, RGB, the only methods of compression and filtering, no interlace.
    header.extend([8, 2, 0, 0, 0]);
    let mut file = MAGIC.to_vec();
    for (kind, content) in [
        (b"IHDR", header.as_slice()),
        (b"IDAT", &packed),
        (b"IEND", &[]),
    ] {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(content);
        file.extend(size(content.len())?.to_be_bytes());
        file.extend(kind);
        file.extend(content);
        file.extend(crc.sum().to_be_bytes());
    }
    Ok(file)
}

/// Decodes a picture of `height` × `width` that [`encode`] encoded. `None` if it is another kind of
/// file, of another size, or damaged.
pub(crate) fn decode(file: &[u8], height: usize, width: usize) -> Option<Vec<u8>> {
    let mut rest = file.strip_prefix(MAGIC)?;
    let mut packed: Vec<u8> = Vec::new();
    let mut header = None;
    loop {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let (kind, content) = (rest.get(4..8)?, rest.get(8..)?.get(..length)?);
        let crc = rest.get(8 + length..)?.get(..4)?;
        let mut own = Crc::new();
        own.update(rest.get(4..8 + length)?);
        if own.sum().to_be_bytes() != crc {
            return None;
        }
        match kind {
            b"IHDR" => header = Some(content),
            b"IDAT" => packed.extend(content),
            b"IEND" => break,
            _ => {}
        }
        rest = rest.get(12 + length..)?;
    }
    let header = header.filter(|header| header.len() == 13 && header[8..] == [8, 2, 0, 0, 0])?;
    let size = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if (size(4)? as usize, size(0)? as usize) != (height, width) {
        return None;
    }
    let line = width * CHANNELS;
    let mut lines = Vec::new();
    let expected = height * (line + 1);
    ZlibDecoder::new(packed.as_slice())
        .take(expected as u64 + 1)
        .read_to_end(&mut lines)
        .ok()?;
    if lines.len() != expected {
        return None;
    }
    let mut pixels: Vec<u8> = Vec::with_capacity(height * line);
    let mut above = vec![0; line];
    for filtered in lines.chunks_exact(line + 1) {
        if filtered[0] != PAETH {
            return None;
        }
        let mut row = filtered[1..].to_vec();
        for at in 0..line {
            row[at] = row[at].wrapping_add(predicted(&row, &above, at));
        }
        pixels.extend(&row);
        above = row;
    }
    Some(pixels)
}

/// Returns the Paeth prediction of the byte at `at`.
fn predicted(row: &[u8], above: &[u8], at: usize) -> u8 {
    let before = |bytes: &[u8]| at.checked_sub(CHANNELS).map_or(0, |at| bytes[at]);
    let (left, up, corner) = (before(row), above[at], before(above));
    let guess = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (guess - i16::from(value)).abs();
    if distance(left) <= distance(up) && distance(left) <= distance(corner) {
        left
    } else if distance(up) <= distance(corner) {
        up
    } else {
        corner
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pictures_come_back(height in 1_usize..9, width in 1_usize..9, seed in any::<u64>()) {
            let mut state = seed | 1;
            let pixels: Vec<u8> = (0..height * width * CHANNELS)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            let file = encode(&pixels, height, width).unwrap();
            prop_assert_eq!(decode(&file, height, width), Some(pixels));
            prop_assert_eq!(decode(&file, height + 1, width), None);
        }

        #[test]
        fn damage_is_found(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut file = encode(&[7; 48], 4, 4).unwrap();
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            prop_assert!(decode(&file, 4, 4).is_none_or(|pixels| pixels == [7; 48]));
        }
    }
}
