//! The object store that queries read from: exactly the files of open datasets, each verified
//! before its first byte is used.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::path::Path as Location;
use datafusion::object_store::{
    Attributes, CopyOptions, Error as StoreError, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result as Stored,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use crate::dataset::DatasetFile;
use crate::error::{Error, Result};

/// The files that a table consists of.
#[derive(Debug)]
pub(super) struct Store {
    files: HashMap<Location, DatasetFile>,
}

impl Store {
    /// Returns a store of `files`, each with the location that the engine knows it by.
    pub(super) fn new(files: impl Iterator<Item = (Location, DatasetFile)>) -> Store {
        Store {
            files: files.collect(),
        }
    }

    fn file(&self, location: &Location) -> Stored<&DatasetFile> {
        self.files.get(location).ok_or_else(|| {
            failed(Error::failed(format!(
                "/{location} is not a file of the table"
            )))
        })
    }

    /// Reads `ranges` of a file on a thread that may wait for the disk.
    async fn ranges(&self, location: &Location, ranges: Vec<Range<u64>>) -> Stored<Vec<Bytes>> {
        let file = self.file(location)?.clone();
        tokio::task::spawn_blocking(move || read(&file, &ranges))
            .await
            .map_err(|error| failed(Error::failed(error.to_string())))?
            .map_err(failed)
    }
}

fn read(file: &DatasetFile, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    file.read(|open| {
        let one = |range: &Range<u64>| {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
            open.read_exact_at(&mut bytes, range.start)
                .map_err(|error| {
                    Error::failed(format!("cannot read {}: {error}", file.path().display()))
                })?;
            Ok(Bytes::from(bytes))
        };
        ranges.iter().map(one).collect()
    })
}

/// Wraps an error of this crate, so that `fault` finds it in the engine's error.
fn failed(error: Error) -> StoreError {
    StoreError::Generic {
        store: "dataset",
        source: Box::new(error),
    }
}

fn unsupported(operation: &str) -> StoreError {
    StoreError::NotImplemented {
        operation: operation.to_owned(),
        implementer: "the store of a dataset".to_owned(),
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the files of a dataset")
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn get_opts(&self, location: &Location, options: GetOptions) -> Stored<GetResult> {
        let meta = meta(location, self.file(location)?.entry().bytes);
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| failed(Error::failed(format!("/{location}: {error}"))))?,
            None => 0..meta.size,
        };
        let payload = if options.head {
            stream::empty().boxed()
        } else {
            let read = self.ranges(location, vec![range.clone()]).await?;
            stream::iter(read.into_iter().map(Ok)).boxed()
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Attributes::new(),
        })
    }

    async fn get_ranges(&self, location: &Location, ranges: &[Range<u64>]) -> Stored<Vec<Bytes>> {
        self.ranges(location, ranges.to_vec()).await
    }

    async fn put_opts(&self, _: &Location, _: PutPayload, _: PutOptions) -> Stored<PutResult> {
        Err(unsupported("put"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Location,
        _: PutMultipartOptions,
    ) -> Stored<Box<dyn MultipartUpload>> {
        Err(unsupported("put_multipart"))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Stored<Location>>,
    ) -> BoxStream<'static, Stored<Location>> {
        refusal("delete")
    }

    fn list(&self, _: Option<&Location>) -> BoxStream<'static, Stored<ObjectMeta>> {
        refusal("list")
    }

    async fn list_with_delimiter(&self, _: Option<&Location>) -> Stored<ListResult> {
        Err(unsupported("list"))
    }

    async fn copy_opts(&self, _: &Location, _: &Location, _: CopyOptions) -> Stored<()> {
        Err(unsupported("copy"))
    }
}

fn refusal<T: Send + 'static>(operation: &'static str) -> BoxStream<'static, Stored<T>> {
    async move { Err(unsupported(operation)) }
        .into_stream()
        .boxed()
}

/// Returns the metadata of a file for the engine. A file is verified, so neither a time nor a tag
/// has to distinguish versions of it.
pub(super) fn meta(location: &Location, size: u64) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: Default::default(),
        size,
        e_tag: None,
        version: None,
    }
}
