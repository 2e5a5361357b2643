//! What the commands say: help, plans, summaries.

use super::support::{WHOLE, Workspace, snapshot};

#[test]
fn help() {
    let workspace = Workspace::new();
    snapshot("help", &workspace.trajmill(&["--help"]).exits(0).stdout);
    for command in [
        "run", "check", "plan", "sql", "import", "export", "validate", "diff", "info", "doctor",
        "schema",
    ] {
        snapshot(
            &format!("help_{command}"),
            &workspace.trajmill(&[command, "--help"]).exits(0).stdout,
        );
    }
}

fn plan(workspace: &Workspace, name: &str, stages: &str) {
    let pipeline = workspace.pipeline("out", stages);
    let text = workspace.trajmill(&["plan", &pipeline]).exits(0).stdout;
    snapshot(&format!("plan_{name}"), &text);
}

#[test]
fn plans() {
    let workspace = Workspace::new();
    let label = "  - label: { model: ../models/mlp.onnx, window: { past: 1, future: 1 } }\n";
    // Both selections read metadata alone, so only what they keep is read and labelled.
    let pushed = format!(
        "  - hide_actions: {{ keep: 0.2, seed: 1 }}\n{label}  - filter: return > 3 and length >= 4\n  - subsample: {{ fraction: 0.5, stratify: split, seed: 7 }}\n  - materialise: {{ OUT, shard_rows: 30 }}\n"
    );
    plan(&workspace, "selections_ahead_of_label", &pushed);
    plan(&workspace, "second_phase", WHOLE);
    // Rows change before the selection, so it cannot go ahead.
    let rows = "  - filter: { steps: \"reward > 0\" }\n  - filter: length >= 3\n  - materialise: { OUT }\n";
    plan(&workspace, "rows_change", rows);
    let middle = format!(
        "  - filter: length >= 3\n  - materialise: {{ path: ../out/first }}\n{label}  - materialise: {{ OUT, columns: [observation, action] }}\n"
    );
    plan(&workspace, "materialise_in_the_middle", &middle);
    // A chain that never looks at observations does not read them.
    let narrow = "  - derive: { total: \"returns_to_go(reward, 1.0)\" }\n  - materialise: { OUT, columns: [total] }\n";
    plan(&workspace, "columns_pruned", narrow);
    // A threshold over all steps is found in a phase of its own; observations are normalised by metadata alone.
    let quantile = "  - normalise: { columns: [observation] }\n  - filter: { quantile: { by: abs(reward), of: steps, below: 0.9 } }\n  - materialise: { OUT }\n";
    plan(&workspace, "a_fact_about_all_steps", quantile);
    // What is drawn more than once is derived once, before it is drawn.
    let pairs = "  - derive: { double: 2 * reward }\n  - pairs: { length: 2, count: 30, reward: double }\n  - materialise: { OUT }\n";
    plan(&workspace, "pairs", pairs);
}

#[test]
fn plans_of_what_is_there() {
    let workspace = Workspace::new();
    let text = "trajmill: 1\nparams: { least: 3 }\nsource: ../corpus\nstages:\n  - filter: length >= ${least}\n  - materialise: { path: ../out/kept }\n";
    let pipeline = workspace.write("kept", text);
    let plan = |options: &[&str]| {
        workspace
            .trajmill(&[&["plan", pipeline.as_str()][..], options].concat())
            .exits(0)
            .stdout
    };
    snapshot("plan_new", &plan(&[]));
    workspace.trajmill(&["run", &pipeline]).exits(0);
    snapshot("plan_nothing_to_do", &plan(&[]));
    snapshot("plan_made_otherwise", &plan(&["--set", "least=4"]));
    assert!(
        !workspace.path("out/.kept.staging").exists(),
        "a plan leaves nothing"
    );

    let json: serde_json::Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    let flow = &json["phases"][0]["selections"][0]["flow"];
    assert_eq!(flow["trajectories_in"], 40);
    assert_eq!(
        flow["trajectories_out"].as_u64().unwrap() as usize,
        workspace.ids("out/kept").len()
    );
    assert!(
        json["phases"][0]["sink"]["state"]
            .as_str()
            .unwrap()
            .starts_with("nothing to do")
    );
}

/// A summary without the time that this very run took.
fn timeless(summary: &str) -> String {
    let line = |line: &str| {
        if line.contains(" rows read per second") {
            "TIMES\n".to_owned()
        } else {
            format!("{line}\n")
        }
    };
    summary.lines().map(line).collect()
}

#[test]
fn summaries() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let done = workspace
        .trajmill(&["run", &pipeline, "--threads", "1"])
        .exits(0);
    assert_eq!(done.stdout, "", "stdout is for programs");
    snapshot("summary", &timeless(&done.stderr));
    let again = workspace.trajmill(&["run", &pipeline]).exits(0);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    let info = workspace.trajmill(&["info", "corpus"]).exits(0);
    snapshot("info", &info.stdout);
}

#[test]
fn several_pipelines_are_checked_at_once() {
    let workspace = Workspace::new();
    let good = workspace.pipeline("good", "  - filter: length > 1\n  - materialise: { OUT }\n");
    let bad = workspace.pipeline("bad", "  - filter: lengths > 1\n  - materialise: { OUT }\n");
    let done = workspace.trajmill(&["check", &bad, &good]).exits(3);
    assert!(
        done.stderr.contains("pipelines/good.yaml: no faults"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("pipelines/bad.yaml:4:13: "),
        "{}",
        done.stderr
    );
    workspace.trajmill(&["check", &good]).exits(0);
    assert!(workspace.names("out").is_empty(), "a check writes nothing");
}

#[test]
fn doctor_says_what_runs() {
    let workspace = Workspace::new();
    let done = workspace.trajmill(&["doctor"]).exits(0);
    assert!(done.stdout.contains("rten"), "{}", done.stdout);
    assert!(done.stdout.contains("onnxruntime"), "{}", done.stdout);
    let training = done
        .stdout
        .lines()
        .find(|line| line.starts_with("training "))
        .unwrap();
    assert!(
        training.ends_with("on the CPU: built without the Cargo feature `cuda`"),
        "{training}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let workspace = Workspace::new();
    let mut child = workspace.command(&["schema"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() || output.status.code().is_none(),
        "{output:?}"
    );
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("panicked"),
        "{output:?}"
    );
}
