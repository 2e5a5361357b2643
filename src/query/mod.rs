//! SQL over datasets, by DataFusion: `trajectories` and `steps` of one dataset, `name.trajectories` and `name.steps` of
//! several.
//!
//! ```text
//! text ─► readonly::measure ─► plan ─► readonly::allow ─► run ─► batches ─► print
//! ```
//!
//! Here alone a runtime for asynchronous code exists; every function of this module is synchronous. Arrays are 1-based.
//! A query only reads, and only the files that the manifests list, unless [`Options::unsafe_sql`] is set.

mod fault;
pub mod print;
mod readonly;
mod store;
mod table;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use tokio::runtime::{Builder, Runtime};

use crate::dataset::{Dataset, ShardEntry};
use crate::error::{Error, Kind, Result, said};
use table::Table;

const CATALOG: &str = "trajmill";
const SCHEMA: &str = "main";
/// Stack of the thread that plans and runs a query: plans are trees, and walking one recurses. Only touched pages cost memory.
const STACK: usize = 256 << 20;

/// How queries run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Partitions that work at the same time; 0 is one for each core.
    pub threads: usize,
    /// Bytes that sorts, joins and aggregates may hold before they spill to the temporary directory; `None` sets no limit.
    pub memory: Option<usize>,
    /// Allows every statement, and files by their path.
    pub unsafe_sql: bool,
}

/// Datasets that are open for queries.
pub struct Session {
    context: SessionContext,
    runtime: Runtime,
    tables: Vec<(String, SchemaRef)>,
    unsafe_sql: bool,
}

/// What takes the batches of a result; it breaks to stop the query.
pub type Each<'a> = dyn FnMut(&RecordBatch) -> Result<ControlFlow<()>> + Send + 'a;

fn context(options: &Options, environment: Arc<RuntimeEnv>) -> SessionContext {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut config = SessionConfig::new()
        .with_target_partitions(if options.threads == 0 {
            cores
        } else {
            options.threads
        })
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_information_schema(true)
        .with_collect_statistics(true)
        .with_parquet_pruning(true)
        .with_parquet_page_index_pruning(true)
        .with_repartition_file_scans(true);
    let settings = config.options_mut();
    settings.execution.parquet.pushdown_filters = true;
    settings.execution.parquet.reorder_filters = true;
    // Results keep the types of the files: views would reach whatever reads an exported Parquet file.
    settings.execution.parquet.schema_force_view_types = false;
    settings.sql_parser.map_string_types_to_utf8view = false;
    settings.execution.enable_recursive_ctes = options.unsafe_sql;
    let context = SessionContext::new_with_config_rt(config, environment);
    if options.unsafe_sql {
        context.enable_url_table()
    } else {
        context
    }
}

fn runtime(threads: usize) -> Result<Runtime> {
    let threads = if threads == 0 {
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    } else {
        threads
    };
    // Plans are trees, and executing one recurses on these threads too.
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_stack_size(64 << 20)
        .build();
    built.map_err(|error| Error::failed(format!("cannot start the query engine: {error}")))
}

/// The statement that asks whether `predicate` holds for the whole of `table`.
fn question(table: &str, predicate: &str) -> String {
    // The line break ends a comment that the predicate may end with.
    format!("SELECT ({predicate}\n) FROM {table}")
}

impl Session {
    /// Opens `datasets`, each under its name: one becomes the tables `trajectories` and `steps`, several become
    /// `name.trajectories` and `name.steps`. No file is read yet.
    ///
    /// # Errors
    /// Where two datasets have the same name, or a dataset's directory is not there.
    pub fn open(datasets: &[(String, Dataset)], options: &Options) -> Result<Session> {
        let mut environment = RuntimeEnvBuilder::new();
        if let Some(bytes) = options.memory {
            environment = environment.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
        }
        let context = context(options, environment.build_arc()?);
        let catalog = context
            .catalog(CATALOG)
            .ok_or_else(|| Error::failed("the query engine has no catalog"))?;
        let mut tables = Vec::new();
        for (index, (name, dataset)) in datasets.iter().enumerate() {
            if datasets.iter().take(index).any(|(other, _)| other == name) {
                return Err(Error::usage(format!("two datasets are called `{name}`"))
                    .hint("give one of them a name of its own: NAME=PATH"));
            }
            let (schema, prefix) = if datasets.len() == 1 {
                (SCHEMA, String::new())
            } else {
                (name.as_str(), format!("{name}."))
            };
            let provider: Arc<dyn SchemaProvider> = match catalog.schema(schema) {
                Some(provider) => provider,
                None => {
                    let provider = Arc::new(MemorySchemaProvider::new());
                    catalog.register_schema(
                        schema,
                        Arc::clone(&provider) as Arc<dyn SchemaProvider>,
                    )?;
                    provider
                }
            };
            let files = |of: fn(&ShardEntry) -> &_| dataset.manifest.shards.iter().map(of);
            let trajectories = Table::new(
                &format!("trajectories-{index}"),
                dataset,
                &dataset.trajectories,
                files(|shard| &shard.trajectories),
            )?;
            let steps = Table::new(
                &format!("steps-{index}"),
                dataset,
                &dataset.steps,
                files(|shard| &shard.steps),
            )?;
            for (table, provided) in [("trajectories", trajectories), ("steps", steps)] {
                tables.push((format!("{prefix}{table}"), provided.schema()));
                provided.register(&context.runtime_env());
                provider.register_table(table.to_owned(), Arc::new(provided))?;
            }
        }
        Ok(Session {
            context,
            runtime: runtime(options.threads)?,
            tables,
            unsafe_sql: options.unsafe_sql,
        })
    }

    /// The tables, by the names that queries use, and their columns.
    pub fn tables(&self) -> &[(String, SchemaRef)] {
        &self.tables
    }

    /// Runs one statement and hands its result to `each`, batch by batch: first an empty batch, so that the columns are
    /// known where there is no row, then the rows. Memory does not grow with the result.
    ///
    /// # Errors
    /// Where the statement is refused, does not fit the tables (both as a wrong command line), fails while it runs, or
    /// `each` fails.
    pub fn stream(&self, sql: &str, each: &mut Each<'_>) -> Result<()> {
        readonly::measure(sql, !self.unsafe_sql)?;
        deep(|| self.runtime.block_on(self.run(sql, each)))
    }

    /// Runs one statement and returns its whole result.
    ///
    /// # Errors
    /// Those of [`Session::stream`].
    pub fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let mut batches = Vec::new();
        self.stream(sql, &mut |batch| {
            batches.push(batch.clone());
            Ok(ControlFlow::Continue(()))
        })?;
        let schema = batches
            .first()
            .map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        batches.retain(|batch| batch.num_rows() > 0);
        Ok((schema, batches))
    }

    /// Whether `predicate`, an aggregate condition such as `count(*) > 0`, holds over the rows of `table`; null counts as false.
    ///
    /// # Errors
    /// Where the predicate is no aggregate condition over the table's columns, or cannot be evaluated.
    pub fn check(&self, table: &str, predicate: &str) -> Result<bool> {
        // The predicate is not on the command line, so this is no wrong use of it.
        let at = |error: Error| Error {
            kind: Kind::Failed,
            ..error.at(format_args!("check `{predicate}`"))
        };
        readonly::measure(predicate, true).map_err(at)?;
        self.context
            .state()
            .sql_to_expr(predicate, &Default::default())
            .map_err(|error| at(fault::unplannable(&error, &self.names())))?;
        let (_, batches) = self.query(&question(table, predicate)).map_err(at)?;
        match batches.as_slice() {
            [batch] if batch.num_rows() == 1 && batch.num_columns() == 1 => {
                match batch.column(0).as_boolean_opt() {
                    Some(value) => Ok(value.is_valid(0) && value.value(0)),
                    None => Err(at(Error::failed(not_condition(
                        batch.column(0).data_type(),
                    )))),
                }
            }
            _ => Err(at(Error::failed(NOT_AGGREGATE)).hint(AGGREGATE_HELP)),
        }
    }

    fn names(&self) -> Vec<String> {
        self.tables.iter().map(|(name, _)| name.clone()).collect()
    }

    async fn run(&self, sql: &str, each: &mut Each<'_>) -> Result<()> {
        let unplannable = |error| fault::unplannable(&error, &self.names());
        let plan = self
            .context
            .state()
            .create_logical_plan(sql)
            .await
            .map_err(unplannable)?;
        if !self.unsafe_sql {
            let none = SQLOptions::new()
                .with_allow_ddl(false)
                .with_allow_dml(false)
                .with_allow_statements(false);
            readonly::allow(&plan)?;
            none.verify_plan(&plan).map_err(unplannable)?;
        }
        // Types are only checked here, so an error is still the query's.
        let frame = self
            .context
            .execute_logical_plan(plan)
            .await
            .map_err(unplannable)?;
        let task = Arc::new(frame.task_ctx());
        let plan = frame
            .create_physical_plan()
            .await
            .map_err(|error| self.physical(&error))?;
        let mut stream = datafusion::physical_plan::execute_stream(plan, task)
            .map_err(|error| fault::failed(&error))?;
        let mut flow = each(&RecordBatch::new_empty(stream.schema()))?;
        while flow.is_continue() {
            match stream.next().await {
                Some(batch) => flow = each(&batch.map_err(|error| fault::failed(&error))?)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Footers are read while the physical plan is made, so its errors may be the files'.
    fn physical(&self, error: &DataFusionError) -> Error {
        if let Some(own) = fault::own(error) {
            return own;
        }
        match error.find_root() {
            DataFusionError::ObjectStore(_)
            | DataFusionError::ParquetError(_)
            | DataFusionError::IoError(_) => fault::failed(error),
            _ => fault::unplannable(error, &self.names()),
        }
    }
}

const NOT_AGGREGATE: &str = "not an aggregate: it has a value for every row";
const AGGREGATE_HELP: &str = "say what must hold of all rows together, such as `count(*) filter (where reward is null) = 0` or `min(reward) >= 0`";

fn not_condition(found: &DataType) -> String {
    format!("not a condition: its value is {found}, not true or false")
}

/// Runs `work` on a thread whose stack holds any plan that [`readonly::measure`] lets through.
fn deep<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("sql".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work);
        let thread = thread.map_err(|error| {
            Error::failed(format!("cannot start a thread for the query: {error}"))
        })?;
        thread.join().unwrap_or_else(|payload| {
            Err(Error::failed(format!("the query engine failed on this query: {}", said(payload.as_ref()))).hint(
                "`trajmill info DATASET --verify` tells whether a file is damaged; if none is, please report the query: this is a bug",
            ))
        })
    })
}
