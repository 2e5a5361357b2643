//! Rules that no compiler checks: imports point one way and not in circles, a third-party crate is
//! used in one place, a stage does no I/O, files are short.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use trajmill::internals::format::FORMATS;
use trajmill::internals::stage::STAGES;

use super::source::{Named, Source, paths, sources};
use super::support::repository;

/// Modules by layer, lowest first: one may import from the layers below its own, and from itself.
const LAYERS: [&[&str]; 14] = [
    &["error"],
    &["dataset"],
    &["container", "video"],
    &["transfer"],
    &["inspect"],
    &["model", "format", "expr", "train"],
    &["stage"],
    &["config"],
    &["plan"],
    &["commit"],
    &["exec", "query"],
    &["run"],
    &["cli"],
    &["internals"],
];

/// Crates that only these files and folders name. Replacing or upgrading one concerns only them.
const HOMES: [(&str, &[&str]); 19] = [
    ("ort", &["model/onnx/"]),
    ("rten", &["model/embedded.rs"]),
    ("rten_tensor", &["model/embedded.rs"]),
    ("granit_parser", &["config/yaml.rs"]),
    ("ffmpeg_next", &["video/"]),
    ("hdf5_pure", &["container/hdf5/"]),
    ("npyz", &["container/npz/"]),
    ("zip", &["container/npz/", "container/zarr/"]),
    ("clap", &["cli/"]),
    ("indicatif", &["cli/progress.rs"]),
    ("signal_hook", &["cli/"]),
    ("rustyline", &["cli/"]),
    ("tokio", &["query/"]),
    ("futures", &["query/"]),
    ("datafusion", &["query/", "expr/", "error.rs"]),
    (
        "schemars",
        &[
            "stage/",
            "config/",
            "transfer/read/options.rs",
            "transfer/write/options.rs",
            "train/options.rs",
            "video/",
        ],
    ),
    ("candle_core", &["train/"]),
    ("plotters", &["train/plot.rs", "cli/picture.rs"]),
    (
        "prost",
        &[
            "train/onnx/",
            "container/parquet.rs",
            "format/rlds/",
            "format/tfagents/",
            "container/tfrecord.rs",
        ],
    ),
];

/// The most lines that a file of `src/` may have before its tests.
const MOST_LINES: usize = 500;

/// The most columns that a line of `src/` may have.
const MOST_COLUMNS: usize = 100;

/// Fails with every fault on a line of its own.
#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The sources that are part of the program.
fn compiled() -> Vec<Source> {
    let mut sources = sources();
    sources.retain(|source| !source.for_tests);
    sources
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn imports_point_one_way() {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for source in &sources() {
        // `lib.rs` and `main.rs` are above all layers.
        let Some(module) = source.module().into_iter().next() else {
            continue;
        };
        let Some(own) = layer(&module) else {
            faults.push(format!("`{module}` is in no layer: add it to LAYERS"));
            continue;
        };
        seen.insert(module.clone());
        for named in paths(&source.code) {
            let [root, other, ..] = named.segments.as_slice() else {
                continue;
            };
            if root != "crate" || *other == module || layer(other).is_some_and(|below| below < own)
            {
                continue;
            }
            let path = &source.path;
            faults.push(format!(
                "{path}: `{other}` is not below `{module}` in LAYERS"
            ));
        }
    }
    for module in LAYERS.iter().copied().flatten() {
        if !seen.contains(*module) {
            faults.push(format!("LAYERS names `{module}`, which is no module"));
        }
    }
    assert_none(&faults);
}

/// The files of `src/` by their modules, and the paths that each file names.
struct Modules {
    files: BTreeMap<Vec<String>, usize>,
    named: Vec<Vec<Named>>,
}

impl Modules {
    fn new(sources: &[Source]) -> Modules {
        let files = sources.iter().enumerate();
        let files = files.map(|(index, source)| (source.module(), index));
        Modules {
            files: files.filter(|(module, _)| !module.is_empty()).collect(),
            named: sources.iter().map(|source| paths(&source.code)).collect(),
        }
    }

    /// The file that a path in `module` leads to, and the name in that file; `None` if that is not
    /// a file of `src/`. Follows at most `hops` re-exports.
    fn resolve(&self, module: &[String], path: &[String], hops: usize) -> Option<(usize, String)> {
        let mut place = module.to_vec();
        let mut rest = &path[1..];
        match path[0].as_str() {
            "crate" => place.clear(),
            "self" => {}
            "super" => {
                let levels = path
                    .iter()
                    .take_while(|segment| *segment == "super")
                    .count();
                place.truncate(place.len().checked_sub(levels)?);
                rest = &path[levels..];
            }
            // A path may begin with a module inside this one.
            child => {
                place.push(child.to_owned());
                self.files.get(&place)?;
            }
        }
        while let Some((segment, behind)) = rest.split_first() {
            place.push(segment.clone());
            if !self.files.contains_key(&place) {
                place.pop();
                break;
            }
            rest = behind;
        }
        let file = *self.files.get(&place)?;
        let Some(name) = rest.first() else {
            return Some((file, place.pop()?));
        };
        let reexport = self.named[file]
            .iter()
            .find(|named| named.import.as_ref() == Some(name))
            .filter(|_| hops > 0 && place != module)
            .and_then(|named| self.resolve(&place, &named.segments, hops - 1));
        Some(reexport.unwrap_or_else(|| (file, name.clone())))
    }

    /// The names that each file imports from others, by the files' indices. What a file takes from
    /// the module around it does not count: that is where the files of a folder meet.
    fn imports(&self) -> BTreeMap<(usize, usize), BTreeSet<String>> {
        let mut imports: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (module, from) in &self.files {
            let mut around: Vec<usize> = Vec::new();
            for depth in 1..=module.len() {
                around.extend(self.files.get(&module[..depth]));
            }
            for named in &self.named[*from] {
                let target = self.resolve(module, &named.segments, 3);
                if let Some((to, name)) = target.filter(|(to, _)| !around.contains(to)) {
                    imports.entry((*from, to)).or_default().insert(name);
                }
            }
        }
        imports
    }
}

/// The circles of imports between files, each as a text that names files and what they import.
fn circles(sources: &[Source]) -> Vec<String> {
    let imports = Modules::new(sources).imports();
    let reached_from = |file: usize| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![file]);
        while let Some(file) = next.pop() {
            let imported = imports.keys().filter(|(from, _)| *from == file);
            next.extend(imported.map(|(_, to)| *to).filter(|to| reached.insert(*to)));
        }
        reached
    };
    let reached: Vec<BTreeSet<usize>> = (0..sources.len()).map(reached_from).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in reached.iter().enumerate() {
        let mut circle = others.clone();
        circle.retain(|other| reached[*other].contains(&file));
        circles.insert(circle);
    }
    circles.retain(|circle| !circle.is_empty());
    let describe = |circle: &BTreeSet<usize>| {
        let inside = imports
            .iter()
            .filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
        let lines = inside.map(|((from, to), names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (from, to) = (&sources[*from].path, &sources[*to].path);
            format!("\n    {from} imports {} from {to}", names.join(", "))
        });
        format!(
            "a circle of {} files:{}",
            circle.len(),
            lines.collect::<String>()
        )
    };
    circles.iter().map(describe).collect()
}

#[test]
fn files_do_not_import_one_another_in_circles() {
    assert_none(&circles(&compiled()));
}

#[test]
fn circles_are_found_through_reexports() {
    let source = |path: &str, code: &str| Source {
        path: path.to_owned(),
        text: String::new(),
        code: code.to_owned(),
        lines: 0,
        for_tests: false,
    };
    let sources = [
        source(
            "a/mod.rs",
            "mod b; mod c; mod d; pub use c::C; pub struct A;",
        ),
        source("a/b.rs", "use super::{A, C};"),
        source("a/c.rs", "use super::d::{D, e};"),
        source("a/d.rs", "use super::A; fn f() { crate::a::b::B::new() }"),
        source("e.rs", "use crate::a::C;"),
    ];
    let circle = "a circle of 3 files:\n    \
                  a/b.rs imports C from a/c.rs\n    \
                  a/c.rs imports D, e from a/d.rs\n    \
                  a/d.rs imports B from a/b.rs";
    assert_eq!(circles(&sources), [circle]);
}

#[test]
fn a_third_party_crate_is_named_in_one_place() {
    let mut faults = Vec::new();
    for source in &compiled() {
        let named = paths(&source.code);
        for (name, homes) in HOMES {
            let is_home = homes.iter().any(|home| source.path.starts_with(home));
            if !is_home && named.iter().any(|named| named.segments[0] == name) {
                let (path, homes) = (&source.path, homes.join(", "));
                faults.push(format!("{path} names `{name}`, which only {homes} may"));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn async_code_stays_in_queries() {
    let words = ["async fn", "async move", "async {", ".await"];
    let mut faults = Vec::new();
    for source in sources() {
        let word = words.iter().find(|word| source.code.contains(**word));
        if let Some(word) = word.filter(|_| !source.path.starts_with("query/")) {
            faults.push(format!(
                "{} has `{word}`, which only src/query may",
                source.path
            ));
        }
    }
    assert_none(&faults);
}

#[test]
fn a_stage_does_no_input_or_output() {
    let words = [
        "std::fs",
        "std::path",
        "Path::",
        "PathBuf",
        "File::",
        "std::thread",
        "rayon",
        "config::",
        "std::env",
        "Instant",
        "SystemTime",
    ];
    let mut faults = Vec::new();
    for source in compiled() {
        if source.path.starts_with("stage/") {
            let found = words.iter().filter(|word| source.code.contains(**word));
            faults.extend(found.map(|word| format!("{} has `{word}`", source.path)));
        }
    }
    assert_none(&faults);
}

/// Where files are opened by other means than `dataset::files`, which reads regular files only and
/// keeps absent and unreadable apart.
const OPENS_ITSELF: [(&str, &str); 7] = [
    ("dataset/files.rs", "is that place"),
    ("dataset/store/", "changes the file system"),
    ("dataset/source.rs", "asks metadata that it read itself"),
    (
        "model/library.rs",
        "looks for libraries in folders that may not be there",
    ),
    ("model/doctor.rs", "reads a driver's version"),
    ("commit/staging.rs", "reads the host's name"),
    ("cli/sql.rs", "takes statements from a pipe"),
];

#[test]
fn files_are_opened_in_one_place() {
    let words = [
        "File::open(",
        "fs::read(",
        "fs::read_to_string(",
        "fs::read_dir(",
        ".exists()",
        ".is_file()",
        ".is_dir()",
    ];
    let mut faults = Vec::new();
    for source in compiled() {
        if OPENS_ITSELF
            .iter()
            .any(|(path, _)| source.path.starts_with(path))
        {
            continue;
        }
        for word in words {
            for (at, _) in source.code.match_indices(word) {
                let name = |c: char| c.is_alphanumeric() || c == '_';
                // `DataFile::open` is another function.
                if !source.code[..at].ends_with(name) || word.starts_with('.') {
                    faults.push(format!("{} has `{word}`: use dataset::files", source.path));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn a_file_begins_with_its_purpose() {
    let mut sources = sources();
    sources.retain(|source| !source.text.starts_with("//! "));
    let fault = |source: &Source| format!("{} does not begin with `//! `", source.path);
    assert_none(&sources.iter().map(fault).collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    let mut sources = compiled();
    sources.retain(|source| source.lines > MOST_LINES);
    let fault = |source: &Source| {
        let (path, lines) = (&source.path, source.lines);
        format!("{path} has {lines} lines before its tests, more than {MOST_LINES}")
    };
    assert_none(&sources.iter().map(fault).collect::<Vec<_>>());
}

#[test]
fn lines_are_narrow() {
    let mut faults = Vec::new();
    for source in &sources() {
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > MOST_COLUMNS {
                let (path, line) = (&source.path, index + 1);
                faults.push(format!(
                    "{path}:{line} has {columns} columns, more than {MOST_COLUMNS}"
                ));
            }
        }
    }
    assert_none(&faults);
}

/// Checks that `src/FOLDER` holds the entries of a registry and, besides `others`, nothing else. A
/// folder in it may hold variants of an entry, each with a `definition` of its own.
#[track_caller]
fn assert_holds_only(folder: &str, names: &[&str], definition: &str, others: &[&str]) {
    let mut defining: Vec<Vec<String>> = sources()
        .iter()
        .filter(|source| source.code.contains(definition))
        .map(Source::module)
        .collect();
    defining.retain(|module| module.len() > 1 && module[0] == folder);
    assert_eq!(
        defining.len(),
        names.len(),
        "files of src/{folder} with `{definition}`: {defining:?}"
    );
    let defined: BTreeSet<&str> = defining.iter().map(|module| module[1].as_str()).collect();
    let mut entries = BTreeSet::new();
    for entry in fs::read_dir(repository().join("src").join(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".rs").to_owned();
        if name != "mod" && !others.contains(&name.as_str()) {
            entries.insert(name);
        }
    }
    let entries: BTreeSet<&str> = entries.iter().map(String::as_str).collect();
    assert_eq!(
        entries, defined,
        "entries of src/{folder}, and those with `{definition}`"
    );
    let unknown: Vec<&&str> = defined
        .iter()
        .filter(|name| !names.contains(name))
        .collect();
    assert!(
        unknown.is_empty(),
        "not in the registry of src/{folder}: {unknown:?}"
    );
    assert!(
        names.is_sorted(),
        "the registry of src/{folder} is not sorted"
    );
}

#[test]
fn the_folder_stage_holds_stages_only() {
    let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
    let others = ["support"];
    assert_holds_only("stage", &names, "const STAGE: Stage", &others);
}

#[test]
fn the_folder_format_holds_formats_only() {
    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
    assert_holds_only("format", &names, "const FORMAT: Format", &[]);
}

/// What formats share is in `src/transfer` and `src/container`.
#[test]
fn a_format_does_not_import_another() {
    let sources = compiled();
    let mut faults = Vec::new();
    for ((from, to), names) in Modules::new(&sources).imports() {
        let (from, to) = (&sources[from], &sources[to]);
        if let ([folder, own, ..], [other_folder, other, ..]) =
            (from.module().as_slice(), to.module().as_slice())
            && folder == "format"
            && other_folder == "format"
            && own != other
        {
            let names: Vec<String> = names.into_iter().collect();
            faults.push(format!(
                "{} imports {} from {}",
                from.path,
                names.join(", "),
                to.path
            ));
        }
    }
    assert_none(&faults);
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("\n## Invariants\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut invariants: Vec<String> = Vec::new();
    for line in section.lines() {
        match line.chars().next() {
            Some(first) if first.is_ascii_digit() => invariants.push(line.to_owned()),
            Some(' ') => invariants.last_mut().unwrap().push_str(line),
            _ => {}
        }
    }
    assert!(invariants.len() >= 10, "{invariants:?}");
    let folders = ["tests/", "src/", "benches/"];
    let mut faults = Vec::new();
    for invariant in invariants {
        let quoted = invariant.split('`').skip(1).step_by(2);
        let mut files: Vec<&str> = quoted.filter_map(|words| words.split(' ').next()).collect();
        files.retain(|file| folders.iter().any(|folder| file.starts_with(folder)));
        if files.is_empty() {
            faults.push(format!("no test is named: {invariant}"));
        }
        files.retain(|file| !repository().join(file).exists());
        faults.extend(files.iter().map(|file| format!("there is no {file}")));
    }
    assert_none(&faults);
}

#[test]
fn every_test_file_is_run() {
    let main = fs::read_to_string(repository().join("tests/it/main.rs")).unwrap();
    let mut faults = Vec::new();
    for entry in fs::read_dir(repository().join("tests/it")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        if module != "main" && !main.contains(&format!("mod {module};")) {
            faults.push(format!("tests/it/main.rs does not name {module}"));
        }
    }
    assert_none(&faults);
}
