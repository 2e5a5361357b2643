//! Nothing is written into the directory of a dataset, whose files are only those of its manifest.

use std::path::Path;

use crate::dataset::{Manifest, files, layout};
use crate::error::{Error, Result};

/// Refuses an output in the directory of a dataset. The output may be in folders that do not exist
/// yet.
///
/// # Errors
/// Returns an error if the path is inside a dataset, or if that cannot be found out.
pub(crate) fn outside_datasets(path: &Path) -> Result<()> {
    let mut folder = layout::folder(path);
    let folder = loop {
        match folder.canonicalize() {
            Ok(folder) => break folder,
            Err(error) if files::is_absent(&error) && folder != layout::folder(folder) => {
                folder = layout::folder(folder);
            }
            Err(error) => return Err(files::unreadable(folder, &error)),
        }
    };
    for dataset in folder.ancestors() {
        let manifest = files::read_if_present(&layout::manifest(dataset))?;
        if manifest.is_some_and(|bytes| Manifest::is_one(&bytes)) {
            let instead = dataset.with_file_name(path.file_name().unwrap_or_default());
            return Err(Error::failed(format!(
                "cannot write {}: it is inside the dataset {}",
                path.display(),
                dataset.display()
            ))
            .hint(format!(
                "write to a path outside the dataset, for example {}",
                instead.display()
            )));
        }
    }
    Ok(())
}
