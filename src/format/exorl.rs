//! Directories of `episode_INDEX_LENGTH.npz` files, as ExORL, DrQ and V-D4RL write them.
//!
//! A file holds one trajectory and has one row more than the trajectory has steps. Row 0 is the
//! reset. The action, reward and discount of row t led to the observation of row t. A discount of 0
//! means that the environment terminated.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArrayColumns;
use crate::container::{arrays, npz};
use crate::dataset::schema::step;
use crate::dataset::{Account, files};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Reader, Source, pattern};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "exorl",
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

/// Returns the files of trajectories in the directory `path`, in the order of their numbers.
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

/// A directory of episodes, read one file at a time.
struct Episodes {
    choice: Choice,
    files: std::vec::IntoIter<PathBuf>,
    schema: SchemaRef,
    opening: FirstTrajectory,
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let mut files = episodes(path)?.into_iter();
    if files.len() == 0 {
        return Err(Error::failed(format!(
            "{}: there are no files `episode_*.npz` with trajectories",
            path.display()
        ))
        .hint("give the directory that holds these files itself"));
    }
    let choice = Choice::new(options, |name| name == "discount");
    let (opening, schema) =
        FirstTrajectory::read(options.on_error, || next_episode(&mut files, &choice, None))?;
    choice.verify().map_err(|error| error.at(path.display()))?;
    Ok(Box::new(Episodes {
        choice,
        files,
        schema,
        opening,
    }))
}

/// Returns the trajectory in the next file, whose columns must be those of `schema` if it is given;
/// `None` after the last file.
fn next_episode(
    files: &mut std::vec::IntoIter<PathBuf>,
    choice: &Choice,
    schema: Option<&SchemaRef>,
) -> Result<Option<IncomingTrajectory>> {
    let Some(path) = files.next() else {
        return Ok(None);
    };
    episode(&path, choice, schema)
        .map(Some)
        .map_err(|error| error.at(path.display()))
}

/// Reads the arrays of the file at `path` that have values, as columns.
fn columns(path: &Path, choice: &Choice) -> Result<ArrayColumns> {
    let mut columns = ArrayColumns::new();
    for mut array in npz::arrays(path, &|name| choice.reads(name))?
        .into_iter()
        .filter(|array| array.layout.width() > 0)
    {
        if array.layout.element == DataType::Null {
            return Err(Error::failed(format!(
                "array `{}` holds {}, not numbers",
                array.layout.name, array.layout.kind
            ))
            .hint("save the file again without this array"));
        }
        let bytes = array.reader.read(array.layout.rows)?;
        let name = array.layout.name.clone();
        let column = arrays::whole_column(&name, &array.layout, bytes)?;
        columns.insert(name, column);
    }
    Ok(columns)
}

/// Reads the trajectory in the file at `path`.
fn episode(path: &Path, choice: &Choice, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
    let mut columns = columns(path, choice)?;
    let observation = per_trajectory::take(&mut columns, "observation")?.ok_or_else(|| {
        Error::failed("there is no array `observation`")
            .hint("a file of this format has the arrays `observation`, `action` and `reward`")
    })?;
    let rows = observation.1.len();
    let length = rows
        .checked_sub(1)
        .filter(|length| *length > 0)
        .ok_or_else(|| {
            Error::failed("the trajectory has no step after the reset").hint("remove the file")
        })?;
    let mut builder = TrajectoryBuilder::new(length, true);
    builder.add(step::OBSERVATION, observation, false)?;
    // The values that led to the observation of row t + 1 belong to step t.
    let mut moved_back = |name: &str| -> Result<Option<_>> {
        let Some((field, values)) = columns.remove(name) else {
            return Ok(None);
        };
        if values.len() != rows {
            return Err(Error::failed(format!(
                "array `{name}` has {}, but `observation` has {}",
                count(values.len(), "row"),
                number(rows)
            ))
            .hint("the file may be damaged: fetch or write it again"));
        }
        Ok(Some((field, values.slice(1, length))))
    };
    let action = moved_back("action")?;
    let reward = moved_back("reward")?;
    let discount = moved_back("discount")?;
    if let Some(action) = action {
        builder.add(step::ACTION, action, true)?;
    }
    if let Some(reward) = reward {
        builder.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
    }
    let discounts = discount.as_ref().map(per_trajectory::numbers).transpose()?;
    let terminated: Vec<bool> = (0..length)
        .map(|row| {
            discounts
                .as_ref()
                .is_some_and(|discounts| discounts[row] == 0.0)
        })
        .collect();
    let ends_terminated = terminated.last() == Some(&true);
    builder.flags(step::TERMINATED, &terminated)?;
    builder.flags(
        step::TRUNCATED,
        &(0..length)
            .map(|row| !ends_terminated && row + 1 == length)
            .collect::<Vec<_>>(),
    )?;
    builder.finals();
    if let Some(discount) = discount {
        builder.add("discount", per_trajectory::squeezed(discount), true)?;
    }
    builder.others(columns)?;
    let key = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(IncomingTrajectory {
        key,
        steps: builder.finish(schema)?,
        about: None,
    })
}

impl Source for Episodes {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn account(&self) -> Account {
        self.choice.account(Account::default())
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        match self.opening.next() {
            Some(opening) => opening.map(Some),
            None => next_episode(&mut self.files, &self.choice, Some(&self.schema)),
        }
    }
}
