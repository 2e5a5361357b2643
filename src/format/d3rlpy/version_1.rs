//! Dumps of d3rlpy 1, `MDPDataset.dump`: arrays that hold all episodes end to end, with
//! `episode_terminals` on the last step of each. One that does not end in a terminal state was cut
//! off.

use std::path::Path;

use crate::container::hdf5;
use crate::dataset::Account;
use crate::error::Result;
use crate::transfer::read::concatenated::{Besides, Concatenated, is_marker};
use crate::transfer::read::{Choice, Options, Source};

/// The arrays by which a dump is recognised.
pub(super) const NAMES: [&str; 3] = ["observations", "episode_terminals", "discrete_action"];

/// Opens the dump at `path`.
pub(super) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let choice = Choice::new(options, is_marker);
    let reads = |name: &str| choice.reads(name);
    let (arrays, metadata) = hdf5::stored_arrays(&hdf5::open(path)?, path, hdf5::all, &reads)?;
    choice.verify().map_err(|error| error.at(path.display()))?;
    let besides = Besides {
        metadata,
        account: choice.account(Account::default()),
        envelope: None,
    };
    Ok(Box::new(Concatenated::new(path, arrays, options, besides)?))
}
