//! Containment: what others plant, damage or put in the way ends in an error that names it, and
//! never in lost files, other bytes or a command that waits for ever.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use trajmill::internals::transfer::SetAside;

use super::support::{Done, Workspace, finish};

const SIMPLE: &str = "  - filter: length >= 3\n  - materialise: { OUT, shard_rows: 60 }\n";
const LABELLED: &str = r#"
  - hide_actions: { keep: 0.3, seed: 3 }
  - label: { model: ../models/mlp.onnx, window: { past: 1, future: 1, edge: repeat } }
  - materialise: { OUT }
"#;

/// Runs a command that must end within half a minute.
#[track_caller]
fn ends(mut command: Command) -> Done {
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// A folder with files that no command may touch.
fn victim(workspace: &Workspace) -> std::collections::BTreeMap<String, String> {
    fs::create_dir_all(workspace.path("victim/dataset/steps")).unwrap();
    for name in ["thesis.tex", "dataset/steps/00000.parquet", "dataset/data"] {
        fs::write(workspace.path("victim").join(name), "ten years").unwrap();
    }
    workspace.tree("victim")
}

/// The commands that write a result to `out/NAME`.
fn writers(workspace: &Workspace, name: &str) -> Vec<Vec<String>> {
    let pipeline = workspace.pipeline(name, SIMPLE);
    let out = format!("out/{name}");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![
        words(&["run", &pipeline]),
        words(&["import", "corpus/steps", &out, "--from", "parquet"]),
        words(&["export", "corpus", &out, "--to", "arrow"]),
    ]
}

fn command(workspace: &Workspace, arguments: &[String]) -> Command {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    workspace.command(&arguments)
}

#[test]
fn a_planted_link_leads_no_command_elsewhere() {
    let workspace = Workspace::new();
    let before = victim(&workspace);
    let plants: [(&str, &dyn Fn()); 5] = [
        (".x.staging", &|| {
            symlink(workspace.path("victim"), workspace.path("out/.x.staging")).unwrap();
        }),
        (".x.staging", &|| {
            symlink("../nowhere", workspace.path("out/.x.staging")).unwrap();
        }),
        (".x.staging/lock", &|| {
            fs::create_dir(workspace.path("out/.x.staging")).unwrap();
            symlink(
                workspace.path("victim/thesis.tex"),
                workspace.path("out/.x.staging/lock"),
            )
            .unwrap();
        }),
        (".x.staging/lock", &|| {
            fs::create_dir(workspace.path("out/.x.staging")).unwrap();
            fs::hard_link(
                workspace.path("victim/thesis.tex"),
                workspace.path("out/.x.staging/lock"),
            )
            .unwrap();
        }),
        (".x.staging/lock", &|| {
            fs::create_dir(workspace.path("out/.x.staging")).unwrap();
            fifo(&workspace.path("out/.x.staging/lock"));
        }),
    ];
    for arguments in writers(&workspace, "x") {
        for (at, (name, plant)) in plants.iter().enumerate() {
            fs::create_dir_all(workspace.path("out")).unwrap();
            plant();
            let done = ends(command(&workspace, &arguments));
            assert_eq!(workspace.tree("victim"), before, "{at} {arguments:?}");
            let done = done.exits(1);
            assert!(
                done.stderr.contains(name) && done.stderr.contains("remove"),
                "{at} {arguments:?}: {}",
                done.stderr
            );
            assert!(!workspace.path("out/x").exists());
            fs::remove_file(workspace.path("out").join(name)).unwrap();
            workspace.clear();
            command(&workspace, &arguments).output().unwrap();
            assert!(workspace.path("out/x").exists(), "{at} {arguments:?}");
            workspace.clear();
        }
    }
}

/// Small files are written beside their path and renamed.
#[test]
fn a_link_planted_for_a_small_file_leads_nowhere() {
    let workspace = Workspace::new();
    let before = victim(&workspace);
    let stages = "  - train_idm: { out: ../out/idm.onnx, steps: 5, hidden: [4], members: 1 }\n";
    let train = workspace.pipeline("train", stages);
    let commands: [(&[&str], &[&str]); 3] = [
        (
            &["run", &train],
            &["idm.onnx", "idm.report.json", "idm.loss.svg"],
        ),
        (
            &["info", "corpus", "--picture", "out/picture.svg"],
            &["picture.svg"],
        ),
        (
            &["sql", "corpus", "-c", "select 1", "-o", "out/x.csv"],
            &["x.csv"],
        ),
    ];
    for (arguments, names) in commands {
        for target in ["victim", "victim/thesis.tex", "victim/nothing"] {
            for fault in ["", "plain-renames"] {
                fs::create_dir_all(workspace.path("out")).unwrap();
                for name in names {
                    let hidden = workspace.path("out").join(format!(".{name}.staging-file"));
                    symlink(workspace.path(target), hidden).unwrap();
                }
                let mut command = workspace.command(arguments);
                command.env("TRAJMILL_FAULT", fault);
                finish(command).exits(0);
                assert_eq!(workspace.tree("victim"), before, "{arguments:?}");
                assert!(
                    workspace
                        .names("out")
                        .iter()
                        .all(|name| !name.starts_with('.'))
                );
                workspace.clear();
            }
        }
        // A directory there is not removed with what is in it.
        let hidden = format!("out/.{}.staging-file", names[0]);
        fs::create_dir_all(workspace.path(&hidden)).unwrap();
        fs::write(workspace.path(&hidden).join("mine"), "mine").unwrap();
        let done = workspace.trajmill(arguments).exits(1);
        assert!(done.stderr.contains(".staging-file"), "{}", done.stderr);
        assert!(workspace.path(&hidden).join("mine").exists());
        workspace.clear();
    }
}

#[cfg(feature = "faults")]
#[test]
fn a_link_planted_below_the_staging_directory_leads_nowhere() {
    let workspace = Workspace::new();
    let before = victim(&workspace);
    let pipeline = workspace.pipeline("x", SIMPLE);
    for below in [
        "KEY",
        "KEY/journal.jsonl",
        "KEY/dataset",
        "KEY/dataset/steps",
    ] {
        let mut killed = workspace.command(&["run", &pipeline, "--threads", "1"]);
        killed.env("TRAJMILL_FAULT", "kill:40");
        assert_eq!(finish(killed).code, None);
        let names = workspace.names("out/.x.staging");
        let key = names.iter().find(|name| *name != "lock").unwrap();
        let link = workspace
            .path("out/.x.staging")
            .join(below.replace("KEY", key));
        let target = if below.ends_with("jsonl") {
            fs::remove_file(&link).unwrap();
            "victim/thesis.tex"
        } else {
            fs::remove_dir_all(&link).unwrap();
            "victim"
        };
        symlink(workspace.path(target), &link).unwrap();
        let done = workspace.trajmill(&["run", &pipeline]);
        assert_eq!(workspace.tree("victim"), before, "{below}: {done:?}");
        let done = done.exits(1);
        assert!(
            done.stderr.contains(&below.replace("KEY", key)) && done.stderr.contains("remove"),
            "{below}: {}",
            done.stderr
        );
        fs::remove_file(link).unwrap();
        workspace.trajmill(&["run", &pipeline]).exits(0);
        workspace.clear();
    }
}

/// Only root can make a folder another user's.
#[test]
fn a_staging_directory_of_another_user_is_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can change an owner");
        return;
    }
    let workspace = Workspace::new();
    for arguments in writers(&workspace, "x") {
        let staging = workspace.path("out/.x.staging");
        fs::create_dir_all(&staging).unwrap();
        symlink(workspace.path("models"), staging.join("other")).unwrap();
        std::os::unix::fs::chown(&staging, Some(12_345), None).unwrap();
        let done = command(&workspace, &arguments).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains("belongs to user 12345") && said.contains("out/.x.staging"),
            "{said}"
        );
        // The remedy works for whoever owns the folder.
        fs::rename(&staging, workspace.path("out/theirs")).unwrap();
        assert!(command(&workspace, &arguments).status().unwrap().success());
        workspace.clear();
    }
}

#[test]
fn a_staging_directory_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("x", SIMPLE);
    let staging = workspace.path("out/.x.staging");
    fs::create_dir_all(&staging).unwrap();
    fs::set_permissions(&staging, fs::Permissions::from_mode(0o777)).unwrap();
    let mut killed = workspace.command(&["run", &pipeline, "--threads", "1"]);
    killed.env("TRAJMILL_FAULT", "kill:40");
    if finish(killed).code.is_none() {
        let mode = fs::metadata(&staging).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}

/// Exports the labelled dataset to `format`, and returns the path.
fn exported(workspace: &Workspace, format: &str) -> String {
    if !workspace.path("out/labelled").exists() {
        let pipeline = workspace.pipeline("labelled", LABELLED);
        workspace.trajmill(&["run", &pipeline]).exits(0);
    }
    let path = format!("out/{format}");
    workspace
        .trajmill(&["export", "out/labelled", &path, "--to", format])
        .exits(0);
    path
}

fn proxies(workspace: &Workspace, dataset: &str) -> String {
    let sql = "select count(*) from steps where action_source = 'proxy'";
    let arguments = ["sql", dataset, "--format", "csv", "-c", sql];
    let done = workspace.trajmill(&arguments).exits(0);
    done.stdout.lines().nth(1).unwrap().to_owned()
}

const FOLDERS: [&str; 6] = [
    "arrow",
    "lerobot",
    "lerobot-v2.1",
    "minari",
    "parquet",
    "rlds",
];

#[test]
fn a_copy_without_its_note_keeps_what_its_columns_say_of_actions() {
    let workspace = Workspace::new();
    for format in FOLDERS {
        let path = exported(&workspace, format);
        let expected = proxies(&workspace, "out/labelled");
        assert!(expected.parse::<u64>().unwrap() > 10);
        fs::remove_file(workspace.path(&path).join(".trajmill.json")).unwrap();
        let back = format!("out/{format}-back");
        let from = format.trim_end_matches("-v2.1");
        workspace
            .trajmill(&["import", &path, &back, "--from", from])
            .exits(0);
        assert_eq!(proxies(&workspace, &back), expected, "{format}");
    }
}

/// A directory in the place of a file cannot be read, by root neither.
#[test]
fn a_note_that_cannot_be_read_is_not_taken_for_absent() {
    let workspace = Workspace::new();
    for format in FOLDERS {
        let path = exported(&workspace, format);
        let note = workspace.path(&path).join(".trajmill.json");
        let text = fs::read(&note).unwrap();
        fs::remove_file(&note).unwrap();
        fs::create_dir(&note).unwrap();
        let from = format.trim_end_matches("-v2.1");
        let import = ["import", &path, "out/back", "--from", from];
        let export = ["export", "out/labelled", &path, "--to", format];
        for arguments in [import, export] {
            let done = workspace.trajmill(&arguments).exits(1);
            assert!(
                done.stderr.contains("cannot read") && done.stderr.contains(".trajmill.json"),
                "{arguments:?}: {}",
                done.stderr
            );
            assert!(!done.stderr.contains("not written by"), "{}", done.stderr);
        }
        fs::remove_dir(&note).unwrap();
        // A note that is cut short is damaged, not absent.
        fs::write(&note, &text[..text.len() / 2]).unwrap();
        for arguments in [import, export] {
            let done = workspace.trajmill(&arguments).exits(1);
            assert!(
                done.stderr.contains("damaged") && done.stderr.contains(".trajmill.json"),
                "{arguments:?}: {}",
                done.stderr
            );
        }
        assert!(!workspace.path("out/back").exists());
    }
}

#[test]
fn a_manifest_that_cannot_be_read_is_not_taken_for_absent() {
    let workspace = Workspace::new();
    let pipeline = workspace.pipeline("x", SIMPLE);
    workspace.trajmill(&["run", &pipeline]).exits(0);
    let manifest = workspace.path("out/x/dataset.json");
    fs::remove_file(&manifest).unwrap();
    fs::create_dir(&manifest).unwrap();
    let commands: [&[&str]; 6] = [
        &["run", &pipeline],
        &["import", "corpus/steps", "out/x", "--from", "parquet"],
        &["info", "out/x"],
        &["sql", "out/x", "-c", "select 1"],
        &["diff", "out/x", "corpus"],
        &["validate", "out/x"],
    ];
    for arguments in commands {
        let done = workspace.trajmill(arguments);
        assert_ne!(done.code, Some(0), "{arguments:?}: {done:?}");
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(
            said.contains("cannot read") && said.contains("out/x/dataset.json"),
            "{arguments:?}: {said}"
        );
        for wrong in ["not written by", "remove it yourself", "not a trajmill"] {
            assert!(!said.contains(wrong), "{arguments:?}: {said}");
        }
    }
    // A link that leads round in circles is no free path.
    workspace.clear();
    fs::create_dir_all(workspace.path("out/x")).unwrap();
    symlink("dataset.json", workspace.path("out/x/dataset.json")).unwrap();
    let done = workspace.trajmill(&["run", &pipeline]).exits(1);
    assert!(done.stderr.contains("cannot read"), "{}", done.stderr);
}

#[test]
fn quarantine_that_cannot_be_read_is_not_taken_for_absent() {
    let workspace = Workspace::new();
    let read = || SetAside::read(&workspace.path("corpus"));
    assert_eq!(read().unwrap().trajectories, 0);
    let path = workspace.path("corpus/quarantine.jsonl");
    fs::create_dir(&path).unwrap();
    let error = read().unwrap_err().message;
    assert!(
        error.contains("cannot read") && error.contains("quarantine.jsonl"),
        "{error}"
    );
    fs::remove_dir(&path).unwrap();
    fifo(&path);
    let error = read().unwrap_err().message;
    assert!(error.contains("only files are read"), "{error}");
}

/// `--fresh` replaces no result that it cannot identify. The remedy in the message works.
#[test]
fn a_result_with_a_damaged_manifest_can_be_made_again() {
    let workspace = Workspace::new();
    let [pipeline, import, export] = writers(&workspace, "x").try_into().unwrap();
    let fresh = [pipeline.clone(), vec!["--fresh".to_owned()]].concat();
    let damage: [&dyn Fn(&Path); 3] = [
        &|note| {
            fs::remove_file(note).unwrap();
            fs::create_dir(note).unwrap();
        },
        &|note| fs::write(note, "{").unwrap(),
        &|note| {
            let text = fs::read_to_string(note).unwrap();
            fs::write(note, text.replacen("fingerprint", "fingerprint ", 1)).unwrap();
        },
    ];
    for (arguments, again) in [(&pipeline, &pipeline), (&pipeline, &fresh)]
        .into_iter()
        .chain([(&import, &import), (&export, &export)])
    {
        for damage in damage {
            finish(command(&workspace, arguments)).exits(0);
            let right = workspace.tree("out/x");
            damage(&workspace.path(if arguments == &export {
                "out/x/.trajmill.json"
            } else {
                "out/x/dataset.json"
            }));
            let done = finish(command(&workspace, again)).exits(1);
            let remedy = "move it aside (`mv out/x out/x.old`) and run the same command again";
            assert!(done.stderr.contains(remedy), "{}", done.stderr);
            fs::rename(workspace.path("out/x"), workspace.path("out/x.old")).unwrap();
            finish(command(&workspace, again)).exits(0);
            assert_eq!(workspace.tree("out/x"), right);
            workspace.clear();
        }
    }
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;

    fn operations(workspace: &Workspace, arguments: &[String]) -> Vec<String> {
        let log = workspace.path("operations");
        let _ = fs::remove_file(&log);
        let mut counted = command(workspace, arguments);
        counted.env("TRAJMILL_FAULT", format!("count:{}", log.display()));
        finish(counted).exits(0);
        let text = fs::read_to_string(log).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Every failure after the rename says that the result is there.
    #[test]
    fn an_error_after_publication_says_so() {
        let workspace = Workspace::new();
        let mut all = writers(&workspace, "x");
        let replace =
            "  - filter: length >= 2\n  - materialise: { path: ../out/x, overwrite: true }\n";
        let replace = workspace.pipeline("replace", replace);
        all.push(vec!["run".to_owned(), replace]);
        let mut tried = 0;
        for arguments in all {
            let old = |workspace: &Workspace| {
                if arguments[1].contains("replace") {
                    workspace.trajmill(&["run", "pipelines/x.yaml"]).exits(0);
                }
            };
            workspace.clear();
            old(&workspace);
            let operations = operations(&workspace, &arguments);
            let expected = workspace.tree("out/x");
            let published = operations
                .iter()
                .position(|line| line.contains(" publish ") && line.ends_with("out/x"));
            for (at, operation) in operations.iter().enumerate().skip(published.unwrap() + 1) {
                workspace.clear();
                old(&workspace);
                let mut failing = command(&workspace, &arguments);
                // The first publication is refused where there is something to replace.
                failing.env("TRAJMILL_FAULT", format!("error:{}:5", at + 1));
                let done = finish(failing);
                let when = format!("{arguments:?}, EIO at {operation}");
                if operation.contains(" publish ") {
                    continue;
                }
                tried += 1;
                assert_eq!(workspace.tree("out/x"), expected, "{when}: {done:?}");
                if done.code == Some(0) {
                    assert!(operation.contains(" remove "), "{when}");
                    continue;
                }
                let done = done.exits(1);
                assert!(
                    done.stderr.contains("out/x is published"),
                    "{when}: {}",
                    done.stderr
                );
                finish(command(&workspace, &arguments)).exits(0);
                assert_eq!(workspace.names("out"), ["x"], "{when}");
            }
        }
        assert!(tried >= 12, "{tried}");
    }

    /// A file appears at the path of a result while the command works.
    #[test]
    fn work_is_said_to_be_kept_only_where_it_is() {
        let workspace = Workspace::new();
        let mut all = writers(&workspace, "x");
        let mut fresh = all[0].clone();
        fresh.push("--fresh".to_owned());
        all.push(fresh);
        for arguments in all {
            workspace.clear();
            let operations = operations(&workspace, &arguments);
            let publish = operations
                .iter()
                .position(|line| line.contains(" publish ") && line.ends_with("out/x"));
            workspace.clear();
            let mut stopped = command(&workspace, &arguments);
            stopped.env("TRAJMILL_FAULT", format!("stop:{}", publish.unwrap() + 1));
            let child = stopped.spawn().unwrap();
            let began = Instant::now();
            loop {
                let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
                let state = stat.rsplit_once(')').unwrap().1.trim_start().to_owned();
                if state.starts_with('T') {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(30));
                std::thread::sleep(Duration::from_millis(5));
            }
            fs::create_dir(workspace.path("out/x")).unwrap();
            fs::write(workspace.path("out/x/mine"), "mine").unwrap();
            let id = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(id, rustix::process::Signal::CONT).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("something else appeared"), "{said}");
            let kept = arguments[0] == "run";
            assert_eq!(said.contains("is kept"), kept, "{arguments:?}: {said}");
            let fresh = arguments.contains(&"--fresh".to_owned());
            assert_eq!(said.contains("without `--fresh`"), fresh, "{said}");
            let left = workspace.names("out").contains(&".x.staging".to_owned());
            assert_eq!(left, kept, "{arguments:?}: {:?}", workspace.names("out"));
            fs::remove_dir_all(workspace.path("out/x")).unwrap();
            let again = finish(command(&workspace, &arguments)).exits(0);
            assert!(workspace.path("out/x").exists(), "{again:?}");
        }
    }

    #[test]
    fn a_full_disk_promises_nothing_that_is_not_so() {
        let workspace = Workspace::new();
        for arguments in &writers(&workspace, "x")[1..] {
            let mut full = command(&workspace, arguments);
            full.env("TRAJMILL_FAULT", "error:8:28");
            let done = finish(full).exits(1);
            assert!(!done.stderr.contains("kept"), "{}", done.stderr);
        }
    }
}

fn long(bytes: usize) -> String {
    "n".repeat(bytes)
}

/// A file system takes names of up to 255 bytes.
#[test]
fn outputs_of_every_length_of_name_work_or_are_refused_at_once() {
    let workspace = Workspace::new();
    let names = [240, 241, 246, 247, 254, 255].map(long);
    let others = ["ü".repeat(127), format!("{}{}", "n", "ü".repeat(127))];
    for name in names.iter().chain(&others) {
        let out = format!("out/{name}");
        let text = format!(
            "trajmill: 1\nsource: ../corpus\nstages:\n  - materialise: {{ path: ../{out} }}\n"
        );
        let pipeline = workspace.write("long", &text);
        let commands: [&[&str]; 4] = [
            &["run", &pipeline],
            &["import", "corpus/steps", &out, "--from", "parquet"],
            &[
                "export",
                "corpus",
                &out,
                "--to",
                "d4rl",
                "--unlabelled",
                "drop",
            ],
            &[
                "sql", "corpus", "-c", "select 1", "--format", "csv", "-o", &out,
            ],
        ];
        for arguments in commands {
            workspace.clear();
            fs::create_dir(workspace.path("out")).unwrap();
            workspace.trajmill(arguments).exits(0);
            assert_eq!(workspace.names("out"), [name.as_str()], "{arguments:?}");
            if arguments[0] != "sql" {
                workspace.trajmill(arguments).exits(0);
                assert_eq!(workspace.names("out"), [name.as_str()], "{arguments:?}");
            }
        }
    }
    workspace.clear();
    for name in [long(256), "ü".repeat(128)] {
        let out = format!("out/{name}");
        let text = format!(
            "trajmill: 1\nsource: ../corpus\nstages:\n  - materialise: {{ path: ../{out} }}\n"
        );
        let pipeline = workspace.write("long", &text);
        for arguments in [
            vec!["run", &pipeline],
            vec!["import", "corpus/steps", &out, "--from", "parquet"],
            vec!["export", "corpus", &out, "--to", "arrow"],
        ] {
            let done = workspace.trajmill(&arguments).exits(1);
            assert!(done.stderr.contains("too long"), "{}", done.stderr);
            assert!(workspace.names("out").is_empty(), "{arguments:?}");
        }
    }
}

/// The files beside a model have longer names than the model.
#[test]
fn models_of_every_length_of_name_work_or_are_refused_at_once() {
    let workspace = Workspace::new();
    for (bytes, works) in [(200, true), (244, true), (245, false), (255, false)] {
        let name = format!("{}.onnx", long(bytes - 5));
        let stages = r#"
  - hide_actions: { keep: 0.5, seed: 1 }
  - train_idm: { out: ../out/NAME, steps: 10, hidden: [8], members: 1 }
"#;
        let pipeline = workspace.pipeline("model", &stages.replace("NAME", &name));
        let done = workspace.trajmill(&["run", &pipeline]);
        if works {
            done.exits(0);
            assert!(workspace.names("out").contains(&name));
        } else {
            assert!(matches!(done.code, Some(1 | 3)), "{done:?}");
            assert!(done.stderr.contains("too long"), "{}", done.stderr);
            assert!(
                workspace.names("out").is_empty(),
                "{:?}",
                workspace.names("out")
            );
        }
        workspace.clear();
    }
}

#[test]
fn sql_takes_every_path_that_the_file_system_takes() {
    let workspace = Workspace::new();
    let names: Vec<&[u8]> = vec![
        b"it's",
        b"say \"hi\"",
        b"a b",
        "\u{fc}n\u{ef} \u{1f916}".as_bytes(),
        b"..dots..",
        b"%41%2F",
        b"a#b?c",
        b"x=y",
        b"[z]*{a,b}",
        b"back\\slash",
        b"new\nline",
        b"~",
        b"a:b",
        b"...",
        b"not \xff utf-8 \xfe",
    ];
    for name in names {
        let path: PathBuf = workspace.path("").join(OsStr::from_bytes(name));
        fs::rename(workspace.path("corpus"), &path).unwrap();
        for extra in [false, true] {
            let mut sql = workspace.command(&["sql", "--format", "csv", "-c"]);
            sql.arg(if extra {
                "select count(*), sum(length) from one.trajectories"
            } else {
                "select count(*), sum(length) from trajectories where trajectory_id >= 0"
            });
            if extra {
                let mut one = std::ffi::OsString::from("one=");
                one.push(&path);
                let mut two = std::ffi::OsString::from("two=");
                two.push(&path);
                sql.args([one, two]);
            } else {
                sql.arg(OsStr::from_bytes(name));
            }
            let done = ends(sql);
            assert_eq!(done.code, Some(0), "{path:?}: {}", done.stderr);
            assert!(done.stdout.contains("\n40,"), "{path:?}: {}", done.stdout);
        }
        fs::rename(&path, workspace.path("corpus")).unwrap();
    }
}

/// Opening a FIFO waits for a writer; reading a device may never end.
#[test]
fn nothing_but_files_is_read() {
    let workspace = Workspace::new();
    let copy = workspace.pipeline("copy", "  - materialise: { OUT }\n");
    let labels = workspace.pipeline("labels", LABELLED);
    let foreign = workspace.write(
        "foreign",
        "trajmill: 1\nsource: { path: ../log, format: parquet }\nstages:\n  - materialise: { path: ../out/foreign }\n",
    );
    fs::create_dir(workspace.path("log")).unwrap();
    fs::copy(
        workspace.path("corpus/steps/00000.parquet"),
        workspace.path("log/0.parquet"),
    )
    .unwrap();
    let export = exported(&workspace, "arrow");
    let note = format!("{export}/.trajmill.json");
    let verify = vec!["info", "corpus", "--verify"];
    let sql = vec!["sql", "corpus", "-c", "select sum(reward) from steps"];
    let again = vec!["export", "out/labelled", &export, "--to", "arrow"];
    let cases: [(&str, Vec<Vec<&str>>); 7] = [
        (
            "corpus/steps/00001.parquet",
            vec![
                vec!["run", &copy],
                verify.clone(),
                sql.clone(),
                vec!["validate", "corpus"],
            ],
        ),
        (
            "corpus/trajectories/00000.parquet",
            vec![
                vec!["run", &copy],
                verify.clone(),
                sql.clone(),
                vec!["diff", "corpus", "out/labelled"],
            ],
        ),
        (
            "corpus/dataset.json",
            vec![
                vec!["run", &copy],
                verify.clone(),
                sql.clone(),
                vec!["check", &copy],
            ],
        ),
        (
            "models/mlp.onnx",
            vec![vec!["run", &labels, "--fresh"], vec!["check", &labels]],
        ),
        (&copy, vec![vec!["run", &copy], vec!["check", &copy]]),
        (
            "log/0.parquet",
            vec![
                vec!["import", "log", "out/log", "--from", "parquet"],
                vec!["import", "log", "out/log"],
                vec!["import", "log/0.parquet", "out/log"],
                vec!["run", &foreign],
                vec!["check", &foreign],
                vec!["validate", "log", "--from", "parquet"],
            ],
        ),
        (&note, vec![again]),
    ];
    let mut tried = 0;
    for (path, commands) in cases {
        let place = workspace.path(path);
        let file = fs::read(&place).ok();
        let _ = fs::remove_file(&place);
        for device in ["fifo", "/dev/zero", "/dev/full"] {
            if device == "fifo" {
                fifo(&place);
            } else {
                symlink(device, &place).unwrap();
            }
            for arguments in &commands {
                let done = ends(workspace.command(arguments));
                tried += 1;
                assert!(
                    matches!(done.code, Some(1..=4)),
                    "{path} is {device}, {arguments:?}: {done:?}"
                );
                assert!(
                    format!("{}{}", done.stdout, done.stderr).contains("only files are read"),
                    "{path} is {device}, {arguments:?}: {done:?}"
                );
            }
            fs::remove_file(&place).unwrap();
        }
        if let Some(file) = file {
            fs::write(&place, file).unwrap();
        }
    }
    assert!(tried > 60, "{tried}");
}
