//! LeRobot datasets: v2.0, v2.1 and v3.0.
//!
//! ```text
//! ROOT/meta/info.json                         version, features, totals, path templates
//! ROOT/meta/{tasks,episodes}.jsonl            v2; statistics in episodes_stats.jsonl (v2.1)
//!                                             or stats.json (v2.0)
//! ROOT/meta/tasks.parquet                     v3
//! ROOT/meta/episodes/*/*.parquet              v3; also says where the rows of each episode are
//! ROOT/data/chunk-000/episode_000000.parquet  v2: one episode in a file
//! ROOT/data/chunk-000/file-000.parquet        v3: several episodes in a file
//! ```
//!
//! An episode of T actions has T rows: the observation after the last action has no row. A video
//! feature is read as references, which are a file and a time, or as decoded frames.

mod episodes;
mod facts;
mod files;
mod final_observations;
mod info;
mod modality;
mod paths;
mod read;
mod stated_rate;
mod tables;
mod v2_1;
mod validate;
mod video_statistics;
mod write;

use std::path::Path;

use crate::dataset;
use crate::error::Result;
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;
use crate::transfer::write::{Writer, nulls};

pub(crate) use v2_1::FORMAT as V2_1;

/// The number of files in the folder of a chunk.
const CHUNK: u64 = 1000;

/// The size that a file of several episodes aims at, in MiB.
const FILE_MIB: u64 = 100;

/// The size that a video of several episodes aims at, in MiB.
const VIDEO_MIB: u64 = 200;

/// The beginning of the names of features that would otherwise be taken for parts of an observation
/// or an action. LeRobot gives a policy every feature whose name begins with one of these words.
const OWN_FEATURE: &str = "trajmill.";

/// The versions that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V21,
    V30,
}

/// The write options that apply to LeRobot.
const TAKES: &[&str] = &[
    "fps", "robot", "task", "env", "videos", "images", "codec", "crf", "gop",
];

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "lerobot",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: detect,
    }),
    read: Some(Reader {
        takes: &["map", "frames", "videos"],
        open: read::read,
    }),
    write: Some(Writer {
        nulls: false,
        whole: Some(nulls::has_plain_part),
        text: true,
        takes: TAKES,
        write: write::write_v30,
        note: None,
    }),
    validate: Some(validate::validate),
};

fn detect(path: &Path) -> Result<bool> {
    dataset::files::is_file(&path.join("meta/info.json"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
    };
    use arrow::datatypes::{DataType, Field, Float32Type};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::dataset::store;
    use crate::error::{Error, Result};
    use crate::inspect::Findings;
    use crate::transfer::read::{IncomingTrajectory, Options};

    fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        store::create_dir(path.parent().unwrap()).unwrap();
        let mut file =
            crate::container::parquet::ChecksummedWriter::create(path, &batch.schema()).unwrap();
        file.write(&batch).unwrap();
        file.finish().unwrap();
    }

    fn whole(values: impl IntoIterator<Item = i64>) -> ArrayRef {
        Arc::new(values.into_iter().collect::<Int64Array>())
    }

    fn vectors(rows: impl Iterator<Item = usize>, width: i32) -> ArrayRef {
        let values: Float32Array = rows
            .flat_map(|row| (0..width).map(move |at| Some((row * 10) as f32 + at as f32)))
            .collect();
        let child = Arc::new(Field::new("element", DataType::Float32, true));
        Arc::new(FixedSizeListArray::try_new(child, width, Arc::new(values), None).unwrap())
    }

    /// Writes episodes of the given lengths: the odd ones to the first file and the even ones to
    /// the second, in descending order.
    fn made(root: &Path, lengths: &[usize]) {
        let starts: Vec<usize> = lengths
            .iter()
            .scan(0, |end, length| Some(std::mem::replace(end, *end + length)))
            .collect();
        for (file, remainder) in [(0, 1), (1, 0)] {
            let own: Vec<usize> = (0..lengths.len())
                .rev()
                .filter(|episode| episode % 2 == remainder)
                .collect();
            let rows = || {
                own.iter()
                    .flat_map(|episode| (0..lengths[*episode]).map(move |frame| (*episode, frame)))
            };
            if own.is_empty() {
                continue;
            }
            parquet(
                &root.join(format!("data/chunk-000/file-{file:03}.parquet")),
                vec![
                    (
                        "observation.state",
                        vectors(rows().map(|(episode, frame)| starts[episode] + frame), 2),
                    ),
                    ("action", vectors(rows().map(|(_, frame)| frame), 1)),
                    (
                        "timestamp",
                        Arc::new(
                            rows()
                                .map(|(_, frame)| Some(frame as f32 / 10.0))
                                .collect::<Float32Array>(),
                        ),
                    ),
                    ("frame_index", whole(rows().map(|(_, frame)| frame as i64))),
                    (
                        "episode_index",
                        whole(rows().map(|(episode, _)| episode as i64)),
                    ),
                    (
                        "index",
                        whole(rows().map(|(episode, frame)| (starts[episode] + frame) as i64)),
                    ),
                    ("task_index", whole(rows().map(|_| 0))),
                ],
            );
        }
        let numbers = |of: &dyn Fn(usize) -> usize| {
            whole((0..lengths.len()).map(|episode| of(episode) as i64))
        };
        parquet(
            &root.join("meta/episodes/chunk-000/file-000.parquet"),
            vec![
                ("episode_index", numbers(&|episode| episode)),
                ("length", numbers(&|episode| lengths[episode])),
                ("data/chunk_index", numbers(&|_| 0)),
                ("data/file_index", numbers(&|episode| 1 - episode % 2)),
                ("dataset_from_index", numbers(&|episode| starts[episode])),
                (
                    "dataset_to_index",
                    numbers(&|episode| starts[episode] + lengths[episode]),
                ),
            ],
        );
        parquet(
            &root.join("meta/tasks.parquet"),
            vec![
                ("task_index", whole([0])),
                ("task", Arc::new(StringArray::from(vec!["hop"]))),
            ],
        );
        let feature =
            |dtype: &str, width: usize| json!({"dtype": dtype, "shape": [width], "names": null});
        let info = json!({
            "codebase_version": "v3.0",
            "fps": 10,
            "total_episodes": lengths.len(),
            "total_frames": lengths.iter().sum::<usize>(),
            "total_tasks": 1,
            "splits": {"train": format!("0:{}", lengths.len())},
            "features": {
                "observation.state": feature("float32", 2),
                "action": feature("float32", 1),
                "timestamp": feature("float32", 1),
                "frame_index": feature("int64", 1),
                "episode_index": feature("int64", 1),
                "index": feature("int64", 1),
                "task_index": feature("int64", 1),
            },
        });
        store::write(&root.join("meta/info.json"), info.to_string().as_bytes()).unwrap();
    }

    fn all(root: &Path) -> Result<Vec<IncomingTrajectory>> {
        let mut source = FORMAT.open(root, &Options::default())?;
        let mut found = Vec::new();
        while let Some(trajectory) = source.next()? {
            assert_eq!(trajectory.steps.schema(), source.schema());
            found.push(trajectory);
        }
        Ok(found)
    }

    /// Whether an error says where the fault is: in a file of the dataset, a column or a key.
    fn names_a_place(error: &Error, root: &Path) -> bool {
        error.message.contains(&root.display().to_string()) || error.message.contains('`')
    }

    fn files(root: &Path) -> Vec<PathBuf> {
        let names = [
            "meta/info.json",
            "meta/tasks.parquet",
            "meta/episodes/chunk-000/file-000.parquet",
            "data/chunk-000/file-000.parquet",
        ];
        names
            .iter()
            .map(|name| root.join(name))
            .filter(|path| path.exists())
            .collect()
    }

    #[test]
    fn long_episodes_and_those_of_one_frame() {
        let folder = tempfile::tempdir().unwrap();
        let lengths = [1, 140_000, 3];
        made(folder.path(), &lengths);
        let found = all(folder.path()).unwrap();
        assert_eq!(
            found
                .iter()
                .map(|trajectory| trajectory.steps.num_rows())
                .collect::<Vec<_>>(),
            lengths
        );
        let last = found[2].steps["observation"].as_fixed_size_list().value(0);
        assert_eq!(
            last.as_primitive::<Float32Type>().values().to_vec(),
            [1_400_010.0, 1_400_011.0]
        );
        // The loader reads files in the order of their names, which is not that of the episodes
        // here.
        let mut findings = Findings::default();
        validate::validate(folder.path(), &mut findings).unwrap();
        assert!(
            findings.faults.iter().any(|fault| fault.rule == "index"),
            "{findings:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rows_are_where_the_metadata_says(lengths in prop::collection::vec(1..40_usize, 1..30)) {
            let folder = tempfile::tempdir().unwrap();
            made(folder.path(), &lengths);
            let found = all(folder.path()).unwrap();
            let found_lengths: Vec<usize> =
                found.iter().map(|trajectory| trajectory.steps.num_rows()).collect();
            prop_assert_eq!(found_lengths, lengths);
            let mut row = 0;
            for trajectory in &found {
                let observations = trajectory.steps["observation"].as_fixed_size_list();
                let values = observations.values().as_primitive::<Float32Type>();
                for frame in 0..trajectory.steps.num_rows() {
                    prop_assert_eq!(values.value(2 * frame), (row * 10) as f32);
                    row += 1;
                }
            }
        }

        #[test]
        fn damage_is_an_error_or_leaves_the_values(
            file in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            made(folder.path(), &[3, 4]);
            let whole = all(folder.path()).unwrap();
            let files = files(folder.path());
            let path = &files[file.index(files.len())];
            let mut bytes = std::fs::read(path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            store::remove(path).unwrap();
            store::write(path, &bytes).unwrap();
            match all(folder.path()) {
                Ok(found) if path.extension().is_some_and(|extension| extension == "parquet") => {
                    // Checksums cover the pages; only names and statistics in the footer are
                    // unprotected.
                    for (found, whole) in found.iter().zip(&whole) {
                        prop_assert_eq!(&found.steps["observation"], &whole.steps["observation"]);
                    }
                }
                Ok(_) => {}
                Err(error) => prop_assert!(names_a_place(&error, folder.path()), "{}", error),
            }
            // `FORMAT.validate` catches a decoder that panics, as `trajmill validate` relies on.
            if let Err(error) = FORMAT.validate(folder.path(), &Options::default()) {
                prop_assert!(names_a_place(&error, folder.path()), "{}", error);
            }
        }

        #[test]
        fn any_value_in_the_description_ends(
            key in prop::sample::select(vec![
                "codebase_version",
                "fps",
                "features",
                "total_episodes",
                "total_frames",
                "splits",
                "data_path",
                "chunks_size",
            ]),
            text in "[\\[\\]{}\":,0-9a-z_.%-]{0,40}",
        ) {
            let folder = tempfile::tempdir().unwrap();
            made(folder.path(), &[3]);
            let path = folder.path().join("meta/info.json");
            let mut info: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            info[key] = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text));
            store::remove(&path).unwrap();
            store::write(&path, info.to_string().as_bytes()).unwrap();
            if let Err(error) = all(folder.path()) {
                prop_assert!(names_a_place(&error, folder.path()), "{}", error);
            }
        }
    }
}
