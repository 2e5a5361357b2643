//! A plan in words: what would be read, kept and written, and what moved where.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::commit::{Existing, existing, existing_model};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exec::{self, SelectionTable};
use crate::plan::{Fingerprint, Phase, Plan, Sink};
use crate::stage::PRIVATE_PREFIX;

/// A plan as text for people and as JSON for programs. Selections of the first phase are computed, from metadata alone;
/// a later phase reads what the one before will write, so its sizes are not known yet.
///
/// # Errors
/// Where metadata cannot be read.
pub(super) fn explain(plan: &Plan) -> Result<(String, Value)> {
    let (mut text, mut phases) = (String::new(), Vec::new());
    let rows: u64 = plan.sources.iter().map(Dataset::rows).sum();
    let trajectories: u64 = plan.sources.iter().map(Dataset::trajectory_count).sum();
    let names: Vec<String> = plan
        .sources
        .iter()
        .map(|source| source.path.display().to_string())
        .collect();
    let _ = writeln!(
        text,
        "source  {}: {trajectories} trajectories, {rows} rows",
        names.join(", ")
    );
    if let Some(runtime) = &plan.runtime {
        let _ = writeln!(
            text,
            "models  {} {} on {}",
            runtime.name(),
            runtime.version(),
            runtime.devices().join(", ")
        );
    }
    for (index, phase) in plan.phases.iter().enumerate() {
        // What is yet to be imported has sizes only then.
        let known = index == 0 && plan.imports.iter().all(Option::is_none);
        let table = known
            .then(|| exec::select(phase, &plan.sources))
            .transpose()?;
        let _ = writeln!(text, "\nphase {}", index + 1);
        phases.push(describe(phase, table.as_ref(), &mut text)?);
    }
    Ok((
        text,
        json!({"sources": names, "rows": rows, "trajectories": trajectories, "phases": phases}),
    ))
}

/// What a run will do at a path, and what has changed since what stands there was made.
fn state(
    found: Existing,
    fingerprint: &Fingerprint,
    overwrite: bool,
) -> (&'static str, Vec<String>) {
    match found {
        Existing::Nothing => ("new", Vec::new()),
        Existing::Result { key, .. } if key == fingerprint.key() => (
            "nothing to do: it is there, made of the same things",
            Vec::new(),
        ),
        Existing::Result { inputs, .. } => {
            let verb = if overwrite {
                "replace what is there"
            } else {
                "in the way: what is there was made otherwise"
            };
            (verb, fingerprint.changes_since(&inputs))
        }
        Existing::Foreign => (
            "in the way: what is there is not a result of trajmill",
            Vec::new(),
        ),
    }
}

fn describe(phase: &Phase, table: Option<&SelectionTable>, text: &mut String) -> Result<Value> {
    let mut lessons = Vec::new();
    for placed in &phase.trainings {
        let training = &placed.part;
        let (state, changes) = state(
            existing_model(&training.path)?,
            &training.fingerprint,
            training.stage.overwrite,
        );
        let _ = writeln!(text, "  learn      {}: {state}", training.path.display());
        for change in &changes {
            let _ = writeln!(text, "             {change}");
        }
        lessons.push(json!({"path": training.path, "state": state, "changes": changes}));
    }
    let mut selections = Vec::new();
    for (index, placed) in phase.selections.iter().enumerate() {
        let ahead = if placed.ahead_of.is_empty() {
            String::new()
        } else {
            format!(", ahead of {}", placed.ahead_of.join(", "))
        };
        let flow = table.and_then(|table| table.flow.get(index));
        let kept = flow.map(|flow| {
            format!(
                ": {} of {} trajectories, {} of {} rows",
                flow.trajectories_out, flow.trajectories_in, flow.rows_out, flow.rows_in
            )
        });
        let _ = writeln!(
            text,
            "  select     {}{}{ahead}",
            placed.name,
            kept.unwrap_or_default()
        );
        selections.push(json!({"stage": placed.name, "index": placed.index + 1, "ahead_of": placed.ahead_of, "flow": flow}));
    }
    let task_count = match (table, &phase.sink) {
        (Some(table), Sink::Output { options, .. }) => {
            Some(exec::cut(table, options.shard_rows)?.len())
        }
        _ => None,
    };
    if let Some(table) = table {
        let _ = writeln!(
            text,
            "  read       {} trajectories, {} rows, columns {}",
            table.len(),
            table.rows()?,
            phase.reads.join(", ")
        );
    }
    for placed in &phase.transforms {
        let _ = writeln!(text, "  transform  {}", placed.name);
    }
    let sink = match &phase.sink {
        Sink::Model { path } => json!({"model": path}),
        Sink::Intermediate { because, stage } => {
            let between = |name: &String| name.starts_with(PRIVATE_PREFIX);
            let why = match because.as_slice() {
                [] => "what the stages above write".to_owned(),
                names if names.iter().any(between) => "something of all steps first".to_owned(),
                names => names.join(", "),
            };
            let _ = writeln!(text, "  stage      for `{stage}`, which needs {why}");
            json!({"staged_for": stage, "because": because})
        }
        Sink::Output { path, options } => {
            let (state, changes) = state(existing(path)?, &phase.fingerprint, options.overwrite);
            let shards = task_count
                .map(|count| format!(" in {count} shard{}", if count == 1 { "" } else { "s" }))
                .unwrap_or_default();
            let _ = writeln!(text, "  write      {}{shards}: {state}", path.display());
            for change in &changes {
                let _ = writeln!(text, "             {change}");
            }
            json!({"path": path, "tasks": task_count, "state": state, "changes": changes})
        }
    };
    let transforms: Vec<&str> = phase
        .transforms
        .iter()
        .map(|placed| placed.name.as_str())
        .collect();
    Ok(
        json!({"lessons": lessons, "selections": selections, "transforms": transforms, "reads": phase.reads, "sink": sink, "fingerprint": phase.fingerprint.key()}),
    )
}
