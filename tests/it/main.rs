//! The command as users meet it: what it prints, what it writes, and what it leaves when it is
//! stopped; and the rules that the repository keeps.
//!
//! All tests are in one binary because linking one takes a while. `tests/README.md` says how to run
//! a part of them and how to renew snapshots.
#![allow(
    clippy::disallowed_methods,
    reason = "tests lay out files of their own"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "that is how a test fails"
)]

mod cli;
mod commit;
mod crash;
mod cut;
mod determinism;
mod fuzz;
mod integrity;
mod output;
mod registry;
mod schema;
mod source;
mod sql;
mod support;
mod tidy;
mod trust;
mod wrong;
