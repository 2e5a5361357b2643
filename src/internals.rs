//! The parts of the crate that its own tests and benches call. They are not a public interface: the
//! Cargo feature `faults` compiles this module, the documentation hides it, and it may change at
//! any time.

#![allow(
    missing_docs,
    reason = "each module has the name of the one whose parts it shows"
)]

pub mod dataset {
    pub use crate::dataset::Block;
    pub use crate::dataset::manifest::VERSION;
    pub use crate::dataset::read::ShardReader;
    pub use crate::dataset::schema::{describe, step, trajectory, vector};
    pub use crate::dataset::write::{ShardWriter, trajectories_schema};

    pub mod layout {
        pub use crate::dataset::layout::manifest;
    }

    pub mod store {
        pub use crate::dataset::store::{create_dir, write};
    }
}

pub mod exec {
    pub use crate::exec::{Piece, Readers, Task};
}

pub mod format {
    pub use crate::format::{FORMATS, Format, resolve};
}

pub mod model {
    pub use crate::model::{Runtime, Spec};
}

pub mod plan {
    use std::path::Path;

    use crate::error::Result;
    use crate::model::ModelOptions;
    use crate::{config, plan};

    /// Plans the pipeline file at `path`.
    ///
    /// # Errors
    /// Returns an error if the pipeline is wrong or a source or model cannot be read.
    pub fn verify(path: &Path, options: &ModelOptions) -> Result<()> {
        plan::resolve(&config::load(path, &[])?, options).map(|_| ())
    }
}

pub mod stage {
    pub use crate::stage::{Bound, Context, Models, Operator, STAGES, Selection};
}

pub mod train {
    pub use crate::train::metadata;
}

pub mod transfer {
    pub use crate::transfer::read::quarantine::SetAside;
    pub use crate::transfer::read::{OnError, Options};
    pub use crate::transfer::write::{OutgoingDataset, WriteOptions};
}

pub mod video {
    pub use crate::video::{Frames, Videos};
}
