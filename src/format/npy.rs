//! numpy's npy files, one per column, to be mapped into memory: `np.load(FILE, mmap_mode='r')`.
//!
//! A directory: `observation.npy`, `action.npy` and so on have a row for each row of steps, final observations included;
//! `starts.npy` has the first row of each trajectory, and the number of rows after the last. Where a column may be null,
//! NaN or zero stands there, and `COLUMN_valid.npy` says so.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;

use super::Format;
use super::dense::{self, Plain, Sink};
use super::kept::{self, Envelope};
use super::outgoing::{Leaving, Outgoing, WriteOptions, Writer, Written};
use crate::dataset::schema::step;
use crate::dataset::store::{self, PatchedFile};
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "npy",
    about: "numpy arrays in files of their own, one per column, to be mapped into memory; only written",
    detect: |_| false,
    read: None,
    write: Some(Writer {
        nulls: true,
        takes: &[],
        write,
        note: None,
    }),
    validate: None,
};

/// The header of an npy file: version 1.0, padded so that the data begin at a multiple of 64 bytes.
pub(super) fn header(name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<Vec<u8>> {
    let kind = match element {
        DataType::Boolean => "|b1",
        DataType::Int8 => "|i1",
        DataType::Int16 => "<i2",
        DataType::Int32 => "<i4",
        DataType::Int64 => "<i8",
        DataType::UInt8 => "|u1",
        DataType::UInt16 => "<u2",
        DataType::UInt32 => "<u4",
        DataType::UInt64 => "<u8",
        DataType::Float16 => "<f2",
        DataType::Float32 => "<f4",
        DataType::Float64 => "<f8",
        other => {
            return Err(Error::failed(format!(
                "`{name}` is {other}, which numpy has no plain type for"
            )));
        }
    };
    let shape: String = std::iter::once(&rows)
        .chain(row)
        .map(|axis| format!("{axis}, "))
        .collect();
    let mut text = format!(
        "{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}",
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
struct Npy {
    folder: PathBuf,
    file: Option<BufWriter<PatchedFile>>,
}

impl Sink for Npy {
    fn begin(&mut self, name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<()> {
        // Parts of structs and infos are files beside the others, not folders within.
        let path = self.folder.join(format!("{}.npy", name.replace('/', ".")));
        let mut file = BufWriter::with_capacity(1 << 20, PatchedFile::create(&path)?);
        file.write_all(&header(name, element, rows, row)?)?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(file) => Ok(file.write_all(bytes)?),
            None => Err(Error::failed("an array was not begun")),
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

fn write(outgoing: &Outgoing, to: &Path, options: &WriteOptions) -> Result<Written> {
    store::create_dir(to)?;
    let mut written = Written::default();
    let mut sink = Npy {
        folder: to.to_owned(),
        file: None,
    };
    let mut left = Vec::new();
    for field in outgoing.steps().fields() {
        let name = field.name();
        match name.as_str() {
            step::TRAJECTORY_ID | step::STEP => {}
            step::ACTION_SOURCE => {
                dense::proxies(
                    outgoing,
                    &mut sink,
                    "action_is_proxy",
                    outgoing.rows(),
                    &|leaving| leaving.steps.num_rows(),
                )?;
                written.moved("`action_source`", "`action_is_proxy.npy`");
            }
            name if dense::column(outgoing, &mut sink, name, name, true)? => {}
            name => left.push(name.to_owned()),
        }
    }
    let starts = Plain {
        name: "starts".to_owned(),
        path: Vec::new(),
        element: DataType::Int64,
        row: Vec::new(),
    };
    let rows = std::cell::Cell::new(0_i64);
    let of = |leaving: &Leaving| -> Result<ArrayRef> {
        let first = rows.get();
        rows.set(first + leaving.steps.num_rows() as i64);
        let last = leaving.index + 1 == outgoing.trajectories();
        let values = if last {
            vec![first, rows.get()]
        } else {
            vec![first]
        };
        Ok(Arc::new(Int64Array::from(values)))
    };
    dense::stream(
        outgoing,
        &mut sink,
        &starts,
        outgoing.trajectories() + 1,
        &[step::IS_FINAL],
        &of,
    )?;
    dense::left(&mut written, &left);
    written.moved(
        "identity of trajectories, what else came along with them",
        "`trajmill.trajectories.npy`, lines of JSON",
    );
    let envelope = Envelope::new(
        outgoing,
        options,
        std::collections::BTreeMap::new(),
        &mut written,
    );
    kept::write(outgoing, &mut sink, "trajmill/", &envelope)?;
    Ok(written)
}
