//! `trajmill completions`: scripts that let shells complete command lines.

use std::io::Write;

use clap_complete::Shell;
use clap_complete::aot::generate;

use super::{Command, command_line, print};
use crate::error::Result;

/// Print a script that lets a shell complete commands and options
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bash: trajmill completions bash > ~/.local/share/bash-completion/completions/trajmill
Zsh:  trajmill completions zsh > ~/.zfunc/_trajmill, with ~/.zfunc in `fpath` before `compinit`
Fish: trajmill completions fish > ~/.config/fish/completions/trajmill.fish")]
pub(super) struct Completions {
    /// Shell that runs the script
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

impl Command for Completions {
    const NAME: &'static str = "completions";

    fn run(&self) -> Result<()> {
        let shell = match self.shell.as_str() {
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            _ => Shell::Bash,
        };
        // The generator panics where it cannot write, so it writes to memory.
        let mut script = Vec::new();
        generate(shell, &mut command_line(), "trajmill", &mut script);
        let mut out = print::Stdout::new();
        out.write_all(&script)?;
        Ok(out.flush()?)
    }
}
