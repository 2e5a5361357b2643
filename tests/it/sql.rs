//! SQL over datasets: scripts with their answers, what is refused, output formats, and that a query
//! leaves nothing behind. The scripts are in `tests/sql`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sqllogictest::{DBOutput, DefaultColumnType};
use trajmill::{
    Dataset, Error, ErrorKind, ResultFormat, Session, SessionOptions, print_result, save_result,
};

use super::support::{Recipe, Values, repository};

const SHARDS: u64 = 3;
const PER_SHARD: u64 = 4;

/// A dataset of three shards at `path`; see [`write_shards`].
fn write_dataset(path: &Path) -> Dataset {
    write_shards(path, SHARDS, PER_SHARD)
}

/// A dataset at `path`. Trajectory k has 3 + k mod 4 steps and a final observation. In step t the
/// observation is [k, t], the reward t and the gear t mod 3; if k is even, the action is [k + t].
fn write_shards(path: &Path, shards: u64, per_shard: u64) -> Dataset {
    let recipe = Recipe {
        length: &|id| 3 + id % 4,
        has_final: |_| true,
        columns: &[
            (
                "observation",
                Values::Vector(2, |row| Some(vec![row.id as f32, row.step as f32])),
            ),
            (
                "action",
                Values::Vector(1, |row| {
                    let recorded = row.id % 2 == 0 && !row.is_final();
                    recorded.then(|| vec![(row.id + row.step) as f32])
                }),
            ),
            (
                "reward",
                Values::Float64(|row| (!row.is_final()).then_some(row.step as f64)),
            ),
            (
                "gear",
                Values::Int32(|row| (!row.is_final()).then_some((row.step % 3) as i32)),
            ),
        ],
        texts: &[("source", |id| format!("robot {}", id % 2))],
    };
    let shards: Vec<_> = (0..shards)
        .map(|shard| shard * per_shard..(shard + 1) * per_shard)
        .collect();
    recipe.write(path, &shards);
    Dataset::open(path).unwrap()
}

/// A folder with a dataset whose name needs quoting everywhere.
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
            &SessionOptions::default(),
        )
        .unwrap()
    }

    fn text(&self, sql: &str, format: ResultFormat) -> String {
        let mut out = Vec::new();
        print_result(&self.session(), sql, format, &mut out).unwrap();
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

fn number(session: &Session, sql: &str) -> i64 {
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
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(repository().join("tests/sql"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 4, "the scripts are gone");
    for script in scripts {
        for threads in [1, 4] {
            let open = || {
                let options = SessionOptions {
                    threads,
                    ..SessionOptions::default()
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
fn statements_that_write_or_reach_outside_are_refused() {
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
        assert_eq!(error.kind, ErrorKind::Usage, "{statement}: {error}");
        assert!(
            !error.message.contains("datafusion")
                && !error.message.contains("DDL")
                && !error.message.contains("DML"),
            "{statement}: {error}"
        );
    }
    assert_eq!(tree(corpus.root.path()), before);
    assert_eq!(
        number(&session, "select count(*) from trajectories"),
        (SHARDS * PER_SHARD) as i64
    );
    assert_eq!(
        number(
            &session,
            "select count(*) from information_schema.tables where table_schema = 'main'"
        ),
        2
    );
}

#[test]
fn a_refusal_says_why_and_what_to_do() {
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

/// Planning recurses: a statement that is too long or too deep must not overflow the stack.
#[test]
fn long_statements_run_or_are_refused_without_a_crash() {
    let corpus = corpus();
    let session = corpus.session();
    for statement in [
        format!("select 1{}", " + 1".repeat(20_000)),
        format!("select 1{}", " + 1".repeat(10_000)),
        format!("select true{}", " or true".repeat(5_000)),
        format!("select 1{}", " union all select 1".repeat(3_000)),
        format!("select {}1{}", "(".repeat(2_000), ")".repeat(2_000)),
    ] {
        let error = session.query(&statement).expect_err(&statement[..40]);
        assert_eq!(error.kind, ErrorKind::Usage, "{error}");
        assert!(!error.message.contains("not valid SQL"), "{error}");
    }
    assert_eq!(
        number(&session, &format!("select 1{}", " + 1".repeat(500))),
        501
    );
    assert_eq!(
        number(
            &session,
            &format!(
                "select count(*) from steps where {}step = 1",
                "step = 0 or ".repeat(240)
            )
        ),
        24
    );
    assert_eq!(
        number(
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
fn an_expression_that_fails_is_not_reported_as_damage() {
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
    let session = Session::open(&datasets, &SessionOptions::default()).unwrap();
    let joined = "select count(*) \
                  from early.steps b join late.steps a using (trajectory_id, step) \
                  where a.observation[2] = b.observation[2]";
    assert_eq!(number(&session, joined), corpus.dataset.rows() as i64);
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
        Session::open(&twice, &SessionOptions::default())
            .err()
            .map(|error| error.kind),
        Some(ErrorKind::Usage)
    );
}

#[test]
fn results_are_written_in_every_format() {
    let corpus = corpus();
    let sql = "select trajectory_id, step, observation, action, is_final, \
               'say \"hi\", twice' as note \
               from steps where trajectory_id <= 1 and step in (0, 3) order by 1, 2";
    assert_eq!(
        corpus.text(sql, ResultFormat::Csv),
        "trajectory_id,step,observation,action,is_final,note\n\
         0,0,\"[0.0,0.0]\",[0.0],false,\"say \"\"hi\"\", twice\"\n\
         0,3,\"[0.0,3.0]\",,true,\"say \"\"hi\"\", twice\"\n\
         1,0,\"[1.0,0.0]\",,false,\"say \"\"hi\"\", twice\"\n\
         1,3,\"[1.0,3.0]\",,false,\"say \"\"hi\"\", twice\"\n"
    );
    let json = corpus.text(sql, ResultFormat::Json);
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
        ResultFormat::Table,
    );
    assert_eq!(
        table,
        "+---------------+--------+\n\
         | trajectory_id | return |\n\
         +---------------+--------+\n\
         | 2             | 10.0   |\n\
         +---------------+--------+\n"
    );
    assert_eq!(
        corpus.text("select step from steps where false", ResultFormat::Csv),
        "step\n"
    );
    assert_eq!(
        corpus.text("select step from steps where false", ResultFormat::Json),
        ""
    );
    assert!(
        corpus
            .text("select step from steps where false", ResultFormat::Table)
            .contains("| step |")
    );
    // A long table is printed in several boxes, without losing a row.
    let long = corpus.text(
        "select value from generate_series(1, 25000)",
        ResultFormat::Table,
    );
    assert_eq!(
        long.lines()
            .filter(|line| line.starts_with("| ") && !line.contains("value"))
            .count(),
        25_000
    );
}

#[test]
fn a_parquet_file_is_written_whole_and_never_over_another() {
    let corpus = corpus();
    let session = corpus.session();
    let path = corpus.root.path().join("result.parquet");
    assert_eq!(
        save_result(
            &session,
            "select * from steps order by trajectory_id, step",
            ResultFormat::Parquet,
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
            .map(|id| (0..3 + id % 4).sum::<u64>() as f64)
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
    let error = save_result(&session, "select 1", ResultFormat::Parquet, &path).unwrap_err();
    assert!(error.message.contains("exists"), "{error}");
    let failing = "select 1 / (step - 2) from steps";
    assert!(
        save_result(
            &session,
            failing,
            ResultFormat::Parquet,
            &corpus.root.path().join("failed.parquet")
        )
        .is_err()
    );
    assert!(
        save_result(
            &session,
            "select nosuch from steps",
            ResultFormat::Csv,
            &corpus.root.path().join("failed.csv")
        )
        .is_err()
    );
    assert_eq!(
        tree(corpus.root.path()),
        before,
        "a failed query left files behind"
    );
}

#[test]
fn only_files_of_the_manifest_are_read_and_damage_names_the_file() {
    let corpus = corpus();
    let steps = corpus.dataset.path.join("steps");
    // A file that the manifest does not list is not part of the dataset.
    std::fs::copy(steps.join("00000.parquet"), steps.join("00009.parquet")).unwrap();
    assert_eq!(
        number(
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
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(
        error.message.contains("steps/00001.parquet") && error.message.contains("missing"),
        "{error}"
    );
    let bytes = std::fs::read(steps.join("00000.parquet")).unwrap();
    std::fs::write(steps.join("00001.parquet"), &bytes[..bytes.len() / 2]).unwrap();
    let damaged = Dataset::open(&corpus.dataset.path).unwrap();
    let session = Session::open(
        &[("damaged".to_owned(), damaged)],
        &SessionOptions::default(),
    )
    .unwrap();
    let error = session.query("select max(step) from steps").unwrap_err();
    assert!(error.message.contains("steps/00001.parquet"), "{error}");
}

#[test]
fn a_query_for_one_trajectory_reads_one_shard() {
    let corpus = corpus();
    let plan = corpus.text(
        "explain analyze select sum(reward) from steps where trajectory_id = 5",
        ResultFormat::Csv,
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

/// Even of one shard with one row group, only the pages that the answer needs are read.
#[test]
fn a_query_for_one_trajectory_reads_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = write_shards(folder.path(), 1, 10_000);
    let session =
        Session::open(&[("pages".to_owned(), dataset)], &SessionOptions::default()).unwrap();
    let mut out = Vec::new();
    let sql = "explain analyze select sum(reward) from steps where trajectory_id = 9000";
    print_result(&session, sql, ResultFormat::Csv, &mut out).unwrap();
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
        number(
            &session,
            "select count(*) from steps where trajectory_id = 9000"
        ),
        4
    );
}

#[test]
fn a_check_is_a_condition_on_aggregates() {
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
            "count(*) filter (where action is null and not is_final and trajectory_id % 2 = 0) = 0 \
             -- odd ones have none",
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
fn unsafe_sql_allows_what_is_otherwise_refused() {
    let corpus = corpus();
    let options = SessionOptions {
        unsafe_sql: true,
        ..SessionOptions::default()
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
        number(
            &session,
            &format!("select count(*) from '{}'", path.display())
        ),
        corpus.dataset.rows() as i64
    );
    session.query("create table t as select 7 as x").unwrap();
    assert_eq!(number(&session, "select x from t"), 7);
    // Even so, datasets are read-only, and statements have a limited length.
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
fn memory_is_bounded_and_the_error_names_the_option() {
    let corpus = corpus();
    let options = SessionOptions {
        memory: Some(1 << 20),
        threads: 1,
        ..SessionOptions::default()
    };
    let session =
        Session::open(&[("corpus".to_owned(), corpus.dataset.clone())], &options).unwrap();
    // A hash join cannot spill.
    let join = "select count(*) from generate_series(1, 2000000) a \
                join generate_series(1, 2000000) b on a.value = b.value";
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
fn the_command_writes_to_stdout_until_it_is_closed() {
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
        output.status.code() == Some(141) && output.stderr.is_empty(),
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
