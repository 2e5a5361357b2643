//! Truncated files: an import gives one error that names the file, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Workspace, repository};

/// Number of places at which a file is cut, evenly spaced over its length.
const PLACES: u64 = 20;

/// Length of a record in the seed of TF-Agents, in bytes.
const RECORD: u64 = 169;

/// Files that only describe a dataset, and may be missing.
const BESIDE: [&str; 3] = [".zattrs", ".zgroup", "namespace_metadata.json"];

/// Extensions of text files, which may end after any line, and after any digit of a number.
const TEXT: [&str; 2] = [".csv", ".jsonl"];

/// The files of a dataset, sorted.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries.iter().flat_map(|entry| files(entry)).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = file.strip_prefix(from).map_or_else(
            |_| to.to_owned(),
            |name| {
                if name == Path::new("") {
                    to.to_owned()
                } else {
                    to.join(name)
                }
            },
        );
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

#[test]
fn a_truncated_file_is_one_error() {
    let workspace = Workspace::with(1, 1, 1);
    let (mut wrong, mut tried) = (Vec::new(), 0);
    let seeds = repository().join("tests/seeds");
    for format in fs::read_dir(&seeds)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|format| cfg!(feature = "video") || format != "videofolder")
    {
        for seed in fs::read_dir(seeds.join(&format))
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let name = seed.file_name().unwrap().to_str().unwrap();
            if BESIDE.contains(&name) || TEXT.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            let place = workspace.path("in").join(name);
            copy(&seed, &place);
            let mut cuts = files(&place);
            cuts.retain(|file| !BESIDE.contains(&file.file_name().unwrap().to_str().unwrap()));
            // If there are many files, each is cut at some of the places, and every place is used.
            for cut in 0..PLACES.max(cuts.len() as u64) {
                let file = &cuts[cut as usize % cuts.len()];
                let whole = fs::read(file).unwrap();
                let kept = whole.len() as u64 * (cut % PLACES) / PLACES;
                // Such a file does not say how many records it has: it may end after any of them.
                if format == "tfagents" && kept.is_multiple_of(RECORD) {
                    continue;
                }
                fs::write(file, &whole[..kept as usize]).unwrap();
                // The end of a WebM file is an index, without which all frames are read.
                if file.extension().is_some_and(|end| end == "webm") && cut % PLACES >= PLACES - 2 {
                    fs::write(file, &whole).unwrap();
                    continue;
                }
                tried += 1;
                let done = workspace.trajmill(&[
                    "import",
                    "--from",
                    &format,
                    place.to_str().unwrap(),
                    "out/set",
                ]);
                fs::write(file, &whole).unwrap();
                let what = format!(
                    "{} cut to {kept} of {} bytes: {}",
                    file.display(),
                    whole.len(),
                    done.stderr
                );
                let errors = done
                    .stderr
                    .lines()
                    .filter(|line| line.starts_with("error: "))
                    .count();
                let clear = done.code == Some(1)
                    && errors == 1
                    && done.stderr.contains(name)
                    && done.stderr.contains("help: ");
                if !clear || done.stderr.contains("panicked") || !workspace.names("out").is_empty()
                {
                    wrong.push(format!(
                        "exit code {:?}, left {:?}: {what}",
                        done.code,
                        workspace.names("out")
                    ));
                    workspace.clear();
                }
            }
            fs::remove_dir_all(workspace.path("in")).unwrap();
        }
    }
    assert!(tried > 200, "only {tried} cuts were tried");
    assert!(
        wrong.is_empty(),
        "{} cuts are not reported well:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
