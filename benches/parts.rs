//! What the parts of a run cost, each alone on one thread: decode, window assembly, encode, selection.
//!
//! `cargo bench --features faults --bench parts` measures on a corpus of its own. `benches/bound`
//! names the datasets to measure on in `TRAJMILL_BENCH_SOURCE` (decode, windows) and
//! `TRAJMILL_BENCH_RESULT` (encode).

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on has nothing to report"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    Int64Array, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use criterion::{BatchSize, Criterion, Throughput};
use serde_json::{Value, json};
use tempfile::TempDir;
use trajmill::internals::dataset::{
    Block, ShardReader, ShardWriter, VERSION, describe, layout, step, store, trajectories_schema,
    trajectory, vector,
};
use trajmill::internals::exec::{Piece, Readers, Task};
use trajmill::internals::model::{Runtime, Spec};
use trajmill::internals::stage::{Bound, Context, Models, Operator, STAGES, Selection};
use trajmill::manifest::{Lineage, Manifest, ShardEntry};
use trajmill::{Dataset, Error, ModelOptions, Result, Tally};

const OBSERVATIONS: i32 = 17;
const ACTIONS: i32 = 6;

/// A stream of numbers that look random, from a seed.
struct Noise(u64);

impl Noise {
    /// Between 0 and 1.
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }
}

/// `n` trajectories of 300 to 900 steps that wander; one in ten, or all, with actions.
fn wander(n: usize, all_recorded: bool) -> Block {
    let mut noise = Noise(7);
    let mut offsets = vec![0];
    let (mut observations, mut actions, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ids, mut steps, mut last, mut recorded) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for id in 0..n {
        let length = 300 + (noise.next() * 600.0) as i32;
        let mut state = [0.0_f32; OBSERVATIONS as usize];
        for at in 0..length {
            for coordinate in &mut state {
                *coordinate += (noise.next() - 0.5) * 0.1;
            }
            observations.extend(state);
            actions.extend((0..ACTIONS).map(|_| noise.next() * 2.0 - 1.0));
            rewards.push(noise.next());
            ids.push(id as i64);
            steps.push(at);
            last.push(at + 1 == length);
            recorded.push(all_recorded || id % 10 == 0);
        }
        offsets.push(ids.len());
    }
    let rows = ids.len();
    let list = |width: i32, values: Vec<f32>, nulls: Option<NullBuffer>| -> ArrayRef {
        let field = Arc::new(Field::new("element", DataType::Float32, false));
        Arc::new(FixedSizeListArray::new(
            field,
            width,
            Arc::new(Float32Array::from(values)),
            nulls,
        ))
    };
    let nulls = (!all_recorded).then(|| NullBuffer::from(recorded.clone()));
    let source: StringArray = recorded
        .iter()
        .map(|recorded| recorded.then_some("recorded"))
        .collect();
    let columns: [(Field, ArrayRef); 9] = [
        (
            Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
            Arc::new(Int64Array::from(ids)),
        ),
        (
            Field::new(step::STEP, DataType::Int32, false),
            Arc::new(Int32Array::from(steps)),
        ),
        (
            Field::new(
                step::OBSERVATION,
                vector(DataType::Float32, OBSERVATIONS),
                false,
            ),
            list(OBSERVATIONS, observations, None),
        ),
        (
            Field::new(step::ACTION, vector(DataType::Float32, ACTIONS), true),
            list(ACTIONS, actions, nulls),
        ),
        (
            Field::new(step::REWARD, DataType::Float32, true),
            Arc::new(Float32Array::from(rewards)),
        ),
        (
            Field::new(step::TERMINATED, DataType::Boolean, true),
            Arc::new(BooleanArray::from(last)),
        ),
        (
            Field::new(step::TRUNCATED, DataType::Boolean, true),
            Arc::new(BooleanArray::from(vec![false; rows])),
        ),
        (
            Field::new(step::IS_FINAL, DataType::Boolean, false),
            Arc::new(BooleanArray::from(vec![false; rows])),
        ),
        (
            Field::new(step::ACTION_SOURCE, DataType::Utf8, true),
            Arc::new(source),
        ),
    ];
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let steps = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n as i64));
    let trajectories = RecordBatch::try_from_iter([(trajectory::TRAJECTORY_ID, ids)]).unwrap();
    Block::new(steps, trajectories, offsets)
}

/// An empty place for a dataset.
fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    store::create_dir(&place.path().join("steps")).unwrap();
    store::create_dir(&place.path().join("trajectories")).unwrap();
    place
}

/// Writes one shard.
fn write(place: &Path, blocks: &[Block]) -> ShardEntry {
    let (steps, carried) = (blocks[0].steps.schema(), blocks[0].trajectories.schema());
    let mut writer = ShardWriter::create(place, 0, &steps, &carried, true).unwrap();
    for block in blocks {
        writer.write(block).unwrap();
    }
    writer.finish().unwrap()
}

/// The dataset that the environment names, or one of `block` alone.
fn dataset(variable: &str, block: &Block) -> (Dataset, Option<TempDir>) {
    if let Some(path) = std::env::var_os(variable) {
        return (Dataset::open(&PathBuf::from(path)).unwrap(), None);
    }
    let place = place();
    let shard = write(place.path(), std::slice::from_ref(block));
    let manifest = Manifest {
        trajmill: VERSION,
        tool: "bench".to_owned(),
        fingerprint: String::new(),
        columns: describe(&block.steps.schema()),
        statistics: shard.statistics.clone(),
        shards: vec![shard],
        videos: Vec::new(),
        lineage: Lineage::default(),
    };
    store::write(
        &layout::manifest(place.path()),
        &manifest.to_bytes().unwrap(),
    )
    .unwrap();
    (Dataset::open(place.path()).unwrap(), Some(place))
}

/// The task that takes a dataset's first shard as it is.
fn first_shard(dataset: &Dataset) -> Task {
    let entry = &dataset.manifest.shards[0].trajectories;
    let reader = ShardReader::open(dataset.file(entry), &dataset.trajectories).unwrap();
    let table = reader
        .read(std::slice::from_ref(&(0..reader.rows())), None)
        .unwrap();
    let column = |name: &str| {
        table
            .column_by_name(name)
            .unwrap()
            .as_primitive::<Int64Type>()
            .clone()
    };
    let (ids, first, rows) = (
        column(trajectory::TRAJECTORY_ID),
        column(trajectory::FIRST_ROW),
        column(trajectory::ROWS),
    );
    let piece = |row: usize| Piece {
        source: 0,
        shard: 0,
        first_row: first.value(row) as u64,
        rows: rows.value(row) as u64,
        row: row as u64,
        id: ids.value(row),
    };
    let none = RecordBatchOptions::new().with_row_count(Some(table.num_rows()));
    let computed =
        RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &none).unwrap();
    Task {
        index: 0,
        pieces: (0..table.num_rows()).map(piece).collect(),
        computed,
    }
}

/// All of a task's blocks.
fn blocks(readers: &Readers, task: &Task, columns: &[String]) -> Vec<Block> {
    readers
        .blocks(task, columns, &Schema::empty())
        .collect::<Result<_>>()
        .unwrap()
}

fn names(dataset: &Dataset) -> Vec<String> {
    dataset
        .steps
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

fn rows(blocks: &[Block]) -> Throughput {
    Throughput::Elements(
        blocks
            .iter()
            .map(|block| block.steps.num_rows() as u64)
            .sum(),
    )
}

fn decode(criterion: &mut Criterion, source: &Dataset) {
    let (task, columns) = (first_shard(source), names(source));
    let sources = std::slice::from_ref(source);
    // Checksums are verified once per reader, so that only the first round pays for them.
    let readers = Readers::new(sources);
    let throughput = rows(&blocks(&readers, &task, &columns));
    let mut group = criterion.benchmark_group("decode");
    group
        .throughput(throughput)
        .bench_function("shard", |bencher| {
            bencher.iter(|| {
                readers
                    .blocks(&task, &columns, &Schema::empty())
                    .map(|block| block.unwrap().len())
                    .sum::<usize>()
            })
        });
    group.finish();
}

fn encode(criterion: &mut Criterion, result: &Dataset) {
    let sources = std::slice::from_ref(result);
    let mut blocks = blocks(&Readers::new(sources), &first_shard(result), &names(result));
    for block in &mut blocks {
        // What a transform is given: intrinsic columns are computed by the writer.
        let carried: Vec<usize> = (0..block.trajectories.num_columns())
            .filter(|index| {
                !trajectory::COMPUTED
                    .contains(&block.trajectories.schema().field(*index).name().as_str())
            })
            .collect();
        block.trajectories = block.trajectories.project(&carried).unwrap();
    }
    let mut group = criterion.benchmark_group("encode");
    group.throughput(rows(&blocks)).sample_size(20);
    group.bench_function("shard", |bencher| {
        bencher.iter_batched_ref(
            place,
            |place| write(place.path(), &blocks).steps.bytes,
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Models by path.
struct Files(Arc<Runtime>);

impl Models for Files {
    fn spec(&self, path: &str) -> Result<Spec> {
        self.0.spec(Path::new(path))
    }

    fn runtime(&self) -> Result<&Arc<Runtime>> {
        Ok(&self.0)
    }

    fn table(&self, path: &str) -> Result<arrow::array::RecordBatch> {
        Err(Error::failed(format!("no table {path}")))
    }

    fn text(&self, path: &str) -> Result<String> {
        std::fs::read_to_string(path).map_err(|error| Error::failed(error.to_string()))
    }
}

fn bind(name: &str, options: &Value, steps: &Schema, trajectories: &Schema) -> Bound {
    let models = Files(Arc::new(Runtime::find(&ModelOptions::default()).unwrap()));
    let stage = STAGES.iter().find(|stage| stage.name == name).unwrap();
    (stage.bind)(
        options,
        &Context {
            steps,
            trajectories,
            models: &models,
        },
    )
    .map_err(|misfit| misfit.message)
    .unwrap()
}

fn window(criterion: &mut Criterion, source: &Dataset) {
    let sources = std::slice::from_ref(source);
    let mut blocks = blocks(&Readers::new(sources), &first_shard(source), &names(source));
    blocks.truncate(1);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/window.onnx");
    let options = json!({ "model": model, "window": { "past": 0, "future": 1, "edge": "skip" } });
    let Bound::Work(operators) = bind("label", &options, &source.steps, &source.trajectories)
    else {
        return;
    };
    let [Operator::Transform(label)] = operators.as_slice() else {
        return;
    };
    label.prepare(1).unwrap();
    let mut group = criterion.benchmark_group("window");
    group
        .throughput(rows(&blocks))
        .bench_function("shard", |bencher| {
            bencher.iter_batched(
                || blocks[0].clone(),
                |block| label.apply(block, &mut Tally::default()).unwrap(),
                BatchSize::LargeInput,
            );
        });
    group.finish();
}

fn selection(criterion: &mut Criterion) {
    const TRAJECTORIES: i64 = 100_000;
    let mut noise = Noise(7);
    let lengths: Vec<i64> = (0..TRAJECTORIES)
        .map(|_| 1 + (noise.next() * 999.0) as i64)
        .collect();
    let columns: [(&str, ArrayRef); 5] = [
        (
            trajectory::TRAJECTORY_ID,
            Arc::new(Int64Array::from_iter_values(0..TRAJECTORIES)),
        ),
        (
            trajectory::ROWS,
            Arc::new(Int64Array::from(lengths.clone())),
        ),
        (trajectory::LENGTH, Arc::new(Int64Array::from(lengths))),
        (
            trajectory::RETURN,
            Arc::new(
                (0..TRAJECTORIES)
                    .map(|_| Some(f64::from(noise.next()) * 1000.0))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            trajectory::LABELLED,
            Arc::new(
                (0..TRAJECTORIES)
                    .map(|id| Some(id % 10 == 0))
                    .collect::<BooleanArray>(),
            ),
        ),
    ];
    let table = RecordBatch::try_from_iter(columns).unwrap();
    let steps = Schema::new(vec![
        Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
        Field::new(
            step::OBSERVATION,
            vector(DataType::Float32, OBSERVATIONS),
            false,
        ),
        Field::new(step::ACTION, vector(DataType::Float32, ACTIONS), true),
        Field::new(step::REWARD, DataType::Float32, true),
    ]);
    let schema = trajectories_schema(
        &steps,
        &Schema::new(vec![Field::new(
            trajectory::TRAJECTORY_ID,
            DataType::Int64,
            false,
        )]),
    );
    let cases = [
        ("filter", json!("return > 500 and length >= 50")),
        (
            "subsample",
            json!({ "fraction": 0.25, "stratify": "labelled", "seed": 7 }),
        ),
        (
            "hide_actions",
            json!({ "keep": 0.1, "from": { "lowest": 0.5, "by": "return" }, "seed": 7 }),
        ),
    ];
    let mut group = criterion.benchmark_group("selection");
    group.throughput(Throughput::Elements(TRAJECTORIES as u64));
    for (name, options) in cases {
        let Bound::Work(operators) = bind(name, &options, &steps, &schema) else {
            continue;
        };
        let Some(Operator::Selection(selection)) = operators.first() else {
            continue;
        };
        let selection: &dyn Selection = selection.as_ref();
        group.bench_function(name, |bencher| {
            bencher.iter(|| selection.select(&table).unwrap().rows.len())
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let (source, _kept) = dataset("TRAJMILL_BENCH_SOURCE", &wander(200, false));
    let (result, _kept) = dataset("TRAJMILL_BENCH_RESULT", &wander(200, true));
    decode(&mut criterion, &source);
    window(&mut criterion, &source);
    encode(&mut criterion, &result);
    selection(&mut criterion);
    criterion.final_summary();
}
