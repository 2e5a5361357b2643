//! The same inputs, pipeline and seed give the same bytes; a result is reused exactly if everything
//! that it depends on is the same.

use super::support::{WHOLE, Workspace, corpus};

/// The files that a run of `pipeline` writes with this number of threads.
fn bytes(
    workspace: &Workspace,
    pipeline: &str,
    threads: &str,
) -> std::collections::BTreeMap<String, String> {
    workspace.clear();
    workspace
        .trajmill(&["run", pipeline, "--threads", threads])
        .exits(0);
    let tree = workspace.tree("out");
    assert!(
        tree.len() > 6,
        "the result has too few shards to show anything: {tree:?}"
    );
    tree
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let one = bytes(&workspace, &pipeline, "1");
    for threads in ["2", "7"] {
        assert_eq!(
            bytes(&workspace, &pipeline, threads),
            one,
            "with {threads} threads"
        );
    }
}

/// Delays wherever workers share something change the order in which they finish, and no byte.
#[test]
fn bytes_do_not_depend_on_timing() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let undisturbed = bytes(&workspace, &pipeline, "1");
    for seed in ["delay:1", "delay:2", "delay:3"] {
        workspace.clear();
        let run = workspace
            .command(&["run", &pipeline, "--threads", "4"])
            .env("TRAJMILL_FAULT", seed)
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        assert_eq!(workspace.tree("out"), undisturbed, "{seed}");
    }
}

#[test]
fn bytes_do_not_depend_on_the_memory_budget() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let free = bytes(&workspace, &pipeline, "2");
    workspace.clear();
    workspace
        .trajmill(&["run", &pipeline, "--threads", "2", "--memory", "1M"])
        .exits(0);
    assert_eq!(workspace.tree("out"), free);
}

#[test]
fn a_result_is_reused_exactly_if_nothing_changed() {
    let workspace = Workspace::new();
    let stages = "  - filter: return > ${least}\n  - materialise: { path: ../out/kept }\n";
    let text = format!("trajmill: 1\nparams: {{ least: 2 }}\nsource: ../corpus\nstages:\n{stages}");
    let pipeline = workspace.write("kept", &text);
    let first = workspace
        .trajmill(&["run", &pipeline, "--json"])
        .exits(0)
        .json();
    assert_eq!(first["reused"], false);
    let before = workspace.tree("out");

    let again = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
    assert_eq!(again.json()["reused"], true);
    assert_eq!(
        again.json()["outputs"][0]["manifest"],
        first["outputs"][0]["manifest"]
    );
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);

    // No result depends on a comment.
    workspace.write("kept", &format!("# why two\n{text}"));
    assert_eq!(
        workspace
            .trajmill(&["run", &pipeline, "--json"])
            .exits(0)
            .json()["reused"],
        true
    );

    // A parameter matters: the message names the stage that it changed, and the old result stays.
    let changed = workspace
        .trajmill(&["run", &pipeline, "--set", "least=3"])
        .exits(1);
    for part in [
        "out/kept",
        "was made from different inputs",
        "stage 1 filter",
        "return > 2",
        "return > 3",
        "overwrite: true",
    ] {
        assert!(
            changed.stderr.contains(part),
            "{part:?} is not in\n{}",
            changed.stderr
        );
    }
    assert_eq!(workspace.tree("out"), before);

    workspace.write(
        "kept",
        &text.replace("../out/kept }", "../out/kept, overwrite: true }"),
    );
    workspace
        .trajmill(&["run", &pipeline, "--set", "least=3"])
        .exits(0);
    assert_ne!(workspace.tree("out"), before);
    assert_eq!(
        workspace.names("out"),
        ["kept"],
        "the staging directory is left"
    );
    workspace
        .trajmill(&["run", &pipeline, "--set", "least=2"])
        .exits(0);
    assert_eq!(
        workspace.tree("out")["kept/steps/00000.parquet"],
        before["kept/steps/00000.parquet"]
    );
}

#[test]
fn fresh_repeats_the_work_and_gives_the_same_bytes() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("kept", "  - filter: return > 2\n  - materialise: { OUT }\n");
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let before = workspace.tree("out");
    // Without `overwrite: true` this works only because the result is the same.
    let fresh = workspace
        .trajmill(&["run", &pipeline, "--fresh", "--json"])
        .exits(0)
        .json();
    assert_eq!(fresh["reused"], false);
    assert_eq!(workspace.tree("out"), before);
}

#[test]
fn a_changed_input_or_model_is_named() {
    let workspace = Workspace::new();
    let stages = r#"
  - hide_actions: { keep: 0.5 }
  - label: { model: ../models/mlp.onnx, window: { past: 1, future: 1 } }
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("out", stages);
    workspace.trajmill(&["run", &pipeline]).exits(0);
    std::fs::copy(
        workspace.path("models/mlp_b.onnx"),
        workspace.path("models/mlp.onnx"),
    )
    .unwrap();
    let changed = workspace.trajmill(&["run", &pipeline]).exits(1);
    assert!(
        changed.stderr.contains("stage 2 label"),
        "{}",
        changed.stderr
    );
    assert!(changed.stderr.contains("mlp.onnx"), "{}", changed.stderr);
    assert!(!changed.stderr.contains("source 1"), "{}", changed.stderr);

    std::fs::remove_dir_all(workspace.path("corpus")).unwrap();
    corpus(&workspace.path("corpus"), 39, 12, 4);
    let changed = workspace.trajmill(&["run", &pipeline]).exits(1);
    assert!(changed.stderr.contains("source 1"), "{}", changed.stderr);
}

#[test]
fn selections_do_not_depend_on_shards() {
    // Every stage that draws or ranks, with ties, and with copies that get new ids.
    let stages = r#"
  - hide_actions: { keep: 0.3, from: { highest: 0.8, by: length }, seed: 1 }
  - filter: length >= 2
  - subsample: { fraction: 0.8, stratify: split, seed: 2 }
  - subsample: { count: 20, weight: "return + 5", replacement: true, seed: 3 }
  - subsample: { count: 12, top: { by: "length % 4" } }
  - materialise: { OUT, shard_rows: 40 }
"#;
    let mut results = Vec::new();
    for shards in [1, 5, 13] {
        let workspace = Workspace::with(40, 12, shards);
        let pipeline = workspace.pipeline("chosen", stages);
        workspace.trajmill(&["run", &pipeline]).exits(0);
        let mut tree = workspace.tree("out/chosen");
        tree.remove("dataset.json")
            .expect("a manifest, which names its sources");
        results.push((workspace.ids("out/chosen"), tree));
    }
    assert_eq!(results[0].0.len(), 12);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}
