//! What the commands print: help, plans, summaries.

use super::support::{WHOLE, Workspace, commands, runtime, snapshot};

#[test]
fn every_command_has_the_help_of_its_snapshot() {
    let workspace = Workspace::new();
    snapshot("help", &workspace.trajmill(&["--help"]).exits(0).stdout);
    for command in commands(&workspace) {
        let help = workspace.trajmill(&[&command, "--help"]).exits(0);
        snapshot(&format!("help_{command}"), &help.stdout);
    }
}

fn plan(workspace: &Workspace, name: &str, stages: &str) {
    let pipeline = workspace.pipeline("out", stages);
    let text = workspace.trajmill(&["plan", &pipeline]).exits(0).stdout;
    snapshot(&format!("plan_{name}"), &text);
}

#[test]
fn a_plan_shows_what_runs_in_which_order() {
    let workspace = Workspace::new();
    let label = "  - label: { model: ../models/mlp.onnx, window: { past: 1, future: 1 } }";
    // Both selections need only metadata, so `label` works on what they keep.
    let pushed = format!(
        r#"
  - hide_actions: {{ keep: 0.2, seed: 1 }}
{label}
  - filter: return > 3 and length >= 4
  - subsample: {{ fraction: 0.5, stratify: split, seed: 7 }}
  - materialise: {{ OUT, shard_rows: 30 }}
"#
    );
    plan(&workspace, "selections_ahead_of_label", &pushed);
    plan(&workspace, "second_phase", WHOLE);
    // The first filter changes rows, so the second cannot move ahead of it.
    let rows = r#"
  - filter: { steps: "reward > 0" }
  - filter: length >= 3
  - materialise: { OUT }
"#;
    plan(&workspace, "rows_change", rows);
    let middle = format!(
        r#"
  - filter: length >= 3
  - materialise: {{ path: ../out/first }}
{label}
  - materialise: {{ OUT, columns: [observation, action] }}
"#
    );
    plan(&workspace, "materialise_in_the_middle", &middle);
    // Observations are not read because no stage needs them.
    let narrow = r#"
  - derive: { total: "returns_to_go(reward, 1.0)" }
  - materialise: { OUT, columns: [total] }
"#;
    plan(&workspace, "columns_pruned", narrow);
    // A threshold over all steps needs a phase of its own; `normalise` needs only metadata.
    let quantile = r#"
  - normalise: { columns: [observation] }
  - filter: { quantile: { by: abs(reward), of: steps, below: 0.9 } }
  - materialise: { OUT }
"#;
    plan(&workspace, "a_fact_about_all_steps", quantile);
    // A row that is drawn twice is derived once, before the draw.
    let pairs = r#"
  - derive: { double: 2 * reward }
  - pairs: { length: 2, count: 30, reward: double }
  - materialise: { OUT }
"#;
    plan(&workspace, "pairs", pairs);
}

#[test]
fn a_plan_says_what_is_reused_and_why_not() {
    let workspace = Workspace::new();
    let text = r#"
trajmill: 1
params: { least: 3 }
source: ../corpus
stages:
  - filter: length >= ${least}
  - materialise: { path: ../out/kept }
"#;
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
        "a plan leaves files behind"
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

/// A summary whose line of times is replaced, because every run takes another time.
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
fn a_summary_accounts_for_every_stage() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let done = workspace
        .trajmill(&["run", &pipeline, "--threads", "1"])
        .exits(0);
    assert_eq!(done.stdout, "", "the summary is not on stderr");
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
    assert!(
        workspace.names("out").is_empty(),
        "a check leaves files behind"
    );
}

#[test]
fn doctor_names_the_runtime_in_use() {
    let workspace = Workspace::new();
    let done = workspace.trajmill(&["doctor"]).exits(0);
    let mut lines = done.stdout.lines();
    let in_use = lines.find_map(|line| line.strip_prefix("in use")).unwrap();
    assert!(in_use.trim().starts_with(&runtime()), "{in_use}");
    let training = "on the CPU: built without the Cargo feature `cuda`";
    assert!(done.stdout.contains(training), "{}", done.stdout);
}
