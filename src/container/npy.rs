//! npy files: one numpy array each.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use arrow::datatypes::DataType;

use super::arrays::ArraySink;
use super::dtype;
use crate::dataset::store::PatchedFile;
use crate::error::{Error, Result};

/// Returns the header of an npy file, version 1.0, padded so that the data start at a multiple of
/// 64 bytes.
pub(crate) fn header(name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<Vec<u8>> {
    let code = dtype::code(element).ok_or_else(|| {
        Error::failed(format!(
            "`{name}` is {element}, and numpy has no plain type for that"
        ))
    })?;
    // Elements of one byte have no byte order.
    let order = if code.ends_with('1') { '|' } else { '<' };
    let shape: String = std::iter::once(&rows)
        .chain(row)
        .map(|axis| format!("{axis}, "))
        .collect();
    let mut text = format!(
        "{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({}), }}",
        shape.trim_end_matches(' ')
    );
    let before = 10;
    while (before + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len())
        .map_err(|_| Error::failed(format!("`{name}` has too many axes")))?;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Ok(bytes)
}

/// A directory of npy files.
pub(crate) struct NpyFolder {
    folder: PathBuf,
    file: Option<BufWriter<PatchedFile>>,
}

impl NpyFolder {
    /// Writes each array to its own file in `folder`, which must exist.
    pub(crate) fn new(folder: PathBuf) -> NpyFolder {
        NpyFolder { folder, file: None }
    }
}

impl ArraySink for NpyFolder {
    fn begin(&mut self, name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<()> {
        // Parts of structs and infos become files beside the others, not folders.
        let path = self.folder.join(format!("{}.npy", name.replace('/', ".")));
        let mut file = BufWriter::with_capacity(1 << 20, PatchedFile::create(&path)?);
        file.write_all(&header(name, element, rows, row)?)?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(file) => Ok(file.write_all(bytes)?),
            None => Err(Error::failed("no array was begun")),
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.file.take() {
            Some(file) => file
                .into_inner()
                .map_err(std::io::IntoInnerError::into_error)?
                .finish(),
            None => Ok(()),
        }
    }
}
