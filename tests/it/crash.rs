//! Killed at every operation on the file system and at random times, out of disk space at every operation: the output
//! is absent or whole at every moment, and the same command again gives the bytes of a run that nothing stopped.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use super::support::{Done, WHOLE, Workspace, finish, mix};

/// More operations than these are sampled evenly, so that the tests stay a matter of a minute or two.
const MOST: usize = 150;

/// A command whose result is under `out/`, and what it writes where nothing stops it.
struct Case {
    workspace: Workspace,
    arguments: Vec<String>,
    expected: BTreeMap<String, String>,
    /// What each operation is, in order.
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

    /// Which operations are tried, from 1.
    fn tried(&self) -> Vec<usize> {
        let (n, step) = (self.operations.len(), self.operations.len().div_ceil(MOST));
        if step > 1 {
            eprintln!("{n} operations, every {step}th is tried");
        }
        (1..=n)
            .filter(|at| at.is_multiple_of(step) || *at == n)
            .collect()
    }

    /// What a stopped run may leave: nothing visible, or all of it.
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
            "{when}: {names:?} is there, and not whole: {tree:?}"
        );
        !names.is_empty()
    }

    /// The same command again: the same bytes, nothing else left; returns how many tasks were kept from before.
    fn completes(&self, when: &str) -> u64 {
        let done = finish(self.command());
        assert_eq!(done.code, Some(0), "{when}, again: {}", done.stderr);
        assert_eq!(
            self.workspace.tree("out"),
            self.expected,
            "{when}: other bytes, or something left behind"
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
fn killed_at_every_operation() {
    let case = whole();
    let (mut kept, mut published) = (0, 0);
    for at in case.tried() {
        let when = format!("killed at {}", case.operations[at - 1]);
        let done = case.faulty(&format!("kill:{at}"));
        assert_eq!(
            done.code, None,
            "{when}: it was not killed: {}",
            done.stderr
        );
        published += usize::from(case.absent_or_whole(&when));
        kept += case.completes(&when);
    }
    assert!(
        kept > 0,
        "no run went on from what the killed one had finished"
    );
    assert!(
        published > 0,
        "no run was killed between publishing and its end"
    );
}

#[test]
fn killed_while_it_replaces_a_result() {
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
            "{when}: neither the old result nor the new one: {now:?}"
        );
        case.completes(&when);
    }
}

/// A result in the middle of the chain is whole or absent by itself, and what was published is found again.
#[test]
fn killed_on_the_way_to_two_results() {
    let workspace = Workspace::new();
    let stages = "  - filter: length >= 3\n  - materialise: { path: ../out/first, shard_rows: 150 }\n  - derive: { total: \"returns_to_go(reward, 1.0)\" }\n  - materialise: { path: ../out/second, shard_rows: 150 }\n";
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
                "{when}: {result} is there, and not whole: {left:?}"
            );
        }
        let done = finish(case.command()).exits(0);
        found_again += usize::from(done.stderr.contains("out/first: nothing to do"));
        assert_eq!(
            case.workspace.tree("out"),
            case.expected,
            "{when}: other bytes, or something left behind"
        );
        case.workspace.clear();
    }
    assert!(
        found_again > 5,
        "no run found the first result of the killed one"
    );
}

#[test]
fn killed_while_importing() {
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
fn killed_while_a_model_is_learnt() {
    let workspace = Workspace::new();
    let stages = "  - hide_actions: { keep: 0.5, seed: 1 }\n  - train_idm: { out: ../out/models/idm.onnx, steps: 30, hidden: [8], members: 2 }\n  - label: { model: ../out/models/idm.onnx }\n  - materialise: { OUT }\n";
    let pipeline = workspace.pipeline("learnt", stages);
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
            .filter(|name| name.starts_with("learnt/"))
            .all(|name| left.contains_key(name));
        assert!(
            whole || !case.workspace.path("out/learnt").exists(),
            "{when}: half a result"
        );
        let done = finish(case.command()).exits(0);
        found_again += usize::from(done.stderr.contains("nothing to train"));
        assert_eq!(
            case.workspace.tree("out"),
            case.expected,
            "{when}: other bytes, or something left behind"
        );
        case.workspace.clear();
    }
    assert!(
        found_again > 2,
        "no run found the model that the killed one had learnt"
    );
}

#[test]
fn killed_while_exporting() {
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

/// A source that is imported first, a result that is written in another format: both start over or go on, neither is seen half.
#[test]
fn killed_between_foreign_formats() {
    let workspace = Workspace::new();
    let text = "trajmill: 1\nsource: { path: ../corpus/steps, format: parquet }\nstages:\n  - filter: length >= 3\n  \
                - materialise: { path: ../out/set, format: arrow }\n";
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
fn killed_at_random_times() {
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
fn out_of_space_at_every_operation() {
    let case = whole();
    for at in case.tried() {
        let operation = &case.operations[at - 1];
        let when = format!("no space at {operation}");
        let done = case.faulty(&format!("error:{at}:28"));
        assert!(!done.stderr.contains("panicked"), "{when}: {}", done.stderr);
        // Nothing needs to be removed where nothing is, so a failure of that is none.
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
                "{when}, without a remedy: {}",
                done.stderr
            );
        }
        case.absent_or_whole(&when);
        case.completes(&when);
    }
}
