//! The commands. What a person reads goes to stderr, what a program may read to stdout.
//!
//! A command is one file of this folder: its arguments, and how its results are printed. It is
//! listed in [`COMMANDS`].

mod arguments;
mod check;
mod completions;
mod diff;
mod doctor;
#[cfg(feature = "video")]
mod encoders;
mod export;
mod import;
mod info;
mod init;
mod lineage;
mod messages;
mod open;
mod picture;
mod plan;
mod print;
mod progress;
mod run;
mod schema;
mod sql;
mod validate;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::ArgMatches;
use clap::builder::ValueParser;

use crate::dataset::files;
use crate::error::{Error, Result, panic_message};

/// Every command, in the order of `trajmill --help`.
const COMMANDS: &[Entry] = &[
    Entry::of::<init::Init>(),
    Entry::of::<run::Run>(),
    Entry::of::<check::Check>(),
    Entry::of::<plan::Plan>(),
    Entry::of::<sql::Sql>(),
    Entry::of::<import::Import>(),
    Entry::of::<export::Export>(),
    Entry::of::<validate::Validate>(),
    Entry::of::<diff::Diff>(),
    Entry::of::<info::Info>(),
    Entry::of::<lineage::Lineage>(),
    Entry::of::<doctor::Doctor>(),
    Entry::of::<schema::Schema>(),
    Entry::of::<completions::Completions>(),
];

/// The arguments of a command. Their doc comments are its help.
trait Command: clap::Args {
    /// The name of the command.
    const NAME: &'static str;

    /// Runs the command.
    fn run(&self) -> Result<()>;
}

/// A command in the registry.
struct Entry {
    name: &'static str,
    arguments: fn(clap::Command) -> clap::Command,
    run: fn(&ArgMatches) -> Result<()>,
}

impl Entry {
    const fn of<C: Command>() -> Entry {
        Entry {
            name: C::NAME,
            arguments: C::augment_args,
            run: |matches| {
                C::from_arg_matches(matches)
                    .map_err(|error| Error::usage(error.to_string()))?
                    .run()
            },
        }
    }
}

/// The exit codes of [`crate::error::ErrorKind`], for `trajmill --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    the command failed, or its output could not be written
  2    the command line is wrong
  3    the pipeline file is wrong
  4    a check failed, or too many trajectories were set aside
  130  interrupted by Ctrl-C or SIGTERM
  141  the reader of standard output closed it early, as `head` does; no message is printed";

/// The command line of trajmill.
fn command_line() -> clap::Command {
    let commands = COMMANDS
        .iter()
        .map(|entry| (entry.arguments)(clap::Command::new(entry.name)));
    clap::Command::new("trajmill")
        .about(
            "Turn corpora of trajectories into training sets: select trajectories, label missing \
             actions with a model, write datasets",
        )
        .after_help(EXIT_CODES)
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(110)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(commands)
}

/// Runs the command line of this process and returns its exit code.
pub fn main() -> u8 {
    let matches = match command_line().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // The text quotes arguments, so it is made from arguments that can be shown. If those
            // are right, only the encoding was wrong.
            let shown = command_line().try_get_matches_from(print::arguments());
            let error = shown
                .err()
                .unwrap_or_else(|| command_line().error(error.kind(), error.kind()));
            // Help and version are answers, not errors; clap knows which stream each goes to.
            if let Err(failure) = print::usage(&error) {
                return failed(&failure);
            }
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    #[cfg(feature = "video")]
    if let Some(command) = matches.subcommand_name() {
        encoders::silence(command);
    }
    // A panic is reported once, as an error: by the worker that caught it, or here.
    std::panic::set_hook(Box::new(|_| {}));
    // Nothing of the arguments is used after a panic.
    let run = AssertUnwindSafe(|| dispatch(&matches));
    let done = std::panic::catch_unwind(run).unwrap_or_else(|payload| {
        Err(Error::failed(format!(
            "trajmill stopped unexpectedly: {}",
            panic_message(payload.as_ref())
        ))
        .hint("this is a bug: please report it with the command and its input"))
    });
    match done {
        Ok(()) => 0,
        Err(error) => failed(&error),
    }
}

/// Prints an error and returns its exit code.
fn failed(error: &Error) -> u8 {
    print::error(error);
    error.kind.exit_code()
}

fn dispatch(matches: &ArgMatches) -> Result<()> {
    let (name, matches) = matches
        .subcommand()
        .ok_or_else(|| Error::usage("no command was given"))?;
    let entry = COMMANDS
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| Error::usage(format!("unknown command `{name}`")))?;
    ensure_local_paths(name, matches)?;
    (entry.run)(matches)
}

/// Refuses the arguments of the command `name` that should be paths and are URLs.
fn ensure_local_paths(name: &str, matches: &ArgMatches) -> Result<()> {
    let (all, path) = (command_line(), ValueParser::path_buf());
    let arguments = all.find_subcommand(name).map(clap::Command::get_arguments);
    let paths = arguments
        .into_iter()
        .flatten()
        .filter(|argument| argument.get_value_parser().type_id() == path.type_id());
    for argument in paths {
        for path in matches
            .get_raw(argument.get_id().as_str())
            .into_iter()
            .flatten()
        {
            files::ensure_local(Path::new(path))?;
        }
    }
    Ok(())
}

/// Returns a flag that Ctrl-C or SIGTERM sets, so that the work can end in good order. The second
/// signal ends the process at once.
fn interruptible() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let handlers =
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)));
        handlers.map_err(|error| Error::failed(format!("cannot listen for signals: {error}")))?;
    }
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn every_argument_says_what_it_does() {
        for command in command_line().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{name} {}",
                    argument.get_id()
                );
            }
        }
    }
}
