//! What reviewers would otherwise have to see: imports point one way, a crate has one home, a stage is one file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use trajmill::format::FORMATS;
use trajmill::stage::STAGES;

use super::support::repository;

/// Modules by layer, lowest first: one may import from the layers below its own, and from itself.
const LAYERS: [&[&str]; 10] = [
    &["error"],
    &["dataset"],
    &["model", "format", "expr", "train"],
    &["stage"],
    &["config"],
    &["plan"],
    &["commit"],
    &["exec", "query"],
    &["run"],
    &["cli"],
];

/// Crates that only these files and folders name, so that replacing one, or a new version of it, is a matter of one place.
const HOMES: [(&str, &[&str]); 19] = [
    ("ort", &["model/onnx/"]),
    ("rten", &["model/embedded.rs"]),
    ("rten_tensor", &["model/embedded.rs"]),
    ("granit_parser", &["config/yaml.rs"]),
    ("ffmpeg_next", &["format/video/ffmpeg.rs"]),
    ("hdf5_pure", &["format/hdf5/"]),
    ("npyz", &["format/npz/"]),
    ("zip", &["format/npz/", "format/zarr.rs"]),
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
            "format/options.rs",
            "format/outgoing.rs",
            "format/video/mod.rs",
        ],
    ),
    ("candle_core", &["train/"]),
    ("plotters", &["train/plot.rs", "cli/picture.rs"]),
    (
        "prost",
        &[
            "train/onnx.rs",
            "format/lerobot/checked.rs",
            "format/rlds/",
            "format/tfagents/",
            "format/tfrecord.rs",
        ],
    ),
];

/// Longest file, tests at its bottom not counted.
const LONGEST: usize = 800;

/// A source file: its path in `src`, its text, and the text without tests and comments.
struct Source {
    path: String,
    text: String,
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    fn collect(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let root = repository().join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let own = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let code = own
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        Source {
            path: path.strip_prefix(&root).unwrap().display().to_string(),
            lines: own.lines().count(),
            code,
            text,
        }
    };
    paths.iter().map(read).collect()
}

/// A file that holds nothing but tests or what they share.
fn for_tests(source: &Source, all: &[Source]) -> bool {
    let name = source
        .path
        .trim_end_matches(".rs")
        .rsplit('/')
        .next()
        .unwrap();
    let declared = format!("#[cfg(test)]\nmod {name};");
    all.iter().any(|other| other.text.contains(&declared))
}

/// The modules of this crate that `code` names: `crate::a::b`, `crate::{a, b::c}`.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|next| next.is_alphanumeric() || *next == '_')
            .collect::<String>()
    };
    let mut found = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at]
            .chars()
            .next_back()
            .is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$')
        {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (place, next) in group.char_indices() {
            match next {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.insert(word(&group[start..place]));
                    start = place + 1;
                    if next == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::error::{Error, Result};\nuse crate::{config, plan::{self, Task},\n    run,\n};\nfn f() -> crate::dataset::Chunk { trajmill_crate::no() }";
    let expected = ["config", "dataset", "error", "plan", "run"];
    assert_eq!(
        imports(code).iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for source in sources()
        .iter()
        .filter(|source| !["lib.rs", "main.rs"].contains(&source.path.as_str()))
    {
        let module = source
            .path
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs");
        let own = layer(module)
            .unwrap_or_else(|| panic!("{module} is in no layer: say in LAYERS where it belongs"));
        seen.insert(module.to_owned());
        for import in imports(&source.code) {
            // What starts with a capital letter is an item of lib.rs, and there is none.
            let other = layer(&import)
                .unwrap_or_else(|| panic!("{}: `crate::{import}` is in no layer", source.path));
            if other >= own && import != module {
                wrong.push(format!(
                    "{}: `{module}` must not know of `{import}`",
                    source.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        seen.len(),
        LAYERS.iter().map(|modules| modules.len()).sum::<usize>(),
        "a module is gone: {seen:?}"
    );
}

#[test]
fn a_foreign_crate_has_one_home() {
    let mut wrong = Vec::new();
    let sources = sources();
    for source in sources.iter().filter(|source| !for_tests(source, &sources)) {
        for (name, homes) in HOMES {
            let named = source
                .code
                .match_indices(&format!("{name}::"))
                .any(|(at, _)| {
                    let before = source.code[..at].chars().next_back();
                    before.is_none_or(|before| {
                        !before.is_alphanumeric() && before != '_' && before != ':'
                    })
                });
            if named && !homes.iter().any(|home| source.path.starts_with(home)) {
                wrong.push(format!(
                    "{} names `{name}`, whose home is {}",
                    source.path,
                    homes.join(", ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn async_stays_in_queries() {
    let outside: Vec<String> = sources()
        .iter()
        .filter(|source| !source.path.starts_with("query/"))
        .filter(|source| {
            ["async fn", "async move", "async {", ".await"]
                .iter()
                .any(|word| source.code.contains(word))
        })
        .map(|source| source.path.clone())
        .collect();
    assert!(outside.is_empty(), "async outside src/query: {outside:?}");
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
    let mut wrong = Vec::new();
    let sources = sources();
    for source in sources
        .iter()
        .filter(|source| source.path.starts_with("stage/") && !for_tests(source, &sources))
    {
        wrong.extend(
            words
                .iter()
                .filter(|word| source.code.contains(*word))
                .map(|word| format!("{} has `{word}`", source.path)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let sources = sources();
    let mut wrong = Vec::new();
    for source in &sources {
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{} does not begin with what it is", source.path));
        }
        if source.lines > LONGEST && !for_tests(source, &sources) {
            wrong.push(format!(
                "{} has {} lines without its tests, more than {LONGEST}",
                source.path, source.lines
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_stage_is_one_file_and_a_format_too() {
    let registered = |folder: &str, names: Vec<&str>, entry: &str| {
        let names: Vec<String> = names
            .into_iter()
            .map(|name| name.replace(['-', '.'], "_"))
            .collect();
        let prefix = format!("{folder}/");
        let mut files = BTreeSet::new();
        for source in sources()
            .iter()
            .filter(|source| source.code.contains(entry))
        {
            if let Some(path) = source.path.strip_prefix(&prefix) {
                let name = path
                    .strip_suffix("/mod.rs")
                    .or_else(|| path.strip_suffix(".rs"))
                    .unwrap();
                files.insert(name.to_owned());
            }
        }
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            names,
            "files with `{entry}` against the registry of {folder}"
        );
        assert!(
            names.is_sorted(),
            "the registry of {folder} is in alphabetical order"
        );
    };
    registered(
        "stage",
        STAGES.iter().map(|stage| stage.name).collect(),
        "const STAGE: Stage",
    );
    registered(
        "format",
        FORMATS.iter().map(|format| format.name).collect(),
        "const FORMAT: Format",
    );
}

/// Each invariant names the test that can fail, and what is named is there.
#[test]
fn what_the_architecture_names_is_there() {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let invariants = text
        .split("## Invariants")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let mut items: Vec<String> = Vec::new();
    for line in invariants.lines() {
        match line.chars().next() {
            Some(first) if first.is_ascii_digit() => items.push(line.to_owned()),
            Some(' ') => items.last_mut().unwrap().push_str(line),
            _ => {}
        }
    }
    assert!(items.len() >= 10, "{items:?}");
    for item in items {
        let words = item
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|word| word.split(' ').next().unwrap());
        let named: Vec<&str> = words
            .filter(|word| {
                ["tests/", "src/", "benches/"]
                    .iter()
                    .any(|folder| word.starts_with(folder))
            })
            .collect();
        assert!(!named.is_empty(), "no test is named: {item}");
        for path in named {
            assert!(
                repository().join(path).exists(),
                "`{path}` is not there: {item}"
            );
        }
    }
}

#[test]
fn every_test_file_is_run() {
    let main = fs::read_to_string(repository().join("tests/it/main.rs")).unwrap();
    for entry in fs::read_dir(repository().join("tests/it")).unwrap() {
        let name = entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        assert!(
            name == "main" || main.contains(&format!("mod {name};")),
            "tests/it/{name}.rs is in no binary"
        );
    }
}
