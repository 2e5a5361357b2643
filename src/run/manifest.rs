//! The manifest of a dataset that a run writes.

use arrow::datatypes::Schema;
use serde_json::{Map, Value, json};

use crate::dataset::manifest::{Lineage, Manifest, Statistics, TOOL, VERSION, VideoEntry};
use crate::dataset::{Account, Ancestry, Dataset, ShardEntry, schema};
use crate::error::{Error, Result};
use crate::exec::Flow;
use crate::plan::{Phase, Plan};

/// Returns the manifest of the result of `phase`, which read `input` and wrote `shards` with the
/// columns `steps`. `flow` covers all stages
/// since the last output.
///
/// # Errors
/// Returns an error if the counts of a stage cannot be written as JSON, which does not happen in
/// practice.
pub(super) fn of(
    plan: &Plan,
    phase: &Phase,
    input: &[Dataset],
    (steps, shards): (&Schema, Vec<ShardEntry>),
    videos: Vec<VideoEntry>,
    flow: &[Flow],
    ancestry: Ancestry,
) -> Result<Manifest> {
    let mut statistics = Statistics::default();
    shards
        .iter()
        .for_each(|shard| statistics.add(&shard.statistics));
    let stages = flow
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::failed(format!("cannot record the counts: {error}")))?;
    Ok(Manifest {
        trajmill: VERSION,
        tool: TOOL.to_owned(),
        fingerprint: phase.fingerprint.key(),
        columns: schema::describe(steps),
        statistics,
        shards,
        videos,
        lineage: Lineage {
            by: "run".to_owned(),
            pipeline: Some(plan.text.clone()),
            params: plan.params.clone(),
            inputs: phase.fingerprint.inputs.clone(),
            stages,
            runtime: runtime(plan),
            ancestry,
            source_metadata: source_metadata(input),
            imports: imports(input),
            set_aside: 0,
            quarantine: None,
        },
    })
}

/// Returns name, version and devices of the model runtime; `None` if no stage uses a model.
pub(super) fn runtime(plan: &Plan) -> Option<Value> {
    let runtime = plan.runtime.as_ref()?;
    Some(json!({
        "name": runtime.name(),
        "version": runtime.version(),
        "devices": runtime.devices(),
    }))
}

/// Returns the accounts of all imports that led to the sources, each once.
fn imports(sources: &[Dataset]) -> Vec<Account> {
    let mut imports: Vec<Account> = Vec::new();
    for account in sources
        .iter()
        .flat_map(|source| &source.manifest.lineage.imports)
    {
        if !imports.contains(account) {
            imports.push(account.clone());
        }
    }
    imports
}

/// Returns the sources' own metadata: that of a single source verbatim, that of several under their
/// names.
fn source_metadata(sources: &[Dataset]) -> Map<String, Value> {
    let own = |source: &Dataset| source.manifest.lineage.source_metadata.clone();
    match sources {
        [one] => own(one),
        several => several
            .iter()
            .map(|source| (source.name.clone(), own(source)))
            .filter(|(_, metadata)| !metadata.is_empty())
            .map(|(name, metadata)| (name, Value::Object(metadata)))
            .collect(),
    }
}
