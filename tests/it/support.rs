//! Datasets, pipelines and processes that the tests share.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;
use trajmill::internals::dataset::{Block, ShardWriter, VERSION, describe, vector};
use trajmill::manifest::{Lineage, Manifest, Statistics};

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The runtime that models run on: the value of `TRAJMILL_RUNTIME`, or rten.
pub(crate) fn runtime() -> String {
    std::env::var("TRAJMILL_RUNTIME").unwrap_or_else(|_| "rten".to_owned())
}

/// Hashes `seed` to a number that looks random.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One row of steps: a step, or the observation after the last action.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// Id of the trajectory.
    pub(crate) id: u64,
    /// Number of the row in its trajectory, from 0.
    pub(crate) step: u64,
    /// Steps of the trajectory, without the final observation.
    pub(crate) length: u64,
}

impl Row {
    /// Whether this is the observation after the last action.
    pub(crate) fn is_final(&self) -> bool {
        self.step == self.length
    }

    /// Whether this is the last step of a trajectory that ended (`terminal`) or was cut off.
    /// Trajectories whose id is divisible by 3 ended.
    fn is_last(&self, terminal: bool) -> bool {
        self.step + 1 == self.length && self.id.is_multiple_of(3) == terminal
    }

    /// A value between -1 and 1 with few digits; `salt` tells the row's values apart.
    fn value(&self, salt: u64) -> f32 {
        let seed = self.id * 1_000_003 + self.step * 101 + salt;
        (mix(seed) % 2001) as f32 / 1000.0 - 1.0
    }

    fn vector(&self, salt: u64, width: u64) -> Vec<f32> {
        (0..width).map(|place| self.value(salt + place)).collect()
    }
}

/// The values of a column of steps, row by row; `None` is null.
pub(crate) enum Values {
    Float32(fn(&Row) -> Option<f32>),
    Float64(fn(&Row) -> Option<f64>),
    Int32(fn(&Row) -> Option<i32>),
    /// A vector of float32 of this width.
    Vector(i32, fn(&Row) -> Option<Vec<f32>>),
}

impl Values {
    fn data_type(&self) -> DataType {
        match self {
            Values::Float32(_) => DataType::Float32,
            Values::Float64(_) => DataType::Float64,
            Values::Int32(_) => DataType::Int32,
            Values::Vector(width, _) => vector(DataType::Float32, *width),
        }
    }

    fn array(&self, rows: &[Row]) -> ArrayRef {
        match self {
            Values::Float32(value) => Arc::new(rows.iter().map(value).collect::<Float32Array>()),
            Values::Float64(value) => Arc::new(rows.iter().map(value).collect::<Float64Array>()),
            Values::Int32(value) => Arc::new(rows.iter().map(value).collect::<Int32Array>()),
            Values::Vector(width, value) => {
                let vectors: Vec<Option<Vec<f32>>> = rows.iter().map(value).collect();
                let nulls: NullBuffer = vectors.iter().map(Option::is_some).collect();
                let zeros = vec![0.0; *width as usize];
                let flat = vectors
                    .iter()
                    .flat_map(|vector| vector.as_ref().unwrap_or(&zeros).iter().copied());
                Arc::new(FixedSizeListArray::new(
                    Arc::new(Field::new("element", DataType::Float32, false)),
                    *width,
                    Arc::new(Float32Array::from_iter_values(flat)),
                    Some(nulls).filter(|nulls| nulls.null_count() > 0),
                ))
            }
        }
    }
}

/// What a test's dataset holds. Everything about a trajectory follows from its id.
pub(crate) struct Recipe<'a> {
    /// Number of steps of a trajectory.
    pub(crate) length: &'a dyn Fn(u64) -> u64,
    /// Whether the observation after the last action is known.
    pub(crate) has_final: fn(u64) -> bool,
    /// Columns of steps, besides ids, step numbers and flags. All but `observation` may be null.
    pub(crate) columns: &'a [(&'static str, Values)],
    /// Text columns of trajectories.
    pub(crate) texts: &'a [(&'static str, Text)],
}

/// The text of a trajectory, from its id.
type Text = fn(u64) -> String;

impl Recipe<'_> {
    /// Writes a dataset at `root` that has one shard for each range of ids.
    pub(crate) fn write(&self, root: &Path, shards: &[Range<u64>]) {
        fs::create_dir_all(root.join("steps")).unwrap();
        fs::create_dir_all(root.join("trajectories")).unwrap();
        let mut statistics = Statistics::default();
        let mut entries = Vec::new();
        for (index, ids) in shards.iter().enumerate() {
            let block = self.block(ids.clone());
            let (steps, carried) = (block.steps.schema(), block.trajectories.schema());
            let mut writer = ShardWriter::create(root, index, &steps, &carried, true).unwrap();
            writer.write(&block).unwrap();
            let entry = writer.finish().unwrap();
            statistics.add(&entry.statistics);
            entries.push(entry);
        }
        let manifest = Manifest {
            trajmill: VERSION,
            tool: "trajmill tests".to_owned(),
            fingerprint: format!("trajectories {shards:?}"),
            columns: describe(&self.block(0..0).steps.schema()),
            statistics,
            shards: entries,
            videos: Vec::new(),
            lineage: Lineage {
                by: "tests".to_owned(),
                ..Lineage::default()
            },
        };
        fs::write(root.join("dataset.json"), manifest.to_bytes().unwrap()).unwrap();
    }

    fn block(&self, ids: Range<u64>) -> Block {
        let mut rows = Vec::new();
        let mut offsets = vec![0];
        for id in ids.clone() {
            let length = (self.length)(id);
            let count = length + u64::from((self.has_final)(id));
            rows.extend((0..count).map(|step| Row { id, step, length }));
            offsets.push(rows.len());
        }
        let integers = |ids: &mut dyn Iterator<Item = u64>| {
            Int64Array::from_iter_values(ids.map(|n| n as i64))
        };
        let mut columns: Vec<(Field, ArrayRef)> = vec![
            (
                Field::new("trajectory_id", DataType::Int64, false),
                Arc::new(integers(&mut rows.iter().map(|row| row.id))),
            ),
            (
                Field::new("step", DataType::Int32, false),
                Arc::new(Int32Array::from_iter_values(
                    rows.iter().map(|row| row.step as i32),
                )),
            ),
        ];
        for (name, values) in self.columns {
            let field = Field::new(*name, values.data_type(), *name != "observation");
            columns.push((field, values.array(&rows)));
        }
        let mut flag = |name: &str, is_set: fn(&Row) -> bool| {
            let values = rows.iter().map(is_set).collect::<Vec<bool>>();
            let field = Field::new(name, DataType::Boolean, false);
            columns.push((field, Arc::new(BooleanArray::from(values))));
        };
        flag("terminated", |row| row.is_last(true));
        flag("truncated", |row| row.is_last(false));
        flag("is_final", Row::is_final);
        let mut metadata: Vec<(Field, ArrayRef)> = vec![(
            Field::new("trajectory_id", DataType::Int64, false),
            Arc::new(integers(&mut ids.clone())),
        )];
        for (name, text) in self.texts {
            let values = StringArray::from_iter_values(ids.clone().map(text));
            metadata.push((Field::new(*name, DataType::Utf8, false), Arc::new(values)));
        }
        Block::new(batch(columns), batch(metadata), offsets)
    }
}

fn batch(columns: Vec<(Field, ArrayRef)>) -> RecordBatch {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// Writes a dataset of trajectories of 1 to `longest` steps, in this number of shards. Trajectories
/// do not depend on the shards. Returns grow with the id modulo 10; four of five trajectories have
/// their final observation. Widths are those of the models in `tests/models`.
pub(crate) fn corpus(root: &Path, trajectories: u64, longest: u64, shards: u64) {
    let recipe = Recipe {
        length: &|id| 1 + mix(id) % longest,
        has_final: |id| id % 5 != 4,
        columns: &[
            (
                "observation",
                Values::Vector(3, |row| Some(row.vector(10, 3))),
            ),
            (
                "action",
                Values::Vector(2, |row| (!row.is_final()).then(|| row.vector(30, 2))),
            ),
            (
                "reward",
                Values::Float32(|row| {
                    (!row.is_final()).then(|| (row.id % 10) as f32 / 5.0 + row.value(50) / 4.0)
                }),
            ),
        ],
        texts: &[
            ("uid", |id| format!("{:032x}", mix(id))),
            ("source_key", |id| id.to_string()),
            ("source", |_| "made".to_owned()),
        ],
    };
    let size = trajectories.div_ceil(shards);
    let ends = (0..=shards).map(|shard| (shard * size).min(trajectories));
    let ends: Vec<u64> = ends.collect();
    let shards: Vec<Range<u64>> = ends.windows(2).map(|pair| pair[0]..pair[1]).collect();
    recipe.write(root, &shards);
}

/// A temporary directory with `corpus/`, `models/` and `pipelines/`, where commands run.
pub(crate) struct Workspace {
    directory: TempDir,
}

/// The outcome of a command.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit code; `None` if a signal ended the process.
    pub(crate) code: Option<i32>,
    /// Standard output, which is for programs.
    pub(crate) stdout: String,
    /// Standard error, which is for people.
    pub(crate) stderr: String,
}

impl Done {
    /// The object that `--json` prints.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Fails the test if the exit code is another or the command panicked.
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
    pub(crate) fn with(trajectories: u64, longest: u64, shards: u64) -> Workspace {
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

    /// Writes `pipelines/NAME.yaml`, which reads the corpus and applies `stages`; returns its path.
    /// `OUT` in the stages stands for the output `out/NAME`.
    pub(crate) fn pipeline(&self, name: &str, stages: &str) -> String {
        let options = "path: ../out/NAME".replace("NAME", name);
        let text = format!(
            "trajmill: 1\nsource: ../corpus\nstages:\n{}",
            stages.replace("OUT", &options)
        );
        self.write(name, &text)
    }

    /// Writes `text` to `pipelines/NAME.yaml`; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = format!("pipelines/{name}.yaml");
        fs::write(self.path(&path), text).unwrap();
        path
    }

    /// A `trajmill` command that runs in the workspace.
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

    /// Runs a `trajmill` command to its end.
    pub(crate) fn trajmill(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments))
    }

    /// Every file below a folder with its hash; empty if there is no such folder.
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

    /// The names in a folder, sorted, hidden ones included; empty if there is no such folder.
    pub(crate) fn names(&self, relative: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(relative)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Removes `out`, with every result in it.
    pub(crate) fn clear(&self) {
        let out = self.path("out");
        if out.exists() {
            fs::remove_dir_all(out).unwrap();
        }
    }

    /// The ids of a dataset's trajectories, in the order of its files.
    pub(crate) fn ids(&self, dataset: &str) -> Vec<i64> {
        let mut ids = Vec::new();
        for name in self.names(&format!("{dataset}/trajectories")) {
            let path = self.path(dataset).join("trajectories").join(name);
            let file = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap());
            for batch in file.unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let column = batch.column_by_name("trajectory_id").unwrap();
                ids.extend(column.as_primitive::<Int64Type>().values());
            }
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

/// The commands that `trajmill --help` lists, without `help` itself.
pub(crate) fn commands(workspace: &Workspace) -> Vec<String> {
    let help = workspace.trajmill(&["--help"]).exits(0).stdout;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // A description that goes on in the next line is indented further.
    let commands = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    commands
        .filter(|command| !command.is_empty() && *command != "help")
        .map(str::to_owned)
        .collect()
}

/// Compares `text` with the snapshot `name` in `tests/snapshots`.
pub(crate) fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    // The runtime depends on the machine; other tests say which one ran.
    settings.add_filter(r"(models:? +)(onnxruntime|rten) \S+", "${1}RUNTIME VERSION");
    settings.add_filter(r"blake3 [0-9a-f]{64}", "blake3 HASH");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The stages that the tests of bytes and crashes run: a split, labels, a second phase, several
/// shards.
pub(crate) const WHOLE: &str = r#"
  - hide_actions: { keep: 0.2, from: { lowest: 0.6, by: return }, seed: 3, as: true_action }
  - label:
      model: ../models/mlp.onnx
      window: { past: 1, future: 1, edge: repeat }
      clip: [-0.5, 0.5]
  - filter: length >= 2
  - summarise: { roughness: "avg(abs(action[1] - true_action[1]))" }
  - filter: roughness is not null and roughness < 1.5
  - subsample: { fraction: 0.7, stratify: split, seed: 5 }
  - shuffle: { seed: 11 }
  - derive: { return_to_go: "returns_to_go(reward, 0.9)" }
  - check: [ "count(*) > 0", "count(*) filter (where action is null and not is_final) = 0" ]
  - materialise: { OUT, shard_rows: 60 }
"#;
