//! What commands do when bytes are not those that were hashed: in a dataset that is damaged, in one
//! that is replaced while it is read, in a model.

use std::fs;

use serde_json::Value;

use super::support::{Done, Workspace, corpus, mix};

const COPY: &str = "  - materialise: { OUT }\n";
/// Reads every value of both tables.
const ALL: [&str; 2] = ["select * from steps", "select * from trajectories"];

/// Every file of the dataset `corpus`, and the file's bytes.
fn files(workspace: &Workspace) -> Vec<(String, Vec<u8>)> {
    let names = workspace.tree("corpus").into_keys();
    names
        .map(|name| {
            let bytes = fs::read(workspace.path("corpus").join(&name)).unwrap();
            (name, bytes)
        })
        .collect()
}

fn says(done: &Done, text: &str) {
    assert!(done.stderr.contains(text), "no `{text}` in {done:?}");
}

/// The commands of which none may use a damaged file, by the files that they read.
fn readers(pipeline: &str) -> Vec<(&'static str, Vec<String>)> {
    let words = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
    vec![
        ("steps", words(&format!("sql|corpus|-c|{}", ALL[0]))),
        ("steps", words("sql|corpus|-c|select count(*) from steps")),
        ("trajectories", words(&format!("sql|corpus|-c|{}", ALL[1]))),
        ("", words("diff|corpus|other")),
        ("", words("diff|other|corpus")),
        ("", words("export|corpus|out/export|--to|d4rl")),
        ("trajectories", words("info|corpus|--picture|out.svg")),
        ("", words(&format!("run|{pipeline}"))),
    ]
}

#[test]
fn no_command_uses_a_flipped_bit() {
    let workspace = Workspace::with(12, 8, 2);
    corpus(&workspace.path("other"), 12, 8, 2);
    let pipeline = workspace.pipeline("copy", COPY);
    for (index, (file, whole)) in files(&workspace).into_iter().enumerate() {
        let path = workspace.path("corpus").join(&file);
        for case in 0..6 {
            let seed = mix((index * 1000 + case) as u64);
            let at = seed as usize % whole.len();
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (seed >> 40 & 7);
            fs::write(&path, &flipped).unwrap();
            for (reads, arguments) in readers(&pipeline) {
                if !file.starts_with(reads) && file != "dataset.json" {
                    continue;
                }
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let done = workspace.trajmill(&arguments);
                assert!(
                    // A column whose name is damaged is unknown to a query.
                    matches!(done.code, Some(1 | 3))
                        || arguments[0] == "sql" && done.code == Some(2),
                    "bit {} of byte {at} of {file}, {arguments:?}: {done:?}",
                    seed >> 40 & 7
                );
            }
            assert!(!workspace.path("out/copy").exists() && !workspace.path("out.svg").exists());
        }
        fs::write(&path, whole).unwrap();
    }
    workspace.trajmill(&["diff", "corpus", "other"]).exits(0);
}

#[test]
fn who_is_in_a_hurry_reads_without_hashes() {
    let workspace = Workspace::with(12, 8, 2);
    corpus(&workspace.path("other"), 12, 8, 2);
    let path = workspace.path("corpus/steps/00000.parquet");
    let bytes = fs::read(&path).unwrap();
    let manifest = workspace.path("corpus/dataset.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let wrong = text.replace(&hash, &"0".repeat(64));
    let end = wrong.rfind(",\n  \"checksum\"").unwrap();
    fs::write(&manifest, format!("{}\n}}\n", &wrong[..end])).unwrap();
    for arguments in [
        vec!["sql", "corpus", "-c", "select sum(reward) from steps"],
        vec!["diff", "corpus", "other"],
    ] {
        says(&workspace.trajmill(&arguments).exits(1), "is corrupt");
        let hurried = [arguments, vec!["--no-verify"]].concat();
        workspace.trajmill(&hurried).exits(0);
    }
    // A picture reads no steps.
    workspace
        .trajmill(&["info", "corpus", "--picture", "a.svg"])
        .exits(0);
    workspace
        .trajmill(&["info", "corpus", "--picture", "b.svg", "--no-verify"])
        .exits(0);
}

#[test]
fn the_manifest_is_verified_and_old_ones_are_read() {
    let workspace = Workspace::with(12, 8, 2);
    let path = workspace.path("corpus/dataset.json");
    let text = fs::read_to_string(&path).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert!(manifest["checksum"].is_string(), "{manifest}");
    let rows = manifest["statistics"]["rows"].to_string();
    let other = text.replacen(&format!("\"rows\": {rows}"), "\"rows\": 5", 1);
    assert_ne!(other, text);
    fs::write(&path, &other).unwrap();
    for arguments in [
        &["info", "corpus", "--verify"][..],
        &["info", "corpus"],
        &["sql", "corpus", "-c", "select 1"],
    ] {
        says(&workspace.trajmill(arguments).exits(1), "checksum");
    }
    // Without the checksum the text is that of an older version.
    let old = |text: &str| {
        format!(
            "{}\n}}\n",
            &text[..text.rfind(",\n  \"checksum\"").unwrap()]
        )
    };
    fs::write(&path, old(&text)).unwrap();
    let done = workspace.trajmill(&["info", "corpus", "--verify"]).exits(0);
    says(&done, "no checksum");
    fs::write(&path, old(&other)).unwrap();
    let done = workspace.trajmill(&["info", "corpus", "--verify"]).exits(1);
    says(&done, "the manifest lists 5 rows");
}

#[test]
fn verify_looks_at_everything_in_the_directory() {
    let workspace = Workspace::with(12, 8, 2);
    let verify = || workspace.trajmill(&["info", "corpus", "--verify"]);
    verify().exits(0);
    for extra in ["steps/00002.parquet", "notes.txt", "quarantine.jsonl"] {
        let path = workspace.path("corpus").join(extra);
        fs::write(&path, "x").unwrap();
        let done = verify().exits(1);
        says(&done, extra);
        says(&done, "is not a file of the dataset");
        fs::remove_file(path).unwrap();
    }
    // Counts that contradict the files, in a manifest whose checksum is right.
    let path = workspace.path("corpus/dataset.json");
    let text = fs::read_to_string(&path).unwrap();
    let start = &text[..text.rfind(",\n  \"checksum\"").unwrap()];
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let entry = &manifest["shards"][0]["steps"];
    let rows = format!("\"rows\": {},\n        \"bytes\"", entry["rows"]);
    assert!(start.contains(&rows), "{start}");
    let wrong = start.replacen(&rows, "\"rows\": 7,\n        \"bytes\"", 1);
    let hash = blake3::hash(wrong.as_bytes()).to_hex();
    let wrong = format!("{wrong},\n  \"checksum\": \"{hash}\"\n}}\n");
    fs::write(&path, wrong).unwrap();
    says(&verify().exits(1), "the manifest lists 7");
    fs::write(&path, text).unwrap();
    verify().exits(0);
    fs::remove_file(workspace.path("corpus/trajectories/00001.parquet")).unwrap();
    says(&verify().exits(1), "trajectories/00001.parquet is missing");
}

#[test]
fn verify_looks_at_what_was_set_aside() {
    let workspace = Workspace::with(4, 4, 1);
    let list = "{\"index\":0,\"reason\":\"it is bad\"}\n";
    let manifest = workspace.path("corpus/dataset.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let start = &text[..text.rfind(",\n  \"checksum\"").unwrap()];
    let hash = blake3::hash(list.as_bytes()).to_hex();
    let set_aside = format!("\"set_aside\": 1, \"quarantine\": \"{hash}\", \"inputs\"");
    let start = start.replacen("\"inputs\"", &set_aside, 1);
    let hash = blake3::hash(start.as_bytes()).to_hex();
    fs::write(
        &manifest,
        format!("{start},\n  \"checksum\": \"{hash}\"\n}}\n"),
    )
    .unwrap();
    let verify = || workspace.trajmill(&["info", "corpus", "--verify"]);
    says(&verify().exits(1), "quarantine.jsonl is missing");
    let path = workspace.path("corpus/quarantine.jsonl");
    fs::write(&path, list).unwrap();
    verify().exits(0);
    fs::write(&path, list.replace("bad", "sad")).unwrap();
    says(&verify().exits(1), "quarantine.jsonl is corrupt");
}

#[test]
fn run_verifies_a_result_that_is_there() {
    let workspace = Workspace::with(12, 8, 2);
    let pipeline = workspace.pipeline("copy", COPY);
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let whole = workspace.tree("out");
    workspace.trajmill(&["run", &pipeline, "--verify"]).exits(0);
    for file in [
        "steps/00000.parquet",
        "trajectories/00000.parquet",
        "dataset.json",
    ] {
        let path = workspace.path("out/copy").join(file);
        let right = fs::read(&path).unwrap();
        let mut bytes = right.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let done = workspace.trajmill(&["run", &pipeline, "--verify"]).exits(1);
        says(
            &done,
            if file == "dataset.json" {
                "out/copy"
            } else {
                file
            },
        );
        assert!(!done.stderr.contains("nothing to do"), "{done:?}");
        if file == "dataset.json" {
            fs::write(&path, right).unwrap();
        } else {
            says(&done, "--fresh");
            workspace.trajmill(&["run", &pipeline, "--fresh"]).exits(0);
        }
        assert_eq!(workspace.tree("out"), whole);
    }
}

const TRAIN: &str = "  - hide_actions: { keep: 0.5, seed: 1 }
  - train_idm: { out: ../out/idm.onnx, steps: 20, hidden: [8] }
";
const LABEL: &str = "  - label: { model: ../out/idm.onnx }\n";

#[test]
fn a_trained_model_that_is_damaged_is_not_used() {
    let workspace = Workspace::with(40, 12, 2);
    let train = workspace.pipeline("train", TRAIN);
    let label = workspace.pipeline("label", &format!("{TRAIN}{LABEL}{COPY}"));
    workspace.trajmill(&["run", &train]).exits(0);
    workspace.trajmill(&["run", &train, "--verify"]).exits(0);
    let path = workspace.path("out/idm.onnx");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    // Numbers of the network are everywhere but at the ends.
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for arguments in [&["run", &train, "--verify"][..], &["run", &label]] {
        let done = workspace.trajmill(arguments).exits(1);
        says(&done, "out/idm.onnx");
        says(&done, "--fresh");
    }
    workspace.trajmill(&["run", &train, "--fresh"]).exits(0);
    assert_eq!(fs::read(&path).unwrap(), whole);
    workspace.trajmill(&["run", &label]).exits(0);
}

/// What happens to a command while it is stopped at one of its operations.
#[cfg(feature = "faults")]
mod meanwhile {
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
    use std::collections::BTreeMap;

    use super::*;

    /// Runs a command that is stopped at its operation `at`, does something then, and lets the
    /// command go on; `None` if the command has fewer operations.
    fn stopped(
        workspace: &Workspace,
        arguments: &[&str],
        at: usize,
        meanwhile: impl FnOnce(),
    ) -> Option<Done> {
        let child = workspace
            .command(arguments)
            .env("TRAJMILL_FAULT", format!("stop:{at}"))
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let either = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(pid), either).unwrap();
        let is_stopped = status.is_some_and(|status| status.stopped());
        if is_stopped {
            meanwhile();
            kill_process(pid, Signal::CONT).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        is_stopped.then(|| Done {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        })
    }

    fn exchange(workspace: &Workspace) {
        let [one, other, aside] = ["corpus", "twin", "aside"].map(|name| workspace.path(name));
        fs::rename(&one, &aside).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&aside, &other).unwrap();
    }

    /// A dataset and its twin, which has as many trajectories in as many files and other values.
    fn twins() -> Workspace {
        let workspace = Workspace::with(60, 10, 6);
        corpus(&workspace.path("twin"), 60, 9, 6);
        workspace
    }

    /// A command ends with the bytes of the dataset that it began to read, or with an error that
    /// says what happened, whenever the dataset is replaced.
    fn replaced_at_any_time(arguments: &[&str]) {
        let workspace = twins();
        workspace.pipeline("copy", COPY);
        let visible = || -> BTreeMap<String, String> {
            let tree = workspace.tree("out").into_iter();
            tree.filter(|(name, _)| !name.starts_with('.')).collect()
        };
        workspace.trajmill(arguments).exits(0);
        let right = visible();
        let (mut whole, mut errors) = (0, 0);
        for at in 1.. {
            workspace.clear();
            let Some(done) = stopped(&workspace, arguments, at, || exchange(&workspace)) else {
                break;
            };
            exchange(&workspace);
            if done.code == Some(0) {
                assert!(visible() == right, "replaced at {at}: a mixture");
                whole += 1;
            } else {
                says(&done, "was replaced while it was read");
                assert!(visible().is_empty(), "replaced at {at}: {:?}", visible());
                errors += 1;
            }
        }
        assert!(whole > 0 && errors > 0, "{whole} whole, {errors} errors");
    }

    #[test]
    fn a_source_that_is_replaced_during_a_run_is_noticed() {
        replaced_at_any_time(&["run", "pipelines/copy.yaml", "--threads", "1"]);
    }

    #[test]
    fn a_source_that_is_replaced_during_an_export_is_noticed() {
        replaced_at_any_time(&["export", "corpus", "out/export", "--to", "minari"]);
        replaced_at_any_time(&["export", "corpus", "out/export.hdf5", "--to", "d4rl"]);
    }

    /// A model that is replaced after it was hashed does not run.
    #[test]
    fn the_model_that_was_hashed_is_the_one_that_runs() {
        let workspace = Workspace::with(40, 12, 2);
        let label = r#"
  - hide_actions: { keep: 0.5, seed: 1 }
  - label:
      model: ../models/mlp.onnx
      window: { past: 1, future: 1, edge: repeat }
  - materialise: { OUT }
"#;
        let pipeline = workspace.pipeline("label", label);
        let run = ["run", &pipeline, "--threads", "1"];
        workspace.trajmill(&run).exits(0);
        let right = workspace.tree("out");
        let (one, other) = (
            fs::read(workspace.path("models/mlp.onnx")).unwrap(),
            fs::read(workspace.path("models/mlp_b.onnx")).unwrap(),
        );
        let mut replaced = 0;
        for at in 1.. {
            workspace.clear();
            let write = |bytes: &[u8]| fs::write(workspace.path("models/mlp.onnx"), bytes).unwrap();
            let Some(done) = stopped(&workspace, &run, at, || write(&other)) else {
                break;
            };
            write(&one);
            if done.code == Some(0) {
                assert_eq!(workspace.tree("out"), right, "replaced at {at}");
            } else {
                says(&done, "the model");
                says(&done, "was replaced");
                replaced += 1;
            }
        }
        assert!(replaced > 0);
    }

    /// Two pipelines train different models at one path: each labels with its own.
    #[test]
    fn a_model_that_another_run_replaces_does_not_run() {
        let workspace = Workspace::with(40, 12, 2);
        let overwrite = |seed: u64| {
            let train = TRAIN.replace(
                "steps: 20",
                &format!("steps: 20, seed: {seed}, overwrite: true"),
            );
            format!("{train}{LABEL}{COPY}")
        };
        let mine = workspace.pipeline("mine", &overwrite(1));
        let other = workspace.pipeline("other", &overwrite(2));
        let run = ["run", &mine, "--threads", "1"];
        workspace.trajmill(&["run", &other]).exits(0);
        let others_model = fs::read(workspace.path("out/idm.onnx")).unwrap();
        workspace.clear();
        workspace.trajmill(&run).exits(0);
        let right = workspace.tree("out/mine");
        let others = |workspace: &Workspace| {
            let path = workspace.path("out/idm.onnx");
            path.exists() && {
                fs::write(path, &others_model).unwrap();
                true
            }
        };
        let mut replaced = 0;
        for at in 1.. {
            workspace.clear();
            let mut was_there = false;
            let Some(done) = stopped(&workspace, &run, at, || was_there = others(&workspace))
            else {
                break;
            };
            replaced += usize::from(was_there);
            if done.code == Some(0) {
                assert!(workspace.tree("out/mine") == right, "replaced at {at}");
            } else {
                says(&done, "replaced");
            }
        }
        assert!(replaced > 0);
    }

    /// The second output of a pipeline reads the first: not that of another run at the same path.
    #[test]
    fn an_output_that_another_run_replaces_is_not_read() {
        let workspace = Workspace::with(12, 8, 1);
        let other = "  - filter: length > 2\n  - materialise: { path: ../first }\n";
        let other = workspace.pipeline("other", other);
        workspace.trajmill(&["run", &other]).exits(0);
        let [first, others] = ["first", "others"].map(|name| workspace.path(name));
        fs::rename(&first, &others).unwrap();
        let mine = "  - materialise: { path: ../first, overwrite: true }
  - derive: { doubled: \"reward * 2\" }
  - materialise: { OUT }
";
        let mine = workspace.pipeline("mine", mine);
        let run = ["run", &mine, "--threads", "1"];
        workspace.trajmill(&run).exits(0);
        let right = workspace.tree("out");
        let (mut whole, mut replaced) = (0, 0);
        for at in 1.. {
            workspace.clear();
            fs::remove_dir_all(&first).unwrap();
            let mut was_there = false;
            let exchange = || {
                was_there = first.exists();
                if was_there {
                    fs::remove_dir_all(&first).unwrap();
                    fs::rename(&others, &first).unwrap();
                }
            };
            let done = stopped(&workspace, &run, at, exchange);
            if was_there {
                fs::rename(&first, &others).unwrap();
            }
            fs::create_dir_all(&first).unwrap();
            let Some(done) = done else { break };
            if done.code == Some(0) {
                assert!(workspace.tree("out") == right, "replaced at {at}");
                whole += 1;
            } else {
                says(&done, "replaced while it was read");
                replaced += 1;
            }
        }
        assert!(
            whole > 0 && replaced > 0,
            "{whole} whole, {replaced} replaced"
        );
    }
}
