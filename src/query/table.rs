//! A table over exactly the files that a manifest lists. It never lists a directory, and accepts no
//! inserts.

use std::future::Future;
use std::path::{Path, PathBuf};
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
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::{ObjectMeta, ObjectStore, path::Path as StorePath};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt};

use crate::dataset::files;
use crate::dataset::manifest::FileEntry;
use crate::error::{Error, Result};

/// Number of footers that are read at once.
const FOOTERS: usize = 32;

/// The directory of a dataset. The engine finds files in it by their relative names, because a URL
/// with its path could not hold every name that a file system accepts.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    url: ObjectStoreUrl,
}

impl Root {
    /// Registers the directory `path`, number `index` of the session, with the engine.
    ///
    /// # Errors
    /// Returns an error if the directory does not exist.
    pub(super) fn register(path: &Path, index: usize, engine: &RuntimeEnv) -> Result<Arc<Root>> {
        let store = LocalFileSystem::new_with_prefix(path)
            .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
        let url = ObjectStoreUrl::parse(format!("dataset://{index}"))?;
        engine.register_object_store(url.as_ref(), Arc::new(store));
        Ok(Arc::new(Root {
            path: path.to_owned(),
            url,
        }))
    }
}

/// A table of Parquet files with one schema.
#[derive(Debug)]
pub(super) struct Table {
    schema: SchemaRef,
    root: Arc<Root>,
    files: Vec<PartitionedFile>,
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
    /// Creates the table of `files`, which lie in the directory `root` and have the schema
    /// `schema`.
    ///
    /// # Errors
    /// Returns an error if the engine cannot express the relative path of a file.
    pub(super) fn new<'a>(
        root: &Arc<Root>,
        schema: &Schema,
        files: impl Iterator<Item = &'a FileEntry>,
    ) -> Result<Table> {
        let schema = listed(schema);
        let file = |entry: &FileEntry| -> Result<PartitionedFile> {
            let location = StorePath::parse(&entry.path).map_err(|error| {
                let path = root.path.join(&entry.path);
                Error::failed(format!("cannot read {}: {error}", path.display()))
            })?;
            // A published file never changes, so there are no versions to distinguish.
            let meta = ObjectMeta {
                location,
                last_modified: Default::default(),
                size: entry.bytes,
                e_tag: None,
                version: None,
            };
            Ok(PartitionedFile::new_from_meta(meta).with_arrow_schema(Arc::clone(&schema)))
        };
        let files = files.map(file).collect::<Result<Vec<_>>>()?;
        Ok(Table {
            schema,
            root: Arc::clone(root),
            files,
            described: OnceLock::new(),
        })
    }

    /// Returns the files with the statistics and order in their footers.
    async fn describe(
        &self,
        state: &dyn Session,
        format: &ParquetFormat,
        store: &Arc<dyn ObjectStore>,
    ) -> Planned<&[PartitionedFile]> {
        if let Some(files) = self.described.get() {
            return Ok(files);
        }
        let describe = |file: PartitionedFile| async move {
            let path = self.root.path.join(file.object_meta.location.as_ref());
            let place = path.display().to_string();
            // The engine would wait for the writer of a FIFO. It reports what is missing itself.
            match files::open(&path) {
                Err(error) if !files::is_absent(&error) => {
                    let error = DataFusionError::IoError(error);
                    return Err(error.context(format!("cannot read {place}")));
                }
                _ => {}
            }
            let described = format
                .infer_stats_and_ordering(state, store, Arc::clone(&self.schema), &file.object_meta)
                .await;
            let footer = described.map_err(|error| error.context(place))?;
            Ok::<_, DataFusionError>(
                file.with_statistics(Arc::new(footer.statistics))
                    .with_ordering(footer.ordering),
            )
        };
        let footers = futures::stream::iter(self.files.iter().cloned())
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
        let format = ParquetFormat::new().with_options(state.default_table_options().parquet);
        let url = self.root.url.clone();
        let store = state.runtime_env().object_store(&url)?;
        let files = self.describe(state, &format, &store).await?;
        let statistics = Statistics::try_merge_iter(
            files.iter().filter_map(|file| file.statistics.as_deref()),
            &self.schema,
        )?;
        let source = format.file_source(TableSchema::builder(Arc::clone(&self.schema)).build());
        let scan = FileScanConfigBuilder::new(url, source)
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
