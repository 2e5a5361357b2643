//! `trajmill sql`: results to stdout, everything else to stderr.

use std::env;
use std::fs;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::report;
use crate::dataset::{Dataset, store};
use crate::error::{Error, Result};
use crate::query::print::{self, Format};
use crate::query::{Options, Session};

/// Query datasets with SQL: `trajectories` has one row per trajectory, `steps` one per observation.
///
/// With one dataset the tables are `trajectories` and `steps`; with several they are `name.trajectories` and
/// `name.steps`. Arrays are 1-based: `observation[1]` is the first coordinate. Without -c and -f, SQL is read from
/// standard input; at a terminal there is a prompt.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// Datasets: PATH, or NAME=PATH; the name is the directory's where none is given
    #[arg(required = true, value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// The statement to run
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    pub command: Option<String>,
    /// A file with the statement to run
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How to write the result: `json` is one object per line [default: by the name of the output file, else table]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write the result to this new file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Allow statements that write, and files by their path
    #[arg(long = "unsafe")]
    pub unsafe_sql: bool,
    /// Threads that work on a query [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Memory that sorts, joins and aggregates may take before they spill to the temporary directory, such as 500M or 2G
    #[arg(long, value_parser = super::size, default_value = "2G")]
    pub memory: usize,
}

impl clap::ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Format] {
        &[Format::Table, Format::Csv, Format::Json, Format::Parquet]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Format::Table => "table",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Parquet => "parquet",
        }))
    }
}

/// Runs the command.
///
/// # Errors
/// Where the command line is wrong, a dataset cannot be opened, or the query fails.
pub(crate) fn run(args: &SqlArgs) -> Result<()> {
    let format = format(args)?;
    let text =
        match (&args.command, &args.file) {
            (Some(sql), _) => Some(sql.clone()),
            (None, Some(path)) => Some(fs::read_to_string(path).map_err(|error| {
                Error::usage(format!("cannot read {}: {error}", path.display()))
            })?),
            (None, None) if io::stdin().is_terminal() => None,
            (None, None) => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map_err(|error| {
                    Error::failed(format!("cannot read SQL from standard input: {error}"))
                })?;
                Some(text)
            }
        };
    let datasets = args
        .datasets
        .iter()
        .map(|given| open(given))
        .collect::<Result<Vec<_>>>()?;
    let options = Options {
        threads: args.threads.map_or(0, usize::from),
        memory: Some(args.memory),
        unsafe_sql: args.unsafe_sql,
    };
    let session = Session::open(&datasets, &options)?;
    match (text, &args.output) {
        (Some(sql), None) => print::print(
            &session,
            &sql,
            format,
            &mut BufWriter::with_capacity(1 << 16, io::stdout()),
        )
        .map(|_| ()),
        (Some(sql), Some(path)) => {
            let rows = print::save(&session, &sql, format, path)?;
            report::say(&format!("{rows} rows in {}", path.display()));
            Ok(())
        }
        (None, None) => prompt(&session, format),
        (None, Some(_)) => {
            Err(Error::usage("`-o` needs a statement").hint("give it with `-c SQL` or `-f FILE`"))
        }
    }
}

fn format(args: &SqlArgs) -> Result<Format> {
    let extension = args
        .output
        .as_ref()
        .and_then(|path| path.extension())
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let format = args.format.unwrap_or(match extension.as_deref() {
        Some("parquet") => Format::Parquet,
        Some("csv") => Format::Csv,
        Some("json" | "jsonl" | "ndjson") => Format::Json,
        _ => Format::Table,
    });
    if format == Format::Parquet && args.output.is_none() {
        return Err(Error::usage("Parquet is written to a file").hint("say where with `-o FILE`"));
    }
    Ok(format)
}

/// Opens a dataset that is given as PATH or NAME=PATH.
fn open(given: &str) -> Result<(String, Dataset)> {
    let named = given
        .split_once('=')
        .filter(|(name, _)| !name.is_empty() && !name.contains('/') && !Path::new(given).exists());
    let (name, path) = match named {
        Some((name, path)) => (Some(name.to_owned()), Path::new(path)),
        None => (None, Path::new(given)),
    };
    let dataset = Dataset::open(path)?;
    let name = name.or_else(|| {
        let path = path.canonicalize().ok()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    });
    Ok((name.unwrap_or_else(|| "dataset".to_owned()), dataset))
}

fn prompt(session: &Session, format: Format) -> Result<()> {
    let unavailable =
        |error: ReadlineError| Error::failed(format!("cannot read from the terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(unavailable)?;
    let history = history();
    if let Some(path) = &history {
        // The first session has no history yet.
        editor.load_history(path).ok();
    }
    let tables = session
        .tables()
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    report::say(&format!(
        "Tables: {tables}. A statement ends with `;`. \\d lists columns, \\timing times statements, \\q quits."
    ));
    let mut statement = String::new();
    let mut timing = false;
    loop {
        match editor.readline(if statement.is_empty() {
            "trajmill> "
        } else {
            "     ...> "
        }) {
            Ok(line) => {
                let command = line.trim();
                if statement.is_empty() && (command.is_empty() || command.starts_with('\\')) {
                    match command {
                        "" => {}
                        "\\q" => break,
                        "\\d" => describe(session)?,
                        "\\timing" => {
                            timing = !timing;
                            report::say(&format!(
                                "Timing is {}.",
                                if timing { "on" } else { "off" }
                            ));
                        }
                        other => report::say(&format!(
                            "There is no command {other}: try \\d, \\timing or \\q."
                        )),
                    }
                    continue;
                }
                statement.push_str(&line);
                statement.push('\n');
                if !command.ends_with(';') {
                    continue;
                }
                editor
                    .add_history_entry(statement.trim())
                    .map_err(unavailable)?;
                let started = Instant::now();
                match print::print(
                    session,
                    &statement,
                    format,
                    &mut BufWriter::with_capacity(1 << 16, io::stdout()),
                ) {
                    Ok(rows) if timing => report::say(&format!(
                        "{rows} rows in {:.3} s",
                        started.elapsed().as_secs_f64()
                    )),
                    Ok(rows) => report::say(&format!("{rows} rows")),
                    Err(error) => report::error(&error),
                }
                statement.clear();
            }
            // Ctrl-C drops the statement that is being typed, Ctrl-D ends the session.
            Err(ReadlineError::Interrupted) => statement.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(unavailable(error)),
        }
    }
    if let Some(path) = &history
        && let Err(error) = remember(&mut editor, path)
    {
        report::say(&format!("warning: {error}"));
    }
    Ok(())
}

/// Appends this session's statements to the history.
fn remember(editor: &mut DefaultEditor, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        store::create_dir(parent)?;
    }
    editor.append_history(path).map_err(|error| {
        Error::failed(format!(
            "cannot keep the history in {}: {error}",
            path.display()
        ))
    })
}

/// `$XDG_STATE_HOME/trajmill/history`, by default in `~/.local/state`.
fn history() -> Option<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let state = state.or_else(|| {
        Some(
            PathBuf::from(env::var_os("HOME").filter(|home| !home.is_empty())?)
                .join(".local/state"),
        )
    })?;
    Some(state.join("trajmill/history"))
}

fn describe(session: &Session) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut text = String::new();
    for (table, schema) in session.tables() {
        text.push_str(&format!("{table}\n"));
        let width = schema
            .fields()
            .iter()
            .map(|field| field.name().len())
            .max()
            .unwrap_or(0);
        for field in schema.fields() {
            text.push_str(&format!(
                "    {:width$}  {}{}\n",
                field.name(),
                field.data_type(),
                if field.is_nullable() { "" } else { " not null" }
            ));
        }
    }
    out.write_all(text.as_bytes())
        .map_err(|error| Error::failed(format!("cannot write: {error}")))
}
