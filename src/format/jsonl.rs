//! JSON Lines: text files with an object in each line, for a step or for a whole episode.

use std::path::Path;
use std::sync::Arc;

use super::{Detection, Evidence, Format};
use crate::container::json_lines;
use crate::container::record_batches::TableFile;
use crate::error::Result;
use crate::transfer::read::{Options, Reader, Source, table};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "jsonl",
    detection: Some(Detection {
        evidence: Evidence::Container,
        probe: |path| table::is_text_table(path, KINDS),
    }),
    read: Some(Reader {
        takes: table::OPTIONS,
        open: read,
    }),
    write: None,
    validate: None,
};

/// The extensions of files, which may be followed by `.gz` or `.zst`.
const KINDS: &[&str] = &["jsonl", "ndjson"];

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let files = table::text_files(path, KINDS)?;
    let kind = TableFile::JsonLines(Arc::new(json_lines::infer(&files)?));
    table::open(path, files, kind, options)
}
