//! Reads RLDS datasets, one episode at a time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float64Array, RecordBatch,
    StringArray, StructArray, new_null_array,
};
use arrow::compute::{cast, concat, nullif};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::VALID;
use super::episode::{self, Record};
use super::features::{Kind, Leaf, Tree};
use super::shards::{Shard, json, shards};
use crate::container::tfrecord::Records;
use crate::dataset::schema::{self, step, trajectory};
use crate::error::{Error, Result, nearest};
use crate::transfer::read::{
    Alignment, FinalAction, IncomingTrajectory, Options, Source, free_name,
};

/// Features of steps that become the flags of steps, or say what else is so.
const FLAGS: [&str; 5] = [
    "is_first",
    "is_last",
    "is_terminal",
    "is_truncated",
    "is_final",
];

/// What a vector inside an observation is called, where it is all there is to observe besides images.
const STATES: [&str; 6] = [
    "observation/state",
    "observation/proprio",
    "observation/observation",
    "observation/robot_state",
    "observation/joint_state",
    "observation/eef_state",
];

/// Where what is said of an episode stands by convention.
const ABOUT: &str = "episode_metadata/";

/// The column of trajectories that names the split.
const SPLIT: &str = "split";

/// A column of steps.
struct Column {
    /// The leaves that it is made of: one, or those of a struct.
    leaves: Vec<Leaf>,
    /// Whether it belongs to the action: it then moves with it, and is no value on a step without one.
    of_action: bool,
}

/// An RLDS dataset.
struct Rlds {
    tree: Tree,
    schema: SchemaRef,
    columns: Vec<Column>,
    about: SchemaRef,
    said: Vec<Leaf>,
    shards: VecDeque<Shard>,
    open: Option<(Shard, Records)>,
    /// The split of the open file, and episodes of it so far.
    count: (String, u64),
    /// Episodes that the last error stands for.
    lost: u64,
    final_action: FinalAction,
    alignment: Alignment,
    metadata: Map<String, Value>,
}

pub(crate) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let root = super::root(path)?.ok_or_else(|| {
        Error::failed(format!(
            "{}: there is no features.json, or more than one below",
            path.display()
        ))
        .hint("name the directory of one version: NAME/1.0.0")
    })?;
    let features = json(&root.join("features.json"))?;
    let tree =
        Tree::parse(&features).map_err(|error| error.at(root.join("features.json").display()))?;
    let mut metadata = Map::from_iter([("features".to_owned(), features)]);
    let shards = shards(&root, &mut metadata)?;
    let (schema, columns) =
        columns(&tree, options).map_err(|error| error.at(root.join("features.json").display()))?;
    let (about, said) = about(&tree);
    let other = |leaf: &Leaf| match &leaf.kind {
        Kind::Other(what) => Some(Value::from(format!("{}: {what}", leaf.key))),
        _ => None,
    };
    let not_imported: Vec<Value> = tree
        .steps
        .iter()
        .chain(tree.episode.iter().filter(|leaf| !said.contains(leaf)))
        .filter_map(|leaf| {
            other(leaf).or_else(|| {
                (!tree.steps.contains(leaf))
                    .then(|| Value::from(format!("{}: not one value an episode", leaf.key)))
            })
        })
        .collect();
    if !not_imported.is_empty() {
        metadata.insert("not_imported".to_owned(), Value::Array(not_imported));
    }
    Ok(Box::new(Rlds {
        tree,
        schema,
        columns,
        about,
        said,
        shards,
        open: None,
        count: (String::new(), 0),
        lost: 1,
        final_action: options.final_action,
        alignment: options.alignment,
        metadata,
    }))
}

/// What is said of an episode: texts and single numbers.
fn about(tree: &Tree) -> (SchemaRef, Vec<Leaf>) {
    let mut fields = vec![Field::new(SPLIT, DataType::Utf8, true)];
    let mut said = Vec::new();
    for leaf in &tree.episode {
        let name = leaf.key.strip_prefix(ABOUT).unwrap_or(&leaf.key);
        let data_type = match &leaf.kind {
            Kind::Text => DataType::Utf8,
            Kind::Tensor { element, shape, .. } if shape.is_empty() => element.clone(),
            _ => continue,
        };
        let taken = name == trajectory::TRAJECTORY_ID
            || trajectory::INTRINSIC.contains(&name)
            || fields.iter().any(|field| field.name() == name);
        fields.push(Field::new(
            if taken {
                format!("source_{name}")
            } else {
                name.to_owned()
            },
            data_type,
            true,
        ));
        said.push(leaf.clone());
    }
    // An identity is whole or none.
    let identity = [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE];
    let text = |name: &&str| {
        fields
            .iter()
            .any(|field| field.name() == name && *field.data_type() == DataType::Utf8)
    };
    if !identity.iter().all(text) {
        for field in &mut fields {
            if identity.contains(&field.name().as_str()) {
                *field = field.clone().with_name(format!("source_{}", field.name()));
            }
        }
    }
    (Arc::new(Schema::new(fields)), said)
}

/// The columns of steps, and what they are made of.
fn columns(tree: &Tree, options: &Options) -> Result<(SchemaRef, Vec<Column>)> {
    let targets = [step::OBSERVATION, step::ACTION, step::REWARD];
    if let Some((target, _)) = options
        .map
        .iter()
        .find(|(target, _)| !targets.contains(&target.as_str()))
    {
        return Err(Error::usage(format!("--map cannot give `{target}` here"))
            .hint(format!("one of {}", targets.join(", "))));
    }
    let leaves = &tree.steps;
    let listing = || {
        format!(
            "the features of steps are {}",
            leaves
                .iter()
                .map(|leaf| format!("`{}`", leaf.key))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let find = |key: &str| leaves.iter().find(|leaf| leaf.key == key);
    let given = |target: &str| -> Result<Option<Leaf>> {
        let Some((_, source)) = options.map.iter().find(|(name, _)| name == target) else {
            return Ok(None);
        };
        let found = find(source).ok_or_else(|| {
            let hint = nearest(source, leaves.iter().map(|leaf| leaf.key.as_str()))
                .map_or_else(listing, |meant| format!("did you mean `{meant}`?"));
            Error::failed(format!(
                "there is no feature `{source}` of steps to be `{target}`"
            ))
            .hint(hint)
        });
        found.cloned().map(Some)
    };
    let tensor = |leaf: &&Leaf| matches!(leaf.kind, Kind::Tensor { .. });
    let inside = |group: &str| {
        leaves
            .iter()
            .filter(|leaf| leaf.key.starts_with(group))
            .collect::<Vec<_>>()
    };
    let observation: Vec<Leaf> =
        match given(step::OBSERVATION)?.or_else(|| find(step::OBSERVATION).cloned()) {
            Some(leaf) => vec![leaf],
            None => {
                let all = inside("observation/");
                let vectors: Vec<Leaf> = all.iter().copied().filter(tensor).cloned().collect();
                let state = STATES
                    .iter()
                    .find_map(|name| vectors.iter().find(|leaf| leaf.key == *name))
                    .cloned();
                match (state, vectors.is_empty()) {
                    (Some(state), _) => vec![state],
                    (None, false) => vectors,
                    (None, true) => all
                        .iter()
                        .find(|leaf| leaf.kind == Kind::Image)
                        .map(|leaf| vec![(*leaf).clone()])
                        .unwrap_or_default(),
                }
            }
        };
    if observation.is_empty() {
        return Err(
            Error::failed("there is no feature `observation` of steps").hint(format!(
                "name one with --map observation=FEATURE; {}",
                listing()
            )),
        );
    }
    let action = match given(step::ACTION)?.or_else(|| find(step::ACTION).cloned()) {
        Some(leaf) => Some(leaf),
        None => match inside("action/")
            .into_iter()
            .filter(tensor)
            .collect::<Vec<_>>()
            .as_slice()
        {
            [] => None,
            [one] => Some((*one).clone()),
            several => {
                let names = several
                    .iter()
                    .map(|leaf| format!("`{}`", leaf.key))
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(Error::failed(format!("the action has several parts: {names}"))
                    .hint("say which one is the action with --map action=FEATURE; the others come along under their own names"));
            }
        },
    };
    let reward = given(step::REWARD)?.or_else(|| find(step::REWARD).cloned());
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let used: Vec<String> = observation
        .iter()
        .chain(&action)
        .chain(&reward)
        .map(|leaf| leaf.key.clone())
        .collect();
    fields.push(Field::new(
        step::OBSERVATION,
        if let [one] = observation.as_slice() {
            data_type(one, true)?
        } else {
            structure(&observation)?
        },
        false,
    ));
    columns.push(Column {
        leaves: observation,
        of_action: false,
    });
    if let Some(leaf) = action {
        fields.push(shaped(
            Field::new(step::ACTION, data_type(&leaf, !whole(&leaf))?, true),
            &leaf,
        ));
        columns.push(Column {
            leaves: vec![leaf],
            of_action: true,
        });
    }
    if let Some(leaf) = reward {
        let field = Field::new(step::REWARD, data_type(&leaf, false)?, true);
        if !field.data_type().is_numeric() {
            return Err(Error::failed(format!(
                "feature `{}` is {}, which cannot be `reward`",
                leaf.key,
                field.data_type()
            ))
            .hint("a reward is one number a step"));
        }
        fields.push(field);
        columns.push(Column {
            leaves: vec![leaf],
            of_action: true,
        });
    }
    fields.extend(
        [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
            .map(|name| Field::new(name, DataType::Boolean, false)),
    );
    for leaf in leaves
        .iter()
        .filter(|leaf| {
            !used.contains(&leaf.key)
                && !FLAGS.contains(&leaf.key.as_str())
                && !matches!(leaf.kind, Kind::Other(_))
        })
        .filter(|leaf| !is_valid_flag(leaf, leaves))
    {
        let own = [step::ACTION_SOURCE, step::ACTION_STD].contains(&leaf.key.as_str());
        let name = if own {
            leaf.key.clone()
        } else {
            free_name(&leaf.key)
        };
        fields.push(shaped(
            Field::new(name, data_type(leaf, false)?, true),
            leaf,
        ));
        columns.push(Column {
            leaves: vec![leaf.clone()],
            of_action: own || leaf.key == "discount",
        });
    }
    Ok((Arc::new(Schema::new(fields)), columns))
}

/// Whether a leaf says where the value of another is one.
fn is_valid_flag(leaf: &Leaf, leaves: &[Leaf]) -> bool {
    let flag = matches!(&leaf.kind, Kind::Tensor { element: DataType::Boolean, shape, .. } if shape.is_empty());
    flag && leaf
        .key
        .strip_suffix(VALID)
        .is_some_and(|other| leaves.iter().any(|leaf| leaf.key == other))
}

fn whole(leaf: &Leaf) -> bool {
    matches!(&leaf.kind, Kind::Tensor { element, shape, .. } if element.is_integer() && shape.iter().product::<usize>() == 1)
}

/// The type of column that a leaf becomes; `vector` makes one of a single number, too.
fn data_type(leaf: &Leaf, vector: bool) -> Result<DataType> {
    Ok(match &leaf.kind {
        Kind::Text => DataType::Utf8,
        Kind::Image => DataType::Binary,
        Kind::Tensor { element, shape, .. } if !vector && (shape.is_empty() || whole(leaf)) => {
            element.clone()
        }
        Kind::Tensor { element, shape, .. } => {
            let width = i32::try_from(shape.iter().product::<usize>())
                .ok()
                .filter(|width| *width > 0);
            schema::vector(
                element.clone(),
                width.ok_or_else(|| {
                    Error::failed(format!(
                        "feature `{}` has the shape {shape:?}: a step must hold something",
                        leaf.key
                    ))
                })?,
            )
        }
        Kind::Other(what) => {
            return Err(Error::failed(format!(
                "feature `{}` is {what}, which cannot be read",
                leaf.key
            )));
        }
    })
}

fn shaped(field: Field, leaf: &Leaf) -> Field {
    match &leaf.kind {
        Kind::Tensor { shape, .. } if shape.len() > 1 => {
            let shape = shape
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(",");
            field.with_metadata([("shape".to_owned(), shape)].into())
        }
        _ => field,
    }
}

/// The observation whose parts are `leaves`.
fn structure(leaves: &[Leaf]) -> Result<DataType> {
    let field = |leaf: &Leaf| {
        Ok(shaped(
            Field::new(
                leaf.key.trim_start_matches("observation/"),
                data_type(leaf, true)?,
                false,
            ),
            leaf,
        ))
    };
    Ok(DataType::Struct(Fields::from(
        leaves.iter().map(field).collect::<Result<Vec<_>>>()?,
    )))
}

impl Source for Rlds {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn rows(&self) -> Option<u64> {
        None
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn about(&self) -> SchemaRef {
        SchemaRef::clone(&self.about)
    }

    fn lost(&self) -> Option<u64> {
        Some(self.lost)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.lost = 1;
        loop {
            let (shard, mut records) = match self.open.take() {
                Some(open) => open,
                None => {
                    let Some(shard) = self.shards.pop_front() else {
                        return Ok(None);
                    };
                    if shard.split != self.count.0 {
                        self.count = (shard.split.clone(), 0);
                    }
                    let records = Records::open(&shard.path)
                        .inspect_err(|_| self.lost = shard.records.unwrap_or(1))?;
                    (shard, records)
                }
            };
            let record = match records.example() {
                Ok(record) => record,
                Err(error) => {
                    // After bytes that are no record nothing says where the next one begins: then the next file is read.
                    if records.broken {
                        self.lost = shard
                            .records
                            .map_or(1, |expected| expected.saturating_sub(records.index))
                            .max(1);
                        self.count.1 = self.count.1.saturating_add(self.lost);
                    } else {
                        self.count.1 += 1;
                        self.open = Some((shard, records));
                    }
                    return Err(error);
                }
            };
            if let Some(record) = record {
                let (place, key) = (
                    shard.path.display().to_string(),
                    format!("{}/{}", self.count.0, self.count.1),
                );
                let at = records.index - 1;
                self.count.1 += 1;
                self.open = Some((shard, records));
                return self
                    .incoming(&record, key)
                    .map(Some)
                    .map_err(|error| error.at(format!("{place}: record {at}")));
            }
            if let Some(expected) = shard.records.filter(|expected| *expected != records.index) {
                // More records than said are no loss: they have been read.
                self.lost = expected.saturating_sub(records.index);
                return Err(Error::failed(format!(
                    "{} holds {} records where dataset_info.json says {expected}",
                    shard.path.display(),
                    records.index
                ))
                .hint(
                    "the file is cut short, or from another version of the dataset: fetch it again",
                ));
            }
        }
    }
}

impl Rlds {
    fn incoming(&self, record: &Record, key: String) -> Result<IncomingTrajectory> {
        let rows = episode::steps(record, &self.tree.steps)?;
        if rows == 0 {
            return Err(Error::failed("the episode has no steps").hint("drop it from the source"));
        }
        let about = self
            .about
            .fields()
            .iter()
            .zip(std::iter::once(None).chain(self.said.iter().map(Some)));
        let about = about.map(|(field, leaf)| -> Result<ArrayRef> {
            let Some(leaf) = leaf else {
                return Ok(Arc::new(StringArray::from(vec![self.count.0.as_str()])));
            };
            match record
                .get(&leaf.key)
                .and_then(|feature| feature.kind.as_ref())
            {
                None => Ok(new_null_array(field.data_type(), 1)),
                Some(_) => episode::values(record, &leaf.key, &leaf.kind, 1),
            }
        });
        let about = RecordBatch::try_new(
            SchemaRef::clone(&self.about),
            about.collect::<Result<Vec<_>>>()?,
        )?;
        Ok(IncomingTrajectory {
            key,
            steps: self.steps(record, rows)?,
            about: Some(about),
        })
    }

    /// A flag of each step, where there is one of that name.
    fn flags(&self, record: &Record, name: &str, rows: usize) -> Result<Option<Vec<bool>>> {
        episode::flags(record, &self.tree.steps, name, rows)
    }

    fn steps(&self, record: &Record, rows: usize) -> Result<RecordBatch> {
        let flags = |name: &str| self.flags(record, name, rows);
        let last = flags("is_last")?.unwrap_or_else(|| vec![false; rows]);
        let terminal = flags("is_terminal")?.unwrap_or_else(|| vec![false; rows]);
        let cut = flags("is_truncated")?;
        if let Some(row) = last[..rows - 1].iter().position(|last| *last) {
            return Err(
                Error::failed(format!("`is_last` is true at step {row} of {rows}"))
                    .hint("a record is one episode: cut it in the source"),
            );
        }
        let valid = flags("action_valid")?;
        let mut columns = Vec::new();
        for column in &self.columns {
            columns.push(self.column(record, column, columns.len(), rows)?);
        }
        let shifted = self.alignment == Alignment::Rsa;
        let has_final = shifted || self.is_final(flags("is_final")?, &last, &columns, rows);
        let missing = BooleanArray::from_iter((0..rows).map(|row| {
            let at = row + usize::from(shifted);
            Some(
                (has_final && row + 1 == rows)
                    || valid
                        .as_ref()
                        .is_some_and(|valid| valid.get(at) == Some(&false)),
            )
        }));
        for at in (0..columns.len()).filter(|at| self.columns[*at].of_action) {
            if shifted {
                let none = new_null_array(columns[at].data_type(), 1);
                columns[at] = concat(&[columns[at].slice(1, rows - 1).as_ref(), none.as_ref()])?;
            }
            // A step without an action may have a reward; what stands beside a final observation is filler.
            let name = self.name(at);
            if missing.true_count() > 0 && (name == step::ACTION || name == step::ACTION_STD) {
                columns[at] = nullif(&columns[at], &missing)?;
            } else if has_final {
                let final_row = BooleanArray::from_iter((0..rows).map(|row| Some(row + 1 == rows)));
                columns[at] = nullif(&columns[at], &final_row)?;
            }
        }
        // The end is told by the step that holds the observation after it, or by the last one.
        let at_end = |flag: bool| -> ArrayRef {
            let end = rows - 1 - usize::from(has_final && rows > 1);
            Arc::new(BooleanArray::from_iter(
                (0..rows).map(|row| Some(flag && row == end)),
            ))
        };
        let end = rows - 1;
        let flags = [
            at_end(terminal[end]),
            at_end(cut.map_or(last[end] && !terminal[end], |cut| cut.contains(&true))),
            Arc::new(BooleanArray::from_iter(
                (0..rows).map(|row| Some(has_final && row == end)),
            )),
        ];
        let front = columns.len()
            - self
                .columns
                .iter()
                .enumerate()
                .filter(|(at, _)| self.is_extra(*at))
                .count();
        let extras = columns.split_off(front);
        columns.extend(flags);
        columns.extend(extras);
        Ok(RecordBatch::try_new(
            SchemaRef::clone(&self.schema),
            columns,
        )?)
    }

    /// The place in the schema of the column made of number `at` of [`Rlds::columns`].
    fn place(&self, at: usize) -> usize {
        let flags = self.schema.index_of(step::TERMINATED).unwrap_or(0);
        if at < flags { at } else { at + 3 }
    }

    fn is_extra(&self, at: usize) -> bool {
        self.place(at) != at
    }

    fn name(&self, at: usize) -> &str {
        self.schema.field(self.place(at)).name()
    }

    fn column(&self, record: &Record, column: &Column, at: usize, rows: usize) -> Result<ArrayRef> {
        let value =
            |leaf: &Leaf, data_type: &DataType| -> Result<ArrayRef> {
                let values =
                    episode::values(record, &format!("steps/{}", leaf.key), &leaf.kind, rows)?;
                match data_type {
                    DataType::FixedSizeList(child, width) => Ok(Arc::new(
                        FixedSizeListArray::try_new(Arc::clone(child), *width, values, None)?,
                    )),
                    _ => Ok(values),
                }
            };
        let data_type = self.schema.field(self.place(at)).data_type();
        match (data_type, column.leaves.as_slice()) {
            (DataType::Struct(fields), leaves) => {
                let parts = leaves
                    .iter()
                    .zip(fields)
                    .map(|(leaf, field)| value(leaf, field.data_type()))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Arc::new(StructArray::try_new(fields.clone(), parts, None)?))
            }
            (data_type, [leaf]) => {
                let values = value(leaf, data_type)?;
                // The action may have moved to another step: its flags are looked at there.
                let own = self.is_extra(at)
                    || (self.name(at) == step::REWARD && self.alignment == Alignment::Sar);
                let flags = if own {
                    self.flags(record, &format!("{}{VALID}", leaf.key), rows)?
                } else {
                    None
                };
                match flags {
                    Some(valid) => Ok(nullif(
                        &values,
                        &BooleanArray::from_iter(valid.into_iter().map(|valid| Some(!valid))),
                    )?),
                    None => Ok(values),
                }
            }
            _ => Err(Error::failed("a column has no feature")),
        }
    }

    /// Whether the last step holds only the final observation.
    fn is_final(
        &self,
        own: Option<Vec<bool>>,
        last: &[bool],
        columns: &[ArrayRef],
        rows: usize,
    ) -> bool {
        match (self.final_action, own) {
            (FinalAction::Valid, _) => false,
            (FinalAction::Filler, _) => true,
            (FinalAction::Auto, Some(own)) => own.last() == Some(&true),
            (FinalAction::Auto, None) => {
                let action = (0..columns.len())
                    .find(|at| self.name(*at) == step::ACTION)
                    .map(|at| columns[at].slice(rows - 1, 1));
                rows > 1 && last.last() == Some(&true) && action.is_none_or(|action| zeros(&action))
            }
        }
    }
}

/// Whether every value of an action is zero.
fn zeros(action: &ArrayRef) -> bool {
    let values = match action.as_fixed_size_list_opt() {
        Some(list) => list.value(0),
        None => ArrayRef::clone(action),
    };
    let values: Option<Float64Array> = cast(&values, &DataType::Float64)
        .ok()
        .map(|values| values.as_primitive::<Float64Type>().clone());
    values.is_some_and(|values| values.values().iter().all(|value| *value == 0.0))
}
