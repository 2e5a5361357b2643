//! The end of the video in an MP4 file, as its header states it: no decoder is needed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use crate::dataset::files;
use crate::error::Result;
use crate::video::{Run, Timeline, timeline};

/// The most boxes of one level that are looked at, and the most entries of a list of edits.
const MOST: usize = 4096;

/// Returns the second at which the video in the file at `path` ends; `None` if the file is no MP4,
/// or if its header does not state it.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn ending(path: &Path) -> Result<Option<f64>> {
    let unreadable = |error| files::unreadable(path, &error);
    let file = files::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut header = Header { file };
    match header.ending(length) {
        Ok(ending) => Ok(ending.filter(|ending| ending.is_finite() && *ending > 0.0)),
        // The header names places that lie behind the end of the file.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// Returns the time of the last frame of `run` if the video at `path` has no such frame. Only the
/// header of the file is read if it lists the frame.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn beyond(path: &Path, run: &Run) -> Result<Option<f64>> {
    let last = run.from + run.frames.saturating_sub(1) as f64 / run.fps;
    let is_beyond = |end: f64| last >= end - 0.5 / run.fps;
    if !ending(path)?.is_some_and(is_beyond) {
        return Ok(None);
    }
    let shows = |timeline: Timeline| timeline.shows(last, run.tolerance);
    Ok((!timeline(path).is_ok_and(shows)).then_some(last))
}

/// A box: its kind, and where its content is.
type Part = ([u8; 4], Range<u64>);

struct Header {
    file: File,
}

impl Header {
    fn ending(&mut self, length: u64) -> std::io::Result<Option<f64>> {
        let top = self.parts(0..length)?;
        if top.first().is_none_or(|(kind, _)| kind != b"ftyp") {
            return Ok(None);
        }
        let Some(movie) = of(&top, b"moov") else {
            return Ok(None);
        };
        let movie = self.parts(movie)?;
        // The frames of a fragmented file are listed elsewhere.
        if of(&movie, b"mvex").is_some() {
            return Ok(None);
        }
        let Some(scale) = of(&movie, b"mvhd") else {
            return Ok(None);
        };
        let scale = self.scale(scale)?.0;
        let mut found = None;
        for (_, track) in movie.iter().filter(|(kind, _)| kind == b"trak") {
            let track = self.parts(track.clone())?;
            let Some(media) = of(&track, b"mdia") else {
                continue;
            };
            let media = self.parts(media)?;
            let (Some(handler), Some(media_scale)) = (of(&media, b"hdlr"), of(&media, b"mdhd"))
            else {
                continue;
            };
            if self.bytes(handler.start + 8, 4)? != b"vide" {
                continue;
            }
            // Which of two videos is meant, the header does not say.
            if found.is_some() {
                return Ok(None);
            }
            let edits = match of(&track, b"edts") {
                Some(edits) => of(&self.parts(edits)?, b"elst"),
                None => None,
            };
            found = Some(match edits {
                Some(edits) => self.edits(edits)?.map(|units| units / scale),
                None => {
                    let (scale, units) = self.scale(media_scale)?;
                    let shows_late = self.has_offsets(&media)?;
                    (!shows_late).then_some(units / scale)
                }
            });
        }
        Ok(found.flatten())
    }

    /// Returns the boxes in a part of the file.
    fn parts(&mut self, within: Range<u64>) -> std::io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut at = within.start;
        while at.saturating_add(8) <= within.end && parts.len() < MOST {
            let head = self.bytes(at, 8)?;
            let kind = [head[4], head[5], head[6], head[7]];
            let (skip, size) = match number(&head[..4]) {
                0 => (8, within.end - at),
                1 => (16, number(&self.bytes(at + 8, 8)?)),
                size => (8, size),
            };
            let end = at.saturating_add(size);
            if size < skip || end > within.end {
                break;
            }
            parts.push((kind, at + skip..end));
            at = end;
        }
        Ok(parts)
    }

    /// Returns units per second and the number of units, as `mvhd` and `mdhd` state them.
    fn scale(&mut self, at: Range<u64>) -> std::io::Result<(f64, f64)> {
        let is_long = self.bytes(at.start, 1)?[0] == 1;
        let (skip, width) = if is_long { (20, 8) } else { (12, 4) };
        let scale = number(&self.bytes(at.start + skip, 4)?);
        let units = number(&self.bytes(at.start + skip + 4, width)?);
        Ok((scale as f64, units as f64))
    }

    /// Returns how long the edits of a track are together, in units of the movie. An empty edit is
    /// a delay.
    fn edits(&mut self, at: Range<u64>) -> std::io::Result<Option<f64>> {
        let is_long = self.bytes(at.start, 1)?[0] == 1;
        let count = number(&self.bytes(at.start + 4, 4)?) as usize;
        let (entry, width) = if is_long { (20, 8) } else { (12, 4) };
        let bytes = entry * count.min(MOST);
        if at.end - at.start < 8 + bytes as u64 || count > MOST || count == 0 {
            return Ok(None);
        }
        let entries = self.bytes(at.start + 8, bytes)?;
        let lengths = entries
            .chunks_exact(entry)
            .map(|entry| number(&entry[..width]));
        // An edit of no length reaches to an end that is not stated.
        let lengths: Option<Vec<f64>> = lengths
            .map(|length| (length > 0).then_some(length as f64))
            .collect();
        Ok(lengths.map(|lengths| lengths.iter().sum()))
    }

    /// Whether frames are shown later than they are decoded.
    fn has_offsets(&mut self, media: &[Part]) -> std::io::Result<bool> {
        let Some(information) = of(media, b"minf") else {
            return Ok(false);
        };
        let Some(table) = of(&self.parts(information)?, b"stbl") else {
            return Ok(false);
        };
        Ok(of(&self.parts(table)?, b"ctts").is_some())
    }

    fn bytes(&mut self, at: u64, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Returns where the content of the first box of a kind is.
fn of(parts: &[Part], kind: &[u8; 4]) -> Option<Range<u64>> {
    let part = parts.iter().find(|(found, _)| found == kind)?;
    Some(part.1.clone())
}

/// Returns a number of at most eight bytes, the first of which weighs most.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let size = (8 + content.len()) as u32;
        [&size.to_be_bytes()[..], kind, content].concat()
    }

    /// A box whose size has eight bytes.
    fn long_part(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let size = (16 + content.len()) as u64;
        [&1_u32.to_be_bytes()[..], kind, &size.to_be_bytes(), content].concat()
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        let bytes = numbers.iter().flat_map(|number| number.to_be_bytes());
        bytes.collect()
    }

    /// A header with 90 units of 30 a second in a track, after the boxes `track` of that track.
    fn header(track: &[u8], media: &[u8]) -> Vec<u8> {
        let scale = |kind, scale, units| part(kind, &numbers(&[0, 0, 0, scale, units]));
        let handler = [&numbers(&[0, 0])[..], b"vide", &[0; 12]].concat();
        let media = [
            scale(b"mdhd", 30, 90),
            part(b"hdlr", &handler),
            media.to_vec(),
        ]
        .concat();
        let track = [track, &part(b"mdia", &media)].concat();
        let movie = [scale(b"mvhd", 1000, 3000), part(b"trak", &track)].concat();
        [part(b"ftyp", b"isom"), part(b"moov", &movie)].concat()
    }

    fn edits(count: u32, entries: &[u32]) -> Vec<u8> {
        part(
            b"edts",
            &part(b"elst", &numbers(&[&[0, count], entries].concat())),
        )
    }

    #[expect(clippy::disallowed_methods)]
    fn of_bytes(bytes: &[u8]) -> Option<f64> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        std::fs::write(&path, bytes).unwrap();
        ending(&path).unwrap()
    }

    #[test]
    fn headers_state_where_videos_end() {
        assert_eq!(of_bytes(&header(b"", b"")), Some(3.0));
        // An edit of two seconds after a delay of half a second, in thousandths.
        let delayed = edits(2, &[500, u32::MAX, 1 << 16, 2000, 0, 1 << 16]);
        assert_eq!(of_bytes(&header(&delayed, b"")), Some(2.5));
        let whole = header(b"", b"");
        let skipped = long_part(b"free", &[7; 5]);
        let between = [&whole[..12], &skipped, &whole[12..]].concat();
        assert_eq!(of_bytes(&between), Some(3.0));
    }

    #[test]
    fn headers_that_state_no_end_are_no_errors() {
        let shown_late = part(b"minf", &part(b"stbl", &part(b"ctts", b"")));
        assert_eq!(of_bytes(&header(b"", &shown_late)), None);
        assert_eq!(of_bytes(b""), None);
        assert_eq!(of_bytes(b"RIFF and so on, which is no MP4"), None);
        // No edits, more edits than the list has, more than are looked at, and one without length.
        for list in [
            edits(0, &[]),
            edits(9, &[500, 0, 0]),
            edits(u32::MAX, &[500, 0, 0]),
            edits(1, &[0, 0, 0]),
        ] {
            assert_eq!(of_bytes(&header(&list, b"")), None);
        }
        let two = [header(b"", b""), header(b"", b"")].concat();
        assert_eq!(of_bytes(&two), Some(3.0), "the first movie counts");
    }

    #[test]
    fn a_header_that_is_cut_or_changed_anywhere_neither_fails_nor_panics() {
        let whole = header(&edits(1, &[2000, 0, 1 << 16]), b"");
        assert_eq!(of_bytes(&whole), Some(2.0));
        for end in 0..whole.len() {
            assert_eq!(of_bytes(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let end = of_bytes(&changed);
                assert!(end.is_none_or(|end| end.is_finite() && end > 0.0));
            }
        }
    }

    #[test]
    fn boxes_that_lie_about_their_size_end_the_search() {
        for size in [2_u32, 7, 9, u32::MAX] {
            let mut lying = header(b"", b"");
            lying[12..16].copy_from_slice(&size.to_be_bytes());
            assert_eq!(of_bytes(&lying), None, "{size}");
        }
        for size in [0, 15, u64::MAX, i64::MAX as u64] {
            let mut lying = long_part(b"moov", &header(b"", b"")[20..]);
            lying[8..16].copy_from_slice(&size.to_be_bytes());
            let lying = [part(b"ftyp", b"isom"), lying].concat();
            assert_eq!(of_bytes(&lying), None, "{size}");
        }
        // Boxes in boxes are not followed, however deep.
        let deep = (0..5000).fold(Vec::new(), |inner: Vec<u8>, _| part(b"moov", &inner));
        assert_eq!(of_bytes(&[part(b"ftyp", b"isom"), deep].concat()), None);
        // As many boxes as a level may have, and one more before the movie.
        let many = |count| {
            let free = part(b"free", b"").repeat(count);
            [&part(b"ftyp", b"isom")[..], &free, &header(b"", b"")[12..]].concat()
        };
        assert_eq!(of_bytes(&many(MOST - 2)), Some(3.0));
        assert_eq!(of_bytes(&many(MOST - 1)), None);
    }
}
