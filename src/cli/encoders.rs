//! Keeps the encoder of AV1 from writing to the terminal.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable that says how much SVT-AV1 writes to standard error. The library has no other way
/// to silence it, and reads the variable when it is loaded.
const VARIABLE: &str = "SVT_LOG";

/// The commands that may encode videos.
const COMMANDS: [&str; 2] = ["export", "run"];

/// Starts this process over with the variable set, if `command` may encode videos and the user has
/// not set it. Without success, the encoder writes what it writes.
pub(super) fn silence(command: &str) {
    if !COMMANDS.contains(&command) || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Returns only if the process could not be started over.
    let _ = again.args(arguments).env(VARIABLE, "0").exec();
}
