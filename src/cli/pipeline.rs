//! `run`, `check` and `plan`.

use super::progress::{Busy, Progress};
use super::{CheckArgs, PipelineArgs, PlanArgs, RunArgs, cores, explain, interruptible, report};
use crate::config::{self, PipelineFile};
use crate::error::{Error, Result};
use crate::plan::{self, Plan};
use crate::{model, run};

fn models(common: &PipelineArgs) -> model::Options {
    model::Options {
        device: common.device.clone(),
        tf32: common.tf32,
    }
}

/// Foreign sources are hashed for it, which takes its time.
fn resolve(pipeline: &PipelineFile, common: &PipelineArgs) -> Result<Plan> {
    let _busy = Busy::with("looking at the sources".to_owned());
    plan::resolve(pipeline, &models(common))
}

pub(super) fn run(args: &RunArgs) -> Result<()> {
    let interrupted = interruptible()?;
    let progress = Progress::new();
    let options = run::Options {
        overrides: args.common.set.clone(),
        threads: args.threads.map_or_else(cores, usize::from),
        memory: args.memory,
        model: models(&args.common),
        fresh: args.fresh,
        interrupted: &interrupted,
        watch: &progress,
    };
    let done = run::run(&args.pipeline, &options)?;
    report::summary(&done);
    if args.json {
        report::print(&done.to_json().to_string());
    }
    done.within_allowance()
}

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let mut worst: Option<Error> = None;
    for path in &args.pipelines {
        let checked = config::load(path, &args.common.set)
            .and_then(|pipeline| resolve(&pipeline, &args.common));
        match checked {
            Ok(plan) => {
                let phases = plan.phases.len();
                report::say(&format!(
                    "{}: fine ({phases} phase{})",
                    path.display(),
                    if phases == 1 { "" } else { "s" }
                ));
            }
            Err(error) => {
                if let Some(previous) = worst.replace(error) {
                    report::error(&previous);
                }
            }
        }
    }
    worst.map_or(Ok(()), Err)
}

pub(super) fn plan(args: &PlanArgs) -> Result<()> {
    let pipeline = config::load(&args.pipeline, &args.common.set)?;
    let plan = resolve(&pipeline, &args.common)?;
    let (text, json) = explain::explain(&plan)?;
    report::print(&if args.json {
        json.to_string()
    } else {
        text.trim_end().to_owned()
    });
    Ok(())
}
