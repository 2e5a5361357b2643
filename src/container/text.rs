//! Text files: plain, or compressed with gzip or zstd.

use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::dataset::files;
use crate::error::{Error, Result};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Opens the text file at `path`. The first bytes show how it is compressed. A byte order mark of
/// UTF-8 is skipped.
///
/// # Errors
/// Returns an error if the file cannot be read, or if its text is UTF-16.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let failed = |error: std::io::Error| unreadable(path, &error.to_string());
    let file = files::open(path).map_err(failed)?;
    let mut file = BufReader::with_capacity(BUFFER, file);
    let head = file.fill_buf().map_err(failed)?;
    let mut text: Box<dyn BufRead> = if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file)))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?;
        Box::new(BufReader::with_capacity(BUFFER, decoder))
    } else {
        Box::new(file)
    };
    let head = text.fill_buf().map_err(failed)?;
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err(
            Error::failed(format!("{}: the text is UTF-16", path.display()))
                .hint("convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
        );
    }
    if head.starts_with(&[0xef, 0xbb, 0xbf]) {
        text.consume(3);
    }
    Ok(text)
}

/// Returns the error for a text file that cannot be read to its end.
pub(super) fn unreadable(path: &Path, what: &str) -> Error {
    Error::failed(format!("{}: cannot read the text: {what}", path.display()))
        .hint("the file may be cut short or damaged: fetch or write it again")
}
