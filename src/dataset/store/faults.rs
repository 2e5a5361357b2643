//! Counts operations and injects the fault that `TRAJMILL_FAULT` names; see [`super`].

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);
static PAUSES: AtomicU64 = AtomicU64::new(0);

pub(super) fn before(action: &str, path: &Path) -> io::Result<()> {
    let Ok(fault) = std::env::var("TRAJMILL_FAULT") else {
        return Ok(());
    };
    let count = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    let mut parts = fault.split(':');
    let (kind, at) = (parts.next(), parts.next().unwrap_or_default());
    if kind == Some("count") {
        let mut log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(at)?;
        return writeln!(log, "{count} {action} {}", path.display());
    }
    if at.parse() != Ok(count) {
        return Ok(());
    }
    match kind {
        Some("kill") => signal(rustix::process::Signal::KILL),
        Some("stop") => signal(rustix::process::Signal::STOP),
        Some("error") => {
            let errno = parts
                .next()
                .and_then(|errno| errno.parse().ok())
                .unwrap_or(5);
            Err(io::Error::from_raw_os_error(errno))
        }
        _ => Ok(()),
    }
}

/// Sleeps for up to 4 ms, depending on the seed and the number of earlier pauses.
pub(super) fn pause() {
    let Ok(fault) = std::env::var("TRAJMILL_FAULT") else {
        return;
    };
    let Some(seed) = fault.strip_prefix("delay:") else {
        return;
    };
    let count = PAUSES.fetch_add(1, Ordering::SeqCst);
    let hash = blake3::hash(format!("{seed} {count}").as_bytes());
    let micros = u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % 4000;
    std::thread::sleep(std::time::Duration::from_micros(micros));
}

/// Returns whether to behave like a file system that supports only the plain rename.
pub(super) fn plain_renames() -> bool {
    std::env::var("TRAJMILL_FAULT").is_ok_and(|fault| fault == "plain-renames")
}

fn signal(signal: rustix::process::Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(
        rustix::process::getpid(),
        signal,
    )?)
}
