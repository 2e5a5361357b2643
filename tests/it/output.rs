//! What commands do with their outputs: standard output that cannot be written, files that are
//! written in one step, datasets that no output may be written into, and text that a terminal could
//! take for commands.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{Done, Recipe, Values, Workspace, finish};

/// Commands that print data to standard output, by their arguments. `pipelines/kept.yaml` keeps
/// most of the corpus.
const PRINTING: [&[&str]; 18] = [
    &["--help"],
    &["--version"],
    &["sql", "--help"],
    &["schema"],
    &["doctor"],
    &["info", "corpus"],
    &["info", "corpus", "--json"],
    &["diff", "corpus", "corpus"],
    &["diff", "corpus", "corpus", "--json"],
    &["validate", "corpus", "--json"],
    &["validate", "broken"],
    &["plan", "pipelines/kept.yaml"],
    &["plan", "pipelines/kept.yaml", "--json"],
    &["run", "pipelines/kept.yaml", "--json"],
    &["sql", "corpus", "-c", "select * from steps"],
    &[
        "sql",
        "corpus",
        "--format",
        "csv",
        "-c",
        "select * from steps",
    ],
    &[
        "sql",
        "corpus",
        "--format",
        "json",
        "-c",
        "select * from steps",
    ],
    &["sql", "corpus", "--format", "csv", "-c", "select 1"],
];

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.pipeline("kept", "  - filter: length > 1\n  - materialise: { OUT }\n");
    // A file whose bytes differ from the manifest's is a finding.
    let recipe = recipe(&[], &[]);
    recipe.write(&workspace.path("broken"), &[0..2, 2..4]);
    let shard = workspace.path("broken/steps/00000.parquet");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    fs::write(&shard, bytes).unwrap();
    workspace
}

/// The text of a trajectory, from its id.
type Text = fn(u64) -> String;

fn recipe<'a>(
    columns: &'a [(&'static str, Values)],
    texts: &'a [(&'static str, Text)],
) -> Recipe<'a> {
    Recipe {
        length: &|id| 3 + id % 4,
        has_final: |_| true,
        columns: match columns {
            [] => &[
                ("observation", Values::Vector(2, |_| Some(vec![0.0, 1.0]))),
                ("action", Values::Vector(1, |_| Some(vec![0.5]))),
                ("reward", Values::Float32(|_| Some(1.0))),
            ],
            columns => columns,
        },
        texts,
    }
}

#[test]
fn a_full_stdout_is_an_error_of_every_command() {
    let workspace = workspace();
    for arguments in PRINTING {
        let mut command = workspace.command(arguments);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let done = finish(command);
        assert_eq!(done.code, Some(1), "{arguments:?}: {done:?}");
        assert!(
            done.stderr
                .contains("error: cannot write to standard output: No space left on device"),
            "{arguments:?}: {done:?}"
        );
        assert!(!done.stderr.contains("unexpectedly"), "{done:?}");
    }
    // The work of a run is done before its report is printed.
    assert!(workspace.path("out/kept/dataset.json").exists());
}

#[test]
fn a_closed_stdout_ends_every_command_quietly_with_a_code_of_its_own() {
    let workspace = workspace();
    for arguments in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = workspace.command(arguments);
        command.stdout(writer);
        let done = finish(command);
        assert_eq!(done.code, Some(141), "{arguments:?}: {done:?}");
        for word in ["error", "panicked", "unexpectedly", "ipe"] {
            assert!(!done.stderr.contains(word), "{arguments:?}: {done:?}");
        }
    }
}

/// A query that computes a join for hours, and one that writes rows for hours.
const ENDLESS: [&str; 2] = [
    "select count(*) from generate_series(1, 10000000) a, generate_series(1, 10000000) b \
     where a.value % 7 = b.value % 5",
    "select a.value from generate_series(1, 10000000) a, generate_series(1, 10000000) b",
];

/// Whether a process has a file open in a folder, with a name or without.
fn has_a_file_in(folder: &Path, process: &Child) -> bool {
    let links = fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    links
        .filter_map(|link| fs::read_link(link.ok()?.path()).ok())
        .any(|open| open.starts_with(folder) && open != folder)
}

/// Starts a query that writes `results/FILE` for hours, and waits until it writes.
fn endless(workspace: &Workspace, sql: &str, file: &str, fault: &str) -> Child {
    let output = format!("results/{file}");
    let child = workspace
        .command(&["sql", "corpus", "-c", sql, "-o", &output])
        .env("TRAJMILL_FAULT", fault)
        .spawn()
        .unwrap();
    let results = workspace.path("results").canonicalize().unwrap();
    wait_until(|| has_a_file_in(&results, &child));
    std::thread::sleep(Duration::from_millis(200));
    child
}

#[test]
fn a_stopped_query_leaves_no_file() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("results")).unwrap();
    for (signals, file) in [
        (&[Signal::INT][..], "a.csv"),
        (&[Signal::TERM], "a.csv"),
        (&[Signal::TERM], "a.parquet"),
        (&[Signal::INT, Signal::INT], "a.csv"),
        (&[Signal::KILL], "a.csv"),
        (&[Signal::KILL], "a.parquet"),
    ] {
        for sql in ENDLESS {
            let mut child = endless(&workspace, sql, file, "");
            for signal in signals {
                kill_process(Pid::from_child(&child), *signal).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
            let signalled = Instant::now();
            let status = child.wait().unwrap();
            assert!(signalled.elapsed() < Duration::from_secs(20), "{sql}");
            let case = format!("{signals:?} {file} {sql}");
            assert_eq!(workspace.names("results"), [""; 0], "{case}");
            let code = (signals != [Signal::KILL]).then_some(130);
            assert_eq!(status.code(), code, "{case}");
        }
    }
}

/// Where files need names, the same command removes what a killed one left.
#[cfg(feature = "faults")]
#[test]
fn a_file_of_a_killed_query_is_removed_by_the_next() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("results")).unwrap();
    let mut child = endless(&workspace, ENDLESS[1], "a.csv", "plain-renames");
    assert_eq!(workspace.names("results"), [".a.csv.staging-file"]);
    let arguments = ["sql", "corpus", "-c", "select 1", "-o", "results/a.csv"];
    let mut second = workspace.command(&arguments);
    second.env("TRAJMILL_FAULT", "plain-renames");
    let done = finish(second).exits(1);
    assert!(
        done.stderr.contains("is being written by another process"),
        "{done:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(workspace.names("results"), [".a.csv.staging-file"]);
    for fault in ["plain-renames", ""] {
        let mut again = workspace.command(&arguments);
        again.env("TRAJMILL_FAULT", fault);
        if fault.is_empty() {
            fs::write(workspace.path("results/.a.csv.staging-file"), "abandoned").unwrap();
        }
        finish(again).exits(0);
        assert_eq!(workspace.names("results"), ["a.csv"]);
        fs::remove_file(workspace.path("results/a.csv")).unwrap();
    }
}

fn wait_until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited too long"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn no_picture_or_result_is_written_into_a_dataset() {
    let workspace = Workspace::new();
    let before = workspace.tree("corpus");
    recipe(&[], &[]).write(&workspace.path("twin"), &[0..2, 2..4]);
    fs::create_dir(workspace.path("elsewhere")).unwrap();
    symlink(workspace.path("corpus"), workspace.path("link")).unwrap();
    symlink(
        workspace.path("corpus/steps"),
        workspace.path("elsewhere/steps"),
    )
    .unwrap();
    let refused = |arguments: &[&str], inside: &str| {
        let done = workspace.trajmill(arguments).exits(2);
        assert_eq!(done.stdout, "", "{arguments:?}");
        let message = format!("cannot write {inside}: it is inside the dataset ");
        assert!(done.stderr.contains(&message), "{}", done.stderr);
        assert!(
            done.stderr.contains("help: write to a path outside"),
            "{}",
            done.stderr
        );
    };
    for folder in [
        "corpus",
        "corpus/steps",
        "corpus/../corpus/trajectories",
        "link",
        "link/steps",
        "elsewhere/steps",
    ] {
        let picture = format!("{folder}/x.svg");
        refused(&["info", "corpus", "--picture", &picture], &picture);
        let result = format!("{folder}/x.csv");
        refused(&["sql", "corpus", "-c", "select 1", "-o", &result], &result);
    }
    // Datasets, exports and models, also in folders that do not exist yet.
    for out in ["corpus/x", "corpus/steps/x", "corpus/new/x", "link/x"] {
        let text = format!(
            "trajmill: 1\nsource: ../twin\nstages:\n  - materialise: {{ path: ../{out} }}\n"
        );
        let run = workspace.write("inside", &text);
        let text = format!(
            "trajmill: 1\nsource: ../twin\nstages:\n  - train_idm: {{ out: ../{out}.onnx }}\n"
        );
        let train = workspace.write("train", &text);
        for arguments in [
            &["run", &run][..],
            &["run", &train],
            &["import", "corpus/steps", out, "--from", "parquet"],
            &["export", "twin", out, "--to", "arrow"],
        ] {
            let done = workspace.trajmill(arguments).exits(1);
            assert!(
                done.stderr.contains("it is inside the dataset"),
                "{arguments:?}: {done:?}"
            );
        }
    }
    // From inside the dataset a bare name is a path in it.
    for arguments in [
        &["info", "..", "--picture", "x.svg"][..],
        &["sql", "..", "-c", "select 1", "-o", "x.csv"],
    ] {
        let mut command = workspace.command(arguments);
        command.current_dir(workspace.path("corpus/steps"));
        let done = finish(command).exits(2);
        assert!(done.stderr.contains("it is inside the dataset"), "{done:?}");
    }
    assert_eq!(workspace.tree("corpus"), before);
    for arguments in [
        &["info", "corpus", "--picture", "elsewhere/x.svg"][..],
        &["info", "corpus", "--picture", "corpus.svg"],
        &["sql", "corpus", "-c", "select 1", "-o", "elsewhere/x.csv"],
        &["sql", "corpus", "-c", "select 1", "-o", "corpus.csv"],
    ] {
        workspace.trajmill(arguments).exits(0);
        assert!(workspace.path(arguments[arguments.len() - 1]).exists());
    }
}

#[test]
fn a_picture_is_an_svg() {
    let workspace = Workspace::new();
    for name in ["x.png", "x", "x.svg.gz", ".svg", "x.svgz", "x.pdf"] {
        let done = workspace
            .trajmill(&["info", "corpus", "--picture", name])
            .exits(2);
        assert_eq!(done.stdout, "", "{name}");
        let message = format!("cannot draw {name}: a picture is an SVG file");
        assert!(done.stderr.contains(&message), "{}", done.stderr);
        assert!(done.stderr.contains(".svg`"), "{}", done.stderr);
        assert!(!workspace.path(name).exists());
    }
    let done = workspace
        .trajmill(&["info", "corpus", "--picture", "x.png"])
        .exits(2);
    assert!(
        done.stderr.contains("help: write `--picture x.svg`"),
        "{}",
        done.stderr
    );
}

/// Text that clears a screen, hides what follows, rings, renames a window, reverses a line or looks
/// like a line of output.
const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;owned\u{7}\u{8}\r\u{9b}31m\u{7f}\u{202e}\u{2066}\
                       \u{2069}\u{85}z\nforged\u{2028}forged";
/// The same text as it is shown.
const SHOWN: &str = "a\\u{1b}[2J\\u{1b}]0;owned\\u{7}\\u{8}\\u{d}\\u{9b}31m\\u{7f}\\u{202e}\
                     \\u{2066}\\u{2069}\\u{85}z\\nforged\\u{2028}forged";

/// Fails if the terminal would act on a character of the text.
#[track_caller]
fn assert_harmless(done: &Done) {
    for text in [&done.stdout, &done.stderr] {
        let acts = |c: char| {
            (c.is_control() && !matches!(c, '\n' | '\t'))
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(acts), "{text:?}");
        let forged = |line: &str| line.trim_start_matches([' ', '|']).starts_with("forged");
        assert!(!text.lines().any(forged), "{text:?}");
    }
}

#[test]
fn control_characters_of_names_and_values_are_shown_escaped() {
    let workspace = Workspace::new();
    let columns = [
        ("observation", Values::Vector(2, |_| Some(vec![0.0, 1.0]))),
        ("action", Values::Vector(1, |_| Some(vec![0.5]))),
        ("reward", Values::Float32(|_| Some(1.0))),
        (HOSTILE, Values::Float32(|_| Some(1.0))),
    ];
    let texts: [(&'static str, Text); 2] = [
        ("source", |_| HOSTILE.to_owned()),
        ("kind", |_| "k\tind\nsecond".to_owned()),
    ];
    let root = workspace.path(HOSTILE);
    recipe(&columns, &texts).write(&root, &[0..1, 1..3]);
    let name = HOSTILE;
    // The query engine takes no control characters in a path.
    recipe(&columns, &texts).write(&workspace.path("plain"), &[0..1, 1..3]);
    let hostile = format!("select \"{HOSTILE}\" from steps limit 1");
    let unknown = format!("select \"un{HOSTILE}\" from steps");
    let missing = format!("missing{HOSTILE}");
    let picture = format!("{HOSTILE}.svg");
    let option = format!("--un{HOSTILE}");
    let pipeline = workspace.write(
        "hostile",
        "trajmill: 1\nsource: ../corpus\nstages:\n  - filter: \"\\\"q\\e[31m\\\" > 1\"\n  \
         - materialise: { path: ../out/x }\n",
    );
    for (arguments, shown) in [
        (&["info", name][..], SHOWN),
        (&["info", name, "--verify", "--picture", &picture], SHOWN),
        (&["info", &missing], SHOWN),
        (&["diff", name, "corpus"], SHOWN),
        (&["validate", name], SHOWN),
        (&["validate", &missing], SHOWN),
        (&["export", name, "out/d4rl.hdf5", "--to", HOSTILE], SHOWN),
        (&["import", &missing, "out/x"], SHOWN),
        (&["plan", &missing], SHOWN),
        (&["sql", "plain", "-c", &hostile], SHOWN),
        (
            &["sql", "plain", "-c", "select source from trajectories"],
            SHOWN,
        ),
        (
            &["sql", "plain", "-c", "select [source] from trajectories"],
            SHOWN,
        ),
        (
            &[
                "sql",
                "plain",
                "-c",
                "select named_struct('a', source) from trajectories",
            ],
            SHOWN,
        ),
        (
            &[
                "sql",
                "plain",
                "-c",
                "select source from trajectories",
                "-o",
                "table.txt",
            ],
            "table.txt: 3 rows",
        ),
        (&["sql", "plain", "-c", &unknown], SHOWN),
        (&["sql", "plain", "-c", "select \u{1b}[31m"], "\\u{1b}"),
        (&["check", &pipeline], "\\u{1b}[31m"),
        (&["info", name, &option], "\\u{202e}"),
        (&[HOSTILE], "\\u{202e}"),
    ] {
        let done = workspace.trajmill(arguments);
        assert_harmless(&done);
        assert!(
            format!("{}{}", done.stdout, done.stderr).contains(shown),
            "{arguments:?}: {done:?}"
        );
    }
    // The report of a run names its stages, sources and results.
    let run = format!(
        "trajmill: 1\nsource: ../plain\nstages:\n  - summarise: {{ \"{0}\": max(reward) }}\n  \
         - materialise: {{ path: \"../out/{0}\" }}\n",
        HOSTILE
            .chars()
            .map(|c| format!("\\U{:08x}", u32::from(c)))
            .collect::<String>()
    );
    let run = workspace.write("run", &run);
    for command in ["check", "plan", "run", "run"] {
        let done = workspace.trajmill(&[command, &run]).exits(0);
        assert_harmless(&done);
        if command != "check" {
            assert!(
                format!("{}{}", done.stdout, done.stderr).contains(SHOWN),
                "{done:?}"
            );
        }
    }
    let table = fs::read_to_string(workspace.path("table.txt")).unwrap();
    assert!(table.contains(SHOWN), "{table}");
    // XML has no control characters. This manifest is one without a checksum.
    let manifest = workspace.path(&format!("out/{HOSTILE}/dataset.json"));
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("\"stage\": \"summarise\"", "\"stage\": \"a<\\u001b[2J\"");
    let end = text.rfind(",\n  \"checksum\"").unwrap();
    fs::write(&manifest, format!("{}\n}}\n", &text[..end])).unwrap();
    let result = format!("out/{HOSTILE}");
    let done = workspace.trajmill(&["info", &result, "--picture", "x.svg"]);
    done.exits(0);
    let picture = fs::read_to_string(workspace.path("x.svg")).unwrap();
    assert!(picture.contains("a&lt;\\u{1b}[2J"), "{picture}");
    assert!(!picture.contains('\u{1b}'), "{picture}");

    // What a program reads has the values as they are.
    let json = workspace.trajmill(&["info", name, "--json"]).exits(0);
    assert!(
        json.json()["columns"]
            .as_array()
            .unwrap()
            .iter()
            .any(|column| column["name"] == HOSTILE),
        "{json:?}"
    );
    let sql = "select source from trajectories limit 1";
    let csv = workspace.trajmill(&["sql", "plain", "--format", "csv", "-c", sql]);
    assert!(csv.exits(0).stdout.contains(HOSTILE));
    let json = workspace.trajmill(&["sql", "plain", "--format", "json", "-c", sql]);
    assert_eq!(json.exits(0).json()["source"], HOSTILE);
    workspace
        .trajmill(&["sql", "plain", "-c", sql, "-o", "x.csv"])
        .exits(0);
    let csv = fs::read_to_string(workspace.path("x.csv")).unwrap();
    assert!(csv.contains(HOSTILE), "{csv:?}");
    // A row of a table is one line. Tabs stay.
    let lines = workspace
        .trajmill(&[
            "sql",
            "plain",
            "-c",
            "select kind from trajectories limit 1",
        ])
        .exits(0);
    assert!(lines.stdout.contains("k\tind\\nsecond"), "{}", lines.stdout);
}

#[test]
fn escaped_text_stays_aligned_in_a_table() {
    let workspace = Workspace::new();
    let sql = "select 'x' || chr(27) || '[31m' as a, 1 as b union all select 'plain', 2 order by b";
    let done = workspace.trajmill(&["sql", "corpus", "-c", sql]).exits(0);
    assert_eq!(
        done.stdout,
        "+-------------+---+\n\
         | a           | b |\n\
         +-------------+---+\n\
         | x\\u{1b}[31m | 1 |\n\
         | plain       | 2 |\n\
         +-------------+---+\n"
    );
}
