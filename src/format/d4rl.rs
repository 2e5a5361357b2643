//! D4RL's HDF5: the arrays `observations`, `actions`, `rewards`, `terminals` and `timeouts` hold
//! all trajectories end to end. Further arrays are `infos/*` with one row per step, and
//! `metadata/*`.
//!
//! The writer adds `next_observations`. If the observation after the last action is not known, it
//! repeats the last observation there. If a trajectory is neither terminated nor truncated, the
//! writer truncates it, because flags are the only boundaries in the file. Both facts are stored
//! under `metadata/trajmill`, which D4RL's `sequence_dataset` ignores.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};

use super::{Detection, Evidence, Format};
use crate::container::arrays::StoredArray;
use crate::container::hdf5;
use crate::container::hdf5::Hdf5Writer;
use crate::dataset::Account;
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result};
use crate::transfer::read::arrays::{are_trajectories, is_role, names};
use crate::transfer::read::concatenated::{Besides, Concatenated, is_boundary, is_marker};
use crate::transfer::read::{Choice, Options, Reader, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeReader};
use crate::transfer::write::arrays::{self, PlainArray};
use crate::transfer::write::{
    ACTION_VALID, OutgoingDataset, OutgoingTrajectory, WriteOptions, Writer, Written, nulls,
};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "d4rl",
    detection: Some(Detection {
        evidence: Evidence::Container,
        probe,
    }),
    read: Some(Reader {
        takes: &["map", "layout", "max_steps", "split_on_gaps"],
        open: read,
    }),
    write: Some(Writer {
        nulls: false,
        whole: Some(nulls::is_plain),
        text: false,
        takes: &[],
        write,
        note: Some(note),
    }),
    validate: None,
};

/// The prefix of the arrays that hold what D4RL has no place for.
const PREFIX: &str = "metadata/trajmill/";

/// Whether the file at `path` has arrays that are named as parts of trajectories, or is an export.
fn probe(path: &Path) -> Result<bool> {
    if !hdf5::is_hdf5(path)? {
        return Ok(false);
    }
    let probed = || -> Result<bool> {
        let file = hdf5::open(path)?;
        if hdf5::has_array(&file, &format!("{PREFIX}{}", envelope::ENVELOPE))? {
            return Ok(true);
        }
        let rows = hdf5::rows(&file.root(), &is_role)?;
        are_trajectories(|name| Ok(rows.get(name).copied()))
    };
    probed().map_err(|error| error.at(path.display()))
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let is_data = |name: &str| !name.starts_with("metadata/") || name.starts_with(PREFIX);
    let choice = Choice::new(options, is_marker);
    let (mut arrays, metadata) = hdf5::stored_arrays(&hdf5::open(path)?, path, is_data, &|name| {
        choice.reads(name)
    })?;
    choice.verify().map_err(|error| error.at(path.display()))?;
    let envelope =
        EnvelopeReader::take(&mut arrays, PREFIX).map_err(|error| error.at(path.display()))?;
    let besides = Besides {
        metadata,
        account: choice.account(Account::default()),
        envelope,
    };
    verify_cuts(&arrays, &besides, options).map_err(|error| error.at(path.display()))?;
    Ok(Box::new(Concatenated::new(path, arrays, options, besides)?))
}

/// Verifies that something shows where trajectories were cut off, which terminal states alone do
/// not.
fn verify_cuts(arrays: &[StoredArray], besides: &Besides, options: &Options) -> Result<()> {
    let has = |names: &[&str]| {
        arrays
            .iter()
            .any(|array| names.contains(&array.layout.name.as_str()))
    };
    let mapped = |target: &str| options.map.iter().find(|(name, _)| name == target);
    let only_terminal = match mapped(step::TERMINATED) {
        Some((_, name)) => !names::DONE.contains(&name.as_str()),
        None => names::TERMINATED
            .iter()
            .find(|name| has(&[name]))
            .is_some_and(|name| !names::DONE.contains(name)),
    };
    let marked = has(names::TRUNCATED)
        || mapped(step::TRUNCATED).is_some()
        || has(names::START)
        || arrays.iter().any(|array| is_boundary(&array.layout.name))
        || besides.envelope.is_some();
    if !only_terminal || marked || options.max_steps.is_some() || options.split_on_gaps {
        return Ok(());
    }
    Err(Error::failed(
        "there is no array `timeouts`, so nothing shows where trajectories were cut off",
    )
    .hint(
        "give the number of steps after which the environment cuts a trajectory off with \
         `--max-steps`, 1000 in most; if all end in terminal states, any larger number",
    ))
}

fn note(path: &Path) -> Result<Option<serde_json::Value>> {
    envelope::note_of_hdf5(path, PREFIX)
}

fn write(outgoing: &OutgoingDataset, to: &Path, options: &WriteOptions) -> Result<Written> {
    let mut written = Written::default();
    let mut columns = BTreeMap::new();
    let observation = vectors(outgoing, step::OBSERVATION)?;
    let mut file = Hdf5Writer::create(to)?;
    vectors(outgoing, step::ACTION)?;
    for (column, name) in [
        (step::OBSERVATION, "observations"),
        (step::ACTION, "actions"),
        (step::REWARD, "rewards"),
    ] {
        if outgoing.steps().column_with_name(column).is_none() {
            return Err(missing(column, name));
        }
        arrays::stream_column(outgoing, &mut file, column, name, false)?;
    }
    let next = PlainArray {
        name: "next_observations".to_owned(),
        ..observation
    };
    let following = |trajectory: &OutgoingTrajectory| {
        let column = trajectory.steps.column_by_name(step::OBSERVATION);
        trajectory.following(column.ok_or_else(|| unread(step::OBSERVATION))?)
    };
    arrays::stream(
        outgoing,
        &mut file,
        &next,
        outgoing.length(),
        &[step::OBSERVATION],
        &following,
    )?;
    flags(outgoing, &mut file, "terminals", step::TERMINATED)?;
    flags(outgoing, &mut file, "timeouts", step::TRUNCATED)?;
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        arrays::stream_proxies(
            outgoing,
            &mut file,
            "infos/action_is_proxy",
            outgoing.length(),
            &|trajectory| trajectory.length,
        )?;
        written.cannot_hold(
            "`action_source`",
            arrays::source_names(outgoing, "infos/action_is_proxy"),
        );
    }
    let mut left_out = Vec::new();
    for column in arrays::extra_columns(outgoing.steps()) {
        let name = arrays::info_name(&column);
        if !arrays::stream_column(outgoing, &mut file, &column, &name, false)? {
            left_out.push(column);
        } else if name != column {
            columns.insert(format!("{name}_valid"), format!("{column}_valid"));
            columns.insert(name, column);
        }
    }
    arrays::report_left_out(
        outgoing,
        &mut written,
        &left_out,
        "with the facts about trajectories",
    );
    if outgoing.steps().column_with_name(ACTION_VALID).is_some() {
        written.cannot_hold(
            "which actions are filler",
            format!("`infos/{ACTION_VALID}`"),
        );
    }
    if !columns.is_empty()
        || outgoing
            .steps()
            .fields()
            .iter()
            .any(|field| field.name().starts_with("infos/"))
    {
        written.cannot_hold(
            "values of further columns in the rows of final observations",
            "left out: D4RL has no place for them",
        );
    }
    written.cannot_hold(
        "the identity of trajectories, how each ended, and the metadata of the source",
        format!("`{PREFIX}*`"),
    );
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    envelope::write(outgoing, &mut file, PREFIX, &envelope)?;
    file.finish()?;
    Ok(written)
}

/// Returns the array that the column `name` of vectors or single numbers becomes.
///
/// # Errors
/// Returns an error if there is no such column, or if one array cannot hold it.
fn vectors(outgoing: &OutgoingDataset, name: &str) -> Result<PlainArray> {
    let field = outgoing.steps().field_with_name(name);
    let field = field.map_err(|_| missing(name, &format!("{name}s")))?;
    match arrays::plain_arrays(field, name).as_deref() {
        Some([one]) if one.path.is_empty() => Ok(one.clone()),
        _ => Err(Error::failed(format!(
            "`{name}` is {}, but D4RL holds one vector per step",
            type_name(field.data_type())
        ))
        .hint(
            "join its parts to a vector with `derive` and select the vector with `columns`, \
             or write another format",
        )),
    }
}

/// Returns the error of a dataset that lacks `column`, which becomes the array `array`.
fn missing(column: &str, array: &str) -> Error {
    Error::failed(format!(
        "D4RL needs `{array}`, but the dataset has no column `{column}`"
    ))
    .hint("make the column with `derive`, or write a format that does not need it")
}

fn unread(column: &str) -> Error {
    Error::failed(format!("the column `{column}` was not read"))
}

/// Writes `column`, one of the flags of the ends of trajectories, as the array `name`. The last
/// step of a trajectory is truncated if it is not terminated.
fn flags(
    outgoing: &OutgoingDataset,
    file: &mut Hdf5Writer,
    name: &str,
    column: &str,
) -> Result<()> {
    let plain = PlainArray::flags(name);
    let values = |trajectory: &OutgoingTrajectory| -> Result<ArrayRef> {
        let flags = trajectory.column(column).ok_or_else(|| unread(column))?;
        let terminated = trajectory
            .column(step::TERMINATED)
            .ok_or_else(|| unread(step::TERMINATED))?;
        let (flags, terminated) = (flags.as_boolean(), terminated.as_boolean());
        let last = trajectory.length.wrapping_sub(1);
        let cut = |row: usize| column == step::TRUNCATED && row == last && !terminated.value(row);
        Ok(Arc::new(BooleanArray::from_iter(
            (0..trajectory.length).map(|row| Some(flags.value(row) || cut(row))),
        )))
    };
    arrays::stream(
        outgoing,
        file,
        &plain,
        outgoing.length(),
        &[step::TERMINATED, column],
        &values,
    )
    .map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Float64Type, Int32Type};
    use hdf5_pure::{EnumTypeBuilder, FileBuilder};

    use super::*;
    use crate::transfer::read::IncomingTrajectory;

    fn booleans(builder: &mut FileBuilder, name: &str, values: &[u8]) {
        let boolean = EnumTypeBuilder::u8_based()
            .u8_value("FALSE", 0)
            .u8_value("TRUE", 1)
            .build()
            .unwrap();
        builder
            .create_dataset(name)
            .with_enum_u8_data(boolean, values);
    }

    /// Seven steps: a trajectory of three that is terminated, one of two that is truncated, and two
    /// steps without an end.
    fn builder() -> FileBuilder {
        let mut builder = FileBuilder::new();
        let observations: Vec<f32> = (0..14).map(|value| value as f32).collect();
        builder
            .create_dataset("observations")
            .with_f32_data(&observations)
            .with_shape(&[7, 2])
            .with_chunks(&[2, 1])
            .with_shuffle()
            .with_deflate(4);
        builder
            .create_dataset("actions")
            .with_f64_data(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
            .with_shape(&[7, 1]);
        builder
            .create_dataset("rewards")
            .with_f64_data(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
            .with_shape(&[7, 1]);
        booleans(&mut builder, "terminals", &[0, 0, 1, 0, 0, 0, 0]);
        let mut infos = builder.create_group("infos");
        infos
            .create_dataset("qpos")
            .with_i32_data(&(0..21).collect::<Vec<_>>())
            .with_shape(&[7, 3]);
        builder.add_group(infos.finish());
        let mut metadata = builder.create_group("metadata");
        metadata
            .create_dataset("iteration")
            .with_i64_data(&[12])
            .with_shape(&[]);
        builder.add_group(metadata.finish());
        builder
    }

    fn write(builder: FileBuilder) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.hdf5");
        builder.write(&path).unwrap();
        (folder, path)
    }

    fn all(path: &Path, options: &Options) -> Result<Vec<IncomingTrajectory>> {
        let mut source = read(path, options)?;
        let mut found = Vec::new();
        while let Some(trajectory) = source.next()? {
            assert_eq!(trajectory.steps.schema(), source.schema());
            found.push(trajectory);
        }
        Ok(found)
    }

    fn flags(trajectory: &IncomingTrajectory, name: &str) -> Vec<bool> {
        trajectory.steps[name]
            .as_boolean()
            .values()
            .iter()
            .collect()
    }

    #[test]
    fn trajectories_end_at_flags_and_the_rest_is_a_fragment() {
        let mut builder = builder();
        booleans(&mut builder, "timeouts", &[0, 0, 0, 0, 1, 0, 0]);
        let (_folder, path) = write(builder);
        let found = all(&path, &Options::default()).unwrap();
        let lengths: Vec<usize> = found
            .iter()
            .map(|trajectory| trajectory.steps.num_rows())
            .collect();
        assert_eq!(lengths, [3, 2, 2]);
        assert_eq!(
            found
                .iter()
                .map(|trajectory| flags(trajectory, "terminated"))
                .collect::<Vec<_>>(),
            [vec![false, false, true], vec![false; 2], vec![false; 2]]
        );
        assert_eq!(
            found
                .iter()
                .map(|trajectory| flags(trajectory, "truncated"))
                .collect::<Vec<_>>(),
            [vec![false; 3], vec![false, true], vec![false; 2]]
        );
        let names: Vec<String> = found[0]
            .steps
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(
            names,
            [
                "observation",
                "action",
                "reward",
                "terminated",
                "truncated",
                "is_final",
                "infos/qpos"
            ]
        );
        let second = &found[1].steps;
        assert_eq!(
            second["observation"]
                .as_fixed_size_list()
                .values()
                .as_primitive::<Float32Type>()
                .values()
                .to_vec(),
            [6.0, 7.0, 8.0, 9.0]
        );
        assert_eq!(
            second["action"]
                .as_fixed_size_list()
                .values()
                .as_primitive::<Float64Type>()
                .values()
                .to_vec(),
            [1.5, 2.0]
        );
        assert_eq!(
            second["reward"]
                .as_primitive::<Float64Type>()
                .values()
                .to_vec(),
            [4.0, 5.0]
        );
        assert_eq!(
            second["infos/qpos"]
                .as_fixed_size_list()
                .values()
                .as_primitive::<Int32Type>()
                .values()
                .to_vec(),
            [9, 10, 11, 12, 13, 14]
        );
        assert_eq!(
            read(&path, &Options::default()).unwrap().metadata()["metadata/iteration"],
            12
        );
    }

    #[test]
    fn next_observations_give_final_rows() {
        let mut builder = builder();
        booleans(&mut builder, "timeouts", &[0, 0, 0, 0, 1, 0, 0]);
        // The last values of the first two trajectories are those of no other row.
        let mut next: Vec<f32> = (2..16).map(|value| value as f32).collect();
        next[4..6].copy_from_slice(&[104.0, 105.0]);
        next[8..10].copy_from_slice(&[108.0, 109.0]);
        builder
            .create_dataset("next_observations")
            .with_f32_data(&next)
            .with_shape(&[7, 2]);
        let (_folder, path) = write(builder);
        let found = all(&path, &Options::default()).unwrap();
        assert_eq!(
            found
                .iter()
                .map(|trajectory| trajectory.steps.num_rows())
                .collect::<Vec<_>>(),
            [4, 3, 3]
        );
        let steps = &found[0].steps;
        assert_eq!(flags(&found[0], "is_final"), [false, false, false, true]);
        assert_eq!(flags(&found[0], "terminated"), [false, false, true, false]);
        assert_eq!(
            steps["observation"]
                .as_fixed_size_list()
                .value(3)
                .as_primitive::<Float32Type>()
                .values()
                .to_vec(),
            [104.0, 105.0]
        );
        for name in ["action", "reward", "infos/qpos"] {
            assert_eq!(
                (steps[name].null_count(), steps[name].is_null(3)),
                (1, true),
                "{name}"
            );
        }
    }

    #[test]
    fn the_longest_length_cuts_sets_without_timeouts() {
        let (_folder, path) = write(builder());
        let found = all(
            &path,
            &Options {
                max_steps: Some(2),
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(
            found
                .iter()
                .map(|trajectory| trajectory.steps.num_rows())
                .collect::<Vec<_>>(),
            [2, 1, 2, 2]
        );
        assert_eq!(flags(&found[0], "truncated"), [false, true]);
        assert_eq!(
            (
                flags(&found[1], "terminated"),
                flags(&found[1], "truncated")
            ),
            (vec![true], vec![false])
        );
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let message = |builder: FileBuilder| {
            let (_folder, path) = write(builder);
            all(&path, &Options::default())
                .err()
                .map(|error| error.message)
                .unwrap_or_default()
        };
        let with = |name: &str, values: &[f64], shape: &[u64]| {
            let mut builder = FileBuilder::new();
            builder
                .create_dataset("observations")
                .with_f32_data(&[0.0, 1.0, 2.0, 3.0])
                .with_shape(&[2, 2]);
            builder
                .create_dataset(name)
                .with_f64_data(values)
                .with_shape(shape);
            builder
        };
        assert!(message(with("rewards", &[0.0, 1.0], &[2])).contains("no trajectory boundaries"));
        assert!(message(with("dones", &[0.0, f64::NAN], &[2])).contains("`dones` is NaN at row 1"));
        assert!(
            message(with("dones", &[0.0, 1.0, 0.0], &[3]))
                .contains("`dones` has 3 rows, but `observations` has 2")
        );
        assert!(
            message(with("dones", &[0.0, 1.0, 0.0, 0.0], &[2, 2]))
                .contains("`dones` has the shape (2, 2)")
        );
        assert!(
            message(with("terminals", &[0.0, 1.0], &[2])).contains("there is no array `timeouts`")
        );
        let mut no_observations = FileBuilder::new();
        no_observations
            .create_dataset("dones")
            .with_f64_data(&[1.0]);
        assert!(message(no_observations).contains("no array `observations`"));

        let (_folder, path) = write(builder());
        let bytes = std::fs::read(&path).unwrap();
        let cut = path.with_file_name("cut.hdf5");
        crate::dataset::store::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        let error = all(&cut, &Options::default()).err().unwrap();
        assert!(error.message.contains("cut.hdf5"), "{error}");
    }
}
