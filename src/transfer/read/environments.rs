//! Arrays of rollouts of vectorised environments, whose first axes are time and environments: the
//! steps of each environment are put end to end.

use std::path::PathBuf;

use crate::container::arrays::{ArrayLayout, ArrayReader, StoredArray};
use crate::dataset::store::ScratchFile;
use crate::error::{Error, Result};
use crate::transfer::read::{Axes, Options};

/// Bytes that are rearranged at once.
const BLOCK: usize = 64 << 20;

/// The hint for an array whose shape could be that of a rollout.
pub(crate) const LAYOUT: &str = "if the first axes are time and environments, as in a rollout of \
     vectorised environments, read the file with `--layout time,env` or `--layout env,time` (in a \
     pipeline, `layout: time,env` under `source`)";

/// Rearranges `arrays` so that they hold the steps of the first environment, then those of the
/// second, and so on. `observation` is the array whose first axes are those of all steps; arrays
/// with other axes are left as they are. Returns the number of steps of each environment too.
///
/// # Errors
/// Returns an error if the array of observations has only one axis.
pub(crate) fn end_to_end(
    arrays: Vec<StoredArray>,
    observation: &str,
    options: &Options,
) -> Result<(Vec<StoredArray>, u64)> {
    let of_steps = arrays
        .iter()
        .map(|array| &array.layout)
        .find(|layout| layout.name == observation)
        .ok_or_else(|| Error::failed(format!("there is no array `{observation}`")))?;
    let Some(second) = of_steps.row.first().copied() else {
        return Err(Error::failed(format!(
            "`{observation}` has the shape {}, which has no axis of environments",
            of_steps.shape()
        ))
        .hint("leave `--layout` out, or choose another array with `--map observation=ARRAY`"));
    };
    let first = of_steps.rows;
    let steps = match options.layout {
        Axes::EnvTime => second as u64,
        Axes::Step | Axes::TimeEnv => first,
    };
    let rearranged = |array: StoredArray| -> Result<StoredArray> {
        if array.layout.rows != first || array.layout.row.first() != Some(&second) {
            return Ok(array);
        }
        let outer = array.layout.row_bytes();
        let rows = first
            .checked_mul(second as u64)
            .ok_or_else(|| Error::failed(format!("`{}` has too many rows", array.layout.name)))?;
        let layout = ArrayLayout {
            rows,
            row: array.layout.row[1..].to_vec(),
            ..array.layout
        };
        let cell = layout.row_bytes();
        let reader: Box<dyn ArrayReader> = match options.layout {
            Axes::EnvTime => Box::new(Split {
                inner: array.reader,
                left: first,
                outer,
                cell,
                pending: Vec::new(),
                at: 0,
            }),
            Axes::Step | Axes::TimeEnv => Box::new(Transposed {
                inner: array.reader,
                times: first,
                environments: second,
                cell,
                scratch: options.scratch(),
                cells: None,
                at: 0,
            }),
        };
        Ok(StoredArray { layout, reader })
    };
    let arrays = arrays
        .into_iter()
        .map(rearranged)
        .collect::<Result<Vec<_>>>()?;
    Ok((arrays, steps))
}

/// Reads the rows within the rows of an array.
struct Split {
    inner: Box<dyn ArrayReader>,
    /// The rows of `inner` that are not read yet.
    left: u64,
    /// The bytes of a row of `inner`, and of a row within it.
    outer: usize,
    cell: usize,
    pending: Vec<u8>,
    at: usize,
}

impl ArrayReader for Split {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut wanted = rows as usize * self.cell;
        let mut bytes = Vec::with_capacity(wanted);
        while wanted > 0 {
            if self.at == self.pending.len() {
                if self.left == 0 || self.outer == 0 {
                    return Err(Error::failed("an array has fewer rows than its shape says"));
                }
                self.pending = self.inner.read(1)?;
                self.left -= 1;
                self.at = 0;
            }
            let count = wanted.min(self.pending.len() - self.at);
            bytes.extend_from_slice(&self.pending[self.at..self.at + count]);
            self.at += count;
            wanted -= count;
        }
        Ok(bytes)
    }
}

/// Reads an array whose first axes are time and environments as if they were swapped.
struct Transposed {
    inner: Box<dyn ArrayReader>,
    times: u64,
    environments: usize,
    /// The bytes of the values of one environment at one time.
    cell: usize,
    scratch: PathBuf,
    /// The values with the axes swapped, after the first read.
    cells: Option<Cells>,
    /// The number of rows that were read.
    at: u64,
}

/// Bytes in memory, or in a scratch file if they are many.
enum Cells {
    Memory(Vec<u8>),
    File(ScratchFile),
}

impl Cells {
    fn put(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        match self {
            Cells::Memory(all) => {
                let at = at as usize;
                all[at..at + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            Cells::File(file) => file.write_at(bytes, at),
        }
    }
}

impl Transposed {
    /// Reads the whole array.
    fn swap(&mut self) -> Result<Cells> {
        let outer = self.environments * self.cell;
        let total = self.times * outer as u64;
        let mut cells = if total <= BLOCK as u64 {
            Cells::Memory(vec![0; total as usize])
        } else {
            Cells::File(ScratchFile::create(&self.scratch)?)
        };
        let at_once = (BLOCK / outer.max(1)).max(1) as u64;
        let mut time = 0;
        let mut column = Vec::new();
        while time < self.times {
            let times = at_once.min(self.times - time);
            let block = self.inner.read(times)?;
            for environment in 0..self.environments {
                column.clear();
                for row in block.chunks_exact(outer.max(1)) {
                    column.extend_from_slice(&row[environment * self.cell..][..self.cell]);
                }
                let first = environment as u64 * self.times + time;
                cells.put(&column, first * self.cell as u64)?;
            }
            time += times;
        }
        Ok(cells)
    }
}

impl ArrayReader for Transposed {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        if self.cells.is_none() {
            self.cells = Some(self.swap()?);
        }
        let first = self.at * self.cell as u64;
        let mut bytes = vec![0; rows as usize * self.cell];
        match &self.cells {
            Some(Cells::Memory(all)) => {
                let first = first as usize;
                bytes.copy_from_slice(&all[first..first + rows as usize * self.cell]);
            }
            Some(Cells::File(file)) => file.read_at(&mut bytes, first)?,
            None => {}
        }
        self.at += rows;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u8);

    impl ArrayReader for Counting {
        fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
            let bytes = (0..rows * 6).map(|_| {
                self.0 += 1;
                self.0
            });
            Ok(bytes.collect())
        }
    }

    #[test]
    fn axes_are_swapped_or_split() {
        // Four rows of three cells of two bytes.
        let values: Vec<u8> = (1..=24).collect();
        let mut split = Split {
            inner: Box::new(Counting(0)),
            left: 4,
            outer: 6,
            cell: 2,
            pending: Vec::new(),
            at: 0,
        };
        let read = [split.read(5).unwrap(), split.read(7).unwrap()].concat();
        assert_eq!(read, values);
        assert!(split.read(1).is_err());

        let folder = tempfile::tempdir().unwrap();
        let mut swapped = Transposed {
            inner: Box::new(Counting(0)),
            times: 4,
            environments: 3,
            cell: 2,
            scratch: folder.path().to_owned(),
            cells: None,
            at: 0,
        };
        let wanted: Vec<u8> = (0..3)
            .flat_map(|environment| (0..4).map(move |time| time * 6 + environment * 2))
            .flat_map(|first| [first + 1, first + 2])
            .collect();
        let read = [swapped.read(5).unwrap(), swapped.read(7).unwrap()].concat();
        assert_eq!(read, wanted);
    }
}
