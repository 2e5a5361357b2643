//! Episodes of ALOHA and ACT: a folder of HDF5 files with one trajectory each, or one such file.
//!
//! `observations/qpos` is the observation, and each other array under `observations` becomes a
//! column `observation/NAME`. Cameras are arrays of pixels, or pictures in a file format such as
//! JPEG: rows of bytes, which the recorder pads with zeros to one length. `compress_len` holds the
//! lengths before that, one row for each camera, in the recorder's order of cameras, which the file
//! does not state. So each camera gets the row that fits its bytes.
//!
//! A file does not say how the episode ended. Whatever it says once about the episode becomes a
//! column of trajectories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, UInt8Type};
use serde_json::Map;

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::Account;
use crate::dataset::block::{elements, flattened};
use crate::dataset::schema::step;
use crate::error::wording::count;
use crate::error::{Error, Result, caught};
use crate::transfer::read::groups::{self, Common, Survey};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, OnError, Options, Reader, Source, parts};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "aloha",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe,
    }),
    read: Some(Reader {
        takes: &["map", "only", "skip"],
        open,
    }),
    write: None,
    validate: None,
};

/// The positions of the joints: the observation.
const POSITIONS: &str = "observations/qpos";

/// The array of actions.
const ACTION: &str = "action";

/// The group of observations.
const OBSERVATIONS: &str = "observations/";

/// The group of cameras.
const CAMERAS: &str = "observations/images/";

/// The numbers of bytes of pictures, before they were padded.
const LENGTHS: &str = "compress_len";

/// Whether the file at `path`, or the first file of the folder at `path`, is an episode.
fn probe(path: &Path) -> Result<bool> {
    let (files, _) = groups::hdf5_files(path)?;
    let Some(first) = files.first() else {
        return Ok(false);
    };
    if !hdf5::is_hdf5(first)? {
        return Ok(false);
    }
    let file = hdf5::open(first)?;
    let has = |name| hdf5::has_array(&file, name).map_err(|error| error.at(first.display()));
    Ok(has(POSITIONS)? && has(ACTION)?)
}

/// A folder of episodes, read one file at a time.
struct Aloha {
    files: std::vec::IntoIter<PathBuf>,
    options: Options,
    common: Common,
    about: SchemaRef,
    schema: SchemaRef,
    first: FirstTrajectory,
    steps: u64,
}

/// Opens the episodes at `path`.
fn open(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    parts::verify_targets(options, &parts::TARGETS)?;
    let (files, others) = groups::hdf5_files(path)?;
    let choice = Choice::new(options, |name| name == LENGTHS);
    let mut common = Common::new(choice);
    let (mut survey, mut steps) = (Survey::default(), 0);
    for file in &files {
        // A file that cannot be read is an error when its turn comes.
        let surveyed = caught(file.display(), || survey_file(file, &common, &mut survey));
        if let Err(error) = surveyed.map(|length| steps += length)
            && options.on_error == OnError::Fail
        {
            return Err(error);
        }
    }
    common.settle(survey, |name| {
        [ACTION, LENGTHS].contains(&name) || name.starts_with(OBSERVATIONS)
    });
    common.name_task();
    common.leave_out_files(others);
    let verified = common.choice().verify();
    verified.map_err(|error| error.at(path.display()))?;
    let mut aloha = Aloha {
        files: files.into_iter(),
        options: options.clone(),
        about: Arc::new(Schema::new(common.about())),
        common,
        schema: Arc::new(Schema::empty()),
        first: FirstTrajectory::default(),
        steps,
    };
    (aloha.first, aloha.schema) = FirstTrajectory::read(options.on_error, || aloha.episode(None))?;
    Ok(Box::new(aloha))
}

/// Takes the file at `path` into account. Returns the number of its steps.
fn survey_file(path: &Path, common: &Common, survey: &mut Survey) -> Result<u64> {
    let failed = |error: Error| error.at(path.display());
    let root = hdf5::open(path)?.root();
    let (mut arrays, mut attributes) = (BTreeMap::new(), Map::new());
    let reads = |name: &str| common.reads(name);
    hdf5::shapes(&root, &reads, &mut arrays).map_err(failed)?;
    hdf5::attributes(&root, &mut attributes).map_err(failed)?;
    let actions = arrays
        .get(ACTION)
        .and_then(|action| action.shape.first().copied());
    let length = actions.unwrap_or(0);
    survey.add(arrays, length, &attributes);
    Ok(length)
}

impl Aloha {
    /// Reads the next episode, whose columns must be those of `schema`, if there is one.
    fn episode(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let Some(path) = self.files.next() else {
            return Ok(None);
        };
        self.read(&path, schema)
            .map(Some)
            .map_err(|error| error.at(path.display()))
    }

    /// Reads the episode in the file at `path`.
    fn read(&self, path: &Path, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let root = hdf5::open(path)?.root();
        let mut attributes = Map::new();
        hdf5::attributes(&root, &mut attributes)?;
        let mut arrays = self.common.arrays(&root, &mut hdf5::all_rows)?;
        let facts = self.common.facts(&mut arrays, &attributes)?;
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let about = RecordBatch::try_new_with_options(Arc::clone(&self.about), facts, &one)?;
        if self
            .common
            .choice()
            .needed(CAMERAS.trim_end_matches('/'))
            .is_none()
        {
            require_pictures(&arrays)?;
        }
        pictures(&mut arrays)?;
        let missing = |name: &str| {
            let left_out = self.common.choice().needed(name);
            left_out.unwrap_or_else(|| {
                Error::failed(format!("there is no array `{name}`"))
                    .hint("an episode has the arrays `observations/qpos` and `action`")
            })
        };
        let action = match parts::take(&mut arrays, &self.options, step::ACTION)? {
            Some(action) => action,
            None => arrays.remove(ACTION).ok_or_else(|| missing(ACTION))?,
        };
        let observation = match parts::take(&mut arrays, &self.options, step::OBSERVATION)? {
            Some(observation) => observation,
            None => arrays.remove(POSITIONS).ok_or_else(|| missing(POSITIONS))?,
        };
        let reward = parts::take(&mut arrays, &self.options, step::REWARD)?;
        let (length, rows) = (action.1.len(), observation.1.len());
        if length == 0 || rows < length || rows > length + 1 {
            return Err(Error::failed(format!(
                "`{}` has {}, but `{}` has {}",
                observation.0.name(),
                count(rows, "row"),
                action.0.name(),
                count(length, "row")
            ))
            .hint("every array needs one row per step: record the episode again, or remove it"));
        }
        let mut trajectory = TrajectoryBuilder::new(length, rows > length);
        trajectory.add(step::OBSERVATION, observation, false)?;
        trajectory.add(step::ACTION, action, true)?;
        if let Some(reward) = reward {
            trajectory.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
        }
        trajectory.flags(step::TERMINATED, &vec![false; length])?;
        trajectory.flags(step::TRUNCATED, &vec![false; length])?;
        trajectory.finals();
        trajectory.others(arrays.into_iter().map(renamed).collect())?;
        let stem = path.file_stem().unwrap_or_default();
        Ok(IncomingTrajectory {
            key: stem.to_string_lossy().into_owned(),
            steps: trajectory.finish(schema)?,
            about: (!self.about.fields().is_empty()).then_some(about),
        })
    }
}

/// Gives a part of the observations the name of its column.
fn renamed((full, column): (String, (Field, ArrayRef))) -> (String, (Field, ArrayRef)) {
    let part = full.strip_prefix(OBSERVATIONS);
    let name = part.map(|part| format!("{}/{part}", step::OBSERVATION));
    (name.unwrap_or(full), column)
}

/// Replaces the padded pictures of cameras by the bytes of the pictures, and removes their lengths.
fn pictures(arrays: &mut ArrayColumns) -> Result<()> {
    let lengths = arrays
        .remove(LENGTHS)
        .map(|lengths| Lengths::of(&lengths.1))
        .transpose()?;
    let cameras: Vec<String> = arrays
        .iter()
        .filter(|(name, (field, _))| name.starts_with(CAMERAS) && is_padded(field))
        .map(|(name, _)| name.clone())
        .collect();
    for name in cameras {
        let Some((field, values)) = arrays.remove(&name) else {
            continue;
        };
        let cut = cut(&values, lengths.as_ref()).map_err(|error| error.at(format!("`{name}`")))?;
        let field = Field::new(field.name(), DataType::Binary, field.is_nullable());
        arrays.insert(name, (field, Arc::new(cut)));
    }
    Ok(())
}

/// Verifies that there is a camera with pictures if the file has lengths of pictures.
///
/// # Errors
/// Returns an error if there is none.
fn require_pictures(arrays: &ArrayColumns) -> Result<()> {
    let holds = |(name, (field, _)): (&String, &(Field, ArrayRef))| {
        name.starts_with(CAMERAS) && is_padded(field)
    };
    if !arrays.contains_key(LENGTHS) || arrays.iter().any(holds) {
        return Ok(());
    }
    Err(Error::failed(format!(
        "`{LENGTHS}` holds the lengths of pictures, but no camera holds pictures"
    ))
    .hint("the episode is incomplete: record or convert it again"))
}

/// Whether a camera holds rows of bytes, which have one axis, and not pixels, which have more.
fn is_padded(field: &Field) -> bool {
    matches!(field.data_type(), DataType::FixedSizeList(child, _)
        if *child.data_type() == DataType::UInt8 && !field.metadata().contains_key("shape"))
}

/// The lengths of the pictures of all cameras.
struct Lengths {
    rows: Vec<Vec<usize>>,
}

impl Lengths {
    fn of(values: &ArrayRef) -> Result<Lengths> {
        let (numbers, width) = flattened(values);
        let numbers = arrow::compute::cast(&numbers, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>().values();
        let length = |value: &f64| {
            let whole = value.fract() == 0.0 && *value >= 0.0;
            whole.then_some(*value as usize)
        };
        let numbers: Option<Vec<usize>> = numbers.iter().map(length).collect();
        let numbers = numbers.ok_or_else(|| {
            Error::failed(format!(
                "`{LENGTHS}` holds values that are no numbers of bytes"
            ))
        })?;
        Ok(Lengths {
            rows: numbers
                .chunks(width.max(1))
                .map(<[usize]>::to_vec)
                .collect(),
        })
    }

    /// Returns the row that fits pictures best, which end not before `ends`.
    fn fit(&self, ends: &[usize], width: usize) -> Option<&[usize]> {
        let padding = |row: &&Vec<usize>| {
            let padding = row.iter().zip(ends).map(|(length, end)| length - end);
            padding.sum::<usize>()
        };
        let fits = |row: &&Vec<usize>| {
            row.len() >= ends.len()
                && row
                    .iter()
                    .zip(ends)
                    .all(|(length, end)| end <= length && *length <= width)
        };
        let best = self.rows.iter().filter(fits).min_by_key(padding);
        best.map(Vec::as_slice)
    }
}

/// Cuts each row of bytes to its length before it was padded: the one that `lengths` gives, or
/// without it, the one without the zeros at the end. Pictures do not end with a zero.
fn cut(values: &ArrayRef, lengths: Option<&Lengths>) -> Result<BinaryArray> {
    let vectors = values.as_fixed_size_list();
    let width = vectors.value_length() as usize;
    let bytes = elements(vectors);
    let bytes = bytes.as_primitive::<UInt8Type>().values();
    let rows = bytes.chunks_exact(width.max(1));
    let ends: Vec<usize> = rows
        .clone()
        .map(|row| {
            row.iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1)
        })
        .collect();
    let ends = match lengths {
        Some(lengths) => lengths.fit(&ends, width).ok_or_else(|| {
            Error::failed(format!(
                "no row of `{LENGTHS}` fits the bytes of the pictures"
            ))
            .hint("the episode is damaged: record or convert it again, or remove it")
        })?,
        None => &ends,
    };
    Ok(rows
        .zip(ends)
        .map(|(row, end)| Some(&row[..*end]))
        .collect())
}

impl Source for Aloha {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        Some(self.steps)
    }

    fn account(&self) -> Account {
        self.common.account()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.first.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.episode(Some(&schema))
    }
}
