//! Wrong pipelines, command lines and inputs: the whole error message, and the exit code.

use std::fmt::Write;
use std::fs;

use super::support::{Workspace, repository, runtime, snapshot};

/// The names in a folder of `tests` that have a prefix and an ending, without both.
fn stems(folder: &str, prefix: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(repository().join("tests").join(folder))
        .into_iter()
        .flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut stems: Vec<String> = names
        .filter_map(|name| {
            Some(
                name.strip_prefix(prefix)?
                    .strip_suffix(extension)?
                    .to_owned(),
            )
        })
        .collect();
    stems.sort();
    stems
}

/// Each file in `tests/wrong` is a pipeline with one fault, or with N if a line says `# faults: N`.
#[test]
fn all_faults_of_a_pipeline_are_reported_with_their_places() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("wrong")).unwrap();
    let names = stems("wrong", "", ".yaml");
    assert!(names.len() >= 40, "{}", names.len());
    for name in &names {
        let path = format!("wrong/{name}.yaml");
        let text = fs::read_to_string(repository().join("tests").join(&path)).unwrap();
        fs::write(workspace.path(&path), &text).unwrap();
        let done = workspace.trajmill(&["check", &path]);
        // Each runtime has its own message about a model that it cannot read.
        if runtime() == "rten" {
            snapshot(&format!("pipeline_{name}"), &done.stderr);
        }
        let done = done.exits(3);
        assert_eq!(done.stdout, "", "{name}");
        let place = format!("{path}:");
        assert!(
            done.stderr.starts_with(&place),
            "{name} does not begin with its place:\n{}",
            done.stderr
        );
        let places: Vec<&str> = done
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix(&place))
            .collect();
        for rest in &places {
            let (line, rest) = rest.split_once(':').unwrap();
            let (column, message) = rest.split_once(": ").unwrap();
            let (line, column): (usize, usize) = (line.parse().unwrap(), column.parse().unwrap());
            // A document that ends too early has its fault behind the last line.
            assert!(
                line >= 1 && line <= text.lines().count() + 1 && column >= 1,
                "{name}: {line}:{column} is not in the file"
            );
            assert!(message.len() > 8, "{name}: {message:?} is no message");
        }
        let faults = text
            .lines()
            .find_map(|line| line.strip_prefix("# faults: "))
            .map_or(1, |number| number.parse().unwrap());
        assert_eq!(
            places.len(),
            faults,
            "{name}: not every fault is reported once:\n{}",
            done.stderr
        );
        // `run` reports the same as `check`, and does nothing else.
        let run = workspace.trajmill(&["run", &path]).exits(3);
        assert_eq!(run.stderr, done.stderr, "{name}");
        assert!(
            workspace.names("out").is_empty(),
            "{name}: the run left files behind"
        );
    }
    assert_eq!(
        stems("snapshots", "pipeline_", ".snap"),
        names,
        "every pipeline has a snapshot, and every snapshot a pipeline"
    );
}

#[test]
fn a_wrong_command_line_is_reported_with_exit_code_2() {
    let workspace = Workspace::new();
    workspace.pipeline("fine", "  - filter: length > 1\n  - materialise: { OUT }\n");
    let lines = [
        "",
        "rum pipelines/fine.yaml",
        "run",
        "run pipelines/fine.yaml --threads 0",
        "run pipelines/fine.yaml --threads many",
        "run pipelines/fine.yaml --memory lots",
        "run pipelines/fine.yaml --memory 0",
        "run pipelines/fine.yaml --set least",
        "run pipelines/fine.yaml --set least=3",
        "run pipelines/fine.yaml --device gpu",
        "run pipelines/fine.yaml --device cuda:x",
        "run pipelines/fine.yaml --frehs",
        "run pipelines/gone.yaml",
        "check",
        "check pipelines/gone.yaml",
        "plan",
        "sql",
        "init",
        "completions",
        "completions tcsh",
        "import corpus",
        "import corpus/steps imported --from hdf6",
        "export corpus out/set",
        "export corpus out/set --to hdf6",
        "export corpus out/set --to d4rl --fps 30",
        "export corpus out/set --to d4rl --unlabelled skip",
        "import corpus/steps imported --on-error skip",
        "import corpus/steps imported --from parquet --frames array",
        "import corpus/steps imported --from exorl --map observation=state",
        "validate",
        "diff corpus",
        "info",
    ];
    let mut text = String::new();
    for line in lines {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let done = workspace.trajmill(&arguments).exits(2);
        let _ = writeln!(text, "$ trajmill {line}\n{}{}", done.stdout, done.stderr);
    }
    snapshot("wrong_lines", &text);
}

/// Faults in the data that are found before a row is read.
#[test]
fn a_wrong_input_is_reported_with_exit_code_1() {
    let workspace = Workspace::new();
    let mut text = String::new();
    let mut say = |what: &str, arguments: &[&str]| {
        let done = workspace.trajmill(arguments).exits(1);
        let _ = writeln!(
            text,
            "{what}\n$ trajmill {}\n{}",
            arguments.join(" "),
            done.stderr
        );
    };
    say("no such dataset", &["info", "nowhere"]);
    say("no dataset", &["info", "models"]);
    say("no source", &["import", "nowhere.npz", "imported"]);
    say(
        "nothing to tell the format from",
        &["import", "models/expected.json", "imported"],
    );
    fs::create_dir(workspace.path("empty")).unwrap();
    fs::write(workspace.path("empty/dataset.json"), "{}").unwrap();
    say("no manifest", &["info", "empty"]);
    fs::create_dir(workspace.path("newer")).unwrap();
    fs::write(workspace.path("newer/dataset.json"), r#"{"trajmill": 99}"#).unwrap();
    say("a format of the future", &["info", "newer"]);
    let manifest = fs::read_to_string(workspace.path("corpus/dataset.json")).unwrap();
    fs::write(
        workspace.path("corpus/dataset.json"),
        &manifest[..manifest.find("\"columns\"").unwrap()],
    )
    .unwrap();
    say("half a manifest", &["info", "corpus"]);
    fs::write(workspace.path("corpus/dataset.json"), &manifest).unwrap();
    fs::remove_file(workspace.path("corpus/steps/00001.parquet")).unwrap();
    say("a missing shard", &["info", "corpus", "--verify"]);
    snapshot("wrong_inputs", &text);
}
