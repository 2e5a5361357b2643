//! SQL over datasets, with DataFusion. One dataset has the tables `trajectories` and `steps`;
//! several have `name.trajectories` and `name.steps`.
//!
//! ```text
//! text ─► readonly::measure ─► plan ─► readonly::allow ─► run ─► batches ─► print
//! ```
//!
//! Only this module has a runtime for asynchronous code, and all of its public functions are
//! synchronous. Indices of arrays start at 1, and the index 0 is refused. Unless
//! [`SessionOptions::unsafe_sql`] is set, a query only reads, and only the files that the manifests
//! list.

mod fault;
mod found;
mod indices;
mod old;
pub(crate) mod print;
mod readonly;
mod store;
mod table;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use crossbeam_channel::RecvTimeoutError;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::dataset::schema::type_name;
use crate::dataset::{Dataset, ShardEntry};
use crate::error::{Error, ErrorKind, Result, panic_message};
use table::Table;

const CATALOG: &str = "trajmill";
const SCHEMA: &str = "main";
/// Stack size of the thread that plans and runs a query, in bytes. Walking a plan, which is a tree,
/// recurses. Pages that are not touched cost no memory.
const STACK: usize = 256 << 20;
/// How often a query looks whether the user has stopped it.
const LOOK: Duration = Duration::from_millis(50);
/// How long the end of a session waits for threads that still compute. They end with the process.
const GRACE: Duration = Duration::from_secs(1);

/// Options of a query session.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOptions {
    /// Number of threads; 0 means one per core.
    pub threads: usize,
    /// Memory that sorts, joins and aggregates may use before they spill to the temporary
    /// directory, in bytes; `None` means no limit.
    pub memory: Option<usize>,
    /// Whether every statement is allowed, and files can be read by path.
    pub unsafe_sql: bool,
}

/// A session of queries over open datasets.
pub struct Session {
    context: SessionContext,
    engine: Handle,
    /// The threads behind `engine`; `None` once the session has ended.
    runtime: Option<Runtime>,
    tables: Vec<(String, SchemaRef)>,
    unsafe_sql: bool,
    interrupted: Arc<AtomicBool>,
}

impl Drop for Session {
    /// Ends the threads. A step of a stopped query, such as a join, may compute for minutes. This
    /// does not wait for its end.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(GRACE);
        }
    }
}

/// A function that receives the batches of a result. It returns `Break` to stop the query.
type Each<'a> = dyn FnMut(&RecordBatch) -> Result<ControlFlow<()>> + Send + 'a;

fn context(options: &SessionOptions, environment: Arc<RuntimeEnv>) -> SessionContext {
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
    // Results keep the types of the files. View types would get into exported Parquet files.
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
    // Executing a plan recurses on these threads too.
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_stack_size(64 << 20)
        .enable_time()
        .build();
    built.map_err(|error| Error::failed(format!("cannot start the query engine: {error}")))
}

impl Session {
    /// Opens a session over `datasets`, given with their names. One dataset becomes the tables
    /// `trajectories` and `steps`; several become `name.trajectories` and `name.steps`. Reads no
    /// file yet.
    ///
    /// # Errors
    /// Returns an error if two datasets have the same name, or if the directory of a dataset does
    /// not exist.
    pub fn open(datasets: &[(String, Dataset)], options: &SessionOptions) -> Result<Session> {
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
                return Err(Error::usage(format!("two datasets have the name `{name}`"))
                    .hint("give one of them another name, as in NAME=PATH"));
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
            )?
            .with_old_columns(dataset);
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
        let runtime = runtime(options.threads)?;
        Ok(Session {
            context,
            engine: runtime.handle().clone(),
            runtime: Some(runtime),
            tables,
            unsafe_sql: options.unsafe_sql,
            interrupted: Arc::default(),
        })
    }

    /// Makes queries end with an error of the kind [`ErrorKind::Interrupted`] soon after `flag` is
    /// set.
    #[must_use]
    pub fn interrupted_by(mut self, flag: Arc<AtomicBool>) -> Session {
        self.interrupted = flag;
        self
    }

    /// Returns the tables, by the names that queries use, and their columns.
    pub fn tables(&self) -> &[(String, SchemaRef)] {
        &self.tables
    }

    /// Runs one statement and passes its result to `each`, batch by batch. The first batch is
    /// empty, so that the columns are known even if there are no rows. Memory does not grow with
    /// the result.
    ///
    /// # Errors
    /// Returns an error of the kind [`ErrorKind::Usage`] if the statement is refused or does not
    /// match the tables, and another error if it fails while it runs or if `each` fails.
    pub fn stream(&self, sql: &str, each: &mut Each<'_>) -> Result<()> {
        readonly::measure(sql, !self.unsafe_sql)?;
        deep(|| self.engine.block_on(self.run(sql, each)))
    }

    /// Runs one statement and returns its whole result.
    ///
    /// # Errors
    /// Returns the errors of [`Session::stream`].
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

    /// Returns whether `predicate`, an aggregate condition such as `count(*) > 0`, holds over the
    /// rows of `table`. Null counts as false.
    ///
    /// # Errors
    /// Returns an error if the predicate is not an aggregate condition over the table's columns, or
    /// if it cannot be computed.
    pub fn check(&self, table: &str, predicate: &str) -> Result<bool> {
        Ok(self.answer(table, predicate, &[])?.0)
    }

    /// Returns whether `predicate` holds over the rows of `table`, and on how many rows each of
    /// `conditions` holds.
    fn answer(
        &self,
        table: &str,
        predicate: &str,
        conditions: &[String],
    ) -> Result<(bool, Vec<u64>)> {
        // The predicate is part of a pipeline, so the command line is not wrong.
        let at = |error: Error| Error {
            kind: ErrorKind::Failed,
            ..error.at(format_args!("check `{predicate}`"))
        };
        readonly::measure(predicate, true).map_err(at)?;
        self.context
            .state()
            .sql_to_expr(predicate, &Default::default())
            .map_err(|error| at(self.unplannable(&error)))?;
        let counts = conditions
            .iter()
            .map(|condition| format!(", count(*) FILTER (WHERE {condition})"));
        // The line break ends a comment at the end of the predicate.
        let question = format!(
            "SELECT ({predicate}\n){} FROM {table}",
            counts.collect::<String>()
        );
        let (_, batches) = self.query(&question).map_err(at)?;
        match batches.as_slice() {
            [batch] if batch.num_rows() == 1 && batch.num_columns() == 1 + conditions.len() => {
                let Some(value) = batch.column(0).as_boolean_opt() else {
                    return Err(at(Error::failed(not_condition(
                        batch.column(0).data_type(),
                    ))));
                };
                let counts = batch.columns()[1..].iter().map(|column| {
                    let counted = column.as_primitive_opt::<Int64Type>();
                    counted.map_or(0, |counted| counted.value(0).unsigned_abs())
                });
                Ok((value.is_valid(0) && value.value(0), counts.collect()))
            }
            _ => Err(at(Error::failed(NOT_AGGREGATE)).hint(AGGREGATE_HELP)),
        }
    }

    /// Returns the failure of a query that cannot be planned.
    fn unplannable(&self, error: &DataFusionError) -> Error {
        let state = self.context.state();
        let mut functions: Vec<String> = state
            .scalar_functions()
            .keys()
            .chain(state.aggregate_functions().keys())
            .chain(state.window_functions().keys())
            .cloned()
            .collect();
        functions.sort_unstable();
        fault::unplannable(
            error,
            fault::Known {
                tables: &self.tables,
                functions: &functions,
            },
        )
    }

    async fn run(&self, sql: &str, each: &mut Each<'_>) -> Result<()> {
        let unplannable = |error: DataFusionError| self.unplannable(&error);
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
        indices::from_one(&plan)?;
        // DataFusion resolves types only here, so an error means that the query is wrong.
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
        let stream = datafusion::physical_plan::execute_stream(plan, task)
            .map_err(|error| fault::failed(&error))?;
        match each(&RecordBatch::new_empty(stream.schema()))? {
            ControlFlow::Continue(()) => self.deliver(stream, each).await,
            ControlFlow::Break(()) => Ok(()),
        }
    }

    /// Passes the batches of `stream` to `each`. The engine's threads compute them, so that this
    /// thread can look at the flag while a step of the query computes.
    async fn deliver(
        &self,
        mut stream: SendableRecordBatchStream,
        each: &mut Each<'_>,
    ) -> Result<()> {
        let (sender, batches) = crossbeam_channel::bounded(1);
        let task = self.engine.spawn(async move {
            while let Some(batch) = stream.next().await {
                // Waiting for the reader does not keep this thread from other work.
                if tokio::task::block_in_place(|| sender.send(batch)).is_err() {
                    return;
                }
            }
        });
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Error::interrupted("the query was interrupted"));
            }
            match batches.recv_timeout(LOOK) {
                Ok(batch) => {
                    if each(&batch.map_err(|error| fault::failed(&error))?)?.is_break() {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The stream has ended, or its thread panicked.
        match task.await {
            Ok(()) => Ok(()),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(Error::failed(format!("the query did not finish: {error}"))),
        }
    }

    /// Explains an error of physical planning. Planning reads the footers of files, so a file may
    /// be damaged.
    fn physical(&self, error: &DataFusionError) -> Error {
        if let Some(own) = fault::own(error) {
            return own;
        }
        match error.find_root() {
            DataFusionError::ObjectStore(_)
            | DataFusionError::ParquetError(_)
            | DataFusionError::IoError(_) => fault::failed(error),
            _ => self.unplannable(error),
        }
    }
}

const NOT_AGGREGATE: &str = "the condition is not an aggregate: it has one value per row";
const AGGREGATE_HELP: &str = "write a condition about all rows together, such as \
     `min(reward) >= 0` or `count(*) filter (where reward is null) = 0`";

fn not_condition(found: &DataType) -> String {
    format!(
        "this is not a condition: its type is {}, not bool",
        type_name(found)
    )
}

/// Runs `work` on a thread whose stack is large enough for any plan that [`readonly::measure`]
/// accepts.
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
            Err(Error::failed(format!(
                "the query engine failed: {}",
                panic_message(payload.as_ref())
            ))
            .hint(
                "run `trajmill info DATASET --verify` to find damaged files; if there are none, \
                 please report the query as a bug",
            ))
        })
    })
}
