//! `trajmill sql`: queries, given on the command line or typed at a prompt.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufWriter, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::arguments::{outside_datasets, size};
use super::open::{self, Opened};
use super::{Command, interruptible, print};
use crate::dataset::schema::type_name;
use crate::dataset::{Dataset, files, source_name, store};
use crate::error::wording::count;
use crate::error::{Error, ErrorKind, Result};
use crate::query::print::{ResultFormat, print_result, save_result};
use crate::query::{Session, SessionOptions};

/// Query datasets with SQL
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tables: `trajectories` has one row per trajectory, `steps` has one row per observation. With \
several datasets, the tables are `NAME.trajectories` and `NAME.steps`. Arrays are 1-based: \
`observation[1]` is the first value, and the index 0 is an error. `trajectories.labelled` says \
that every action was recorded, `has_actions` that every step has an action.

Without --command and --file, SQL is read from standard input. At a terminal, a prompt opens.

Example: trajmill sql data/hopper -c \"select avg(return) from trajectories where length > 100\"")]
pub(super) struct Sql {
    /// Datasets to query, in any format that can be imported, each as PATH or NAME=PATH; NAME is
    /// the name of the directory or file by default
    #[arg(required = true, value_name = "DATASET")]
    datasets: Vec<OsString>,
    /// Statement to run
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// File with the statement to run
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Format of the result; `json` writes one object per line, `arrow` an Arrow IPC stream
    /// [default: by the extension of --output, otherwise table]
    #[arg(long, value_enum)]
    format: Option<ResultFormat>,
    /// File for the result, which must not exist yet [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Allow statements that write, and files by their path
    #[arg(long = "unsafe")]
    unsafe_sql: bool,
    /// Number of threads per query [default: one per CPU core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory for sorts, joins and aggregates before they spill to the temporary directory, for
    /// example 500M
    #[arg(long, value_parser = size, value_name = "SIZE", default_value = "2G")]
    memory: usize,
    /// Do not verify the hashes of the files before they are queried
    #[arg(long)]
    no_verify: bool,
}

impl clap::ValueEnum for ResultFormat {
    fn value_variants<'a>() -> &'a [ResultFormat] {
        &[
            ResultFormat::Table,
            ResultFormat::Csv,
            ResultFormat::Json,
            ResultFormat::Arrow,
            ResultFormat::Parquet,
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            ResultFormat::Table => "table",
            ResultFormat::Csv => "csv",
            ResultFormat::Json => "json",
            ResultFormat::Arrow => "arrow",
            ResultFormat::Parquet => "parquet",
        }))
    }
}

impl Command for Sql {
    const NAME: &'static str = "sql";

    fn run(&self) -> Result<()> {
        let format = self.result_format()?;
        if let Some(path) = &self.output {
            outside_datasets(path)?;
        }
        let statement = self.statement()?;
        let opened = self
            .datasets
            .iter()
            .map(|given| open(given))
            .collect::<Result<Vec<_>>>()?;
        let datasets: Vec<(String, Dataset)> = opened
            .iter()
            .map(|(name, opened)| match self.no_verify {
                true => (name.clone(), opened.dataset.clone().unverified()),
                false => (name.clone(), opened.dataset.clone()),
            })
            .collect();
        let options = SessionOptions {
            threads: self.threads.map_or(0, usize::from),
            memory: Some(self.memory),
            unsafe_sql: self.unsafe_sql,
        };
        let session = Session::open(&datasets, &options)?;
        // Ctrl-C ends the query in good order, so that a temporary import is removed.
        let imported = opened
            .iter()
            .find_map(|(_, opened)| opened.foreign.as_ref());
        let session = match imported {
            Some(foreign) => session.interrupted_by(Arc::clone(&foreign.interrupted)),
            None => session,
        };
        match (statement, &self.output) {
            (Some(sql), None) => to_stdout(&session, &sql, format).map(|_| ()),
            (Some(sql), Some(path)) => {
                let session = session.interrupted_by(interruptible()?);
                let rows =
                    save_result(&session, &sql, format, path).map_err(|error| {
                        match error.kind {
                            ErrorKind::Interrupted => Error::interrupted(format!(
                                "interrupted: {} was not written",
                                path.display()
                            )),
                            _ => error,
                        }
                    })?;
                print::say(&format!("{}: {}", path.display(), count(rows, "row")));
                Ok(())
            }
            (None, None) => prompt(&session, format),
            (None, Some(_)) => Err(Error::usage("`--output` needs a statement")
                .hint("pass it with `-c SQL` or `-f FILE`")),
        }
    }
}

impl Sql {
    /// Returns the statement on the command line, in the file or on standard input; `None` at a
    /// terminal.
    fn statement(&self) -> Result<Option<String>> {
        if let Some(sql) = &self.command {
            return Ok(Some(sql.clone()));
        }
        if let Some(path) = &self.file {
            return fs::read_to_string(path)
                .map(Some)
                .map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())));
        }
        if io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(|error| {
            Error::failed(format!("cannot read SQL from standard input: {error}"))
        })?;
        Ok(Some(text))
    }

    fn result_format(&self) -> Result<ResultFormat> {
        let extension = self
            .output
            .as_ref()
            .and_then(|path| path.extension())
            .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let format = self.format.unwrap_or(match extension.as_deref() {
            Some("parquet") => ResultFormat::Parquet,
            Some("arrows") => ResultFormat::Arrow,
            Some("csv") => ResultFormat::Csv,
            Some("json" | "jsonl" | "ndjson") => ResultFormat::Json,
            _ => ResultFormat::Table,
        });
        if format == ResultFormat::Parquet && self.output.is_none() {
            return Err(Error::usage("Parquet cannot be written to standard output")
                .hint("pass a file with `-o FILE`"));
        }
        if format == ResultFormat::Arrow && self.output.is_none() && io::stdout().is_terminal() {
            return Err(Error::usage("a terminal cannot show an Arrow stream")
                .hint("pass a file with `-o FILE.arrows`, or a pipe"));
        }
        Ok(format)
    }
}

/// Runs a statement, prints its result and returns the number of rows.
fn to_stdout(session: &Session, sql: &str, format: ResultFormat) -> Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 16, print::Stdout::new());
    print_result(session, sql, format, &mut out)
}

/// Opens a dataset that is given as PATH or NAME=PATH, and returns it with its name.
fn open(given: &OsStr) -> Result<(String, Opened)> {
    let bytes = given.as_bytes();
    let named = bytes.iter().position(|byte| *byte == b'=');
    let named = named.map(|at| (&bytes[..at], OsStr::from_bytes(&bytes[at + 1..])));
    let (name, path) = match named {
        Some((name, path))
            if !name.is_empty() && !name.contains(&b'/') && !files::exists(Path::new(given))? =>
        {
            let name = String::from_utf8_lossy(name).into_owned();
            (Some(name), Path::new(path))
        }
        _ => (None, Path::new(given)),
    };
    files::ensure_local(path)?;
    let opened = open::open(path)?;
    let name = name.or_else(|| {
        let path = path.canonicalize().ok()?;
        match opened.foreign {
            Some(_) => source_name(&path),
            None => Some(path.file_name()?.to_string_lossy().into_owned()),
        }
    });
    Ok((name.unwrap_or_else(|| "dataset".to_owned()), opened))
}

/// Runs the statements that are typed at a terminal.
fn prompt(session: &Session, format: ResultFormat) -> Result<()> {
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
    print::say(&format!(
        "Tables: {tables}. End a statement with `;`. \\d lists the columns, \\timing turns the \
         timing of statements on and off, \\q quits."
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
                            let state = if timing { "on" } else { "off" };
                            print::say(&format!("Timing is {state}."));
                        }
                        other => print::say(&format!(
                            "Unknown command {other}: use \\d, \\timing or \\q."
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
                match to_stdout(session, &statement, format) {
                    Ok(rows) if timing => print::say(&format!(
                        "{} in {:.3} s",
                        count(rows, "row"),
                        started.elapsed().as_secs_f64()
                    )),
                    Ok(rows) => print::say(&count(rows, "row")),
                    Err(error) if error.kind == ErrorKind::Closed => return Err(error),
                    Err(error) => print::error(&error),
                }
                statement.clear();
            }
            // Ctrl-C discards the statement, Ctrl-D ends the session.
            Err(ReadlineError::Interrupted) => statement.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(unavailable(error)),
        }
    }
    if let Some(path) = &history
        && let Err(error) = remember(&mut editor, path)
    {
        print::say(&format!("warning: {error}"));
    }
    Ok(())
}

/// Appends the statements of this session to the history.
fn remember(editor: &mut DefaultEditor, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        store::create_dir(parent)?;
    }
    editor.append_history(path).map_err(|error| {
        Error::failed(format!(
            "cannot write the history to {}: {error}",
            path.display()
        ))
    })
}

/// Returns the path of the history: `$XDG_STATE_HOME/trajmill/history`, by default in
/// `~/.local/state`.
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

/// Prints the columns of all tables.
fn describe(session: &Session) -> Result<()> {
    for (table, schema) in session.tables() {
        print::line(table)?;
        let width = schema
            .fields()
            .iter()
            .map(|field| field.name().len())
            .max()
            .unwrap_or(0);
        for field in schema.fields() {
            print::line(&format!(
                "    {:width$}  {}{}",
                field.name(),
                type_name(field.data_type()),
                if field.is_nullable() { "" } else { " not null" }
            ))?;
        }
    }
    Ok(())
}
