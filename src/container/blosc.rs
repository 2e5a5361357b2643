//! Blosc containers, version 1: blocks of lz4, zlib or zstd, shuffled by byte or by bit.
//!
//! ```text
//! 0 version  1 version of the compressor  2 flags  3 size of an element
//! 4 bytes unpacked (u32)  8 bytes of a block (u32)  12 bytes packed, this header included (u32)
//! 16 offset of each block (i32), unless the bytes are stored uncompressed
//! ```
//!
//! A block is one stream, or one stream for each byte of an element. A stream is its length (i32)
//! and that many bytes. A stream as long as its content is stored uncompressed.

/// Bytes before the offset of the first block.
const HEAD: usize = 16;

/// Elements up to this size are split into one stream for each of their bytes.
const LARGEST_SPLIT: usize = 16;

/// Shorter streams are not split.
const SHORTEST_STREAM: usize = 128;

const SHUFFLED: u8 = 0x01;
const STORED: u8 = 0x02;
const BIT_SHUFFLED: u8 = 0x04;
const NOT_SPLIT: u8 = 0x10;

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(i32::from_le_bytes(word.try_into().ok()?)).ok()
}

/// Unpacks a container that holds `expected` bytes; the error says what is wrong.
pub(crate) fn unpack(bytes: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let cut = || "it is cut short".to_owned();
    let (version, flags, size) = match bytes.get(..HEAD) {
        Some([version, _, flags, size, ..]) => (*version, *flags, usize::from(*size).max(1)),
        _ => return Err(cut()),
    };
    if version != 2 {
        return Err(format!(
            "it has version {version} of the container, and only version 2 can be read"
        ));
    }
    let (unpacked, block) = number(bytes, 4).zip(number(bytes, 8)).ok_or_else(cut)?;
    if unpacked != expected {
        return Err(format!(
            "it holds {unpacked} bytes where the chunk has {expected}"
        ));
    }
    if flags & STORED != 0 {
        return Ok(bytes.get(HEAD..HEAD + unpacked).ok_or_else(cut)?.to_vec());
    }
    if unpacked == 0 {
        return Ok(Vec::new());
    }
    if block == 0 || block > unpacked {
        return Err(format!("it declares blocks of {block} bytes"));
    }
    let mut out = vec![0; unpacked];
    let mut shuffled = vec![0; block];
    for (index, target) in out.chunks_mut(block).enumerate() {
        let start = number(bytes, HEAD + 4 * index).ok_or_else(cut)?;
        let split = flags & NOT_SPLIT == 0
            && size <= LARGEST_SPLIT
            && target.len() / size >= SHORTEST_STREAM
            && target.len() == block;
        let streams = if split { size } else { 1 };
        let stream = target.len() / streams;
        if stream * streams != target.len() {
            return Err(
                "the size of a block is not a multiple of the size of an element".to_owned(),
            );
        }
        let scratch = shuffled.get_mut(..target.len()).ok_or_else(cut)?;
        let mut at = start;
        for part in scratch.chunks_mut(stream) {
            let length = number(bytes, at).ok_or_else(cut)?;
            let packed = bytes.get(at + 4..at + 4 + length).ok_or_else(cut)?;
            at += 4 + length;
            if length == part.len() {
                part.copy_from_slice(packed);
            } else {
                decompress(flags >> 5, packed, part)?;
            }
        }
        match flags & (SHUFFLED | BIT_SHUFFLED) {
            SHUFFLED if size > 1 => unshuffle(scratch, target, size),
            BIT_SHUFFLED if target.len() >= size => unshuffle_bits(scratch, target, size),
            _ => target.copy_from_slice(scratch),
        }
    }
    Ok(out)
}

/// Unpacks a stream into exactly the bytes of `part`.
fn decompress(format: u8, packed: &[u8], part: &mut [u8]) -> Result<(), String> {
    let wanted = part.len();
    let found = match format {
        1 => lz4_flex::block::decompress_into(packed, part)
            .map_err(|error| format!("lz4: {error}"))?,
        3 => {
            let mut reader = flate2::read::ZlibDecoder::new(packed);
            std::io::Read::read_exact(&mut reader, part)
                .map_err(|error| format!("zlib: {error}"))?;
            wanted
        }
        4 => zstd::bulk::decompress_to_buffer(packed, part)
            .map_err(|error| format!("zstd: {error}"))?,
        0 => return Err("it is packed with blosclz: write it again with lz4 or zstd".to_owned()),
        2 => return Err("it is packed with snappy: write it again with lz4 or zstd".to_owned()),
        other => {
            return Err(format!("it is packed with the unknown compressor {other}"));
        }
    };
    if found == wanted {
        Ok(())
    } else {
        Err(format!(
            "a stream holds {found} bytes and declares {wanted}"
        ))
    }
}

/// Restores elements from planes of their first bytes, second bytes and so on. A remainder is not
/// shuffled.
fn unshuffle(from: &[u8], to: &mut [u8], size: usize) {
    let count = from.len() / size;
    for (element, bytes) in to.chunks_exact_mut(size).enumerate() {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = from[at * count + element];
        }
    }
    to[count * size..].copy_from_slice(&from[count * size..]);
}

/// Restores elements from planes of bits. Only whole groups of eight elements are shuffled.
fn unshuffle_bits(from: &[u8], to: &mut [u8], size: usize) {
    let count = from.len() / size;
    if !count.is_multiple_of(8) {
        to.copy_from_slice(from);
        return;
    }
    let plane = count / 8;
    let shuffled = count * size;
    to[..shuffled].fill(0);
    for (bit, row) in from[..shuffled].chunks_exact(plane.max(1)).enumerate() {
        let (byte, bit) = (bit / 8, bit % 8);
        for (group, bits) in row.iter().enumerate() {
            for element in 0..8 {
                to[(group * 8 + element) * size + byte] |= ((bits >> element) & 1) << bit;
            }
        }
    }
    to[shuffled..].copy_from_slice(&from[shuffled..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Packs `bytes` into a container. `pack_stream` packs a stream, which is stored as it is if
    /// that does not make it shorter.
    fn pack(
        bytes: &[u8],
        size: usize,
        block: usize,
        flags: u8,
        pack_stream: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let blocks: Vec<&[u8]> = bytes.chunks(block).collect();
        let mut body = Vec::new();
        let mut starts = Vec::new();
        for part in &blocks {
            starts.push((HEAD + 4 * blocks.len() + body.len()) as i32);
            let mut shuffled = part.to_vec();
            let count = part.len() / size;
            if flags & SHUFFLED != 0 {
                (0..count).for_each(|element| {
                    (0..size)
                        .for_each(|at| shuffled[at * count + element] = part[element * size + at])
                });
            } else if flags & BIT_SHUFFLED != 0 && count.is_multiple_of(8) {
                shuffled[..count * size].fill(0);
                for (element, at, bit) in (0..count)
                    .flat_map(|e| (0..size).flat_map(move |at| (0..8).map(move |bit| (e, at, bit))))
                {
                    shuffled[(at * 8 + bit) * (count / 8) + element / 8] |=
                        ((part[element * size + at] >> bit) & 1) << (element % 8);
                }
            }
            let split = flags & NOT_SPLIT == 0
                && part.len() / size >= SHORTEST_STREAM
                && part.len() == block;
            for piece in shuffled.chunks(part.len() / if split { size } else { 1 }) {
                let packed = pack_stream(piece);
                let packed = if packed.len() < piece.len() {
                    packed
                } else {
                    piece.to_vec()
                };
                body.extend((packed.len() as i32).to_le_bytes());
                body.extend(packed);
            }
        }
        let mut out = vec![2, 1, flags, size as u8];
        for number in [bytes.len(), block, HEAD + 4 * blocks.len() + body.len()] {
            out.extend((number as i32).to_le_bytes());
        }
        starts
            .iter()
            .for_each(|start| out.extend(start.to_le_bytes()));
        out.extend(body);
        out
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        lz4_flex::block::compress(bytes)
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    #[test]
    fn stored_bytes_are_read_and_unknown_containers_refused() {
        let mut stored = vec![2, 1, STORED, 4];
        [5, 5, 21]
            .iter()
            .for_each(|number: &i32| stored.extend(number.to_le_bytes()));
        stored.extend(b"hello");
        assert_eq!(unpack(&stored, 5).unwrap(), b"hello");
        assert!(
            unpack(&stored, 6)
                .unwrap_err()
                .contains("5 bytes where the chunk has 6")
        );
        stored[0] = 3;
        assert!(unpack(&stored, 5).unwrap_err().contains("version 3"));
        let blosclz = pack(&[0; 400], 4, 400, 0, lz4);
        assert!(unpack(&blosclz, 400).unwrap_err().contains("blosclz"));
    }

    proptest! {
        #[test]
        fn unpacking_restores_what_was_packed(
            values in prop::collection::vec(0..9_u8, 1..5000),
            size in 1..9_usize,
            blocks in 1..4_usize,
            shuffle in prop::sample::select(vec![0, SHUFFLED, BIT_SHUFFLED]),
            whole in any::<bool>(),
            with_zstd in any::<bool>(),
        ) {
            let block = (values.len() / blocks / size).max(1) * size;
            let block = block.min(values.len());
            let split = if whole || block % size != 0 { NOT_SPLIT } else { 0 };
            let flags = shuffle | split | if with_zstd { 4 << 5 } else { 1 << 5 };
            let packed = pack(&values, size, block, flags, if with_zstd { zstd } else { lz4 });
            prop_assert_eq!(unpack(&packed, values.len()).unwrap(), values);
        }

        #[test]
        fn damage_is_an_error_or_keeps_the_length(
            values in prop::collection::vec(0..3_u8, 1..2000),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
            with_zstd in any::<bool>(),
        ) {
            let flags = SHUFFLED | if with_zstd { 4 << 5 } else { 1 << 5 };
            let compress = if with_zstd { zstd } else { lz4 };
            let mut packed = pack(&values, 1, values.len(), flags, compress);
            for (at, byte) in &changes {
                let at = at.index(packed.len());
                packed[at] = *byte;
            }
            if let Some(cut) = cut {
                packed.truncate(cut.index(packed.len()));
            }
            if let Ok(found) = unpack(&packed, values.len()) {
                prop_assert_eq!(found.len(), values.len());
            }
        }
    }
}
