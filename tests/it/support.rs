//! Corpora, pipelines and processes that the tests share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;
use tempfile::TempDir;
use trajmill::dataset::manifest::{Lineage, Statistics, VERSION};
use trajmill::dataset::schema::{describe, vector};
use trajmill::dataset::write::ShardWriter;
use trajmill::dataset::{Block, Manifest};

/// How many values an observation and an action have; the models in `tests/models` are made for them.
const WIDTHS: (i32, i32) = (3, 2);

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What models run on: what `TRAJMILL_RUNTIME` says, or rten.
pub(crate) fn runtime() -> String {
    std::env::var("TRAJMILL_RUNTIME").unwrap_or_else(|_| "rten".to_owned())
}

/// A seeded value that looks random.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A seeded value from -1 to 1 with few digits.
fn unit(seed: u64) -> f32 {
    (mix(seed) % 2001) as f32 / 1000.0 - 1.0
}

/// Writes a dataset of ragged trajectories of 1 to `longest` steps, in so many shards. Trajectories do not depend on
/// the number of shards. Returns grow with the id modulo 10; four of five trajectories have their final observation.
pub(crate) fn corpus(root: &Path, trajectories: u64, longest: u64, shards: usize) {
    fs::create_dir_all(root.join("steps")).unwrap();
    fs::create_dir_all(root.join("trajectories")).unwrap();
    let steps = Arc::new(Schema::new(vec![
        Field::new("trajectory_id", DataType::Int64, false),
        Field::new("step", DataType::Int32, false),
        Field::new("observation", vector(DataType::Float32, WIDTHS.0), false),
        Field::new("action", vector(DataType::Float32, WIDTHS.1), true),
        Field::new("reward", DataType::Float32, true),
        Field::new("terminated", DataType::Boolean, false),
        Field::new("truncated", DataType::Boolean, false),
        Field::new("is_final", DataType::Boolean, false),
    ]));
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let carried = Schema::new(vec![
        Field::new("trajectory_id", DataType::Int64, false),
        text("uid"),
        text("source_key"),
        text("source"),
    ]);
    let per_shard = trajectories.div_ceil(shards as u64);
    let mut entries = Vec::new();
    for shard in 0..shards {
        let mut writer = ShardWriter::create(root, shard, &steps, &carried, true).unwrap();
        let first = shard as u64 * per_shard;
        let ids: Vec<u64> = (first..(first + per_shard).min(trajectories)).collect();
        writer
            .write(&block(&ids, longest, &steps, &carried))
            .unwrap();
        entries.push(writer.finish().unwrap());
    }
    let mut statistics = Statistics::default();
    entries
        .iter()
        .for_each(|entry| statistics.add(&entry.statistics));
    let manifest = Manifest {
        trajmill: VERSION,
        tool: "trajmill tests".to_owned(),
        fingerprint: format!("corpus of {trajectories} in {shards}"),
        columns: describe(&steps),
        statistics,
        shards: entries,
        lineage: Lineage {
            by: "tests".to_owned(),
            ..Lineage::default()
        },
    };
    fs::write(root.join("dataset.json"), manifest.to_bytes().unwrap()).unwrap();
}

/// Where a row of steps stands.
struct Row {
    id: u64,
    step: u64,
    /// Steps of its trajectory, the final observation not counted.
    length: u64,
}

impl Row {
    fn is_final(&self) -> bool {
        self.step == self.length
    }

    fn value(&self, salt: u64) -> f32 {
        unit(self.id * 1_000_003 + self.step * 101 + salt)
    }

    /// Whether it is its trajectory's last step; one in three ends in a terminal state, the others are cut off.
    fn ends(&self, terminal: bool) -> bool {
        self.step + 1 == self.length && self.id.is_multiple_of(3) == terminal
    }

    fn reward(&self) -> Option<f32> {
        (!self.is_final()).then(|| (self.id % 10) as f32 / 5.0 + self.value(50) / 4.0)
    }
}

fn block(ids: &[u64], longest: u64, steps: &Arc<Schema>, carried: &Schema) -> Block {
    let mut rows: Vec<Row> = Vec::new();
    let mut offsets = vec![0];
    for id in ids {
        let length = 1 + mix(*id) % longest;
        let with_final = u64::from(id % 5 != 4);
        rows.extend((0..length + with_final).map(|step| Row {
            id: *id,
            step,
            length,
        }));
        offsets.push(rows.len());
    }
    let vectors = |width: i32, salt: u64, nulls: Option<NullBuffer>| -> ArrayRef {
        let of_row = |row: &Row| {
            (0..width as u64)
                .map(|place| row.value(salt + place))
                .collect::<Vec<f32>>()
        };
        let values = Float32Array::from(rows.iter().flat_map(of_row).collect::<Vec<f32>>());
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        Arc::new(FixedSizeListArray::new(
            child,
            width,
            Arc::new(values),
            nulls,
        ))
    };
    let flags = |of: fn(&Row) -> bool| -> ArrayRef {
        Arc::new(BooleanArray::from(
            rows.iter().map(of).collect::<Vec<bool>>(),
        ))
    };
    let recorded: NullBuffer = rows.iter().map(|row| !row.is_final()).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(
            rows.iter().map(|row| row.id as i64).collect::<Vec<_>>(),
        )),
        Arc::new(Int32Array::from(
            rows.iter().map(|row| row.step as i32).collect::<Vec<_>>(),
        )),
        vectors(WIDTHS.0, 10, None),
        vectors(WIDTHS.1, 30, Some(recorded)),
        Arc::new(Float32Array::from(
            rows.iter().map(Row::reward).collect::<Vec<_>>(),
        )),
        flags(|row| row.ends(true)),
        flags(|row| row.ends(false)),
        flags(Row::is_final),
    ];
    let text = |of: fn(u64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| of(*id))))
    };
    let metadata: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(
            ids.iter().map(|id| *id as i64).collect::<Vec<_>>(),
        )),
        text(|id| format!("{:032x}", mix(id))),
        text(|id| id.to_string()),
        text(|_| "made".to_owned()),
    ];
    let steps = RecordBatch::try_new(Arc::clone(steps), columns).unwrap();
    let trajectories = RecordBatch::try_new(Arc::new(carried.clone()), metadata).unwrap();
    Block::new(steps, trajectories, offsets)
}

/// A directory of its own with `corpus/`, `models/` and `pipelines/`, where commands run.
pub(crate) struct Workspace {
    directory: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// Exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// What programs may read.
    pub(crate) stdout: String,
    /// What people read.
    pub(crate) stderr: String,
}

impl Done {
    /// The object that `--json` printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Fails the test where the exit code is another.
    pub(crate) fn exits(self, code: i32) -> Done {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

impl Workspace {
    /// A workspace whose corpus has 40 trajectories of at most 12 steps in four shards.
    pub(crate) fn new() -> Workspace {
        Workspace::with(40, 12, 4)
    }

    /// A workspace with a corpus of this size; see [`corpus`].
    pub(crate) fn with(trajectories: u64, longest: u64, shards: usize) -> Workspace {
        let workspace = Workspace {
            directory: tempfile::tempdir().unwrap(),
        };
        corpus(&workspace.path("corpus"), trajectories, longest, shards);
        fs::create_dir(workspace.path("models")).unwrap();
        fs::create_dir(workspace.path("pipelines")).unwrap();
        for model in fs::read_dir(repository().join("tests/models")).unwrap() {
            let model = model.unwrap();
            fs::copy(
                model.path(),
                workspace.path("models").join(model.file_name()),
            )
            .unwrap();
        }
        workspace
    }

    /// A path in the workspace.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Writes `pipelines/NAME.yaml` that reads the corpus, does `stages` and writes `out/NAME`; returns its path.
    pub(crate) fn pipeline(&self, name: &str, stages: &str) -> String {
        let options = "path: ../out/NAME".replace("NAME", name);
        let text = format!(
            "trajmill: 1\nsource: ../corpus\nstages:\n{}",
            stages.replace("OUT", &options)
        );
        self.write(name, &text)
    }

    /// Writes `pipelines/NAME.yaml` as it is; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = format!("pipelines/{name}.yaml");
        fs::write(self.path(&path), text).unwrap();
        path
    }

    /// The command, to be run in the workspace.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trajmill"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_remove("TRAJMILL_FAULT")
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100");
        command.env("TRAJMILL_RUNTIME", runtime());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn trajmill(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments))
    }

    /// Every file under a folder with its blake3; empty where there is no such folder.
    pub(crate) fn tree(&self, relative: &str) -> BTreeMap<String, String> {
        let (mut files, root) = (BTreeMap::new(), self.path(relative));
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    files.insert(
                        name,
                        blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string(),
                    );
                }
            }
        }
        files
    }

    /// Names of what is in a folder, hidden ones too.
    pub(crate) fn names(&self, relative: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(relative)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Removes what runs have made.
    pub(crate) fn clear(&self) {
        let out = self.path("out");
        if out.exists() {
            fs::remove_dir_all(out).unwrap();
        }
    }

    /// Ids in a dataset's `trajectories`, in file order.
    pub(crate) fn ids(&self, dataset: &str) -> Vec<i64> {
        let dataset = trajmill::dataset::Dataset::open(&self.path(dataset)).unwrap();
        let mut ids = Vec::new();
        for shard in &dataset.manifest.shards {
            let reader = trajmill::dataset::read::ShardReader::open(
                &dataset.path.join(&shard.trajectories.path),
                &dataset.trajectories,
            )
            .unwrap();
            let batch = reader
                .read(
                    std::slice::from_ref(&(0..reader.rows())),
                    Some(&["trajectory_id".to_owned()]),
                )
                .unwrap();
            let column = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(
                batch.column(0).as_ref(),
            );
            ids.extend(column.values());
        }
        ids
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Done {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Holds `text` against the snapshot of that name in `tests/snapshots`.
pub(crate) fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    // Which runtime it is depends on the machine; which one ran is tested elsewhere.
    settings.add_filter(r"(models:? +)(onnxruntime|rten) \S+", "${1}RUNTIME VERSION");
    settings.add_filter(r"blake3 [0-9a-f]{64}", "blake3 HASH");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The pipeline that the tests of bytes and crashes run: a split, labels, a second phase, several shards.
pub(crate) const WHOLE: &str = r#"
  - hide_actions: { keep: 0.2, from: { lowest: 0.6, by: return }, seed: 3, as: true_action }
  - label: { model: ../models/mlp.onnx, window: { past: 1, future: 1, edge: repeat }, clip: [-0.5, 0.5] }
  - filter: length >= 2
  - summarise: { roughness: "avg(abs(action[1] - true_action[1]))" }
  - filter: roughness is not null and roughness < 1.5
  - subsample: { fraction: 0.7, stratify: split, seed: 5 }
  - shuffle: { seed: 11 }
  - derive: { return_to_go: "returns_to_go(reward, 0.9)" }
  - check: [ "count(*) > 0", "count(*) filter (where action is null and not is_final) = 0" ]
  - materialise: { OUT, shard_rows: 60 }
"#;
