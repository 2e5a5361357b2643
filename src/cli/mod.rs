//! The commands. What a person reads goes to stderr, what a program may read to stdout.

mod diff;
mod explain;
mod export;
mod import;
mod info;
mod picture;
mod pipeline;
mod progress;
mod report;
pub mod sql;
mod validate;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Result, panic_message};
use crate::model::Device;

/// Pipelines over trajectory datasets: select, label with an inverse dynamics model, materialise.
#[derive(Debug, Parser)]
#[command(name = "trajmill", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline; an interrupted one goes on where it stopped
    Run(RunArgs),
    /// Check pipelines without reading a row: names, columns, types, models
    Check(CheckArgs),
    /// Show what a pipeline would do: selections and their sizes, phases, what is reused and why not
    Plan(PlanArgs),
    /// SQL over `trajectories` and `steps`
    Sql(sql::SqlArgs),
    /// Make a dataset of foreign files: D4RL, Minari, robomimic, npz, Parquet and others
    Import(import::ImportArgs),
    /// Write a dataset in the format that a trainer loads
    Export(export::ExportArgs),
    /// Hold a dataset of any format against the rules of those that will load it
    Validate(validate::ValidateArgs),
    /// What is not the same in two datasets, such as before and after a relabel
    Diff(diff::DiffArgs),
    /// What a dataset holds and where it comes from
    Info(info::InfoArgs),
    /// Which model runtimes and devices were found, and how to get the rest
    Doctor,
    /// Print the JSON Schema of pipeline files
    Schema,
}

/// What every command that reads a pipeline takes.
#[derive(Debug, Args)]
struct PipelineArgs {
    /// Override a parameter of the pipeline
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Where models run: auto, cpu, cuda or cuda:0,1
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Let CUDA round products to TF32: faster, less exact
    #[arg(long)]
    tf32: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    common: PipelineArgs,
    /// Worker threads [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory that the work in flight may use, such as 4G
    #[arg(long, value_parser = size)]
    memory: Option<usize>,
    /// Start over, even where the result or a part of it is there
    #[arg(long)]
    fresh: bool,
    /// Print one JSON object about the run to stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The pipeline files
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    #[command(flatten)]
    common: PipelineArgs,
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    common: PipelineArgs,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Reads one of the words that a pipeline may have in the same place.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    // Of "unknown variant …, expected …", the value is said already.
    let expected = |text: String| {
        text.split_once(", ")
            .map_or(text.clone(), |(_, expected)| expected.to_owned())
    };
    T::deserialize(serde_json::Value::from(text)).map_err(|error| expected(error.to_string()))
}

/// Reads a size such as `600M` or `4G`; binary units.
fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match text[digits.len()..]
        .to_ascii_lowercase()
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_usize << 40,
        _ => return Err("write a number with K, M, G or T, such as 4G".to_owned()),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "write a number with K, M, G or T, such as 4G")?;
    if number <= 0.0 {
        return Err("it must be more than nothing".to_owned());
    }
    Ok((number * unit as f64) as usize)
}

/// Worker threads where the user gives none.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A flag that Ctrl-C or SIGTERM sets, so that the work can end in good order; the second of them ends the process at once.
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

/// Runs the command line of this process and returns its exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors; clap knows which stream each goes to.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    // A panic is reported once, as an error: by the worker that met it, or here.
    std::panic::set_hook(Box::new(|_| {}));
    let done = std::panic::catch_unwind(|| dispatch(&cli.command)).unwrap_or_else(|payload| {
        Err(Error::failed(format!(
            "trajmill stopped unexpectedly: {}",
            panic_message(payload.as_ref())
        ))
        .hint("please report it with the command and its input: this is a bug"))
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            report::error(&error);
            error.kind.exit_code()
        }
    }
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Run(args) => pipeline::run(args),
        Command::Check(args) => pipeline::check(args),
        Command::Plan(args) => pipeline::plan(args),
        Command::Sql(args) => sql::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Info(args) => info::run(args),
        Command::Doctor => {
            report::doctor();
            Ok(())
        }
        Command::Schema => {
            let text = serde_json::to_string_pretty(&crate::config::json_schema());
            report::print(&text.map_err(|error| Error::failed(error.to_string()))?);
            Ok(())
        }
    }
}
