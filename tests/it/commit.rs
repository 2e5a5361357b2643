//! Publishing: a result is visible whole or not at all, one run writes it at a time, and every byte
//! and row is accounted for.

use std::fs;

use serde_json::Value;

use super::support::{WHOLE, Workspace, corpus, mix, runtime};

fn sum(counts: &Value) -> u64 {
    counts
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum()
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
    let corpus: Value =
        serde_json::from_slice(&fs::read(workspace.path("corpus/dataset.json")).unwrap()).unwrap();
    for pipeline in [whole, cut] {
        let report = workspace
            .trajmill(&["run", &pipeline, "--json"])
            .exits(0)
            .json();
        let output = &report["outputs"][0];
        let stages = output["stages"].as_array().unwrap();
        assert!(stages.len() >= 4, "{report}");
        let mut rows = corpus["statistics"]["rows"].as_u64().unwrap();
        let mut trajectories = corpus["statistics"]["trajectories"].as_u64().unwrap();
        let mut dropped = 0;
        for stage in stages {
            let count = |key: &str| stage[key].as_u64().unwrap();
            assert_eq!(
                count("rows_in"),
                rows,
                "a stage does not get the rows of the one before: {stage}"
            );
            assert_eq!(count("trajectories_in"), trajectories, "{stage}");
            assert_eq!(
                count("rows_in") + count("added_rows"),
                count("rows_out") + sum(&stage["dropped_rows"]),
                "{stage}"
            );
            (rows, trajectories) = (count("rows_out"), count("trajectories_out"));
            dropped += sum(&stage["dropped_rows"]);
        }
        assert!(
            dropped > 0,
            "the pipeline drops no row, so it shows nothing"
        );
        assert_eq!(output["statistics"]["rows"], rows);
        assert_eq!(output["statistics"]["trajectories"], trajectories);
        assert_eq!(report["rows_read"], corpus["statistics"]["rows"]);
        // The manifest has the same counts.
        let path = workspace.path(output["path"].as_str().unwrap());
        let manifest: Value =
            serde_json::from_slice(&fs::read(path.join("dataset.json")).unwrap()).unwrap();
        assert_eq!(manifest["lineage"]["stages"], output["stages"]);
        let shards = manifest["shards"].as_array().unwrap();
        assert_eq!(
            shards
                .iter()
                .map(|shard| shard["steps"]["rows"].as_u64().unwrap())
                .sum::<u64>(),
            rows
        );
    }
}

#[test]
fn the_summary_says_why_trajectories_were_dropped() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline(
        "cut",
        "  - filter: { steps: \"trajectory_id > 9\" }\n  - materialise: { OUT }\n",
    );
    let done = workspace.trajmill(&["run", &pipeline]).exits(0);
    assert!(
        done.stderr.contains("10 trajectories: no step is left"),
        "{}",
        done.stderr
    );
}

/// Rewards may be NaN or infinite; the manifest is JSON, which has no numbers for those.
#[test]
fn nan_and_infinite_rewards_are_written_and_read() {
    let workspace = Workspace::new();
    let stages = r#"
  - derive: { reward: "REWARD" }
  - materialise: { OUT, shard_rows: 100 }
"#;
    let copy =
        "trajmill: 1\nsource: ../out/NAME\nstages:\n  - materialise: { path: ../out/from-NAME }";
    for (name, reward) in [
        ("nan", "cast('NaN' as float)"),
        ("inf", "cast('-inf' as double)"),
        ("much", "1e308"),
    ] {
        let pipeline = workspace.pipeline(name, &stages.replace("REWARD", reward));
        let report = workspace
            .trajmill(&["run", &pipeline, "--json"])
            .exits(0)
            .json();
        let out = format!("out/{name}");
        let sum = &report["outputs"][0]["statistics"]["returns"]["sum"];
        assert!(
            [Some("NaN"), Some("-inf"), Some("inf")].contains(&sum.as_str()),
            "{name}: {sum}"
        );
        workspace.trajmill(&["info", &out, "--verify"]).exits(0);
        workspace.trajmill(&["run", &pipeline]).exits(0);
        let from = workspace.write("from", &copy.replace("NAME", name));
        workspace.trajmill(&["run", &from]).exits(0);
    }
}

#[test]
fn sources_with_one_name_are_distinguished_by_their_paths() {
    let workspace = Workspace::new();
    for (place, trajectories) in [("first", 3), ("second", 5)] {
        corpus(&workspace.path(place).join("train"), trajectories, 4, 1);
    }
    let text = r#"
trajmill: 1
source: [../first/train, ../second/train]
stages:
  - materialise: { path: ../out/both }
"#;
    let pipeline = workspace.write("both", text);
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let sql = "select source, count(*) from trajectories group by source order by source";
    let done = workspace
        .trajmill(&["sql", "out/both", "--format", "csv", "-c", sql])
        .exits(0);
    assert_eq!(
        done.stdout.lines().skip(1).collect::<Vec<_>>(),
        ["../first/train,3", "../second/train,5"]
    );
}

#[test]
fn the_runtime_is_printed_and_recorded() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("whole", WHOLE);
    let done = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
    let expected = runtime();
    assert!(done.stderr.contains(&expected), "{}", done.stderr);
    let report = done.json();
    assert_eq!(report["runtime"]["name"], expected.as_str());
    let manifest: Value =
        serde_json::from_slice(&fs::read(workspace.path("out/whole/dataset.json")).unwrap())
            .unwrap();
    assert_eq!(manifest["lineage"]["runtime"], report["runtime"]);
    let hash = blake3::hash(&fs::read(workspace.path("models/mlp.onnx")).unwrap())
        .to_hex()
        .to_string();
    let inputs = manifest["lineage"]["inputs"].to_string();
    assert!(
        inputs.contains(&hash),
        "the model's hash is not in the lineage: {inputs}"
    );
}

/// No machine can hold this batch. The model is in the second phase and is opened before the first.
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
    assert!(
        done.stderr.contains("out of memory: a batch of "),
        "{}",
        done.stderr
    );
    assert!(
        workspace.tree("out").is_empty(),
        "the first phase ran: {:?}",
        workspace.tree("out")
    );
}

#[test]
fn a_flipped_bit_is_reported_with_its_file() {
    let workspace = Workspace::new();
    workspace.trajmill(&["info", "corpus", "--verify"]).exits(0);
    let pipeline = workspace.pipeline("copy", "  - materialise: { OUT }\n");
    for victim in [
        "corpus/steps/00002.parquet",
        "corpus/trajectories/00001.parquet",
    ] {
        let whole = fs::read(workspace.path(victim)).unwrap();
        let mut torn = whole.clone();
        torn[whole.len() / 3] ^= 1;
        fs::write(workspace.path(victim), torn).unwrap();
        for arguments in [
            vec!["run", pipeline.as_str()],
            vec!["info", "corpus", "--verify"],
        ] {
            let done = workspace.trajmill(&arguments).exits(1);
            assert!(
                done.stderr.contains(victim.trim_start_matches("corpus/")),
                "{arguments:?} does not name {victim}:\n{}",
                done.stderr
            );
        }
        assert!(!workspace.path("out/copy").exists());
        fs::write(workspace.path(victim), whole).unwrap();
    }
    workspace.trajmill(&["run", &pipeline]).exits(0);
    assert_eq!(workspace.names("out"), ["copy"]);
    assert_eq!(
        workspace.tree("out/copy").keys().collect::<Vec<_>>(),
        [
            "dataset.json",
            "steps/00000.parquet",
            "trajectories/00000.parquet"
        ]
    );
}

#[test]
fn a_check_before_an_intermediate_applies_to_the_result() {
    let workspace = Workspace::new();
    // The filter needs what `summarise` computes, so the stages before it, and the check with them,
    // are in a phase of their own.
    let stages = r#"
  - check: [ "count(*) > LEAST" ]
  - summarise: { mean_reward: avg(reward) }
  - filter: mean_reward > -1e9
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("staged", &stages.replace("LEAST", "1000000"));
    let done = workspace.trajmill(&["run", &pipeline]).exits(4);
    assert!(
        done.stderr.contains("count(*) > 1000000"),
        "{}",
        done.stderr
    );
    assert!(workspace.names("out").is_empty());
    workspace.pipeline("staged", &stages.replace("LEAST", "0"));
    workspace.trajmill(&["run", &pipeline]).exits(0);
}

#[test]
fn a_failed_check_publishes_nothing() {
    let workspace = Workspace::new();
    let stages = r#"
  - check:
      steps: [ "count(*) > 0", "max(step) < 3" ]
      trajectories: [ "count(*) = 40" ]
      warn: WARN
  - materialise: { OUT }
"#;
    let pipeline = workspace.pipeline("checked", &stages.replace("WARN", "false"));
    let done = workspace.trajmill(&["run", &pipeline]).exits(4);
    assert!(done.stderr.contains("max(step) < 3"), "{}", done.stderr);
    assert!(
        !done.stderr.contains("count(*)"),
        "a check that holds is reported:\n{}",
        done.stderr
    );
    assert!(
        workspace.names("out").is_empty(),
        "{:?}",
        workspace.names("out")
    );

    workspace.pipeline("checked", &stages.replace("WARN", "true"));
    let done = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
    assert!(done.stderr.contains("max(step) < 3"), "{}", done.stderr);
    assert_eq!(
        done.json()["outputs"][0]["warnings"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(workspace.names("out"), ["checked"]);
}

#[test]
fn a_directory_that_trajmill_did_not_write_is_never_replaced() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("mine", "  - materialise: { OUT, overwrite: true }\n");
    fs::create_dir_all(workspace.path("out/mine")).unwrap();
    fs::write(workspace.path("out/mine/thesis.tex"), "ten years").unwrap();
    let done = workspace.trajmill(&["run", &pipeline, "--fresh"]).exits(1);
    assert!(
        done.stderr.contains("was not written by trajmill"),
        "{}",
        done.stderr
    );
    assert_eq!(
        fs::read_to_string(workspace.path("out/mine/thesis.tex")).unwrap(),
        "ten years"
    );
    assert_eq!(workspace.names("out"), ["mine"]);
}

#[test]
fn a_failed_run_leaves_no_output() {
    // Division by zero at step 0: the message names trajectory and step.
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline(
        "labels",
        "  - derive: { ratio: 10 / step }\n  - materialise: { OUT }\n",
    );
    let done = workspace.trajmill(&["run", &pipeline]).exits(1);
    assert!(
        done.stderr.contains("trajectory 0, step 0"),
        "{}",
        done.stderr
    );
    assert!(!workspace.path("out/labels").exists());
}

#[test]
fn a_damaged_result_is_not_reused() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline(
        "kept",
        "  - filter: length >= 3\n  - materialise: { OUT, shard_rows: 60 }\n",
    );
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let whole = workspace.tree("out");
    let shard = workspace.path("out/kept/steps/00001.parquet");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let torn = workspace.trajmill(&["run", &pipeline]).exits(1);
    fs::remove_file(&shard).unwrap();
    let gone = workspace.trajmill(&["run", &pipeline]).exits(1);
    for done in [torn, gone] {
        assert!(
            done.stderr.contains("steps/00001.parquet") && done.stderr.contains("--fresh"),
            "{}",
            done.stderr
        );
    }
    workspace.trajmill(&["run", &pipeline, "--fresh"]).exits(0);
    assert_eq!(workspace.tree("out"), whole);
}

/// A manifest may come from anywhere, so it must not lead to files outside of its dataset.
#[test]
fn a_manifest_cannot_name_files_outside_of_its_dataset() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("copy", "  - materialise: { OUT }\n");
    let path = workspace.path("corpus/dataset.json");
    let honest = fs::read_to_string(&path).unwrap();
    let absolute = workspace
        .path("corpus/steps/00000.parquet")
        .display()
        .to_string();
    for (named, says) in [
        ("../models/copy.onnx", "outside the dataset"),
        (&absolute, "outside the dataset"),
        ("steps/00001.parquet", "twice"),
    ] {
        fs::write(&path, honest.replace("steps/00000.parquet", named)).unwrap();
        let commands: [&[&str]; 4] = [
            &["run", &pipeline],
            &["info", "corpus"],
            &["sql", "corpus", "-c", "select 1"],
            &["validate", "corpus"],
        ];
        for arguments in commands {
            let done = workspace.trajmill(arguments);
            assert!(
                [Some(1), Some(3), Some(4)].contains(&done.code),
                "{arguments:?}: {done:?}"
            );
            assert!(
                format!("{}{}", done.stdout, done.stderr).contains(says),
                "{arguments:?}: {done:?}"
            );
        }
    }
    assert!(workspace.names("out").is_empty());
}

/// A run that reads a dataset with a flipped bit fails, wherever the bit is, and every command ends
/// with an error and without a panic.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let workspace = Workspace::with(12, 8, 2);
    let pipeline = workspace.pipeline("copy", "  - materialise: { OUT }\n");
    let files = [
        "steps/00000.parquet",
        "steps/00001.parquet",
        "trajectories/00000.parquet",
        "trajectories/00001.parquet",
    ];
    for (index, file) in files.iter().enumerate() {
        let path = workspace.path("corpus").join(file);
        let whole = fs::read(&path).unwrap();
        for case in 0..24 {
            let seed = mix((index * 1000 + case) as u64);
            let mut flipped = whole.clone();
            // Half of the bits are in the footer, which decoders trust most.
            let at = if case % 2 == 0 {
                seed as usize % whole.len()
            } else {
                whole.len() - 1 - seed as usize % (whole.len() / 8).max(16)
            };
            flipped[at] ^= 1 << (seed >> 40 & 7);
            fs::write(&path, &flipped).unwrap();
            let when = format!("bit {} of byte {at} of {file}", seed >> 40 & 7);
            let commands: [&[&str]; 3] = [
                &["run", &pipeline],
                &["info", "corpus", "--verify"],
                &[
                    "sql",
                    "corpus",
                    "-c",
                    "select sum(reward) from steps join trajectories using (trajectory_id)",
                ],
            ];
            for arguments in commands {
                let done = workspace.trajmill(arguments);
                assert!(
                    !done.stderr.contains("unexpectedly"),
                    "{when}, {arguments:?}: {done:?}"
                );
                let found = matches!(done.code, Some(1 | 3));
                // A column whose name is damaged is unknown to a query.
                assert!(
                    found || arguments[0] == "sql" && done.code == Some(2),
                    "{when}, {arguments:?}: {done:?}"
                );
            }
            assert!(
                workspace
                    .names("out")
                    .iter()
                    .all(|name| name.starts_with('.')),
                "{when}: a result was published"
            );
        }
        fs::write(&path, whole).unwrap();
    }
    workspace.trajmill(&["run", &pipeline]).exits(0);
}

#[test]
fn a_source_is_never_overwritten_not_even_through_links() {
    let workspace = Workspace::new();
    std::os::unix::fs::symlink(workspace.path(""), workspace.path("around")).unwrap();
    std::os::unix::fs::symlink(workspace.path("corpus"), workspace.path("alias")).unwrap();
    let before = workspace.tree("corpus");
    let cases = [
        ("../corpus", "../around/corpus", "is one of the sources"),
        ("../alias", "../corpus", "is one of the sources"),
        ("../alias", "../alias", "is one of the sources"),
        (
            "../corpus",
            "../corpus/result",
            "lies inside one of the sources",
        ),
        (
            "../alias",
            "../around/corpus/new/result",
            "lies inside one of the sources",
        ),
    ];
    for (source, output, says) in cases {
        let stages = "  - filter: length > 2\n  - materialise: { path: OUTPUT, overwrite: true }\n"
            .replace("OUTPUT", output);
        let pipeline = workspace.write(
            "over",
            &format!("trajmill: 1\nsource: {source}\nstages:\n{stages}"),
        );
        let done = workspace.trajmill(&["run", &pipeline]).exits(3);
        assert!(
            done.stderr.contains(says),
            "{source} to {output}: {}",
            done.stderr
        );
    }
    assert_eq!(workspace.tree("corpus"), before);
    // A link at the output's path is replaced, and its target stays as it is.
    workspace
        .trajmill(&["import", "corpus/steps", "elsewhere", "--from", "parquet"])
        .exits(0);
    let kept = workspace.tree("elsewhere");
    std::os::unix::fs::symlink(workspace.path("elsewhere"), workspace.path("link")).unwrap();
    let text = r#"
trajmill: 1
source: ../corpus
stages:
  - materialise: { path: ../link, overwrite: true }
"#;
    let pipeline = workspace.write("link", text);
    workspace.trajmill(&["run", &pipeline]).exits(0);
    assert!(!workspace.path("link").is_symlink());
    assert_eq!(workspace.tree("elsewhere"), kept);
}

/// Six runs of one pipeline begin together. A run that does not write the result finds it, or names
/// the process that writes it.
#[test]
fn of_many_runs_one_writes_the_output() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline(
        "raced",
        "  - filter: length >= 3\n  - materialise: { OUT, shard_rows: 100 }\n",
    );
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let expected = workspace.tree("out");
    let mut waited = 0;
    for round in 0..12 {
        workspace.clear();
        let runs: Vec<_> = (0..6)
            .map(|_| {
                workspace
                    .command(&["run", &pipeline, "--threads", "1"])
                    .spawn()
                    .unwrap()
            })
            .collect();
        let mut done = 0;
        for run in runs {
            let output = run.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => done += 1,
                Some(1) if said.contains("is being written by process") => waited += 1,
                other => panic!("round {round}: {other:?}: {said}"),
            }
        }
        assert!(done >= 1, "round {round}: no run wrote the result");
        assert_eq!(workspace.tree("out"), expected, "round {round}");
        assert_eq!(workspace.names("out"), ["raced"], "round {round}");
    }
    assert!(waited > 0, "no two runs met");
}

mod faults {
    use super::{WHOLE, Workspace};
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::Child;
    use std::time::{Duration, Instant};

    /// Starts a command that stops itself at its operation `at`, and waits until it has.
    fn stopping(workspace: &Workspace, arguments: &[&str], at: usize) -> Child {
        let child = workspace
            .command(arguments)
            .env("TRAJMILL_FAULT", format!("stop:{at}"))
            .spawn()
            .unwrap();
        stopped(child.id());
        child
    }

    fn signal(child: &Child, signals: &[Signal]) {
        signals
            .iter()
            .for_each(|signal| kill_process(Pid::from_child(child), *signal).unwrap());
    }

    #[test]
    fn an_interrupted_run_says_so_and_resumes() {
        let workspace = Workspace::new();
        let pipeline = workspace.pipeline("whole", WHOLE);
        workspace.trajmill(&["run", &pipeline]).exits(0);
        let expected = workspace.tree("out");
        let mut resumed = 0;
        for (at, wish) in [(25, Signal::INT), (60, Signal::INT), (60, Signal::TERM)] {
            workspace.clear();
            let child = stopping(&workspace, &["run", &pipeline, "--threads", "1"], at);
            signal(&child, &[wish, Signal::CONT]);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{said}");
            assert!(
                said.contains("tasks finished") && said.contains("run the same command again"),
                "{said}"
            );
            assert!(!workspace.path("out/whole").exists());
            let again = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
            resumed += again.json()["outputs"][0]["tasks_resumed"]
                .as_u64()
                .unwrap();
            assert_eq!(workspace.tree("out"), expected, "interrupted at {at}");
        }
        assert!(resumed > 0, "no task of an interrupted run was kept");
    }

    #[test]
    fn an_interrupted_import_leaves_nothing() {
        let workspace = Workspace::new();
        let child = stopping(
            &workspace,
            &[
                "import",
                "corpus/steps",
                "out/log",
                "--from",
                "parquet",
                "--shard-rows",
                "50",
            ],
            20,
        );
        signal(&child, &[Signal::INT, Signal::CONT]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(130),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            workspace.names("out").is_empty(),
            "{:?}",
            workspace.names("out")
        );
    }

    #[test]
    fn an_interrupted_export_leaves_nothing() {
        let workspace = Workspace::new();
        for format in ["d4rl", "minari"] {
            let child = stopping(
                &workspace,
                &[
                    "export",
                    "corpus",
                    "out/log",
                    "--to",
                    format,
                    "--unlabelled",
                    "drop",
                ],
                6,
            );
            signal(&child, &[Signal::INT, Signal::CONT]);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{format}: {said}");
            assert!(
                said.contains("interrupted: nothing was written"),
                "{format}: {said}"
            );
            assert!(
                workspace.names("out").is_empty(),
                "{format}: {:?}",
                workspace.names("out")
            );
        }
    }

    /// NFS, Lustre and FUSE file systems have no renames that refuse to replace a file, or that
    /// exchange two.
    #[test]
    fn plain_renames_suffice() {
        let workspace = Workspace::new();
        let stages = r#"
  - filter: length >= LEAST
  - materialise: { OUT, overwrite: true, format: FORMAT }
"#;
        for format in ["trajmill", "arrow", "d4rl"] {
            let with = |least: &str| {
                workspace.pipeline(
                    "plain",
                    &stages.replace("LEAST", least).replace("FORMAT", format),
                )
            };
            let run = |pipeline: &str| {
                let output = workspace
                    .command(&["run", pipeline])
                    .env("TRAJMILL_FAULT", "plain-renames")
                    .output()
                    .unwrap();
                assert!(
                    output.status.success(),
                    "{format}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            };
            let pipeline = with("4");
            workspace.trajmill(&["run", &pipeline]).exits(0);
            let four = workspace.tree("out");
            workspace.clear();
            run(&pipeline);
            assert_eq!(workspace.tree("out"), four, "{format}: to a new path");
            with("3");
            run(&pipeline);
            assert_ne!(workspace.tree("out"), four, "{format}");
            with("4");
            run(&pipeline);
            assert_eq!(workspace.tree("out"), four, "{format}: over another result");
            assert_eq!(
                workspace.names("out"),
                ["plain"],
                "{format}: files are left beside it"
            );
            workspace.clear();
        }
    }

    /// Waits until a signal has stopped the process.
    fn stopped(id: u32) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            if status
                .rsplit_once(')')
                .unwrap()
                .1
                .trim_start()
                .starts_with('T')
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("process {id} did not stop");
    }

    #[test]
    fn a_second_run_on_one_output_is_refused() {
        let workspace = Workspace::new();
        let pipeline = workspace.pipeline("whole", WHOLE);
        workspace.trajmill(&["run", &pipeline]).exits(0);
        let expected = workspace.tree("out");
        workspace.clear();

        let mut first = stopping(&workspace, &["run", &pipeline], 20);
        let second = workspace.trajmill(&["run", &pipeline]).exits(1);
        let holder = format!("being written by process {}", first.id());
        assert!(
            second.stderr.contains(&holder),
            "{holder:?} is not in\n{}",
            second.stderr
        );
        let fresh = workspace.trajmill(&["run", &pipeline, "--fresh"]).exits(1);
        assert!(
            fresh.stderr.contains(&holder),
            "--fresh takes the output from another run:\n{}",
            fresh.stderr
        );

        signal(&first, &[Signal::CONT]);
        assert!(first.wait().unwrap().success());
        assert_eq!(workspace.tree("out"), expected);
        let third = workspace.trajmill(&["run", &pipeline, "--json"]).exits(0);
        assert_eq!(third.json()["reused"], true);
    }
}
