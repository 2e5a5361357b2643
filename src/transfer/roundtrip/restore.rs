//! Restores the columns of a dataset that trajmill exported.
//!
//! A format without nulls and text has flags and codes instead: which actions and rewards are
//! present, which actions a model predicted, and which model. Here they become nulls,
//! `action_source` and `action_model` again, and the metadata of the dataset's own source is added
//! to that of the file.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::dataset::Account;
use crate::dataset::schema::{action_source, step};
use crate::error::{Error, Result};
use crate::transfer::read::task::SET_TASK;
use crate::transfer::read::{IncomingTrajectory, LEFT_OUT, Source, SourceVideo};
use crate::transfer::roundtrip::models::{CODES, Models};
use crate::transfer::roundtrip::structs::{Exported, Parts};
use crate::transfer::write::{ACTION_VALID, REWARD_VALID};

/// Returns `inner` with the columns and the metadata that its `note` of origin describes.
///
/// Without a note, as in a copy of some of the files, columns that are named like trajmill's own
/// have the same meaning: a predicted action never comes back as recorded, and filler never as an
/// action.
pub(crate) fn restored(inner: Box<dyn Source>, note: Option<&Value>) -> Box<dyn Source> {
    let Some(note) = note else {
        return restored_by_names(inner);
    };
    let written_from = &note["written_from"];
    let had = |name: &str| had_names(written_from).any(|known| known == name);
    let mut metadata = written_from["lineage"]["source_metadata"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    // These tell of an earlier import.
    metadata.retain(|key, _| ![LEFT_OUT, SET_TASK].contains(&key.as_str()));
    let found = inner.schema();
    let mut columns = Columns::new(&found);
    columns.mask(|valid| !had(valid));
    columns.restore_structs(written_from);
    // Names of LeRobot's features contain no slashes.
    for name in
        had_names(written_from).filter(|name| name.contains('/') && found.index_of(name).is_err())
    {
        columns.rename(&name.replace('/', "."), name);
    }
    if had(step::ACTION_SOURCE) {
        // The column is text if the format has text, and a flag if it has not.
        let origin = columns.words().map(Origin::Words);
        let origin = origin.or_else(|| columns.origin_flags());
        columns.restore_origin(origin);
    }
    columns.restore_models(inner.models());
    columns.restore(inner, metadata, None)
}

/// Returns `inner`, which has no note of origin, with the columns that its flags of actions and
/// rewards describe.
fn restored_by_names(mut inner: Box<dyn Source>) -> Box<dyn Source> {
    let found = inner.schema();
    let mut columns = Columns::new(&found);
    columns.mask(|valid| {
        let valid = valid.strip_prefix("infos/").unwrap_or(valid);
        [ACTION_VALID, REWARD_VALID].contains(&valid)
    });
    let mut ahead = None;
    let mut origin = columns.origin_flags();
    if let Some(at) = columns.words() {
        // A column of the same name from another program has other words. If the first trajectory
        // cannot be read, `next` returns the error later.
        let first = inner.next();
        let strange = match &first {
            Ok(Some(first)) => unknown_word(first.steps.column(at)).is_some(),
            Ok(None) | Err(_) => false,
        };
        if !strange {
            origin = Some(Origin::Words(at));
        }
        ahead = Some(first);
    }
    columns.restore_origin(origin);
    columns.restore_models(inner.models());
    columns.restore(inner, Map::new(), ahead)
}

/// Returns the first word of a column that trajmill does not write into `action_source`.
fn unknown_word(words: &ArrayRef) -> Option<&str> {
    words
        .as_string::<i32>()
        .iter()
        .flatten()
        // LeRobot has no nulls: its rows without an action have the word `none`.
        .find(|word| !action_source::ALL.contains(word) && !["none", ""].contains(word))
}

/// The columns of a source, and the columns that they become.
struct Columns<'a> {
    found: &'a Schema,
    columns: Vec<(Field, From)>,
    /// The positions of flags that become nulls, and of further parts of structs.
    used: Vec<usize>,
}

impl<'a> Columns<'a> {
    fn new(found: &'a Schema) -> Columns<'a> {
        let columns = found.fields().iter().enumerate();
        Columns {
            found,
            columns: columns
                .map(|(at, field)| (field.as_ref().clone(), From::Column(at)))
                .collect(),
            used: Vec::new(),
        }
    }

    /// Turns each flag `NAME_valid` that `wanted` accepts into nulls of the column NAME, if it
    /// exists.
    fn mask(&mut self, wanted: impl Fn(&str) -> bool) {
        for (valid, field) in self.found.fields().iter().enumerate() {
            let name = field.name().strip_suffix("_valid");
            let Some(name) =
                name.filter(|_| *field.data_type() == DataType::Boolean && wanted(field.name()))
            else {
                continue;
            };
            let plain = name.strip_prefix("infos/").unwrap_or(name);
            let [own, kept] = named(name);
            let places = [own.as_str(), kept.as_str(), plain];
            let at = places
                .into_iter()
                .find_map(|name| self.found.index_of(name).ok());
            if let Some(at) = at {
                let masked = self.columns[at].0.clone().with_nullable(true);
                self.columns[at] = (masked, From::Masked { at, valid });
                self.used.push(valid);
            }
        }
    }

    /// Makes one column of the parts of each struct that the exported dataset had. Where
    /// `NAME_valid` is false, it is null. If the file lacks a part, all others stay columns.
    fn restore_structs(&mut self, written_from: &Value) {
        let found = self.found;
        for (name, data_type) in had_columns(written_from) {
            let Some(exported) = Exported::new(name, data_type, found) else {
                continue;
            };
            let valid = format!("{name}_valid");
            let is_flag = had_names(written_from).all(|known| known != valid);
            let flag = || self.place(&valid, &DataType::Boolean);
            let valid = is_flag.then(flag).flatten();
            if let Some(parts) = exported.parts(found) {
                let at = parts.places[0];
                self.used.extend(parts.places.iter().skip(1));
                self.columns[at] = (parts.field.clone(), From::Struct { parts, valid });
            } else if let Some(valid) = valid {
                for at in exported.places.iter().flatten().copied() {
                    let masked = self.columns[at].0.clone().with_nullable(true);
                    self.columns[at] = (masked, From::Masked { at, valid });
                }
            }
            self.used.extend(valid);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        if let Ok(at) = self.found.index_of(from) {
            self.columns[at].0 = self.columns[at].0.clone().with_name(to);
        }
    }

    /// Returns the position of the column `name` of this type, or of `infos/name`, as in D4RL and
    /// Minari.
    fn place(&self, name: &str, data_type: &DataType) -> Option<usize> {
        self.found.fields().iter().position(|field| {
            (field.name() == name || field.name().strip_prefix("infos/") == Some(name))
                && field.data_type() == data_type
        })
    }

    /// Returns the position of the column that says in a word where actions come from.
    fn words(&self) -> Option<usize> {
        named(step::ACTION_SOURCE)
            .into_iter()
            .find_map(|name| self.place(&name, &DataType::Utf8))
    }

    /// Returns the flags of actions that were not recorded.
    fn origin_flags(&self) -> Option<Origin> {
        let place = |word: &&'static str| {
            let at = self.place(&format!("action_is_{word}"), &DataType::Boolean)?;
            Some((*word, at))
        };
        let flags: Vec<(&'static str, usize)> =
            action_source::FLAGGED.iter().filter_map(place).collect();
        (!flags.is_empty()).then_some(Origin::Flags(flags))
    }

    /// Turns the columns of `origin` into `action_source`, and the column of standard deviations
    /// into `action_std`.
    fn restore_origin(&mut self, origin: Option<Origin>) {
        let Some(origin) = origin else {
            return;
        };
        let field = Field::new(step::ACTION_SOURCE, DataType::Utf8, true);
        let at = match &origin {
            Origin::Words(at) => *at,
            Origin::Flags(flags) => {
                self.used.extend(flags.iter().skip(1).map(|(_, at)| *at));
                flags[0].1
            }
        };
        self.columns[at] = (field, From::ActionSource(origin));
        let std = named(step::ACTION_STD);
        if let Some(at) = std.iter().find_map(|name| self.found.index_of(name).ok()) {
            let field = self.found.field(at).clone().with_name(step::ACTION_STD);
            // A flag tells more than the origin: some models give no standard deviation.
            let from = match &self.columns[at].1 {
                From::Masked { at, valid } => From::Masked {
                    at: *at,
                    valid: *valid,
                },
                _ => From::ActionStd(at),
            };
            self.columns[at] = (field.with_nullable(true), from);
        }
    }

    /// Turns the codes of `models` into `action_model`.
    fn restore_models(&mut self, models: Option<Models>) {
        if let Some(models) = models
            && let Some(at) = self.place(CODES, &DataType::Int32)
        {
            let field = Field::new(step::ACTION_MODEL, DataType::Utf8, true);
            self.columns[at] = (field, From::Codes { at, models });
        }
    }

    /// Returns `inner` with these columns, and with the `metadata` of its own source. `ahead` is
    /// the result of the first read, if there was one.
    fn restore(
        self,
        inner: Box<dyn Source>,
        metadata: Map<String, Value>,
        ahead: Option<Result<Option<IncomingTrajectory>>>,
    ) -> Box<dyn Source> {
        let used = self.used;
        let kept = self
            .columns
            .into_iter()
            .enumerate()
            .filter(|(at, _)| !used.contains(at))
            .map(|(_, column)| column);
        let (fields, from): (Vec<Field>, Vec<From>) = kept.unzip();
        Box::new(Restored {
            inner,
            metadata,
            schema: Arc::new(Schema::new(fields)),
            from,
            ahead,
        })
    }
}

/// Returns the names under which a reader returns the column `name` of steps: it keeps a name with
/// a fixed meaning free.
fn named(name: &str) -> [String; 2] {
    [name.to_owned(), format!("source_{name}")]
}

/// Returns the columns of steps that the exported dataset had: names and types.
fn had_columns(written_from: &Value) -> impl Iterator<Item = (&str, &str)> {
    let columns = written_from["columns"].as_array().into_iter().flatten();
    columns.filter_map(|column| Some((column["name"].as_str()?, column["type"].as_str()?)))
}

/// Returns the names of the columns of steps that the exported dataset had.
fn had_names(written_from: &Value) -> impl Iterator<Item = &str> {
    had_columns(written_from).map(|(name, _)| name)
}

/// What says where actions come from.
enum Origin {
    /// The position of a column of words.
    Words(usize),
    /// Values of `action_source`, each with the position of its flag. At least one.
    Flags(Vec<(&'static str, usize)>),
}

impl Origin {
    /// Returns the value for a row of `steps` that has an action.
    fn word(&self, steps: &RecordBatch, row: usize) -> &'static str {
        let found = match self {
            Origin::Words(at) => {
                let words = steps.column(*at);
                let said = words
                    .is_valid(row)
                    .then(|| words.as_string::<i32>().value(row));
                action_source::ALL
                    .into_iter()
                    .find(|word| said == Some(word))
            }
            Origin::Flags(flags) => flags.iter().find_map(|(word, at)| {
                let flags = steps.column(*at).as_boolean();
                (flags.is_valid(row) && flags.value(row)).then_some(*word)
            }),
        };
        found.unwrap_or(action_source::RECORDED)
    }
}

/// The origin of a column: the positions of the columns in the file that it is made from.
enum From {
    Column(usize),
    /// A column whose values are null where the flag is false.
    Masked {
        at: usize,
        valid: usize,
    },
    /// The parts of a struct, which is null where the flag, if there is one, is not true.
    Struct {
        parts: Parts,
        valid: Option<usize>,
    },
    /// What says where an action comes from.
    ActionSource(Origin),
    /// Codes of the models in a table.
    Codes {
        at: usize,
        models: Models,
    },
    /// The column `action_std`, which only proxies have.
    ActionStd(usize),
}

impl From {
    /// Returns whether the column is made from the column of the file at `place`.
    fn reads(&self, place: usize) -> bool {
        match self {
            From::ActionSource(Origin::Flags(flags)) => flags.iter().any(|(_, at)| *at == place),
            From::Column(at) | From::ActionSource(Origin::Words(at)) | From::ActionStd(at) => {
                *at == place
            }
            From::Codes { at, .. } => *at == place,
            From::Masked { at, valid } => [at, valid].contains(&&place),
            From::Struct { parts, valid } => *valid == Some(place) || parts.places.contains(&place),
        }
    }
}

/// A source with restored columns.
struct Restored {
    inner: Box<dyn Source>,
    /// The metadata of the exported dataset's own source.
    metadata: Map<String, Value>,
    schema: SchemaRef,
    /// The origin of each column of `schema`.
    from: Vec<From>,
    /// The result of reading `inner` before the first call of `next`.
    ahead: Option<Result<Option<IncomingTrajectory>>>,
}

impl Restored {
    /// Returns the restored columns of `steps`.
    fn steps(&self, steps: &RecordBatch) -> Result<RecordBatch> {
        let masked = |from: &From| match from {
            From::Masked { at, valid } => {
                let wrong = steps
                    .column(*valid)
                    .as_boolean()
                    .iter()
                    .map(|valid| Some(valid == Some(false)));
                Ok::<_, Error>(nullif(steps.column(*at), &wrong.collect::<BooleanArray>())?)
            }
            From::Struct { parts, valid } => {
                let missing = valid.map(|valid| {
                    let valid = steps.column(valid).as_boolean().iter();
                    valid.map(|valid| Some(valid != Some(true))).collect()
                });
                parts.column(steps, missing.as_ref())
            }
            From::Codes { at, models } => models.decode(steps.column(*at)),
            From::ActionSource(Origin::Flags(flags)) => Ok(Arc::clone(steps.column(flags[0].1))),
            From::Column(at) | From::ActionSource(Origin::Words(at)) | From::ActionStd(at) => {
                Ok(Arc::clone(steps.column(*at)))
            }
        };
        let mut columns = self.from.iter().map(masked).collect::<Result<Vec<_>>>()?;
        let said = self
            .from
            .iter()
            .enumerate()
            .find_map(|(at, from)| match from {
                From::ActionSource(origin) => Some((at, origin)),
                _ => None,
            });
        let Some((origin, source)) = said else {
            return Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        };
        let action = self
            .schema
            .index_of(step::ACTION)
            .ok()
            .map(|at| Arc::clone(&columns[at]));
        let there = |row: usize| action.as_ref().is_some_and(|action| action.is_valid(row));
        if let Origin::Words(at) = source
            && let Some(word) = unknown_word(steps.column(*at))
        {
            return Err(Error::failed(format!(
                "column `{}` says `{word}`, but every action is `recorded`, `proxy`, `derived` or \
                 `patched`",
                step::ACTION_SOURCE
            ))
            .hint("rename the column if trajmill did not write it"));
        }
        let words = (0..steps.num_rows()).map(|row| there(row).then(|| source.word(steps, row)));
        columns[origin] = Arc::new(words.collect::<StringArray>());
        let origins = columns[origin].as_string::<i32>().clone();
        for (column, _) in columns
            .iter_mut()
            .zip(&self.from)
            .filter(|(_, from)| matches!(from, From::ActionStd(_)))
        {
            let none = (0..origins.len()).map(|row| {
                Some(origins.is_null(row) || origins.value(row) != action_source::PROXY)
            });
            *column = nullif(column, &none.collect::<BooleanArray>())?;
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl Source for Restored {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        // What the file says itself counts, such as a rate of frames that an export has set.
        let mut metadata = self.metadata.clone();
        for (key, value) in self.inner.metadata() {
            match (metadata.get_mut(&key), value) {
                (Some(Value::Object(known)), Value::Object(value)) => known.extend(value),
                (_, value) => drop(metadata.insert(key, value)),
            }
        }
        metadata
    }

    fn account(&self) -> Account {
        let mut account = self.inner.account();
        let found = self.inner.schema();
        account.rename(|name| {
            // A flag has become the nulls of the column that it describes.
            let at = found.index_of(name).ok()?;
            let column = self.from.iter().position(|from| from.reads(at))?;
            Some(self.schema.field(column).name().clone())
        });
        account
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.inner.video(path)
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost()
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let next = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.inner.next(),
        };
        let Some(trajectory) = next? else {
            return Ok(None);
        };
        Ok(Some(IncomingTrajectory {
            steps: self.steps(&trajectory.steps)?,
            ..trajectory
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One trajectory of a made source.
    struct Made(Option<RecordBatch>, SchemaRef);

    impl Source for Made {
        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.1)
        }

        fn rows(&self) -> Option<u64> {
            None
        }

        fn metadata(&self) -> Map<String, Value> {
            Map::new()
        }

        fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
            Ok(self.0.take().map(|steps| IncomingTrajectory {
                key: "0".to_owned(),
                steps,
                about: None,
            }))
        }
    }

    /// Returns the restored steps of a source with the actions 1, 2 and 3 and another column.
    fn read(name: &str, column: ArrayRef) -> RecordBatch {
        let actions: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([(step::ACTION, actions), (name, column)]).unwrap();
        let source = Made(Some(batch.clone()), batch.schema());
        let mut restored = restored(Box::new(source), None);
        let steps = restored.next().unwrap().unwrap().steps;
        assert_eq!(steps.schema(), restored.schema());
        assert!(restored.next().unwrap().is_none());
        steps
    }

    fn origins_of(steps: &RecordBatch) -> Vec<&str> {
        let origins = steps.column_by_name(step::ACTION_SOURCE).unwrap();
        origins.as_string::<i32>().iter().flatten().collect()
    }

    #[test]
    fn without_a_note_columns_say_which_actions_are_a_models() {
        let flags = || -> ArrayRef { Arc::new(BooleanArray::from(vec![true, false, true])) };
        for name in ["action_is_proxy", "infos/action_is_proxy"] {
            let expected = ["proxy", "recorded", "proxy"];
            assert_eq!(origins_of(&read(name, flags())), expected, "{name}");
        }
        let words = |words: [&str; 3]| -> ArrayRef { Arc::new(StringArray::from(words.to_vec())) };
        for name in [
            "action_source",
            "source_action_source",
            "infos/action_source",
        ] {
            let steps = read(name, words(["recorded", "proxy", "none"]));
            assert_eq!(origins_of(&steps), ["recorded", "proxy", "recorded"]);
        }
        // A stranger's column stays what it is.
        let steps = read("source_action_source", words(["human", "script", "human"]));
        assert!(steps.column_by_name(step::ACTION_SOURCE).is_none());
        assert!(steps.column_by_name("source_action_source").is_some());
    }

    #[test]
    fn without_a_note_filler_is_no_action() {
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true]));
        for name in ["action_valid", "infos/action_valid"] {
            let steps = read(name, Arc::clone(&flags));
            assert_eq!(steps.num_columns(), 1, "{name}");
            assert!(steps.column(0).is_null(1) && steps.column(0).null_count() == 1);
        }
    }
}
