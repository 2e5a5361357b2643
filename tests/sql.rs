//! SQL over datasets: scripts with their answers, refusals, formats, and what a query may not leave behind.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test makes and damages its own files"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListBuilder, Float32Builder, Float64Array,
    Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sqllogictest::{DBOutput, DefaultColumnType};
use trajmill::dataset::manifest::{Lineage, Manifest, Statistics, VERSION};
use trajmill::dataset::write::ShardWriter;
use trajmill::dataset::{Chunk, Dataset, layout, schema};
use trajmill::error::{Error, Kind};
use trajmill::query::print::{Format, print, save};
use trajmill::query::{Options, Session};

const SHARDS: i64 = 3;
const PER_SHARD: i64 = 4;

fn steps_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("trajectory_id", DataType::Int64, false),
        Field::new("step", DataType::Int32, false),
        Field::new("observation", schema::vector(DataType::Float32, 2), false),
        Field::new("action", schema::vector(DataType::Float32, 1), true),
        Field::new("reward", DataType::Float64, true),
        Field::new("gear", DataType::Int32, true),
        Field::new("terminated", DataType::Boolean, false),
        Field::new("truncated", DataType::Boolean, false),
        Field::new("is_final", DataType::Boolean, false),
    ]))
}

fn vectors(width: i32, rows: &[Option<Vec<f32>>]) -> ArrayRef {
    let element = Arc::new(Field::new("element", DataType::Float32, false));
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), width).with_field(element);
    for row in rows {
        match row {
            Some(values) => builder.values().append_slice(values),
            None => builder.values().append_slice(&vec![0.0; width as usize]),
        }
        builder.append(row.is_some());
    }
    Arc::new(builder.finish())
}

/// Trajectory k has 3 + k mod 4 steps and a final observation. In step t the observation is [k, t], the reward t, the
/// gear t mod 3; even trajectories have the action [k + t]. Trajectories divisible by 3 end, the others are cut off.
fn chunk(ids: std::ops::Range<i64>) -> Chunk {
    let length = |id: i64| 3 + id % 4;
    let rows: Vec<(i64, i64)> = ids
        .clone()
        .flat_map(|id| (0..=length(id)).map(move |step| (id, step)))
        .collect();
    let last = |(id, step): (i64, i64)| step == length(id) - 1;
    let fin = |(id, step): (i64, i64)| step == length(id);
    let observation: Vec<_> = rows
        .iter()
        .map(|(id, step)| Some(vec![*id as f32, *step as f32]))
        .collect();
    let action: Vec<_> = rows
        .iter()
        .map(|row| (row.0 % 2 == 0 && !fin(*row)).then(|| vec![(row.0 + row.1) as f32]))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1 as i32).collect::<Int32Array>()),
        vectors(2, &observation),
        vectors(1, &action),
        Arc::new(
            rows.iter()
                .map(|row| (!fin(*row)).then_some(row.1 as f64))
                .collect::<Float64Array>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| (!fin(*row)).then_some((row.1 % 3) as i32))
                .collect::<Int32Array>(),
        ),
        Arc::new(BooleanArray::from_iter(
            rows.iter().map(|row| Some(last(*row) && row.0 % 3 == 0)),
        )),
        Arc::new(BooleanArray::from_iter(
            rows.iter().map(|row| Some(last(*row) && row.0 % 3 != 0)),
        )),
        Arc::new(BooleanArray::from_iter(
            rows.iter().map(|row| Some(fin(*row))),
        )),
    ];
    let mut offsets = vec![0];
    for id in ids.clone() {
        offsets.push(offsets[offsets.len() - 1] + length(id) as usize + 1);
    }
    let names: Vec<ArrayRef> = vec![
        Arc::new(ids.clone().collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(
            ids.map(|id| format!("robot {}", id % 2)),
        )),
    ];
    let trajectories = RecordBatch::try_new(carried(), names).unwrap();
    Chunk::new(
        RecordBatch::try_new(steps_schema(), columns).unwrap(),
        trajectories,
        offsets,
    )
}

fn carried() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("trajectory_id", DataType::Int64, false),
        Field::new("source", DataType::Utf8, false),
    ]))
}

/// A dataset of three shards at `path`.
fn write_dataset(path: &Path) -> Dataset {
    write_shards(path, SHARDS, PER_SHARD)
}

/// A dataset of so many shards of so many trajectories at `path`.
fn write_shards(path: &Path, shard_count: i64, per_shard: i64) -> Dataset {
    for kind in ["steps", "trajectories"] {
        std::fs::create_dir_all(path.join(kind)).unwrap();
    }
    let mut statistics = Statistics::default();
    let mut shards = Vec::new();
    for shard in 0..shard_count {
        let mut writer =
            ShardWriter::create(path, shard as usize, &steps_schema(), &carried(), true).unwrap();
        writer
            .write(&chunk(shard * per_shard..(shard + 1) * per_shard))
            .unwrap();
        let entry = writer.finish().unwrap();
        statistics.add(&entry.statistics);
        shards.push(entry);
    }
    let manifest = Manifest {
        trajmill: VERSION,
        tool: "test".to_owned(),
        fingerprint: "none".to_owned(),
        columns: schema::describe(&steps_schema()),
        statistics,
        shards,
        lineage: Lineage::default(),
    };
    std::fs::write(layout::manifest(path), manifest.to_bytes().unwrap()).unwrap();
    Dataset::open(path).unwrap()
}

/// A folder with a dataset, in a place whose name needs quoting everywhere.
struct Corpus {
    root: tempfile::TempDir,
    dataset: Dataset,
}

fn corpus() -> Corpus {
    let root = tempfile::tempdir().unwrap();
    let dataset = write_dataset(&root.path().join("a dataset, 50% ü"));
    Corpus { root, dataset }
}

impl Corpus {
    fn session(&self) -> Session {
        Session::open(
            &[("corpus".to_owned(), self.dataset.clone())],
            &Options::default(),
        )
        .unwrap()
    }

    fn text(&self, sql: &str, format: Format) -> String {
        let mut out = Vec::new();
        print(&self.session(), sql, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }
}

/// Every file below `root` with its bytes.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.insert(path.clone(), Vec::new());
            files.extend(tree(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn whole(session: &Session, sql: &str) -> i64 {
    let (_, batches) = session
        .query(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

struct Engine(Session);

impl sqllogictest::DB for Engine {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let (schema, batches) = self.0.query(sql)?;
        let options = FormatOptions::new().with_null("NULL");
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
                .collect();
            rows.extend((0..batch.num_rows()).map(|row| {
                columns
                    .iter()
                    .map(|column| column.value(row).to_string())
                    .collect()
            }));
        }
        let types = schema.fields().iter().map(|field| match field.data_type() {
            other if other.is_integer() => DefaultColumnType::Integer,
            other if other.is_floating() => DefaultColumnType::FloatingPoint,
            _ => DefaultColumnType::Text,
        });
        Ok(DBOutput::Rows {
            types: types.collect(),
            rows,
        })
    }

    fn engine_name(&self) -> &str {
        "trajmill"
    }
}

#[test]
fn scripts_give_their_answers() {
    let corpus = corpus();
    let mut scripts: Vec<PathBuf> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
    scripts.sort();
    assert!(scripts.len() >= 4, "the scripts are gone");
    for script in scripts {
        for threads in [1, 4] {
            let open = || {
                let options = Options {
                    threads,
                    ..Options::default()
                };
                Session::open(&[("corpus".to_owned(), corpus.dataset.clone())], &options)
            };
            let mut runner = sqllogictest::Runner::new(|| std::future::ready(open().map(Engine)));
            runner
                .run_file(&script)
                .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        }
    }
}

#[test]
fn nothing_that_writes_reads_elsewhere_or_changes_the_session_is_allowed() {
    let corpus = corpus();
    let session = corpus.session();
    let shard = corpus.dataset.path.join("steps/00000.parquet");
    let (root, shard) = (
        corpus.root.path().display().to_string(),
        shard.display().to_string(),
    );
    let before = tree(corpus.root.path());
    let statements = [
        format!("copy steps to '{root}/out.parquet'"),
        format!("copy (select * from steps) to '{root}/out.csv' stored as csv"),
        format!("explain copy steps to '{root}/out.parquet'"),
        format!("explain analyze copy steps to '{root}/out.parquet'"),
        "insert into steps select * from steps".to_owned(),
        "insert into trajectories (trajectory_id) values (1)".to_owned(),
        "explain analyze insert into steps select * from steps".to_owned(),
        "update trajectories set length = 0".to_owned(),
        "delete from steps".to_owned(),
        "merge into steps using trajectories on true when matched then delete".to_owned(),
        "truncate table steps".to_owned(),
        "create table t as select 1".to_owned(),
        "select 1 as x into t".to_owned(),
        "create view v as select 1".to_owned(),
        "create schema s".to_owned(),
        "create database d".to_owned(),
        format!("create external table t stored as parquet location '{shard}'"),
        format!("create external table t (x int) stored as csv location '{root}/new/'"),
        "create function f(int) returns int return $1".to_owned(),
        "drop table steps".to_owned(),
        "drop schema main cascade".to_owned(),
        "alter table steps add column x int".to_owned(),
        "set datafusion.execution.batch_size = 1".to_owned(),
        "reset datafusion.execution.batch_size".to_owned(),
        "prepare p as select 1".to_owned(),
        "execute p".to_owned(),
        "begin".to_owned(),
        "with recursive t as (select 1 as x union all select x + 1 from t) select count(*) from t"
            .to_owned(),
        "select 1; select 2".to_owned(),
        format!("select 1; drop table steps; copy steps to '{root}/x.parquet'"),
        format!("select * from '{shard}'"),
        "select * from '/etc/passwd'".to_owned(),
        "select * from \"/etc/passwd\"".to_owned(),
        "select * from read_csv('/etc/passwd')".to_owned(),
        format!("select * from read_parquet('{shard}')"),
        format!("select * from parquet_metadata('{shard}')"),
        "attach 'x.db'".to_owned(),
        "select * from nosuch.steps".to_owned(),
    ];
    for statement in &statements {
        let error = session.query(statement).expect_err(statement);
        assert_eq!(error.kind, Kind::Usage, "{statement}: {error}");
        assert!(
            !error.message.contains("datafusion")
                && !error.message.contains("DDL")
                && !error.message.contains("DML"),
            "{statement}: {error}"
        );
    }
    assert_eq!(tree(corpus.root.path()), before);
    assert_eq!(
        whole(&session, "select count(*) from trajectories"),
        SHARDS * PER_SHARD
    );
    assert_eq!(
        whole(
            &session,
            "select count(*) from information_schema.tables where table_schema = 'main'"
        ),
        2
    );
}

#[test]
fn refusals_say_what_and_name_the_way_out() {
    let corpus = corpus();
    let session = corpus.session();
    for (statement, message, help) in [
        (
            "copy steps to 'x.parquet'",
            "COPY is refused: `trajmill sql` only reads",
            "--unsafe",
        ),
        (
            "select 1 as x into t",
            "CREATE MEMORY TABLE is refused: `trajmill sql` only reads",
            "--unsafe",
        ),
        (
            "select * from '/etc/passwd'",
            "there is no table `/etc/passwd`",
            "--unsafe",
        ),
        (
            "select observaton from steps",
            "there is no column `observaton`",
            "did you mean `observation`?",
        ),
        (
            "select s.rewrd from steps s",
            "there is no column `rewrd` in `s`",
            "did you mean `reward`?",
        ),
        (
            "select * from step",
            "there is no table `step`",
            "did you mean `steps`?",
        ),
        (
            "select aveg(reward) from steps",
            "there is no function `aveg`",
            "did you mean `avg`?",
        ),
        (
            "select trajectory_id from steps join trajectories on true",
            "several tables have a column `trajectory_id`",
            "prefix it with its table",
        ),
        ("select count(* from steps", "not valid SQL", ""),
        (
            "select 1; select 2",
            "there is more than one statement",
            "one statement at a time",
        ),
    ] {
        let error = session.query(statement).expect_err(statement);
        assert!(error.message.contains(message), "{statement}: {error}");
        assert!(
            error.hints.iter().any(|hint| hint.contains(help)) || help.is_empty(),
            "{statement}: {error}"
        );
    }
}

#[test]
fn long_chains_are_refused_or_run_but_never_end_the_process() {
    let corpus = corpus();
    let session = corpus.session();
    for (term, count) in [
        (" + 1", 20_000),
        (" or true", 20_000),
        (" union all select 1", 3_000),
        ("", 0),
    ] {
        assert!(
            session
                .query(&format!(
                    "select 1{}{}",
                    term.repeat(count),
                    "(".repeat(2_000)
                ))
                .is_err()
        );
    }
    assert_eq!(
        whole(&session, &format!("select 1{}", " + 1".repeat(500))),
        501
    );
    assert_eq!(
        whole(
            &session,
            &format!(
                "select count(*) from steps where {}step = 1",
                "step = 0 or ".repeat(240)
            )
        ),
        24
    );
    assert_eq!(
        whole(
            &session,
            &format!(
                "select count(*) from (select 1{})",
                " union all select 1".repeat(200)
            )
        ),
        201
    );
}

#[test]
fn a_condition_that_cannot_be_computed_is_no_damage() {
    let session = corpus();
    let session = session.session();
    for (sql, why) in [
        (
            "select * from steps where 1 / gear > 0",
            "a condition cannot be computed on a row: division by zero",
        ),
        (
            "select * from steps where cast('x' || step as int) = 1",
            "a condition cannot be computed on a row: 'x0' is not an int32",
        ),
        ("select 1 % gear from steps", "division by zero"),
    ] {
        let error = session.query(sql).unwrap_err();
        assert!(
            error.message.starts_with(why) && error.hints.is_empty(),
            "{sql}: {error}"
        );
    }
}

#[test]
fn several_datasets_are_joined_by_name() {
    let corpus = corpus();
    let other = write_dataset(&corpus.root.path().join("other"));
    let datasets = [
        ("early".to_owned(), corpus.dataset.clone()),
        ("late".to_owned(), other.clone()),
    ];
    let session = Session::open(&datasets, &Options::default()).unwrap();
    let joined = "select count(*) from early.steps b join late.steps a using (trajectory_id, step) where a.observation[2] = b.observation[2]";
    assert_eq!(whole(&session, joined), corpus.dataset.rows() as i64);
    let error = session.query("select * from steps").unwrap_err();
    assert!(
        error.hints[0].contains("early.trajectories") && error.hints[0].contains("late.steps"),
        "{error}"
    );
    let twice = [
        ("same".to_owned(), corpus.dataset.clone()),
        ("same".to_owned(), other),
    ];
    assert_eq!(
        Session::open(&twice, &Options::default())
            .err()
            .map(|error| error.kind),
        Some(Kind::Usage)
    );
}

#[test]
fn results_are_written_in_every_format() {
    let corpus = corpus();
    let sql = "select trajectory_id, step, observation, action, is_final, 'say \"hi\", twice' as note from steps where trajectory_id <= 1 and step in (0, 3) order by 1, 2";
    assert_eq!(
        corpus.text(sql, Format::Csv),
        "trajectory_id,step,observation,action,is_final,note\n\
         0,0,\"[0.0,0.0]\",[0.0],false,\"say \"\"hi\"\", twice\"\n\
         0,3,\"[0.0,3.0]\",,true,\"say \"\"hi\"\", twice\"\n\
         1,0,\"[1.0,0.0]\",,false,\"say \"\"hi\"\", twice\"\n\
         1,3,\"[1.0,3.0]\",,false,\"say \"\"hi\"\", twice\"\n"
    );
    let json = corpus.text(sql, Format::Json);
    let objects: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 4);
    assert_eq!(objects[0]["observation"], serde_json::json!([0.0, 0.0]));
    assert_eq!(objects[1]["action"], serde_json::Value::Null);
    assert!(
        objects
            .iter()
            .all(|object| object.as_object().unwrap().len() == 6)
    );
    let table = corpus.text(
        "select trajectory_id, \"return\" from trajectories where trajectory_id = 2",
        Format::Table,
    );
    assert_eq!(
        table,
        "+---------------+--------+\n| trajectory_id | return |\n+---------------+--------+\n| 2             | 10.0   |\n+---------------+--------+\n"
    );
    assert_eq!(
        corpus.text("select step from steps where false", Format::Csv),
        "step\n"
    );
    assert_eq!(
        corpus.text("select step from steps where false", Format::Json),
        ""
    );
    assert!(
        corpus
            .text("select step from steps where false", Format::Table)
            .contains("| step |")
    );
    // A long table comes in boxes, and no row is lost.
    let long = corpus.text("select value from generate_series(1, 25000)", Format::Table);
    assert_eq!(
        long.lines()
            .filter(|line| line.starts_with("| ") && !line.contains("value"))
            .count(),
        25_000
    );
}

#[test]
fn parquet_is_whole_new_and_of_the_same_values() {
    let corpus = corpus();
    let session = corpus.session();
    let path = corpus.root.path().join("result.parquet");
    assert_eq!(
        save(
            &session,
            "select * from steps order by trajectory_id, step",
            Format::Parquet,
            &path
        )
        .unwrap(),
        corpus.dataset.rows()
    );
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(&path).unwrap(),
    )
    .unwrap()
    .build()
    .unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let sum: f64 = batches
        .iter()
        .flat_map(|batch| {
            batch
                .column_by_name("reward")
                .unwrap()
                .as_primitive::<Float64Type>()
                .iter()
                .flatten()
        })
        .sum();
    assert_eq!(
        sum,
        (0..SHARDS * PER_SHARD)
            .map(|id| (0..3 + id % 4).sum::<i64>() as f64)
            .sum::<f64>()
    );
    assert!(
        batches[0]
            .column_by_name("observation")
            .unwrap()
            .as_list::<i32>()
            .value(1)
            .len()
            == 2
    );

    let before = tree(corpus.root.path());
    let error = save(&session, "select 1", Format::Parquet, &path).unwrap_err();
    assert!(error.message.contains("exists"), "{error}");
    let failing = "select 1 / (step - 2) from steps";
    assert!(
        save(
            &session,
            failing,
            Format::Parquet,
            &corpus.root.path().join("failed.parquet")
        )
        .is_err()
    );
    assert!(
        save(
            &session,
            "select nosuch from steps",
            Format::Csv,
            &corpus.root.path().join("failed.csv")
        )
        .is_err()
    );
    assert_eq!(
        tree(corpus.root.path()),
        before,
        "a failed query leaves nothing"
    );
}

#[test]
fn only_what_the_manifest_lists_is_read_and_damage_is_named() {
    let corpus = corpus();
    let steps = corpus.dataset.path.join("steps");
    // A file that the manifest does not list is not part of the dataset.
    std::fs::copy(steps.join("00000.parquet"), steps.join("00009.parquet")).unwrap();
    assert_eq!(
        whole(
            &corpus.session(),
            "select count(*) from steps where reward is not null or is_final"
        ),
        corpus.dataset.rows() as i64
    );
    std::fs::remove_file(steps.join("00001.parquet")).unwrap();
    let error = corpus
        .session()
        .query("select max(step) from steps")
        .unwrap_err();
    assert_eq!(error.kind, Kind::Failed);
    assert!(
        error.message.contains("steps/00001.parquet") && error.message.contains("missing"),
        "{error}"
    );
    let bytes = std::fs::read(steps.join("00000.parquet")).unwrap();
    std::fs::write(steps.join("00001.parquet"), &bytes[..bytes.len() / 2]).unwrap();
    let error = corpus
        .session()
        .query("select max(step) from steps")
        .unwrap_err();
    assert!(error.message.contains("steps/00001.parquet"), "{error}");
}

#[test]
fn a_query_that_asks_for_one_trajectory_reads_one_shard() {
    let corpus = corpus();
    let plan = corpus.text(
        "explain analyze select sum(reward) from steps where trajectory_id = 5",
        Format::Csv,
    );
    let pruned = [
        "files_ranges_pruned_statistics",
        "row_groups_pruned_statistics",
    ]
    .iter()
    .any(|metric| {
        plan.split(metric).nth(1).is_some_and(|rest| {
            rest.trim_start_matches('=')
                .starts_with("3 total → 1 matched")
        })
    });
    assert!(pruned, "{plan}");
    assert!(
        plan.contains("output_rows=5") && !plan.contains("FilterExec"),
        "the filter is not applied in the scan: {plan}"
    );
}

/// In one shard and one row group too, no more pages are read than the answer needs.
#[test]
fn a_query_that_asks_for_one_trajectory_reads_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = write_shards(folder.path(), 1, 10_000);
    let session = Session::open(&[("pages".to_owned(), dataset)], &Options::default()).unwrap();
    let mut out = Vec::new();
    let sql = "explain analyze select sum(reward) from steps where trajectory_id = 9000";
    print(&session, sql, Format::Csv, &mut out).unwrap();
    let plan = String::from_utf8(out).unwrap();
    let pages = plan
        .split("page_index_pages_pruned=")
        .nth(1)
        .and_then(|rest| rest.split(" total → ").next()?.parse::<u32>().ok());
    assert!(
        pages.is_some_and(|pages| pages > 1)
            && plan.contains(&format!("{} total → 1 matched", pages.unwrap())),
        "{plan}"
    );
    assert_eq!(
        whole(
            &session,
            "select count(*) from steps where trajectory_id = 9000"
        ),
        4
    );
}

#[test]
fn checks_are_aggregate_conditions() {
    let corpus = corpus();
    let session = corpus.session();
    for (table, predicate, holds) in [
        ("steps", "count(*) > 0", true),
        (
            "steps",
            "count(*) filter (where action is null and not is_final) = 0",
            false,
        ),
        (
            "steps",
            "count(*) filter (where action is null and not is_final and trajectory_id % 2 = 0) = 0 -- odd ones have none",
            true,
        ),
        (
            "trajectories",
            "min(\"return\") >= 3 and max(length) = 6",
            true,
        ),
        (
            "trajectories",
            "sum(length) filter (where false) > 0",
            false,
        ),
        ("steps", "max(array_length(observation)) = 2", true),
    ] {
        assert_eq!(
            session.check(table, predicate).unwrap(),
            holds,
            "{predicate}"
        );
    }
    for (predicate, message) in [
        ("reward > 0", "not an aggregate"),
        ("1 = 1", "not an aggregate"),
        ("count(*)", "not a condition"),
        ("count(*) > 0) from trajectories --", "not valid SQL"),
        ("count(nosuch) > 0", "there is no column `nosuch`"),
        ("cuont(*) > 0", "there is no function `cuont`"),
        ("count(*) > 0; drop table steps", "more than one statement"),
        (
            "(select count(*) from elsewhere) > 0",
            "there is no table `elsewhere`",
        ),
    ] {
        let error = session.check("steps", predicate).expect_err(predicate);
        assert!(
            error.message.contains(message) && error.message.contains(predicate),
            "{predicate}: {error}"
        );
    }
}

#[test]
fn unsafe_allows_what_is_refused_otherwise() {
    let corpus = corpus();
    let options = Options {
        unsafe_sql: true,
        ..Options::default()
    };
    let session =
        Session::open(&[("corpus".to_owned(), corpus.dataset.clone())], &options).unwrap();
    let path = corpus.root.path().join("copied.parquet");
    session
        .query(&format!(
            "copy (select step from steps) to '{}'",
            path.display()
        ))
        .unwrap();
    assert_eq!(
        whole(
            &session,
            &format!("select count(*) from '{}'", path.display())
        ),
        corpus.dataset.rows() as i64
    );
    session.query("create table t as select 7 as x").unwrap();
    assert_eq!(whole(&session, "select x from t"), 7);
    // A dataset is never written to, and limits on the text stay.
    assert!(
        session
            .query("insert into steps select * from steps")
            .is_err()
    );
    assert!(
        session
            .query(&format!("select 1{}", " + 1".repeat(20_000)))
            .is_err()
    );
    assert!(session.query("select 1; select 2").is_err());
}

#[test]
fn memory_is_bounded_and_the_error_says_how_to_give_more() {
    let corpus = corpus();
    let options = Options {
        memory: Some(1 << 20),
        threads: 1,
        ..Options::default()
    };
    let session =
        Session::open(&[("corpus".to_owned(), corpus.dataset.clone())], &options).unwrap();
    // A hash join cannot spill.
    let join = "select count(*) from generate_series(1, 2000000) a join generate_series(1, 2000000) b on a.value = b.value";
    let error = session
        .query(join)
        .expect_err("a join of two million rows in a megabyte");
    assert!(
        error.hints.iter().any(|hint| hint.contains("--memory")),
        "{error}"
    );
    let mut rows = 0;
    session
        .stream(
            "select value from generate_series(1, 3000000)",
            &mut |batch| {
                rows += batch.num_rows();
                Ok(if rows > 100_000 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            },
        )
        .unwrap();
    assert!(
        (100_000..3_000_000).contains(&rows),
        "a break did not stop the query: {rows}"
    );
}

#[test]
fn the_command_writes_to_stdout_and_a_reader_may_leave() {
    let corpus = corpus();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trajmill"));
        command
            .arg("sql")
            .arg(format!("d={}", corpus.dataset.path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let output = command()
        .args(["--format", "csv", "-c", "select count(*) as n from steps"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("n\n{}\n", corpus.dataset.rows())
    );
    assert!(output.status.success() && output.stderr.is_empty());

    let mut child = command().args(["--format", "json"]).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"select value from generate_series(1, 5000000)")
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "{\"value\":1}\n");
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let output = command().args(["-c", "drop table steps"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        output.stdout.is_empty()
            && String::from_utf8_lossy(&output.stderr).contains("DROP is refused")
    );
    let output = command()
        .args(["-c", "select 1", "--format", "parquet"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
