//! The origin of a dataset through any number of steps: the work behind `trajmill lineage`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::{Value, json};

use crate::commit;
use crate::dataset::schema::{step, type_name};
use crate::dataset::{Ancestor, Ancestry, Dataset, files, layout};
use crate::error::{Error, Result};
use crate::query::{Session, SessionOptions};

/// The origin of a dataset.
pub(crate) struct Lineage {
    /// The dataset's file or directory.
    pub path: PathBuf,
    /// The hash of its manifest; `None` for a dataset in a foreign format.
    pub manifest: Option<String>,
    /// What the dataset says of itself.
    pub own: Ancestor,
    /// What the manifests that it was made from say, by hash.
    pub manifests: BTreeMap<String, Ancestor>,
    /// The row that was asked for.
    pub row: Option<Row>,
}

/// A model that a stage ran.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Model<'a> {
    /// The stage, such as `stage 2 label`.
    pub stage: &'a str,
    /// The path as the pipeline has it.
    pub path: &'a str,
    /// The blake3 hash of the model.
    pub hash: &'a str,
    /// The hash of the manifest of the dataset that the stage made; `None` for the dataset itself.
    pub manifest: Option<&'a str>,
}

/// The origin of one action.
#[derive(Debug)]
pub(crate) struct Row {
    /// Id of the trajectory.
    pub trajectory: i64,
    /// Position in the trajectory.
    pub step: i64,
    /// Where the action comes from; `None` if there is no action.
    pub source: Option<String>,
    /// The id of the model that predicted the action, if the dataset records it.
    pub model: Option<String>,
}

impl Lineage {
    /// Reads the origin of the dataset at `path`, and that of the action at a step of a trajectory
    /// if `row` is given.
    ///
    /// # Errors
    /// Returns an error if nothing at `path` tells its origin, if it cannot be read, or if there is
    /// no such row.
    pub(crate) fn of(path: &Path, row: Option<(i64, i64)>) -> Result<Lineage> {
        let own = files::exists(&layout::manifest(path))?;
        if !own && files::exists(path)? {
            return foreign(path, row);
        }
        let dataset = Dataset::open(path)?;
        Ok(Lineage {
            row: row.map(|place| Row::read(&dataset, place)).transpose()?,
            ..Lineage::of_dataset(&dataset)
        })
    }

    /// Returns the origin of a dataset.
    pub(crate) fn of_dataset(dataset: &Dataset) -> Lineage {
        let lineage = &dataset.manifest.lineage;
        Lineage {
            path: dataset.path.clone(),
            manifest: Some(dataset.hash.clone()),
            own: lineage.ancestor(&dataset.manifest.tool),
            manifests: lineage.ancestry.manifests.clone(),
            row: None,
        }
    }

    /// Returns the models that predicted actions on the way to the dataset, the latest first.
    pub(crate) fn models(&self) -> Vec<Model<'_>> {
        let own = (None, &self.own);
        let others = self.manifests.iter();
        let others = others.map(|(hash, ancestor)| (Some(hash.as_str()), ancestor));
        [own].into_iter().chain(others).flat_map(models).collect()
    }

    /// Returns the models that may have predicted the action of the row: those with the id that the
    /// row records, or all of them if it records none.
    pub(crate) fn models_of(&self, row: &Row) -> Vec<Model<'_>> {
        let mut models = self.models();
        if let Some(id) = &row.model {
            models.retain(|model| id.split('+').any(|id| model.hash.starts_with(id)));
        }
        models
    }

    /// Returns the lineage as one JSON object, for programs.
    pub(crate) fn to_json(&self) -> Value {
        let models = |models: Vec<Model>| -> Vec<Value> {
            let json = |model: Model| {
                json!({
                    "stage": model.stage,
                    "path": model.path,
                    "hash": model.hash,
                    "manifest": model.manifest,
                })
            };
            models.into_iter().map(json).collect()
        };
        let row = self.row.as_ref().map(|row| {
            json!({
                "trajectory_id": row.trajectory,
                "step": row.step,
                "action_source": row.source,
                "action_model": row.model,
                "models": row.is_predicted().then(|| models(self.models_of(row))),
            })
        });
        json!({
            "path": self.path,
            "manifest": self.manifest,
            "own": self.own,
            "manifests": self.manifests,
            "models": models(self.models()),
            "row": row,
        })
    }
}

/// Returns what the note of origin of a foreign dataset tells.
fn foreign(path: &Path, row: Option<(i64, i64)>) -> Result<Lineage> {
    let Some((own, Ancestry { manifests, .. })) = commit::lineage(path)? else {
        return Err(Error::failed(format!(
            "{} does not tell its origin: it is no dataset of trajmill, and not an export of one",
            path.display()
        ))
        .hint("give a directory with `dataset.json`, or an export"));
    };
    if row.is_some() {
        return Err(Error::usage(format!(
            "`--row` needs a trajmill dataset, and {} is an export",
            path.display()
        ))
        .hint("import it, and ask for the row of the imported dataset"));
    }
    Ok(Lineage {
        path: path.to_owned(),
        manifest: None,
        own,
        manifests,
        row: None,
    })
}

/// Returns the value of an input as users write it: the types of columns are Arrow's in a manifest.
pub(crate) fn readable(name: &str, value: &str) -> String {
    let is_schema = ["columns", "trajectories"].contains(&name);
    let columns = is_schema.then(|| readable_columns(value)).flatten();
    columns.unwrap_or_else(|| value.to_owned())
}

/// Returns a list of columns with their types; `None` if `text` is none.
fn readable_columns(text: &str) -> Option<String> {
    let mut found = Vec::new();
    let mut open = String::new();
    // The names of types contain commas too.
    for piece in text.split(", ") {
        if !open.is_empty() {
            open.push_str(", ");
        }
        open.push_str(piece);
        if let Some(column) = readable_column(&open) {
            found.push(column);
            open.clear();
        }
    }
    open.is_empty().then(|| found.join(", "))
}

/// Returns a column with its type: `reward Float64 true` is `reward float64`.
fn readable_column(text: &str) -> Option<String> {
    let text = text
        .split_once(" tolerance ")
        .map_or(text, |(text, _)| text);
    let (text, nullable) = text.rsplit_once(' ')?;
    if !["true", "false"].contains(&nullable) {
        return None;
    }
    let mut spaces = text.match_indices(' ');
    spaces.find_map(|(at, _)| {
        let data_type: DataType = text[at + 1..].parse().ok()?;
        Some(format!("{} {}", &text[..at], type_name(&data_type)))
    })
}

/// Returns the models among the inputs of a dataset.
fn models<'a>(
    (manifest, ancestor): (Option<&'a str>, &'a Ancestor),
) -> impl Iterator<Item = Model<'a>> {
    ancestor.inputs.iter().filter_map(move |(name, hash)| {
        let (stage, path) = name.split_once(" model ")?;
        stage.starts_with("stage ").then_some(Model {
            stage,
            path,
            hash,
            manifest,
        })
    })
}

impl Row {
    /// Returns whether a model predicted the action.
    pub(crate) fn is_predicted(&self) -> bool {
        self.source.as_deref() == Some("proxy")
    }

    /// Reads the columns that tell the origin of an action.
    fn read(dataset: &Dataset, (trajectory, number): (i64, i64)) -> Result<Row> {
        let session = Session::open(
            &[(dataset.name.clone(), dataset.clone())],
            &SessionOptions::default(),
        )?;
        let has = |name: &str| dataset.steps.index_of(name).is_ok();
        let column = |name: &str| match has(name) {
            true => name.to_owned(),
            false => "CAST(NULL AS STRING)".to_owned(),
        };
        let recorded = if has(step::ACTION) {
            step::ACTION
        } else {
            "NULL"
        };
        let (_, batches) = session.query(&format!(
            "SELECT {}, {}, {recorded} IS NOT NULL FROM steps \
             WHERE trajectory_id = {trajectory} AND step = {number}",
            column(step::ACTION_SOURCE),
            column(step::ACTION_MODEL),
        ))?;
        let [batch] = batches.as_slice() else {
            return Err(Error::failed(format!(
                "{} has no step {number} in trajectory {trajectory}",
                dataset.path.display()
            ))
            .hint("`trajmill sql` shows the ids and lengths in the table `trajectories`"));
        };
        let text = |index: usize| -> Result<Option<String>> {
            let column = cast(batch.column(index), &DataType::Utf8)?;
            let column = column.as_string::<i32>();
            Ok(column.is_valid(0).then(|| column.value(0).to_owned()))
        };
        let has_action = batch.column(2).as_boolean().value(0);
        let source = match text(0)? {
            None if has_action => Some("recorded".to_owned()),
            source => source,
        };
        Ok(Row {
            trajectory,
            step: number,
            source,
            model: text(1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_shown_with_types_as_users_write_them() {
        let columns = "observation FixedSizeList(2 x non-null Float32, field: 'element') false, \
                       my note Utf8 true, \
                       cam Struct(\"path\": Utf8, \"at\": non-null Float64) true tolerance 1, \
                       points List(Float64, field: 'item') true";
        assert_eq!(
            readable("columns", columns),
            "observation float32[2], my note text, \
             cam struct[path: text, at: float64], points list[float64]"
        );
        assert_eq!(readable("columns", "a, b"), "a, b");
        assert_eq!(readable("map", "a Float64 true"), "a Float64 true");
    }

    #[test]
    fn models_are_found_among_the_inputs() {
        let inputs = [
            ("source 1", "aa"),
            ("stage 2 label", "{\"model\":\"m.onnx\"}"),
            ("stage 2 label model ../m.onnx", "bb"),
        ];
        let ancestor = Ancestor {
            tool: String::new(),
            by: "run".to_owned(),
            inputs: inputs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            sources: Vec::new(),
        };
        let found: Vec<Model> = models((None, &ancestor)).collect();
        let expected = Model {
            stage: "stage 2 label",
            path: "../m.onnx",
            hash: "bb",
            manifest: None,
        };
        assert_eq!(found, [expected]);
    }
}
