//! Writes Minari's HDF5 backend, one episode at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type};
use serde_json::{Map, Value, json};

use super::{MAIN, OURS, spaces};
use crate::container::hdf5::{Attribute, Hdf5Writer};
use crate::dataset::schema::step;
use crate::dataset::store;
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::{self, Envelope};
use crate::transfer::write::arrays;
use crate::transfer::write::{
    ACTION_VALID, OutgoingDataset, OutgoingTrajectory, WriteOptions, Written,
};

/// A version whose files every present loader takes.
const VERSION: &str = "0.5.0";

/// What a dataset that came from Minari said of itself and can be said again.
const AGAIN: [&str; 14] = [
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
    "observation_space",
    "action_space",
];

pub(crate) fn write(
    outgoing: &OutgoingDataset,
    to: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    let mut written = Written::default();
    let observation = plain(outgoing, step::OBSERVATION)?;
    let action = plain(outgoing, step::ACTION)?;
    if outgoing.steps().column_with_name(step::REWARD).is_none() {
        return Err(
            Error::failed("Minari needs rewards, and the dataset has no column `reward`").hint(
                "`derive: {reward: \"0.0\"}` makes one, or choose a format that does not need it",
            ),
        );
    }
    let infos = infos(outgoing, &mut written)?;
    let mut columns = BTreeMap::new();
    for info in infos.iter().filter(|info| info.name != info.column) {
        columns.insert(info.name.clone(), info.column.clone());
    }
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    let said = &outgoing.manifest().lineage.source_metadata;
    let name = options.name.clone().or_else(|| {
        said.get("dataset_id")
            .and_then(Value::as_str)
            .map(str::to_owned)
    });
    let name = name.unwrap_or_else(|| "trajmill/dataset-v0".to_owned());
    named(&name)?;

    let folder = to.join("data");
    store::create_dir(&folder)?;
    let mut file = Hdf5Writer::create(&folder.join(MAIN))?;
    let (mut unknown, mut range): (u64, Option<(i64, i64)>) = (0, None);
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        unknown += u64::from(!leaving.has_final());
        if let Some(actions) = leaving
            .column(step::ACTION)
            .as_ref()
            .filter(|column| column.data_type().is_integer())
        {
            let numbers = arrow::compute::cast(actions, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>();
            let found = arrow::compute::min(numbers).zip(arrow::compute::max(numbers));
            range = match (range, found) {
                (Some((low, high)), Some((least, most))) => Some((low.min(least), high.max(most))),
                (range, found) => range.or(found),
            };
        }
        episode(&mut file, &leaving, &infos)?;
    }
    file.finish()?;
    let bytes = std::fs::metadata(folder.join(MAIN)).map_or(0, |metadata| metadata.len());

    let mut metadata: Map<String, Value> = AGAIN
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), said.get(*key)?.clone())))
        .collect();
    for (key, field, range) in [
        ("observation_space", &observation, None),
        ("action_space", &action, range),
    ] {
        let space = spaces::of(field, range)?;
        // A space that says more than types do, such as bounds, is said again where it still fits.
        let known = metadata
            .get(key)
            .and_then(Value::as_str)
            .and_then(|text| spaces::parse(text).ok());
        let fits = known.is_some_and(|known| {
            ["type", "dtype", "shape"]
                .iter()
                .all(|part| known[*part] == space[*part])
                && known["subspaces"].is_null()
        });
        if !fits {
            metadata.insert(key.to_owned(), Value::from(spaces::text(&space)));
        }
    }
    metadata.extend([
        ("total_episodes".to_owned(), json!(outgoing.trajectories())),
        ("total_steps".to_owned(), json!(outgoing.length())),
        ("data_format".to_owned(), json!("hdf5")),
        // Frames are arrays as they are: Minari would encode them as JPEG, which loses.
        ("jpeg_encoding".to_owned(), json!(false)),
        ("dataset_id".to_owned(), json!(name)),
        ("minari_version".to_owned(), json!(VERSION)),
        (
            "dataset_size".to_owned(),
            json!((bytes as f64 / 1e5).ceil() / 10.0),
        ),
        (
            OURS.to_owned(),
            serde_json::to_value(&envelope).map_err(|error| Error::failed(error.to_string()))?,
        ),
    ]);
    if let Some(env) = &options.env {
        metadata.insert("env_spec".to_owned(), json!(env_spec(env)));
    }
    let text =
        serde_json::to_vec_pretty(&metadata).map_err(|error| Error::failed(error.to_string()))?;
    store::write(&folder.join("metadata.json"), &text)?;
    if unknown > 0 {
        written.cannot_hold(
            format!("that the last observation of {unknown} trajectories is not known"),
            format!("the attribute `{OURS}`; the one before it stands there twice"),
        );
    }
    written.cannot_hold(
        "identity of trajectories, what else came along with them",
        format!("the attribute `{OURS}` of each episode"),
    );
    Ok(written)
}

/// The field `name`, which must be one that plain arrays or text hold.
fn plain(outgoing: &OutgoingDataset, name: &str) -> Result<Field> {
    let missing = || {
        Error::failed(format!(
            "Minari needs `{name}s`, and the dataset has no column `{name}`"
        ))
    };
    let field = outgoing
        .steps()
        .field_with_name(name)
        .map_err(|_| missing())?;
    if arrays::plain_arrays(field, name).is_none() {
        return Err(Error::failed(format!("Minari cannot hold `{name}` of type {}", field.data_type()))
            .hint("its spaces are of numbers: choose columns with `derive` and `columns`, or another format"));
    }
    Ok(field.clone())
}

/// A dataset's id as the loader's pattern has it.
fn named(name: &str) -> Result<()> {
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
        Error::usage(format!("`{name}` is not a name that Minari takes"))
            .hint("write NAMESPACE/NAME-v0: letters, digits, - and _"),
    )
}

fn env_spec(env: &str) -> String {
    json!({
        "id": env, "entry_point": null, "reward_threshold": null, "nondeterministic": false, "max_episode_steps": null,
        "order_enforce": true, "disable_env_checker": false, "kwargs": {}, "additional_wrappers": [], "vector_entry_point": null
    })
    .to_string()
}

/// A column that goes into `infos`.
struct Info {
    /// Name in the file, `infos/` in front.
    name: String,
    column: String,
    parts: Vec<arrays::PlainArray>,
    /// Whether an array beside it says where it is null.
    nulls: bool,
}

fn infos(outgoing: &OutgoingDataset, written: &mut Written) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    let mut left = Vec::new();
    for column in arrays::extra_columns(outgoing.steps()) {
        let name = if column.starts_with("infos/") {
            column.clone()
        } else {
            format!("infos/{column}")
        };
        match arrays::plain_arrays(outgoing.steps().field_with_name(&column)?, &name) {
            Some(parts) => infos.push(Info {
                name,
                column,
                parts,
                nulls: false,
            }),
            None => left.push(column),
        }
    }
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        written.cannot_hold("`action_source`", "`infos/action_is_proxy`");
    }
    if outgoing.steps().column_with_name(ACTION_VALID).is_some() {
        written.cannot_hold(
            "which actions were filled in",
            format!("`infos/{ACTION_VALID}`"),
        );
    }
    // Every episode must have the same arrays, so it is known beforehand which columns have nulls.
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
        for leaving in outgoing.pass(Some(&nullable))? {
            let leaving = leaving?;
            found.extend(
                nullable
                    .iter()
                    .filter(|name| {
                        leaving
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
    arrays::report_left_out(written, &left);
    Ok(infos)
}

fn episode(file: &mut Hdf5Writer, leaving: &OutgoingTrajectory, infos: &[Info]) -> Result<()> {
    let group = format!("episode_{}", leaving.index);
    let rows = leaving.length + 1;
    let column = |name: &str| {
        leaving
            .steps
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| Error::failed("a column was not read"))
    };
    let observation = extended(&column(step::OBSERVATION)?, rows)?;
    arrays::write_column(
        file,
        &format!("{group}/observations"),
        &leaving
            .steps
            .schema()
            .field_with_name(step::OBSERVATION)?
            .clone(),
        &observation,
    )?;
    let action = column(step::ACTION)?.slice(0, leaving.length);
    arrays::write_column(
        file,
        &format!("{group}/actions"),
        &leaving
            .steps
            .schema()
            .field_with_name(step::ACTION)?
            .clone(),
        &action,
    )?;
    let reward = column(step::REWARD)?.slice(0, leaving.length);
    arrays::write_column(
        file,
        &format!("{group}/rewards"),
        &Field::new("rewards", reward.data_type().clone(), true),
        &reward,
    )?;
    let (terminated, truncated) = (column(step::TERMINATED)?, column(step::TRUNCATED)?);
    let last = leaving.length.wrapping_sub(1);
    let open = leaving.length > 0 && !terminated.as_boolean().value(last);
    for (name, flags, cut) in [
        ("terminations", &terminated, false),
        ("truncations", &truncated, open),
    ] {
        let flags = flags.as_boolean();
        let flags: ArrayRef = Arc::new(BooleanArray::from_iter(
            (0..leaving.length).map(|row| Some(flags.value(row) || (cut && row == last))),
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
        for plain in &info.parts {
            arrays::write_array(file, &format!("{group}/{}", plain.name), plain, &values)?;
        }
    }
    if let Some(proxy) = arrays::proxy_flags(leaving, rows) {
        arrays::write_column(
            file,
            &format!("{group}/infos/action_is_proxy"),
            &Field::new("proxy", DataType::Boolean, false),
            &proxy,
        )?;
    }
    let line = envelope::line(leaving)?;
    let mut attributes = vec![
        ("id".to_owned(), Attribute::Int(leaving.index as i64)),
        (
            "total_steps".to_owned(),
            Attribute::Int(leaving.length as i64),
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
    attributes.push((OURS.to_owned(), Attribute::Text(text)));
    file.group(&group, attributes)?;
    file.close(&group)
}

/// Options as attributes, keys of those within others joined by slashes.
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
                // A list has no plain attribute; it is in the line that we keep.
                (None, None) => {}
            },
        }
    }
}

/// `values` with its last row repeated, where it has one fewer than `rows`.
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
