//! Publishing: whole or not at all, one run at a time, every byte and every row accounted for.

use std::fs;

use serde_json::Value;

use super::support::{WHOLE, Workspace, runtime};

fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

#[test]
fn every_row_is_accounted_for() {
    let workspace = Workspace::new();
    let whole = workspace.pipeline("whole", WHOLE);
    let cut = r#"
  - filter: { trajectories: "length >= 3", steps: "reward > 0.1" }
  - subsample: { stride: 2 }
  - subsample: { count: 60, replacement: true, seed: 4 }
  - materialise: { OUT }
"#;
    let cut = workspace.pipeline("cut", cut);
    let corpus: Value = serde_json::from_slice(&fs::read(workspace.path("corpus/dataset.json")).unwrap()).unwrap();
    for pipeline in [whole, cut] {
        let report = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0).json();
        let output = &report["outputs"][0];
        let stages = output["stages"].as_array().unwrap();
        assert!(stages.len() >= 4, "{report}");
        let mut rows = corpus["statistics"]["rows"].as_u64().unwrap();
        let mut trajectories = corpus["statistics"]["trajectories"].as_u64().unwrap();
        let mut dropped = 0;
        for stage in stages {
            let count = |key: &str| stage[key].as_u64().unwrap();
            assert_eq!(count("rows_in"), rows, "what one stage lets through, the next one gets: {stage}");
            assert_eq!(count("trajectories_in"), trajectories, "{stage}");
            assert_eq!(count("rows_in") + count("added_rows"), count("rows_out") + sum(&stage["dropped_rows"]), "{stage}");
            (rows, trajectories) = (count("rows_out"), count("trajectories_out"));
            dropped += sum(&stage["dropped_rows"]);
        }
        assert!(dropped > 0, "a pipeline that drops nothing shows nothing");
        assert_eq!(output["statistics"]["rows"], rows);
        assert_eq!(output["statistics"]["trajectories"], trajectories);
        assert_eq!(report["rows_read"], corpus["statistics"]["rows"]);
        // The dataset's own record says the same.
        let path = workspace.path(output["path"].as_str().unwrap());
        let manifest: Value = serde_json::from_slice(&fs::read(path.join("dataset.json")).unwrap()).unwrap();
        assert_eq!(manifest["lineage"]["stages"], output["stages"]);
        let shards = manifest["shards"].as_array().unwrap();
        assert_eq!(shards.iter().map(|shard| shard["steps"]["rows"].as_u64().unwrap()).sum::<u64>(), rows);
    }
}

#[test]
fn what_ran_is_said_and_recorded() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let done = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
    let expected = runtime();
    assert!(done.stderr.contains(&expected), "{}", done.stderr);
    let report = done.json();
    assert_eq!(report["runtime"]["name"], expected.as_str());
    let manifest: Value = serde_json::from_slice(&fs::read(workspace.path("out/whole/dataset.json")).unwrap()).unwrap();
    assert_eq!(manifest["lineage"]["runtime"], report["runtime"]);
    let hash = blake3::hash(&fs::read(workspace.path("models/mlp.onnx")).unwrap()).to_hex().to_string();
    let inputs = manifest["lineage"]["inputs"].to_string();
    assert!(inputs.contains(&hash), "the model's hash is in the lineage: {inputs}");
}

/// A batch that no machine holds, in a second phase: it is refused when the model is opened.
#[test]
fn a_model_that_cannot_run_stops_the_run_before_it_reads_a_row() {
    let workspace = Workspace::new();
    let stages = r#"
  - hide_actions: { keep: 0.2, from: { lowest: 0.6, by: return }, seed: 3 }
  - summarise: { best: "max(reward)" }
  - filter: best > 0
  - label: { model: ../models/mlp.onnx, window: { past: 1, future: 1 }, batch: 70368744177664 }
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("huge", stages);
    let plan = workspace.trajmill(&["plan", &pipeline]).exits(0);
    assert!(plan.stdout.contains("phase 2"), "{}", plan.stdout);
    let done = workspace.trajmill(&["run", &pipeline]).exits(1);
    assert!(done.stderr.contains("out of memory: a batch of 70368744177664 rows does not fit in memory"), "{}", done.stderr);
    assert!(workspace.tree("out").is_empty(), "the first phase was run: {:?}", workspace.tree("out"));
}

#[test]
fn a_flipped_byte_is_found() {
    let workspace = Workspace::new();
    workspace.trajmill(&["info", "corpus", "--verify"]).exits(0);
    let pipeline = workspace.pipeline("copy", "  - materialise: { OUT }\n");
    for victim in ["corpus/steps/00002.parquet", "corpus/trajectories/00001.parquet"] {
        let whole = fs::read(workspace.path(victim)).unwrap();
        let mut torn = whole.clone();
        torn[whole.len() / 3] ^= 1;
        fs::write(workspace.path(victim), torn).unwrap();
        for arguments in [vec!["run", pipeline.as_str()], vec!["info", "corpus", "--verify"]] {
            let done = workspace.trajmill(&arguments).exits(1);
            assert!(done.stderr.contains(victim.trim_start_matches("corpus/")), "{arguments:?} does not name {victim}:\n{}", done.stderr);
        }
        assert!(!workspace.path("out/copy").exists());
        fs::write(workspace.path(victim), whole).unwrap();
    }
    workspace.trajmill(&["run", &pipeline]).exits(0);
    assert_eq!(workspace.names("out"), ["copy"]);
    assert_eq!(
        workspace.tree("out/copy").keys().collect::<Vec<_>>(),
        ["dataset.json", "steps/00000.parquet", "trajectories/00000.parquet"]
    );
}

#[test]
fn a_check_ahead_of_a_staged_phase_is_about_the_result() {
    let workspace = Workspace::new();
    // The filter needs what `summarise` finds in the steps, so what comes before it is staged, and the check with it.
    let stages = r#"
  - check: [ "count(*) > LEAST" ]
  - summarise: { mean_reward: avg(reward) }
  - filter: mean_reward > -1e9
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("staged", &stages.replace("LEAST", "1000000"));
    let done = workspace.trajmill(&["run", &pipeline]).exits(4);
    assert!(done.stderr.contains("count(*) > 1000000"), "{}", done.stderr);
    assert!(workspace.names("out").is_empty());
    workspace.pipeline("staged", &stages.replace("LEAST", "0"));
    workspace.trajmill(&["run", &pipeline]).exits(0);
}

#[test]
fn a_failed_check_publishes_nothing() {
    let workspace = Workspace::new();
    let stages = r#"
  - check: { steps: [ "count(*) > 0", "max(step) < 3" ], trajectories: [ "count(*) = 40" ], warn: WARN }
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("checked", &stages.replace("WARN", "false"));
    let done = workspace.trajmill(&["run", &pipeline]).exits(4);
    assert!(done.stderr.contains("max(step) < 3"), "{}", done.stderr);
    assert!(!done.stderr.contains("count(*)"), "only what does not hold is said:\n{}", done.stderr);
    assert!(workspace.names("out").is_empty(), "{:?}", workspace.names("out"));

    workspace.pipeline("checked", &stages.replace("WARN", "true"));
    let done = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
    assert!(done.stderr.contains("max(step) < 3"), "{}", done.stderr);
    assert_eq!(done.json()["outputs"][0]["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(workspace.names("out"), ["checked"]);
}

#[test]
fn what_trajmill_did_not_make_is_left_alone() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("mine", "  - materialise: { OUT, overwrite: true }\n");
    fs::create_dir_all(workspace.path("out/mine")).unwrap();
    fs::write(workspace.path("out/mine/thesis.tex"), "ten years").unwrap();
    let done = workspace.trajmill(&["run", &pipeline, "--fresh"]).exits(1);
    assert!(done.stderr.contains("not a result of trajmill"), "{}", done.stderr);
    assert_eq!(fs::read_to_string(workspace.path("out/mine/thesis.tex")).unwrap(), "ten years");
    assert_eq!(workspace.names("out"), ["mine"]);
}

#[test]
fn a_failing_run_leaves_no_output() {
    // The expression cannot be computed on a row: the message names trajectory and step.
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("labels", "  - derive: { ratio: 10 / step }\n  - materialise: { OUT }\n");
    let done = workspace.trajmill(&["run", &pipeline]).exits(1);
    assert!(done.stderr.contains("trajectory") && done.stderr.contains("step"), "{}", done.stderr);
    assert!(!workspace.path("out/labels").exists());
}

#[cfg(feature = "faults")]
mod faults {
    use super::{WHOLE, Workspace};
    use std::time::{Duration, Instant};

    /// Waits until the process with this id has been stopped by a signal.
    fn stopped(id: u32) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            if status.rsplit_once(')').unwrap().1.trim_start().starts_with('T') {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("process {id} did not stop");
    }

    #[test]
    fn of_two_runs_on_one_output_one_wins() {
        let workspace = Workspace::new();
        let pipeline = workspace.pipeline("whole", WHOLE);
        workspace.trajmill(&["run", &pipeline]).exits(0);
        let expected = workspace.tree("out");
        workspace.clear();

        let mut first = workspace.command(&["run", &pipeline]);
        let mut first = first.env("TRAJMILL_FAULT", "stop:20").spawn().unwrap();
        stopped(first.id());
        let second = workspace.trajmill(&["run", &pipeline]).exits(1);
        let holder = format!("being written by process {}", first.id());
        assert!(second.stderr.contains(&holder), "{holder:?} is not in\n{}", second.stderr);
        let fresh = workspace.trajmill(&["run", &pipeline, "--fresh"]).exits(1);
        assert!(fresh.stderr.contains(&holder), "not even --fresh takes it away:\n{}", fresh.stderr);

        rustix::process::kill_process(rustix::process::Pid::from_child(&first), rustix::process::Signal::CONT).unwrap();
        assert!(first.wait().unwrap().success());
        assert_eq!(workspace.tree("out"), expected);
        let third = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
        assert_eq!(third.json()["reused"], true);
    }
}
