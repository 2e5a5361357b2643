//! `trajmill doctor`: the model runtimes and devices of this machine.

use super::{Command, print};
use crate::error::Result;
use crate::{model, train, video};

/// Show which model runtimes and devices are available, and how to install the others
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {}

impl Command for Doctor {
    const NAME: &'static str = "doctor";

    fn run(&self) -> Result<()> {
        let mut findings = model::doctor();
        findings.extend([
            ("training".to_owned(), training()),
            ("video".to_owned(), decoding()),
        ]);
        let width = findings
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        for (name, finding) in findings {
            print::line(&format!("{name:width$}  {finding}"))?;
        }
        Ok(())
    }
}

fn training() -> String {
    match train::Device::Cuda(0).works() {
        Ok(()) => "on cuda:0 and on the CPU".to_owned(),
        Err(_) if !train::Device::built_for_cuda() => {
            "on the CPU: built without the Cargo feature `cuda`".to_owned()
        }
        Err(error) => format!("on the CPU: {}", error.message),
    }
}

fn decoding() -> String {
    video::version().unwrap_or_else(|_| {
        "built without the Cargo feature `video`: LeRobot videos stay references".to_owned()
    })
}
