//! A table over exactly the files that a manifest lists. It never lists a directory, and accepts no
//! inserts.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result as Planned};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::object_store::{ObjectStore, path::Path as Location};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt};

use super::old;
use super::store::{Store, meta};
use crate::dataset::block::with_field;
use crate::dataset::{Dataset, DatasetFile, FileEntry, old_columns};
use crate::error::{Error, Result};

/// Number of footers that are read at once.
const FOOTERS: usize = 32;

/// A table of Parquet files with one schema.
#[derive(Debug)]
pub(super) struct Table {
    schema: SchemaRef,
    /// The columns of the files.
    stored: SchemaRef,
    /// The dataset, if its trajectories lack a column that is computed when it is asked for.
    old: Option<Dataset>,
    /// The URL that `store` is registered under.
    url: ObjectStoreUrl,
    store: Arc<dyn ObjectStore>,
    files: Vec<(DatasetFile, PartitionedFile)>,
    /// The files with the statistics and order in their footers, which are read once per session,
    /// when a query needs them.
    described: OnceLock<Vec<PartitionedFile>>,
}

/// Returns `schema` as SQL sees it: vectors are plain lists, which all array functions take. A
/// Parquet file does not distinguish the two.
pub(super) fn listed(schema: &Schema) -> SchemaRef {
    fn field(of: &Arc<Field>) -> Arc<Field> {
        let data_type = match of.data_type() {
            DataType::FixedSizeList(child, _) => DataType::List(field(child)),
            DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
            other => other.clone(),
        };
        Arc::new(of.as_ref().clone().with_data_type(data_type))
    }
    Arc::new(Schema::new(
        schema.fields().iter().map(field).collect::<Vec<_>>(),
    ))
}

impl Table {
    /// Creates the table of those `files` of `dataset` that have the schema `schema`. `name`
    /// distinguishes it from the other tables of the session.
    ///
    /// # Errors
    /// Returns an error if the engine cannot express the relative path of a file.
    pub(super) fn new<'a>(
        name: &str,
        dataset: &Dataset,
        schema: &Schema,
        files: impl Iterator<Item = &'a FileEntry>,
    ) -> Result<Table> {
        let schema = listed(schema);
        let file = |entry: &FileEntry| -> Result<(DatasetFile, PartitionedFile)> {
            let location = Location::parse(&entry.path).map_err(|error| {
                let path = dataset.path.join(&entry.path);
                Error::failed(format!("cannot read {}: {error}", path.display()))
            })?;
            let file = PartitionedFile::new_from_meta(meta(&location, entry.bytes));
            Ok((
                dataset.file(entry),
                file.with_arrow_schema(Arc::clone(&schema)),
            ))
        };
        let files = files.map(file).collect::<Result<Vec<_>>>()?;
        let located = files
            .iter()
            .map(|(file, known)| (known.object_meta.location.clone(), file.clone()));
        Ok(Table {
            url: ObjectStoreUrl::parse(format!("dataset://{name}"))?,
            store: Arc::new(Store::new(located)),
            stored: Arc::clone(&schema),
            schema,
            old: None,
            files,
            described: OnceLock::new(),
        })
    }

    /// Adds the columns that the trajectories of `dataset` lack because an older version wrote
    /// them.
    pub(super) fn with_old_columns(self, dataset: &Dataset) -> Table {
        if !old_columns::lacks_has_actions(dataset) {
            return self;
        }
        Table {
            schema: Arc::new(with_field(&self.schema, old_columns::has_actions()).0),
            old: Some(dataset.clone()),
            ..self
        }
    }

    /// Makes the files readable in the environment in which queries run.
    pub(super) fn register(&self, environment: &RuntimeEnv) {
        environment.register_object_store(self.url.as_ref(), Arc::clone(&self.store));
    }

    /// Verifies every file that this process has not verified yet. This comes before footers are
    /// read: their statistics can answer a query, or keep a file from being read.
    async fn verify(&self, threads: usize) -> Planned<()> {
        let files: Vec<DatasetFile> = self.files.iter().map(|(file, _)| file.clone()).collect();
        futures::stream::iter(files)
            .map(|file| async move {
                let verified = tokio::task::spawn_blocking(move || file.open().map(|_| ()));
                let verified = verified
                    .await
                    .map_err(|error| DataFusionError::External(Box::new(error)))?;
                verified.map_err(|error| DataFusionError::External(Box::new(error)))
            })
            .buffer_unordered(threads.max(1))
            .try_collect()
            .await
    }

    /// Returns the files with the statistics and order in their footers.
    async fn describe(
        &self,
        state: &dyn Session,
        format: &ParquetFormat,
    ) -> Planned<&[PartitionedFile]> {
        if let Some(files) = self.described.get() {
            return Ok(files);
        }
        self.verify(state.config().target_partitions()).await?;
        let describe = |(verified, file): (DatasetFile, PartitionedFile)| async move {
            let place = verified.path().display().to_string();
            let described = format
                .infer_stats_and_ordering(
                    state,
                    &self.store,
                    Arc::clone(&self.stored),
                    &file.object_meta,
                )
                .await;
            let footer = described.map_err(|error| error.context(place))?;
            Ok::<_, DataFusionError>(
                file.with_statistics(Arc::new(footer.statistics))
                    .with_ordering(footer.ordering),
            )
        };
        let footers = futures::stream::iter(self.files.clone())
            .map(describe)
            .buffered(FOOTERS);
        let files: Vec<PartitionedFile> = footers.try_collect().await?;
        Ok(self.described.get_or_init(|| files))
    }

    async fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Planned<Arc<dyn ExecutionPlan>> {
        let asked = |projection: &Vec<usize>| {
            let computed = self.stored.fields().len();
            projection.iter().any(|index| *index >= computed)
        };
        if let Some(dataset) = self.old.as_ref().filter(|_| projection.is_none_or(asked)) {
            self.verify(state.config().target_partitions()).await?;
            let schema = match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(old::scan(dataset, schema, limit)?));
        }
        let format = ParquetFormat::new().with_options(state.default_table_options().parquet);
        let files = self.describe(state, &format).await?;
        let statistics = Statistics::try_merge_iter(
            files.iter().filter_map(|file| file.statistics.as_deref()),
            &self.stored,
        )?;
        let source = format.file_source(TableSchema::builder(Arc::clone(&self.stored)).build());
        let scan = FileScanConfigBuilder::new(self.url.clone(), source)
            .with_file_groups(
                FileGroup::new(files.to_vec()).split_files(state.config().target_partitions()),
            )
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_output_ordering(ordering(files).into_iter().collect())
            .build();
        format.create_physical_plan(state, scan).await
    }
}

/// Returns the order that all files declare, if it is the same. The scan drops it if files of a
/// group overlap.
fn ordering(files: &[PartitionedFile]) -> Option<LexOrdering> {
    let first = files.first()?.ordering.clone()?;
    files
        .iter()
        .all(|file| file.ordering.as_ref() == Some(&first))
        .then_some(first)
}

type Scan<'a> = Pin<Box<dyn Future<Output = Planned<Arc<dyn ExecutionPlan>>> + Send + 'a>>;

impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Planned<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn scan<'a, 'b, 'c, 'd, 'e>(
        &'a self,
        state: &'b dyn Session,
        projection: Option<&'c Vec<usize>>,
        _filters: &'d [Expr],
        limit: Option<usize>,
    ) -> Scan<'e>
    where
        'a: 'e,
        'b: 'e,
        'c: 'e,
        'd: 'e,
        Self: 'e,
    {
        Box::pin(self.plan(state, projection, limit))
    }
}
