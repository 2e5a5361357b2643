//! `subsample`: not bound yet.

use super::{Misfit, Stage};

/// The registry entry.
pub(super) const STAGE: Stage =
    Stage { name: "subsample", schema: |_| schemars::Schema::default(), bind: |_, _| Err(Misfit::new("not available")), sample: "{}" };
