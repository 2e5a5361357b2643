//! Commands that are killed or run out of disk space, at every operation on the file system and at
//! random times. Their output is absent or whole, and the same command again writes the bytes of an
//! undisturbed run.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use super::support::{Done, WHOLE, Workspace, finish, mix};

/// If a command has more operations than these, an even sample of them is tried: the tests are to
/// take a minute or two.
const MOST: usize = 150;

/// A command that writes to `out/`, and what it writes when nothing stops it.
struct Case {
    workspace: Workspace,
    arguments: Vec<String>,
    expected: BTreeMap<String, String>,
    /// The command's operations on the file system, in order.
    operations: Vec<String>,
}

impl Case {
    fn new(workspace: Workspace, arguments: &[&str]) -> Case {
        let mut case = Case {
            workspace,
            arguments: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
            expected: BTreeMap::new(),
            operations: Vec::new(),
        };
        let log = case.workspace.path("operations");
        case.faulty(&format!("count:{}", log.display())).exits(0);
        case.operations = std::fs::read_to_string(log)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        case.expected = case.workspace.tree("out");
        assert!(
            case.operations.len() > 20 && case.expected.len() > 2,
            "{:?}",
            case.operations
        );
        case
    }

    fn command(&self) -> std::process::Command {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.workspace.command(&arguments)
    }

    fn faulty(&self, fault: &str) -> Done {
        let mut command = self.command();
        command.env("TRAJMILL_FAULT", fault);
        finish(command)
    }

    /// The numbers of the operations that are tried, from 1.
    fn tried(&self) -> Vec<usize> {
        let (n, step) = (self.operations.len(), self.operations.len().div_ceil(MOST));
        if step > 1 {
            eprintln!("{n} operations, of which every {step}th is tried");
        }
        (1..=n)
            .filter(|at| at.is_multiple_of(step) || *at == n)
            .collect()
    }

    /// Fails unless `out` is empty or holds the whole result, hidden files aside; returns whether
    /// it holds the result.
    fn absent_or_whole(&self, when: &str) -> bool {
        let visible = |name: &str| !name.starts_with('.');
        let tree: BTreeMap<String, String> = self
            .workspace
            .tree("out")
            .into_iter()
            .filter(|(name, _)| visible(name))
            .collect();
        let names: Vec<String> = self
            .workspace
            .names("out")
            .into_iter()
            .filter(|name| visible(name))
            .collect();
        assert!(
            names.is_empty() || tree == self.expected,
            "{when}: {names:?} is visible but not whole: {tree:?}"
        );
        !names.is_empty()
    }

    /// Runs the command again, and fails unless `out` then holds the expected bytes and nothing
    /// else; returns how many finished tasks of the stopped run it reused.
    fn completes(&self, when: &str) -> u64 {
        let done = finish(self.command());
        assert_eq!(done.code, Some(0), "{when}, again: {}", done.stderr);
        assert_eq!(
            self.workspace.tree("out"),
            self.expected,
            "{when}: other bytes, or files left behind"
        );
        let names = self.workspace.names("out");
        assert_eq!(names.len(), 1, "{when}: {names:?}");
        let resumed = if done.stdout.is_empty() {
            0
        } else {
            done.json()["outputs"][0]["tasks_resumed"].as_u64().unwrap()
        };
        self.workspace.clear();
        resumed
    }
}

fn whole() -> Case {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let case = Case::new(workspace, &["run", &pipeline, "--threads", "1", "--json"]);
    case.workspace.clear();
    case
}

#[test]
fn a_run_that_is_killed_leaves_nothing_or_all_and_resumes() {
    let case = whole();
    let (mut kept, mut published) = (0, 0);
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        let done = case.faulty(&format!("kill:{at}"));
        assert_eq!(
            done.code, None,
            "{when}: the command was not killed: {}",
            done.stderr
        );
        published += usize::from(case.absent_or_whole(&when));
        kept += case.completes(&when);
    }
    assert!(kept > 0, "no run reused a finished task of a killed one");
    assert!(
        published > 0,
        "no run was killed between publication and its end"
    );
}

#[test]
fn a_killed_replacement_leaves_the_old_or_the_new_result() {
    let workspace = Workspace::new();
    let stages =
        "  - filter: length >= LEAST\n  - materialise: { OUT, overwrite: true, shard_rows: 150 }\n";
    let pipeline = workspace.pipeline("kept", &stages.replace("LEAST", "4"));
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let old = workspace.tree("out");
    workspace.pipeline("kept", &stages.replace("LEAST", "3"));
    let case = Case::new(workspace, &["run", &pipeline, "--threads", "1"]);
    assert_ne!(case.expected, old);
    for at in case.tried() {
        case.workspace.clear();
        case.workspace
            .pipeline("kept", &stages.replace("LEAST", "4"));
        case.workspace.trajmill(&["run", &pipeline]).exits(0);
        case.workspace
            .pipeline("kept", &stages.replace("LEAST", "3"));
        let when = format!("killed at {}", case.operations[at - 1]);
        assert_eq!(case.faulty(&format!("kill:{at}")).code, None, "{when}");
        let now: BTreeMap<String, String> = case
            .workspace
            .tree("out")
            .into_iter()
            .filter(|(name, _)| !name.starts_with('.'))
            .collect();
        assert!(
            now == old || now == case.expected,
            "{when}: neither the old nor the new result: {now:?}"
        );
        case.completes(&when);
    }
}

/// Each of two results is absent or whole, and the next run reuses the first if it was published.
#[test]
fn a_killed_run_with_two_results_leaves_each_absent_or_whole() {
    let workspace = Workspace::new();
    let stages = r#"
  - filter: length >= 3
  - materialise: { path: ../out/first, shard_rows: 150 }
  - derive: { total: "returns_to_go(reward, 1.0)" }
  - materialise: { path: ../out/second, shard_rows: 150 }
"#;
    let pipeline = workspace.pipeline("two", stages);
    let case = Case::new(workspace, &["run", &pipeline, "--threads", "1"]);
    case.workspace.clear();
    let mut found_again = 0;
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        assert_eq!(case.faulty(&format!("kill:{at}")).code, None, "{when}");
        for result in ["first/", "second/"] {
            let of = |tree: &BTreeMap<String, String>| -> Vec<_> {
                tree.clone()
                    .into_iter()
                    .filter(|(name, _)| name.starts_with(result))
                    .collect()
            };
            let left = of(&case.workspace.tree("out"));
            assert!(
                left.is_empty() || left == of(&case.expected),
                "{when}: {result} is visible but not whole: {left:?}"
            );
        }
        let done = finish(case.command()).exits(0);
        found_again += usize::from(done.stderr.contains("out/first: nothing to do"));
        assert_eq!(
            case.workspace.tree("out"),
            case.expected,
            "{when}: other bytes, or files left behind"
        );
        case.workspace.clear();
    }
    assert!(
        found_again > 5,
        "no run reused the first result of a killed one"
    );
}

#[test]
fn a_killed_import_leaves_nothing_or_all() {
    let workspace = Workspace::new();
    let case = Case::new(
        workspace,
        &[
            "import",
            "corpus/steps",
            "out/imported",
            "--from",
            "parquet",
            "--shard-rows",
            "100",
        ],
    );
    case.workspace.clear();
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        assert_eq!(case.faulty(&format!("kill:{at}")).code, None, "{when}");
        case.absent_or_whole(&when);
        case.completes(&when);
    }
}

#[test]
fn a_killed_training_leaves_a_model_whole_or_absent() {
    let workspace = Workspace::new();
    let stages = r#"
  - hide_actions: { keep: 0.5, seed: 1 }
  - train_idm: { out: ../out/models/idm.onnx, steps: 30, hidden: [8], members: 2 }
  - label: { model: ../out/models/idm.onnx }
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("trained", stages);
    let case = Case::new(workspace, &["run", &pipeline, "--threads", "1"]);
    assert_eq!(
        case.expected
            .keys()
            .filter(|name| name.starts_with("models/"))
            .count(),
        5,
        "{:?}",
        case.expected
    );
    case.workspace.clear();
    let mut found_again = 0;
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        assert_eq!(case.faulty(&format!("kill:{at}")).code, None, "{when}");
        let mut left = case.workspace.tree("out");
        left.retain(|name, _| !name.split('/').any(|part| part.starts_with('.')));
        for (name, hash) in &left {
            assert_eq!(
                case.expected.get(name),
                Some(hash),
                "{when}: {name} is not whole"
            );
        }
        let whole = case
            .expected
            .keys()
            .filter(|name| name.starts_with("trained/"))
            .all(|name| left.contains_key(name));
        assert!(
            whole || !case.workspace.path("out/trained").exists(),
            "{when}: the result is visible but not whole"
        );
        let done = finish(case.command()).exits(0);
        found_again += usize::from(done.stderr.contains("nothing to train"));
        assert_eq!(
            case.workspace.tree("out"),
            case.expected,
            "{when}: other bytes, or files left behind"
        );
        case.workspace.clear();
    }
    assert!(
        found_again > 2,
        "no run reused the model that a killed one had trained"
    );
}

#[test]
fn a_killed_export_leaves_nothing_or_all() {
    let case = Case::new(
        Workspace::new(),
        &[
            "export",
            "corpus",
            "out/set",
            "--to",
            "minari",
            "--unlabelled",
            "fill",
        ],
    );
    case.workspace.clear();
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        assert_eq!(case.faulty(&format!("kill:{at}")).code, None, "{when}");
        case.absent_or_whole(&when);
        case.completes(&when);
    }
}

/// The run imports its source first and exports its result last.
#[test]
fn a_killed_run_between_foreign_formats_leaves_nothing_or_all() {
    let workspace = Workspace::new();
    let text = r#"
trajmill: 1
source: { path: ../corpus/steps, format: parquet }
stages:
  - filter: length >= 3
  - materialise: { path: ../out/set, format: arrow }
"#;
    let pipeline = workspace.write("foreign", text);
    let case = Case::new(workspace, &["run", &pipeline, "--threads", "1"]);
    case.workspace.clear();
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        assert_eq!(case.faulty(&format!("kill:{at}")).code, None, "{when}");
        case.absent_or_whole(&when);
        case.completes(&when);
    }
}

#[test]
fn a_run_that_is_killed_at_any_time_leaves_nothing_or_all() {
    let workspace = Workspace::with(400, 60, 6);
    let pipeline = workspace.pipeline("whole", &WHOLE.replace("shard_rows: 60", "shard_rows: 500"));
    let case = Case::new(workspace, &["run", &pipeline, "--threads", "2", "--json"]);
    case.workspace.clear();
    let began = Instant::now();
    case.completes("before any kill");
    let whole = began.elapsed().as_micros() as u64;
    let mut killed = 0;
    for seed in 0..60 {
        let after = Duration::from_micros(mix(seed + 1000) % whole);
        let when = format!("killed after {after:?} of {whole} µs");
        let mut child: Child = case
            .command()
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        case.absent_or_whole(&when);
        case.completes(&when);
    }
    assert!(
        killed > 20,
        "only {killed} of 60 runs were killed before they ended"
    );
}

#[test]
fn a_full_disk_is_one_error_with_a_remedy() {
    let case = whole();
    for at in case.tried() {
        let operation = &case.operations[at - 1];
        let when = format!("no space at {operation}");
        let done = case.faulty(&format!("error:{at}:28"));
        assert!(!done.stderr.contains("panicked"), "{when}: {}", done.stderr);
        // Some removals only clean up: a run may succeed without them.
        let harmless = operation.contains(" remove ") && done.code == Some(0);
        if !harmless {
            assert_eq!(done.code, Some(1), "{when}: {}", done.stderr);
            assert!(
                done.stderr.contains("No space left on device"),
                "{when}: {}",
                done.stderr
            );
            assert!(
                done.stderr.contains("free some space"),
                "{when}: no remedy: {}",
                done.stderr
            );
        }
        case.absent_or_whole(&when);
        case.completes(&when);
    }
}
