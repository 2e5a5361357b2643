//! The JSON Schema of pipeline files: the committed one is up to date, and every stage has a sample
//! that fits it. `trajmill schema > schemas/pipeline.schema.json` renews it.

use std::fs;
use std::process::Command;

use trajmill::internals::stage::STAGES;

use super::support::{Workspace, finish, repository, runtime};

#[test]
fn the_committed_schema_is_up_to_date() {
    let workspace = Workspace::new();
    let made = workspace.trajmill(&["schema"]).exits(0).stdout;
    let committed = fs::read_to_string(repository().join("schemas/pipeline.schema.json")).unwrap();
    assert!(
        made == committed,
        "out of date: run `trajmill schema > schemas/pipeline.schema.json`"
    );
}

#[test]
fn every_stage_has_a_sample_that_binds() {
    let workspace = Workspace::new();
    fs::copy(
        workspace.path("models/mlp.onnx"),
        workspace.path("pipelines/idm.onnx"),
    )
    .unwrap();
    for stage in STAGES {
        let last = if stage.name == "materialise" {
            ""
        } else {
            "  - materialise: { path: ../out/sample }\n"
        };
        let text = format!(
            "trajmill: 1\nsource: ../corpus\nstages:\n  - {}: {}\n{last}",
            stage.name, stage.sample
        );
        let pipeline = workspace.write(stage.name, &text);
        let done = workspace.trajmill(&["check", &pipeline]);
        assert_eq!(
            done.code,
            Some(0),
            "the sample of `{}`:\n{}",
            stage.name,
            done.stderr
        );
    }
}

#[test]
fn every_option_has_a_description() {
    fn walk(path: &str, value: &serde_json::Value, missing: &mut Vec<String>) {
        let Some(object) = value.as_object() else {
            return;
        };
        for (name, property) in object
            .get("properties")
            .and_then(serde_json::Value::as_object)
            .into_iter()
            .flatten()
        {
            // The description of a reference is at its target.
            if property.get("description").is_none() && property.get("$ref").is_none() {
                missing.push(format!("{path}.{name}"));
            }
        }
        for (name, child) in object {
            walk(&format!("{path}.{name}"), child, missing);
        }
    }
    let mut missing = Vec::new();
    let schema = Workspace::new().trajmill(&["schema"]).exits(0).json();
    walk("pipeline", &schema["$defs"], &mut missing);
    assert!(
        missing.is_empty(),
        "these options have no description: {missing:#?}"
    );
    assert!(
        schema["$defs"].as_object().unwrap().len() >= STAGES.len(),
        "the schema lacks stages"
    );
}

#[test]
fn the_pipelines_in_the_repository_are_valid() {
    let folder = fs::read_dir(repository().join("pipelines")).unwrap();
    let mut pipelines: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    pipelines.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    pipelines.sort();
    assert!(!pipelines.is_empty());
    let mut command = Command::new(env!("CARGO_BIN_EXE_trajmill"));
    command
        .arg("check")
        .args(pipelines)
        .current_dir(repository())
        .env("TRAJMILL_RUNTIME", runtime());
    finish(command).exits(0);
}
