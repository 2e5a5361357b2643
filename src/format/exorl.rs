//! Folders of `episode_INDEX_LENGTH.npz`, as ExORL, DrQ and V-D4RL write them: one trajectory a file, with a row more than
//! it has steps. Row 0 is the reset; the action, reward and discount of row t led to the observation of row t.
//!
//! A discount of 0 says that the environment ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArrayColumns;
use crate::container::{arrays, npz};
use crate::dataset::files;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{IncomingTrajectory, Options, Reader, Source, pattern};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "exorl",
    about: "ExORL, DrQ, V-D4RL: a folder of episode_*.npz, one trajectory a file; only read",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(files::is_dir(path)? && !episodes(path)?.is_empty()),
    }),
    read: Some(Reader {
        takes: &[],
        open: read,
    }),
    write: None,
    validate: None,
};

/// The files of trajectories in the folder `path`, in order of their numbers.
fn episodes(path: &Path) -> Result<Vec<PathBuf>> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", path.display()));
    let mut found = Vec::new();
    for file in files::list(path).map_err(failed)? {
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.starts_with("episode_") && npz::is_npz(&file)? {
            found.push(file);
        }
    }
    found.sort_by(|a, b| pattern::natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(found)
}

struct Episodes {
    files: std::vec::IntoIter<PathBuf>,
    schema: SchemaRef,
    opening: FirstTrajectory,
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let mut files = episodes(path)?.into_iter();
    if files.len() == 0 {
        return Err(Error::failed(format!(
            "{} holds no file episode_*.npz",
            path.display()
        )));
    }
    let (opening, schema) = FirstTrajectory::read(options.on_error, || next(&mut files, None))?;
    Ok(Box::new(Episodes {
        files,
        schema,
        opening,
    }))
}

/// The trajectory in the next file, whose columns must be those of `schema`, where that is known; `None` after the last.
fn next(
    files: &mut std::vec::IntoIter<PathBuf>,
    schema: Option<&SchemaRef>,
) -> Result<Option<IncomingTrajectory>> {
    let Some(path) = files.next() else {
        return Ok(None);
    };
    episode(&path, schema)
        .map(Some)
        .map_err(|error| error.at(path.display()))
}

fn episode(path: &Path, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
    let mut arrays = ArrayColumns::new();
    for mut part in npz::arrays(path, &[])?
        .into_iter()
        .filter(|part| part.layout.width() > 0)
    {
        if part.layout.element == DataType::Null {
            return Err(Error::failed(format!(
                "`{}` holds {}, not numbers",
                part.layout.name, part.layout.kind
            )));
        }
        let bytes = part.reader.read(part.layout.rows)?;
        let name = part.layout.name.clone();
        arrays.insert(
            name.clone(),
            arrays::whole_column(&name, &part.layout, bytes)?,
        );
    }
    let observation = per_trajectory::take(&mut arrays, "observation")
        .ok_or_else(|| Error::failed("there is no array `observation`"))?;
    let rows = observation.1.len();
    let length = rows
        .checked_sub(1)
        .filter(|length| *length > 0)
        .ok_or_else(|| Error::failed("it has no step after the reset"))?;
    let mut assembly = TrajectoryBuilder::new(length, true);
    assembly.add(step::OBSERVATION, observation, false)?;
    // What led to row t+1 was done in row t.
    let mut led = |name: &str| -> Result<Option<_>> {
        let Some((field, values)) = arrays.remove(name) else {
            return Ok(None);
        };
        if values.len() != rows {
            return Err(Error::failed(format!(
                "`{name}` has {} rows where `observation` has {rows}",
                values.len()
            )));
        }
        Ok(Some((field, values.slice(1, length))))
    };
    let (action, reward, discount) = (led("action")?, led("reward")?, led("discount")?);
    if let Some(action) = action {
        assembly.add(step::ACTION, action, true)?;
    }
    if let Some(reward) = reward {
        assembly.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
    }
    let zero = discount.as_ref().map(per_trajectory::numbers).transpose()?;
    let terminated: Vec<bool> = (0..length)
        .map(|row| zero.as_ref().is_some_and(|discount| discount[row] == 0.0))
        .collect();
    let ended = terminated.last() == Some(&true);
    assembly.flags(step::TERMINATED, &terminated)?;
    assembly.flags(
        step::TRUNCATED,
        &(0..length)
            .map(|row| !ended && row + 1 == length)
            .collect::<Vec<_>>(),
    )?;
    assembly.finals();
    if let Some(discount) = discount {
        assembly.add("discount", per_trajectory::squeezed(discount), true)?;
    }
    assembly.others(arrays)?;
    let key = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(IncomingTrajectory {
        key,
        steps: assembly.finish(schema)?,
        about: None,
    })
}

impl Source for Episodes {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn rows(&self) -> Option<u64> {
        None
    }

    fn metadata(&self) -> Map<String, Value> {
        Map::new()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        match self.opening.next() {
            Some(opening) => opening.map(Some),
            None => next(&mut self.files, Some(&self.schema)),
        }
    }
}
