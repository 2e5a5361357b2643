//! Damaged files of every kind that trajmill reads: no panic, no hang, bounded memory, and one
//! clear error.
//!
//! A target copies whole files (`tests/seeds`, written by the reference libraries), changes them at
//! a few places and reads them, case after case until its time is up. The bytes of a case follow
//! from its number alone, so that it can be repeated:
//!
//! ```text
//! # for ten minutes
//! TRAJMILL_FUZZ_SECONDS=600 cargo test --release --features faults --test it fuzz
//! # one case, whose files are kept
//! TRAJMILL_FUZZ_CASE=1234 cargo test --release --features faults --test it fuzz::zarr
//! ```
//!
//! Each target runs in a process of its own, with limits on memory and processor time; a case that
//! exceeds them fails the test, which names its number. If a format has checksums, most cases
//! recompute them, so that the damage reaches the decoder behind them.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use trajmill::internals::format::{self, FORMATS};
use trajmill::internals::model::Runtime;
use trajmill::internals::transfer::{OnError, Options, OutgoingDataset, WriteOptions};
use trajmill::internals::video::{Frames, Videos};
use trajmill::internals::{plan, train};
use trajmill::{Dataset, Device, Error, ModelOptions, Result};

use crate::support::{corpus, mix, repository};

/// The seconds that a target runs by default.
const SECONDS: u64 = 2;

/// The most cases that a target runs by default: on fast machines they are always the same.
const CASES: u64 = 500;

/// The virtual memory that a target may use, in bytes. Without damage it needs a fifth of that.
const MEMORY: u64 = 3 << 30;

/// The seconds of processor time that a target may use beyond its own, until a case counts as hung.
const PATIENCE: u64 = 60;

/// Third-party decoders that are known to panic on damaged files.
const DECODERS: [&str; 3] = [
    "arrow_ipc::reader::",
    "arrow_ipc::convert::",
    "parquet::arrow::arrow_reader::",
];

/// Number of errors after which a target stops reading a dataset.
const MOST_ERRORS: usize = 200;

/// The parts of a file that are behind checksums, and are damaged with correct ones.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    Nothing,
    /// Records of a TFRecord file.
    Records,
    /// Entries of a zip file.
    Zip,
}

/// A kind of file, and the code that reads it.
struct Target {
    name: &'static str,
    behind: Behind,
    read: fn(&Path) -> Result<()>,
}

macro_rules! targets {
    ($($name:ident: $behind:expr, $read:expr;)*) => {
        /// The names of all targets.
        pub(crate) const TARGETS: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                run(&Target { name: stringify!($name), behind: $behind, read: $read });
            }
        )*
    };
}

targets! {
    aloha: Behind::Nothing, |path| foreign("aloha", path);
    arrow: Behind::Nothing, |path| foreign("arrow", path);
    csv: Behind::Nothing, |path| foreign("csv", path);
    d3rlpy: Behind::Nothing, |path| foreign("d3rlpy", path);
    d4rl: Behind::Nothing, |path| foreign("d4rl", path);
    dataset: Behind::Nothing, own;
    exorl: Behind::Zip, |path| foreign("exorl", path);
    jsonl: Behind::Nothing, |path| foreign("jsonl", path);
    lerobot: Behind::Nothing, |path| foreign("lerobot", path);
    maniskill: Behind::Nothing, |path| foreign("maniskill", path);
    minari: Behind::Nothing, |path| foreign("minari", path);
    npz: Behind::Zip, |path| foreign("npz", path);
    ogbench: Behind::Zip, |path| foreign("ogbench", path);
    onnx: Behind::Nothing, model_file;
    parquet: Behind::Nothing, |path| foreign("parquet", path);
    pipeline: Behind::Nothing, pipeline_file;
    rlds: Behind::Records, |path| foreign("rlds", path);
    robomimic: Behind::Nothing, |path| foreign("robomimic", path);
    robosuite: Behind::Nothing, |path| foreign("robosuite", path);
    tensordict: Behind::Nothing, |path| foreign("tensordict", path);
    tfagents: Behind::Records, |path| foreign("tfagents", path);
    videofolder: Behind::Nothing, |path| foreign("videofolder", path);
    zarr: Behind::Zip, |path| foreign("zarr", path);
}

/// Reads a dataset of the format `name` to its end or its last error.
fn foreign(name: &str, path: &Path) -> Result<()> {
    let format = FORMATS.iter().find(|format| format.name == name).unwrap();
    let _detected = format::resolve(None, path, &Options::default());
    format.validate(path, &Options::default())?;
    let mut outcome = Ok(());
    // Damage behind the first and the last frames of a video shows when all are decoded.
    let frames = match name {
        "videofolder" => Frames::Png,
        _ => Frames::Reference,
    };
    for on_error in [OnError::Fail, OnError::Quarantine] {
        let mut source = format.open(
            path,
            &Options {
                on_error,
                frames: frames.into(),
                // The seeds of LeRobot have no files of videos.
                videos: match name {
                    "lerobot" => Videos::Reference,
                    _ => Videos::Link,
                },
                ..Options::default()
            },
        )?;
        let mut errors = 0;
        while errors < MOST_ERRORS {
            match source.next() {
                Ok(Some(incoming)) => assert_eq!(incoming.steps.schema(), source.schema()),
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    errors += 1;
                    if on_error == OnError::Fail || source.lost().is_none() {
                        break;
                    }
                }
            }
        }
    }
    outcome
}

/// Reads every row of a trajmill dataset, although its hashes say that it is damaged.
fn own(path: &Path) -> Result<()> {
    let dataset = Dataset::open(path)?.unverified();
    let outgoing = OutgoingDataset::new(dataset, true, &WriteOptions::default())?;
    outgoing
        .pass(None)?
        .try_for_each(|leaving| leaving.map(|_| ()))
}

/// Reads a model's metadata, inputs and outputs.
fn model_file(path: &Path) -> Result<()> {
    let bytes = fs::read(path).unwrap();
    let said = train::metadata(&bytes).map(|_| ());
    Runtime::embedded().spec(path).map(|_| ()).and(said)
}

/// Checks a pipeline file against the dataset beside it.
fn pipeline_file(path: &Path) -> Result<()> {
    let options = ModelOptions {
        device: Device::Cpu,
        tf32: false,
    };
    plan::verify(path, &options)
}

/// The files or folders that a target damages.
fn seeds(name: &str, scratch: &Path) -> Vec<PathBuf> {
    let folder = match name {
        "dataset" => {
            let made = scratch.join("seeds");
            fs::create_dir_all(&made).unwrap();
            corpus(&made.join("set"), 6, 5, 2);
            // Without its checksum, a damaged manifest is read to its end.
            let manifest = made.join("set/dataset.json");
            let text = fs::read_to_string(&manifest).unwrap();
            let end = text.rfind(",\n  \"checksum\"").unwrap();
            fs::write(&manifest, format!("{}\n}}\n", &text[..end])).unwrap();
            made
        }
        "onnx" => repository().join("tests/models"),
        "pipeline" => repository().join("tests/wrong"),
        name => repository().join("tests/seeds").join(name),
    };
    let mut seeds: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    seeds.retain(|seed| seed.extension().is_none_or(|extension| extension != "json"));
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// Runs a target in a process of its own; in that process, runs its cases.
fn run(target: &Target) {
    if std::env::var("TRAJMILL_FUZZ_TARGET").is_ok_and(|name| name == target.name) {
        return cases(target);
    }
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("fuzz")
        .join(target.name);
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("fuzz::{}", target.name)])
        .env("TRAJMILL_FUZZ_TARGET", target.name)
        .stdout(Stdio::from(
            fs::File::create(scratch.join("stdout")).unwrap(),
        ))
        .stderr(Stdio::from(
            fs::File::create(scratch.join("stderr")).unwrap(),
        ))
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(seconds() + 5 * PATIENCE) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = |name: &str| fs::read_to_string(scratch.join(name)).unwrap_or_default();
    let case = said("case");
    assert!(
        status.success(),
        "{status} at case {case}, whose files are in {}:\n{}{}",
        scratch.display(),
        said("stdout"),
        said("stderr")
    );
    assert!(!case.is_empty(), "the process has run no case");
    println!("{}: {case} cases", target.name);
    if std::env::var_os("TRAJMILL_FUZZ_CASE").is_none() {
        fs::remove_dir_all(&scratch).unwrap();
    }
}

/// The seconds that the user asked for.
fn wanted() -> Option<u64> {
    std::env::var("TRAJMILL_FUZZ_SECONDS").ok()?.parse().ok()
}

fn seconds() -> u64 {
    wanted().unwrap_or(SECONDS)
}

/// Runs case after case until the time is up; without a time from the user, at most [`CASES`].
fn cases(target: &Target) {
    let limit = |limit| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::As, limit(MEMORY)).unwrap();
    setrlimit(Resource::Cpu, limit(seconds() * 2 + PATIENCE)).unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("fuzz")
        .join(target.name);
    let seeds = seeds(target.name, &scratch);
    std::panic::set_hook(Box::new(|panic| {
        // Third-party decoders may panic, which trajmill reports as an error of the file; its own
        // code may not.
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        if !DECODERS.iter().any(|decoder| trace.contains(decoder)) {
            eprintln!("{panic}\n{trace}");
            std::process::abort();
        }
    }));
    // Every undamaged seed is readable, except for pipelines and models, some of which are wrong,
    // and for videos in a build without their decoder.
    let decodes = cfg!(feature = "video") || target.name != "videofolder";
    let is_readable = decodes && !matches!(target.name, "onnx" | "pipeline");
    for seed in seeds.iter().filter(|_| is_readable) {
        let place = copied(seed, &scratch);
        (target.read)(&place).unwrap_or_else(|error| panic!("{}: {error}", seed.display()));
    }
    let only: Option<u64> = std::env::var("TRAJMILL_FUZZ_CASE")
        .ok()
        .and_then(|text| text.parse().ok());
    let began = Instant::now();
    let mut case = only.unwrap_or(0);
    let mut refused = 0_u64;
    let enough = || began.elapsed() >= Duration::from_secs(seconds());
    while only.map_or(!enough() && (wanted().is_some() || case < CASES), |only| {
        case == only
    }) {
        fs::write(scratch.join("case"), case.to_string()).unwrap();
        let mut random = Random(case);
        let place = copied(random.pick::<PathBuf>(&seeds), &scratch);
        damage(&place, target.behind, &mut random);
        let before = Instant::now();
        if let Err(error) = (target.read)(&place) {
            refused += 1;
            assert_readable(&error);
        }
        let took = before.elapsed();
        assert!(took < Duration::from_secs(10), "case {case} took {took:?}");
        case += 1;
    }
    assert!(
        only.is_some() || refused > 0,
        "no case failed: the damage does not reach the reader"
    );
}

/// Fails unless the error has a message for people: not empty, not huge, and without Rust's debug
/// output.
fn assert_readable(error: &Error) {
    let message = &error.message;
    assert!(
        message.len() > 5 && message.len() < 20_000,
        "a message of {} bytes: {message:.300}",
        message.len()
    );
    assert!(
        !message.contains("panicked")
            && !message.contains("Some(")
            && !message.contains("called `"),
        "{message}"
    );
}

/// Copies a seed; returns the file or folder to read.
fn copied(seed: &Path, scratch: &Path) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        if from.is_dir() {
            fs::create_dir_all(to).unwrap();
            fs::read_dir(from)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .for_each(|path| copy(&path, &to.join(path.file_name().unwrap())));
        } else {
            fs::copy(from, to).unwrap();
        }
    }
    let place = scratch.join("input");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    // Some formats find other files beside the one that is named, so each seed gets a folder.
    let place = place.join(seed.file_name().unwrap());
    copy(seed, &place);
    let beside = scratch.join("corpus");
    if seed
        .extension()
        .is_some_and(|extension| extension == "yaml")
        && !beside.exists()
    {
        corpus(&beside, 4, 4, 1);
    }
    place
}

/// All files below `path`, sorted.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries.iter().flat_map(|entry| files(entry)).collect()
}

/// Damages a dataset at one to three places.
fn damage(place: &Path, behind: Behind, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let files = files(place);
        let Some(file) = (!files.is_empty()).then(|| random.pick(&files)) else {
            return;
        };
        if place.is_dir() && random.one_in(40) {
            fs::remove_file(file).unwrap();
            continue;
        }
        let bytes = fs::read(file).unwrap();
        let other = fs::read(random.pick(&files)).unwrap();
        let name = file.to_string_lossy();
        let deeper = !random.one_in(4);
        let changed = match behind {
            Behind::Records if deeper && name.contains(".tfrecord") => {
                behind_records(&bytes, random)
            }
            Behind::Zip if deeper && (name.ends_with(".npz") || name.ends_with(".zip")) => {
                behind_zip(&bytes, random)
            }
            _ => Some(changed(bytes, &other, random)),
        };
        if let Some(changed) = changed {
            fs::write(file, changed).unwrap();
        }
    }
}

/// Numbers near which limits often are.
const LIMITS: [u64; 16] = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    65_535,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 40,
    (1 << 62) - 1,
    1 << 63,
    u64::MAX,
];

/// Words of JSON, YAML and Python that readers do not expect.
const WORDS: [&str; 24] = [
    "Infinity",
    "-Infinity",
    "NaN",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "[]",
    "{}",
    "\"\"",
    "[[[[[[[[",
    "{\"a\":",
    "\"../../../etc/passwd\"",
    "\"\\ud800\"",
    "\u{fffd}",
    "|O",
    "&a *a",
    "!!python/object:os.system",
    "${x}",
    ">f8",
];

/// Returns the bytes with one change: of a few bytes, or of a word if they are text.
fn changed(mut bytes: Vec<u8>, other: &[u8], random: &mut Random) -> Vec<u8> {
    let text = std::str::from_utf8(&bytes).is_ok();
    if bytes.is_empty() {
        return random.pick(&WORDS).as_bytes().to_vec();
    }
    let at = random.below(bytes.len());
    match random.below(if text { 14 } else { 9 }) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xfe, 0xff]),
        2 | 3 => {
            let width = *random.pick(&[1, 2, 4, 8]);
            let value = random.pick(&LIMITS).to_le_bytes();
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        4 => bytes.truncate(at),
        5 => {
            let end = (at + 1 + random.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        6 => {
            let end = (at + 1 + random.below(64)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        7 => {
            let more: Vec<u8> = (0..1 + random.below(16))
                .map(|_| random.next() as u8)
                .collect();
            bytes.splice(at..at, more);
        }
        8 => {
            let from = random.below(other.len().max(1)).min(other.len());
            let piece = &other[from..(from + 64).min(other.len())];
            let end = (at + piece.len()).min(bytes.len());
            bytes.splice(at..end, piece.iter().copied());
        }
        // Replace one word by another.
        _ => {
            let word = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+".contains(byte);
            let begin = bytes[..at]
                .iter()
                .rposition(|byte| !word(byte))
                .map_or(0, |before| before + 1);
            let end = bytes[at..]
                .iter()
                .position(|byte| !word(byte))
                .map_or(bytes.len(), |length| at + length);
            bytes.splice(begin..end.max(begin), random.pick(&WORDS).bytes());
        }
    }
    bytes
}

/// Returns a TFRecord file with one record damaged and correct checksums.
fn behind_records(bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
            .to_le_bytes()
    };
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_at_checked(12) {
        let length = usize::try_from(u64::from_le_bytes(head[..8].try_into().ok()?)).ok()?;
        let (record, after) = after.split_at_checked(length)?;
        records.push(record.to_vec());
        rest = after.get(4..)?;
    }
    let number = (!records.is_empty()).then(|| random.below(records.len()))?;
    let other = random.pick(&records).clone();
    records[number] = changed(std::mem::take(&mut records[number]), &other, random);
    let mut out = Vec::new();
    for record in &records {
        let length = (record.len() as u64).to_le_bytes();
        [&length[..], &masked(&length), record, &masked(record)]
            .iter()
            .for_each(|piece| out.extend_from_slice(piece));
    }
    Some(out)
}

/// Returns a zip file with one entry damaged, mostly near its beginning, and correct checksums.
fn behind_zip(bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut entries = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).ok()?;
        let (name, mut content) = (entry.name().ok()?.into_owned(), Vec::new());
        entry.read_to_end(&mut content).ok()?;
        entries.push((name, content));
    }
    let number = (!entries.is_empty()).then(|| random.below(entries.len()))?;
    let other = random.pick(&entries).1.clone();
    let content = std::mem::take(&mut entries[number].1);
    // The header of an array is text that describes the rest.
    let head = if random.one_in(4) {
        content.len()
    } else {
        content.len().min(128)
    };
    let (head, body) = content.split_at(head);
    entries[number].1 = [changed(head.to_vec(), &other, random).as_slice(), body].concat();
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        let method = if random.one_in(2) {
            zip::CompressionMethod::Stored
        } else {
            zip::CompressionMethod::Deflated
        };
        out.start_file(
            name,
            zip::write::SimpleFileOptions::default().compression_method(method),
        )
        .ok()?;
        out.write_all(&content).ok()?;
    }
    Some(out.finish().ok()?.into_inner())
}

/// A seeded generator of random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = mix(self.0);
        self.0
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
