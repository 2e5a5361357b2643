//! Whatever can be registered is covered: formats have seeds, fuzz targets, oracles and
//! documentation, stages have oracles or recipes, commands have snapshots.
//!
//! A rule that is broken names the format, stage or command and what it lacks. CONTRIBUTING.md
//! says what to add for each.

use std::fs;
use std::path::Path;

use trajmill::internals::format::FORMATS;
use trajmill::internals::stage::STAGES;

use super::fuzz;
use super::support::{Workspace, commands, repository};

/// The texts that must name what is registered.
struct Texts {
    /// Python files that compare trajmill with other implementations.
    oracles: Vec<String>,
    pipelines: Vec<String>,
    readme: String,
    formats: String,
}

impl Texts {
    fn read() -> Texts {
        let mut oracles = Vec::new();
        let mut pipelines = Vec::new();
        collect(&repository().join("tests/python"), ".py", &mut oracles);
        collect(&repository().join("pipelines"), ".yaml", &mut pipelines);
        // The other files prepare tests, or are what tests share.
        oracles.retain(|(name, _)| name.starts_with("test_") || name.ends_with("_oracle.py"));
        let texts = |files: Vec<(String, String)>| files.into_iter().map(|(_, text)| text);
        let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
        Texts {
            oracles: texts(oracles).collect(),
            pipelines: texts(pipelines).collect(),
            readme: read("README.md"),
            formats: read("schemas/formats.md"),
        }
    }

    /// Whether schemas/formats.md has a row in its table and a section for the format.
    fn documents_format(&self, name: &str) -> bool {
        let row = format!("| [`{name}`](#");
        let heading = format!("## {name}");
        self.formats.lines().any(|line| line.starts_with(&row))
            && self.formats.lines().any(|line| line == heading)
    }
}

/// The files below `folder` whose names end in `ending`: names and texts.
fn collect(folder: &Path, ending: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, ending, into);
        } else if name.ends_with(ending) {
            into.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The texts before and after each place where `text` has `name` as a whole word, which is not part
/// of a longer name or the extension of a file.
fn places<'a>(text: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let joins = |next: char| next.is_alphanumeric() || "_-.".contains(next);
    text.match_indices(name)
        .map(|(at, _)| (&text[..at], &text[at + name.len()..]))
        .filter(|(before, after)| !before.ends_with(joins) && !after.starts_with(joins))
        .collect()
}

/// Whether `text` has `name` as a key: `- NAME:` in YAML, or `"NAME":` in Python or JSON.
fn has_key(text: &str, name: &str) -> bool {
    places(text, name).iter().any(|(before, after)| {
        let quoted = |quote| before.ends_with(quote) && after.starts_with(quote);
        let after_quote = after.trim_start_matches(['"', '\'']);
        after_quote.starts_with(':') && (before.ends_with("- ") || quoted('"') || quoted('\''))
    })
}

/// Whether `text` runs exports and has `name` as a string of its own.
fn exports(text: &str, name: &str) -> bool {
    text.contains("--to")
        && places(text, name)
            .iter()
            .any(|(before, after)| before.ends_with(['"', '\'']) && after.starts_with(['"', '\'']))
}

/// What a registered thing lacks: the messages of the rules that do not hold.
fn gaps(what: &str, name: &str, rules: &[(bool, &str)]) -> Vec<String> {
    let broken = rules.iter().filter(|(holds, _)| !holds);
    broken
        .map(|(_, lack)| format!("{what} `{name}` {lack}"))
        .collect()
}

fn gaps_of_reading(name: &str, texts: &Texts) -> Vec<String> {
    let seeds = repository().join("tests/seeds").join(name);
    let has_seed = fs::read_dir(seeds).is_ok_and(|mut entries| entries.next().is_some());
    let target = name.replace(['-', '.'], "_");
    let has_oracle = texts
        .oracles
        .iter()
        .any(|text| !places(text, name).is_empty());
    gaps(
        "format",
        name,
        &[
            (has_seed, "has no seed in tests/seeds"),
            (
                fuzz::TARGETS.contains(&target.as_str()),
                "has no target in tests/it/fuzz.rs",
            ),
            (has_oracle, "is named by no oracle in tests/python"),
            (
                texts.documents_format(name),
                "has no row or no section in schemas/formats.md",
            ),
        ],
    )
}

fn gaps_of_writing(name: &str, texts: &Texts) -> Vec<String> {
    let has_oracle = texts.oracles.iter().any(|text| exports(text, name));
    gaps(
        "format",
        name,
        &[
            (has_oracle, "is exported by no oracle in tests/python"),
            (
                texts.documents_format(name),
                "has no row or no section in schemas/formats.md",
            ),
        ],
    )
}

fn gaps_of_stage(name: &str, texts: &Texts) -> Vec<String> {
    let mut covering = texts.oracles.iter().chain(&texts.pipelines);
    let rows = texts.readme.lines().filter(|line| line.starts_with("| `"));
    let mut first_cells = rows.filter_map(|row| row.split(" | ").next());
    let quoted = format!("`{name}`");
    gaps(
        "stage",
        name,
        &[
            (
                covering.any(|text| has_key(text, name)),
                "has no oracle in tests/python and no recipe in pipelines",
            ),
            (
                first_cells.any(|cell| cell.contains(&quoted)),
                "has no row in the table of stages in README.md",
            ),
        ],
    )
}

fn gaps_of_command(name: &str, texts: &Texts) -> Vec<String> {
    let snapshot = format!("tests/snapshots/help_{name}.snap");
    let places = places(&texts.readme, name);
    gaps(
        "command",
        name,
        &[
            (
                repository().join(snapshot).exists(),
                "has no snapshot of its help in tests/snapshots",
            ),
            (
                places
                    .iter()
                    .any(|(before, _)| before.ends_with("trajmill ")),
                "is not named in README.md",
            ),
        ],
    )
}

#[track_caller]
fn assert_none(gaps: &[String]) {
    assert!(gaps.is_empty(), "\n{}", gaps.join("\n"));
}

#[test]
fn every_format_that_is_read_is_covered() {
    let texts = Texts::read();
    let read = FORMATS.iter().filter(|format| format.read.is_some());
    let gaps = read.flat_map(|format| gaps_of_reading(format.name, &texts));
    assert_none(&gaps.collect::<Vec<_>>());
}

#[test]
fn every_format_that_is_written_is_covered() {
    let texts = Texts::read();
    let written = FORMATS.iter().filter(|format| format.write.is_some());
    let gaps = written.flat_map(|format| gaps_of_writing(format.name, &texts));
    assert_none(&gaps.collect::<Vec<_>>());
}

#[test]
fn every_seed_is_of_a_format_that_is_read() {
    let mut gaps = Vec::new();
    for entry in fs::read_dir(repository().join("tests/seeds")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let mut read = FORMATS.iter().filter(|format| format.read.is_some());
        if !read.any(|format| format.name == name) {
            gaps.push(format!(
                "tests/seeds/{name}: no format of this name is read"
            ));
        }
    }
    assert_none(&gaps);
}

#[test]
fn every_stage_is_covered() {
    let texts = Texts::read();
    let gaps = STAGES
        .iter()
        .flat_map(|stage| gaps_of_stage(stage.name, &texts));
    assert_none(&gaps.collect::<Vec<_>>());
}

#[test]
fn every_command_is_covered() {
    let texts = Texts::read();
    let commands = commands(&Workspace::new());
    assert!(commands.len() >= 11, "{commands:?}");
    let gaps = commands
        .iter()
        .flat_map(|command| gaps_of_command(command, &texts));
    assert_none(&gaps.collect::<Vec<_>>());
    for entry in fs::read_dir(repository().join("tests/snapshots")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(command) = name.strip_prefix("help_") {
            let command = command.trim_end_matches(".snap").to_owned();
            assert!(
                commands.contains(&command),
                "{name} is the help of no command"
            );
        }
    }
}

/// Every rule can fail: what nothing covers breaks all of them, by its name.
#[test]
fn what_is_not_covered_is_named() {
    let texts = Texts::read();
    assert_eq!(
        gaps_of_reading("nosuch", &texts),
        [
            "format `nosuch` has no seed in tests/seeds",
            "format `nosuch` has no target in tests/it/fuzz.rs",
            "format `nosuch` is named by no oracle in tests/python",
            "format `nosuch` has no row or no section in schemas/formats.md",
        ]
    );
    assert_eq!(
        gaps_of_writing("nosuch", &texts),
        [
            "format `nosuch` is exported by no oracle in tests/python",
            "format `nosuch` has no row or no section in schemas/formats.md",
        ]
    );
    assert_eq!(
        gaps_of_stage("nosuch", &texts),
        [
            "stage `nosuch` has no oracle in tests/python and no recipe in pipelines",
            "stage `nosuch` has no row in the table of stages in README.md",
        ]
    );
    assert_eq!(
        gaps_of_command("nosuch", &texts),
        [
            "command `nosuch` has no snapshot of its help in tests/snapshots",
            "command `nosuch` is not named in README.md",
        ]
    );
}
