//! Writes Minari's HDF5 backend, one episode at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value, json};

use super::values::Values;
use super::{MAIN_FILE, TRAJMILL, spaces};
use crate::container::hdf5::{Attribute, Hdf5Writer};
use crate::dataset::schema::{step, type_name};
use crate::dataset::store;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::{self, Envelope};
use crate::transfer::write::arrays;
use crate::transfer::write::sources::{agreed, sources_with};
use crate::transfer::write::{
    ACTION_VALID, OutgoingDataset, OutgoingTrajectory, WriteOptions, Written,
};

/// The version that is declared, which all present loaders accept.
const VERSION: &str = "0.5.0";

/// The key that every dataset of Minari has.
const OBSERVATION_SPACE: &str = "observation_space";

/// Keys of metadata that are kept when a dataset came from Minari.
const KEPT_KEYS: [&str; 14] = [
    "env_spec",
    "eval_env_spec",
    "author",
    "author_email",
    "algorithm_name",
    "code_permalink",
    "description",
    "requirements",
    "ref_min_score",
    "ref_max_score",
    "num_episodes_average_score",
    "combined_datasets",
    OBSERVATION_SPACE,
    "action_space",
];

/// Writes a Minari dataset to `to`.
pub(crate) fn write(
    outgoing: &OutgoingDataset,
    to: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    let mut written = Written::default();
    let observation = plain_field(outgoing, step::OBSERVATION)?;
    let action = plain_field(outgoing, step::ACTION)?;
    if outgoing.steps().column_with_name(step::REWARD).is_none() {
        return Err(
            Error::failed("Minari needs rewards, but the dataset has no column `reward`").hint(
                "add one with `derive: {reward: \"0.0\"}`, or choose a format that needs none",
            ),
        );
    }
    let infos = infos(outgoing, &mut written)?;
    let mut columns = BTreeMap::new();
    for info in infos.iter().filter(|info| info.name != info.column) {
        columns.insert(info.name.clone(), info.column.clone());
    }
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    let source = &outgoing.manifest().lineage.source_metadata;
    let name = options.name.clone().or_else(|| {
        source
            .get("dataset_id")
            .and_then(Value::as_str)
            .map(str::to_owned)
    });
    let name = name.unwrap_or_else(|| "trajmill/dataset-v0".to_owned());
    verify_id(&name)?;

    let folder = to.join("data");
    store::create_dir(&folder)?;
    let mut file = Hdf5Writer::create(&folder.join(MAIN_FILE))?;
    let mut unknown_finals: u64 = 0;
    let mut found = [&observation, &action].map(Values::of);
    for trajectory in outgoing.pass(None)? {
        let trajectory = trajectory?;
        unknown_finals += u64::from(!trajectory.has_final());
        for (name, values) in [step::OBSERVATION, step::ACTION].iter().zip(&mut found) {
            if let Some(column) = trajectory.steps.column_by_name(name) {
                values.add(column)?;
            }
        }
        episode(&mut file, &trajectory, &infos)?;
    }
    file.finish()?;
    let bytes = std::fs::metadata(folder.join(MAIN_FILE)).map_or(0, |metadata| metadata.len());

    // Merged datasets have what they agree on.
    let sources = sources_with(source, OBSERVATION_SPACE);
    let mut metadata: Map<String, Value> = KEPT_KEYS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), agreed(&sources, key)?.clone())))
        .collect();
    for key in KEPT_KEYS
        .into_iter()
        .filter(|key| !metadata.contains_key(*key))
    {
        if sources.iter().any(|source| source.contains_key(key)) {
            let instead = if key.ends_with("_space") {
                "they differ, so the space follows from the values"
            } else {
                "not written, since they differ"
            };
            written.cannot_hold(format!("the sources' `{key}`"), instead);
        }
    }
    for ((key, field), values) in [(OBSERVATION_SPACE, &observation), ("action_space", &action)]
        .into_iter()
        .zip(&found)
    {
        // The space of the source may say more than types do, such as bounds.
        let known = metadata
            .get(key)
            .and_then(Value::as_str)
            .and_then(|text| spaces::parse(text).ok());
        let space = spaces::of(field, values, known.as_ref(), key == "action_space")?;
        if known.as_ref() != Some(&space) {
            metadata.insert(key.to_owned(), Value::from(spaces::text(&space)));
        }
    }
    metadata.extend([
        ("total_episodes".to_owned(), json!(outgoing.trajectories())),
        ("total_steps".to_owned(), json!(outgoing.length())),
        ("data_format".to_owned(), json!("hdf5")),
        // Images stay arrays: Minari would encode them as JPEG, which loses information.
        ("jpeg_encoding".to_owned(), json!(false)),
        ("dataset_id".to_owned(), json!(name)),
        ("minari_version".to_owned(), json!(VERSION)),
        (
            "dataset_size".to_owned(),
            json!((bytes as f64 / 1e5).ceil() / 10.0),
        ),
        (
            TRAJMILL.to_owned(),
            serde_json::to_value(&envelope).map_err(|error| Error::failed(error.to_string()))?,
        ),
    ]);
    if let Some(env) = &options.env {
        metadata.insert("env_spec".to_owned(), json!(env_spec(env)));
    }
    let text =
        serde_json::to_vec_pretty(&metadata).map_err(|error| Error::failed(error.to_string()))?;
    store::write(&folder.join("metadata.json"), &text)?;
    if unknown_finals > 0 {
        written.cannot_hold(
            format!(
                "unknown final observations of {}",
                count(unknown_finals, "trajectory")
            ),
            format!("the last observation stands twice, and the attribute `{TRAJMILL}` says so"),
        );
    }
    written.cannot_hold(
        "identity of trajectories, and their other columns",
        format!("in the attribute `{TRAJMILL}` of each episode"),
    );
    Ok(written)
}

/// Returns the field of a column that Minari needs, which must consist of plain arrays.
fn plain_field(outgoing: &OutgoingDataset, name: &str) -> Result<Field> {
    let missing = || {
        Error::failed(format!(
            "Minari needs `{name}s`, but the dataset has no column `{name}`"
        ))
    };
    let field = outgoing
        .steps()
        .field_with_name(name)
        .map_err(|_| missing())?;
    if !is_plain(field) {
        return Err(Error::failed(format!(
            "Minari cannot hold `{name}`, which has the type {}",
            type_name(field.data_type())
        ))
        .hint(
            "it holds numbers and texts only: choose other columns with `derive` and `columns`, or \
             another format",
        ));
    }
    Ok(field.clone())
}

/// Whether the column consists of arrays of numbers and texts.
pub(super) fn is_plain(field: &Field) -> bool {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().all(|field| is_plain(field)),
        DataType::Utf8 => true,
        _ => arrays::plain_arrays(field, field.name()).is_some(),
    }
}

/// Writes the column `values` as the array or arrays `name`.
fn write_values(file: &mut Hdf5Writer, name: &str, field: &Field, values: &ArrayRef) -> Result<()> {
    match (field.data_type(), values.as_string_opt::<i32>()) {
        (DataType::Struct(fields), _) => fields
            .iter()
            .zip(values.as_struct().columns())
            .try_for_each(|(field, values)| {
                write_values(file, &format!("{name}/{}", field.name()), field, values)
            }),
        (_, Some(texts)) => {
            let texts: Vec<&str> = texts.iter().map(Option::unwrap_or_default).collect();
            file.texts(name, &[texts.len() as u64], &texts)
        }
        _ => arrays::write_column(file, name, field, values),
    }
}

/// Verifies that a dataset's id has the form that the loader requires.
fn verify_id(name: &str) -> Result<()> {
    let (path, version) = name.rsplit_once("-v").unwrap_or((name, ""));
    let part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|letter| letter.is_alphanumeric() || "-_".contains(letter))
    };
    if path.split('/').all(part)
        && !version.is_empty()
        && version.bytes().all(|digit| digit.is_ascii_digit())
    {
        return Ok(());
    }
    Err(
        Error::usage(format!("`{name}` is not a valid name for Minari"))
            .hint("write it as NAMESPACE/NAME-v0, with letters, digits, - and _"),
    )
}

/// Returns the JSON of Gymnasium's spec for the environment `env`.
fn env_spec(env: &str) -> String {
    json!({
        "id": env,
        "entry_point": null,
        "reward_threshold": null,
        "nondeterministic": false,
        "max_episode_steps": null,
        "order_enforce": true,
        "disable_env_checker": false,
        "kwargs": {},
        "additional_wrappers": [],
        "vector_entry_point": null,
    })
    .to_string()
}

/// A column that is written to `infos`.
struct Info {
    /// Its name in the file, which begins with `infos/`.
    name: String,
    column: String,
    field: Field,
    /// Whether an array `NAME_valid` beside it says where it is null.
    nulls: bool,
}

/// Returns the columns that are written to `infos`. What Minari cannot hold is noted in `written`.
fn infos(outgoing: &OutgoingDataset, written: &mut Written) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    let mut left_out = Vec::new();
    for column in arrays::extra_columns(outgoing.steps()) {
        let name = arrays::info_name(&column);
        let field = outgoing.steps().field_with_name(&column)?.clone();
        if is_plain(&field) {
            infos.push(Info {
                name,
                column,
                field,
                nulls: false,
            });
        } else {
            left_out.push(column);
        }
    }
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        written.cannot_hold(
            "`action_source`",
            arrays::source_names(outgoing, "infos/action_is_proxy"),
        );
    }
    if outgoing.steps().column_with_name(ACTION_VALID).is_some() {
        written.cannot_hold(
            "which actions were filled in",
            format!("in `infos/{ACTION_VALID}`"),
        );
    }
    // All episodes must have the same arrays, so the columns with nulls are found first.
    let nullable: Vec<&str> = infos
        .iter()
        .map(|info| info.column.as_str())
        .filter(|column| {
            outgoing
                .steps()
                .field_with_name(column)
                .is_ok_and(Field::is_nullable)
        })
        .collect();
    if !nullable.is_empty() {
        let mut found = BTreeSet::new();
        for trajectory in outgoing.pass(Some(&nullable))? {
            let trajectory = trajectory?;
            found.extend(
                nullable
                    .iter()
                    .filter(|name| {
                        trajectory
                            .steps
                            .column_by_name(name)
                            .is_some_and(|column| column.null_count() > 0)
                    })
                    .map(|name| (*name).to_owned()),
            );
        }
        infos
            .iter_mut()
            .for_each(|info| info.nulls = found.contains(&info.column));
    }
    arrays::report_left_out(
        outgoing,
        written,
        &left_out,
        "in the attribute `trajmill` of each episode",
    );
    Ok(infos)
}

/// Writes one episode.
fn episode(file: &mut Hdf5Writer, trajectory: &OutgoingTrajectory, infos: &[Info]) -> Result<()> {
    let group = format!("episode_{}", trajectory.index);
    let rows = trajectory.length + 1;
    let column = |name: &str| {
        trajectory
            .steps
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| Error::failed("the column `{name}` was not read"))
    };
    let observation = extended(&column(step::OBSERVATION)?, rows)?;
    write_values(
        file,
        &format!("{group}/observations"),
        &trajectory
            .steps
            .schema()
            .field_with_name(step::OBSERVATION)?
            .clone(),
        &observation,
    )?;
    let action = column(step::ACTION)?.slice(0, trajectory.length);
    write_values(
        file,
        &format!("{group}/actions"),
        &trajectory
            .steps
            .schema()
            .field_with_name(step::ACTION)?
            .clone(),
        &action,
    )?;
    let reward = column(step::REWARD)?.slice(0, trajectory.length);
    arrays::write_column(
        file,
        &format!("{group}/rewards"),
        &Field::new("rewards", reward.data_type().clone(), true),
        &reward,
    )?;
    let (terminated, truncated) = (column(step::TERMINATED)?, column(step::TRUNCATED)?);
    let last = trajectory.length.wrapping_sub(1);
    let open = trajectory.length > 0 && !terminated.as_boolean().value(last);
    for (name, flags, cut) in [
        ("terminations", &terminated, false),
        ("truncations", &truncated, open),
    ] {
        let flags = flags.as_boolean();
        let flags: ArrayRef = Arc::new(BooleanArray::from_iter(
            (0..trajectory.length).map(|row| Some(flags.value(row) || (cut && row == last))),
        ));
        arrays::write_column(
            file,
            &format!("{group}/{name}"),
            &Field::new(name, DataType::Boolean, false),
            &flags,
        )?;
    }
    for info in infos {
        let values = column(&info.column)?;
        if info.nulls {
            let valid: ArrayRef = Arc::new(BooleanArray::from_iter(
                (0..rows).map(|row| Some(row < values.len() && values.is_valid(row))),
            ));
            arrays::write_column(
                file,
                &format!("{group}/{}_valid", info.name),
                &Field::new("valid", DataType::Boolean, false),
                &valid,
            )?;
        }
        let values = extended(&values, rows)?;
        write_values(
            file,
            &format!("{group}/{}", info.name),
            &info.field,
            &values,
        )?;
    }
    let proxies = format!("{group}/infos/action_is_proxy");
    arrays::write_sources(file, &proxies, trajectory, rows)?;
    let line = envelope::line(trajectory)?;
    let mut attributes = vec![
        ("id".to_owned(), Attribute::Int(trajectory.index as i64)),
        (
            "total_steps".to_owned(),
            Attribute::Int(trajectory.length as i64),
        ),
    ];
    if let Some(seed) = line.about.get("seed").and_then(Value::as_i64) {
        attributes.push(("seed".to_owned(), Attribute::Int(seed)));
    }
    if let Some(Value::Object(options)) = line
        .about
        .get("options")
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok())
    {
        flatten("options", &options, &mut attributes);
    }
    let text = serde_json::to_string(&line).map_err(|error| Error::failed(error.to_string()))?;
    attributes.push((TRAJMILL.to_owned(), Attribute::Text(text)));
    file.group(&group, attributes)?;
    file.close(&group)
}

/// Adds options as attributes; the keys of nested options are joined by slashes.
fn flatten(prefix: &str, options: &Map<String, Value>, attributes: &mut Vec<(String, Attribute)>) {
    for (key, value) in options {
        let name = format!("{prefix}/{key}");
        match value {
            Value::Object(inside) => flatten(&name, inside, attributes),
            Value::Bool(value) => attributes.push((name, Attribute::Bool(*value))),
            Value::String(value) => attributes.push((name, Attribute::Text(value.clone()))),
            value => match (value.as_i64(), value.as_f64()) {
                (Some(value), _) => attributes.push((name, Attribute::Int(value))),
                (None, Some(value)) => attributes.push((name, Attribute::Float(value))),
                // A list cannot be an attribute; the attribute of trajmill keeps it.
                (None, None) => {}
            },
        }
    }
}

/// Repeats the last row of `values` if they have one row fewer than `rows`.
fn extended(values: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    if values.len() == rows || values.is_empty() {
        return Ok(Arc::clone(values));
    }
    let last = values.len() as u64 - 1;
    Ok(arrow::compute::take(
        values,
        &(0..rows as u64)
            .map(|row| row.min(last))
            .collect::<UInt64Array>(),
        None,
    )?)
}
