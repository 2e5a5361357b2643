//! `patch_actions`: sets the actions of single steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float64Array, Int32Array,
    RecordBatch, StringArray,
};
use arrow::compute::{cast, interleave, nullif};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::support::columns::{changed, refuse_taken};
use super::support::rank;
use super::{
    Bound, Changes, Context, Misfit, Operator, Selected, Selection, Stage, Tally, Transform,
    options,
};
use crate::dataset::Block;
use crate::dataset::block::with_field;
use crate::dataset::schema::{action_source, step, trajectory, type_name};
use crate::error::wording::count;
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "patch_actions",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<PatchActions>(),
    bind,
    sample: "{rows: []}",
};

/// Sets the actions of single steps, such as frames that a person has corrected. The patched steps
/// have the `action_source` `patched`, and the summary counts them. Every entry must match a step:
/// otherwise the run ends with an error. Give `rows`, `file` or both.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PatchActions {
    /// The new actions, such as `[{trajectory_id: 3, step: 17, action: [0.1, 0]}]`.
    #[serde(default)]
    rows: Option<Vec<Entry>>,
    /// Parquet file with the columns `trajectory_id`, `step` and `action`, one row for each new
    /// action. It is read into memory.
    #[serde(default)]
    #[schemars(extend("format" = "path"))]
    file: Option<String>,
    /// Name of a new column that keeps the actions as they were, such as `recorded_action`.
    /// Default: they are not kept.
    #[serde(default, rename = "as")]
    kept: Option<String>,
}

/// The new action of one step.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Id of the trajectory, where the stage stands.
    trajectory_id: i64,
    /// Step of the trajectory, counted from 0.
    step: i64,
    /// The action: one number per dimension, or one whole number for discrete actions.
    action: Action,
}

/// An action.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
enum Action {
    /// A discrete action.
    Class(f64),
    /// One number per dimension.
    Vector(Vec<f64>),
}

/// The new actions, by trajectory and step.
struct Patches {
    /// The index of each entry in `actions`.
    at: HashMap<i64, BTreeMap<i64, usize>>,
    /// One new action for each entry.
    actions: ArrayRef,
    hash: String,
}

/// Refuses entries that match no step.
struct Match(Arc<Patches>);

/// Sets the actions.
struct Patch {
    patches: Arc<Patches>,
    steps: SchemaRef,
    kept: Option<Field>,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: PatchActions = options(value)?;
    let Ok(action) = context.steps.field_with_name(step::ACTION) else {
        return Err(Misfit::new(
            "there are no actions to patch: `steps` has no column `action`",
        ));
    };
    let mut entries: Vec<(Entry, Option<usize>)> = Vec::new();
    if given.rows.is_none() && given.file.is_none() {
        return Err(Misfit::new("`patch_actions` needs `rows` or `file`")
            .help("as in {rows: [{trajectory_id: 3, step: 17, action: [0.1, 0]}]}"));
    }
    for (index, entry) in given.rows.into_iter().flatten().enumerate() {
        entries.push((entry, Some(index)));
    }
    if let Some(file) = &given.file {
        let table = context
            .models
            .table(file)
            .map_err(|error| Misfit::from(error).at("file"))?;
        let read = read(&table).map_err(|misfit| misfit.at("file"))?;
        entries.extend(read.into_iter().map(|entry| (entry, None)));
    }
    let patches = Arc::new(patches(&entries, action.data_type())?);
    let mut steps = context.steps.clone();
    for name in [step::ACTION_STD, step::ACTION_MODEL] {
        if let Ok(field) = context.steps.field_with_name(name) {
            steps = with_field(&steps, field.clone().with_nullable(true)).0;
        }
    }
    let source = Field::new(step::ACTION_SOURCE, DataType::Utf8, true);
    steps = with_field(&steps, source).0;
    let kept = match &given.kept {
        Some(name) => {
            refuse_taken(name, context.steps).map_err(|misfit| misfit.at("as"))?;
            Some(action.clone().with_name(name))
        }
        None => None,
    };
    if let Some(kept) = &kept {
        steps = with_field(&steps, kept.clone()).0;
    }
    Ok(Bound::Work(vec![
        Operator::selection(Match(Arc::clone(&patches))),
        Operator::transform(Patch {
            patches,
            steps: Arc::new(steps),
            kept,
        }),
    ]))
}

/// Returns the entries of a table.
fn read(table: &RecordBatch) -> Result<Vec<Entry>, Misfit> {
    let column = |name: &str| {
        let column = table.column_by_name(name);
        column.ok_or_else(|| {
            Misfit::new(format!("the file has no column `{name}`"))
                .help("it needs the columns trajectory_id, step and action")
        })
    };
    let numbers = |values: &dyn Array, what: &str| -> Result<Vec<f64>, Misfit> {
        let cast = cast(values, &DataType::Float64);
        let numbers = cast.ok().filter(|numbers| numbers.null_count() == 0);
        let numbers = numbers
            .ok_or_else(|| Misfit::new(format!("a value of `{what}` is null or not a number")))?;
        Ok(numbers.as_primitive::<Float64Type>().values().to_vec())
    };
    let integers = |name: &str| -> Result<Vec<i64>, Misfit> {
        let cast = cast(column(name)?, &DataType::Int64).ok();
        let whole = cast.filter(|numbers| {
            numbers.null_count() == 0 && column(name).is_ok_and(|own| own.data_type().is_integer())
        });
        let whole =
            whole.ok_or_else(|| Misfit::new(format!("a value of `{name}` is no whole number")))?;
        Ok(whole.as_primitive::<Int64Type>().values().to_vec())
    };
    let (ids, steps) = (integers(trajectory::TRAJECTORY_ID)?, integers(step::STEP)?);
    let actions = column(step::ACTION)?;
    let action = |row: usize| -> Result<Action, Misfit> {
        let list = match actions.data_type() {
            DataType::FixedSizeList(..) => actions.as_fixed_size_list().value(row),
            DataType::List(_) => actions.as_list::<i32>().value(row),
            DataType::LargeList(_) => actions.as_list::<i64>().value(row),
            _ => {
                let one = numbers(&actions.slice(row, 1), step::ACTION)?;
                return Ok(Action::Class(one[0]));
            }
        };
        numbers(&list, step::ACTION).map(Action::Vector)
    };
    let entries = ids.into_iter().zip(steps).enumerate();
    entries
        .map(|(row, (trajectory_id, step))| {
            Ok(Entry {
                trajectory_id,
                step,
                action: action(row)?,
            })
        })
        .collect()
}

/// Returns the entries by trajectory and step. An entry of the pipeline has its index there.
fn patches(entries: &[(Entry, Option<usize>)], data_type: &DataType) -> Result<Patches, Misfit> {
    let width = match data_type {
        DataType::FixedSizeList(child, width) if child.data_type().is_numeric() => Some(*width),
        other if other.is_integer() => None,
        other => {
            return Err(Misfit::new(format!(
                "only vectors and whole numbers can be patched, and `action` is {}",
                type_name(other)
            )));
        }
    };
    let mut at: HashMap<i64, BTreeMap<i64, usize>> = HashMap::new();
    let mut values = Vec::new();
    for (index, (entry, place)) in entries.iter().enumerate() {
        let located = |misfit: Misfit| match place {
            Some(place) => misfit.at(place.to_string()).at("rows"),
            None => misfit.at("file"),
        };
        let (id, step) = (entry.trajectory_id, entry.step);
        let what = format!("the action of trajectory {id}, step {step}");
        let own: &[f64] = match (&entry.action, width) {
            (Action::Class(class), None) if class.fract() == 0.0 => std::slice::from_ref(class),
            (Action::Vector(own), Some(width)) if own.len() as i32 == width => own,
            (Action::Vector(own), Some(width)) => {
                let message = format!(
                    "{what} has {}, and `action` has {width}",
                    count(own.len(), "number")
                );
                return Err(located(Misfit::new(message)));
            }
            _ => {
                let message = format!("{what} must be {}", type_name(data_type));
                return Err(located(Misfit::new(message)));
            }
        };
        values.extend_from_slice(own);
        if at.entry(id).or_default().insert(step, index).is_some() {
            let message = format!("trajectory {id}, step {step} is patched twice");
            return Err(located(
                Misfit::new(message).help("remove one of the entries"),
            ));
        }
    }
    let written: Vec<&Entry> = entries.iter().map(|(entry, _)| entry).collect();
    let text = serde_json::to_string(&written).map_err(|error| Misfit::new(error.to_string()))?;
    let element = match data_type {
        DataType::FixedSizeList(child, _) => child.data_type(),
        other => other,
    };
    let array = |error: arrow::error::ArrowError| Misfit::new(error.to_string());
    let values = cast(&Float64Array::from(values), element).map_err(array)?;
    let numbers = cast(&values, &DataType::Float64).map_err(array)?;
    let numbers = numbers.as_primitive::<Float64Type>();
    if numbers.null_count() > 0 || numbers.values().iter().any(|number| !number.is_finite()) {
        return Err(Misfit::new(format!(
            "an action is not finite, or outside the range of {}",
            type_name(element)
        )));
    }
    let actions: ArrayRef = match data_type {
        DataType::FixedSizeList(child, width) => Arc::new(
            FixedSizeListArray::try_new(Arc::clone(child), *width, values, None).map_err(array)?,
        ),
        _ => values,
    };
    Ok(Patches {
        at,
        actions,
        hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
    })
}

impl Selection for Match {
    fn reads(&self) -> Vec<String> {
        vec![trajectory::LENGTH.to_owned()]
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let ids = rank::ids(table)?.values();
        let lengths: HashMap<i64, i64> = ids.iter().copied().zip(lengths).collect();
        let entries = self.0.at.iter();
        let entries = entries.flat_map(|(id, steps)| steps.keys().map(move |step| (*id, *step)));
        let mut unmatched: Vec<(i64, i64)> = entries
            .filter(|(id, step)| lengths.get(id).is_none_or(|n| !(0..*n).contains(step)))
            .collect();
        unmatched.sort_unstable();
        if let Some((id, step)) = unmatched.first() {
            let why = match lengths.get(id) {
                None => "there is no such trajectory here".to_owned(),
                Some(length) => format!("the trajectory has {}", count(*length, "step")),
            };
            return Err(Error::failed(format!(
                "{} no step, the first that of trajectory {id}, step {step}: {why}",
                match unmatched.len() {
                    1 => "1 entry matches".to_owned(),
                    n => format!("{} match", count(n, "entry")),
                },
            ))
            .hint(
                "ids and steps are those where the stage stands: put it before stages that drop \
                 or cut trajectories",
            ));
        }
        let rows = (0..table.num_rows())
            .map(|row| u32::try_from(row).map_err(|_| Error::failed("more than 2³² trajectories")));
        Ok(Selected {
            rows: rows.collect::<Result<_>>()?,
            ..Selected::default()
        })
    }
}

impl Patch {
    /// Returns the index of the new action of each row, and whether there is one.
    fn rows(&self, block: &Block) -> Result<(Vec<Option<usize>>, u64)> {
        let numbers = block
            .steps
            .column_by_name(step::STEP)
            .and_then(|column| column.as_primitive_opt());
        let numbers: &Int32Array =
            numbers.ok_or_else(|| Error::failed("`step` is not an int32 column"))?;
        let is_final = block.is_final()?;
        let mut rows = vec![None; block.steps.num_rows()];
        let mut patched = 0;
        for (span, id) in block.spans().zip(block.ids()?) {
            let Some(own) = self.patches.at.get(id) else {
                continue;
            };
            for row in span.filter(|row| !is_final.value(*row)) {
                rows[row] = own.get(&i64::from(numbers.value(row))).copied();
                patched += u64::from(rows[row].is_some());
            }
        }
        Ok((rows, patched))
    }
}

impl Transform for Patch {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: changed([step::ACTION]),
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let names = [
            step::ACTION,
            step::ACTION_SOURCE,
            step::ACTION_STD,
            step::ACTION_MODEL,
            step::STEP,
            step::IS_FINAL,
        ];
        let known = names
            .into_iter()
            .filter(|name| self.steps.index_of(name).is_ok());
        Some(known.map(str::to_owned).collect())
    }

    fn depends(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("patches".to_owned(), self.patches.hash.clone())])
    }

    fn apply(&self, mut block: Block, tally: &mut Tally) -> Result<Block> {
        let (rows, patched) = self.rows(&block)?;
        tally.count("actions patched", patched);
        let schema = block.steps.schema();
        let old = |name: &str| block.steps.column_by_name(name).cloned();
        let action =
            old(step::ACTION).ok_or_else(|| Error::failed("there is no column `action`"))?;
        let said = old(step::ACTION_SOURCE);
        let said = said.as_ref().and_then(|said| said.as_string_opt::<i32>());
        let word = |(row, patch): (usize, &Option<usize>)| match (patch, said) {
            (Some(_), _) => Some(action_source::PATCHED),
            (None, Some(said)) if said.is_valid(row) => Some(said.value(row)),
            (None, _) => action.is_valid(row).then_some(action_source::RECORDED),
        };
        let words: StringArray = rows.iter().enumerate().map(word).collect();
        let places: Vec<(usize, usize)> = rows
            .iter()
            .enumerate()
            .map(|(row, patch)| patch.map_or((0, row), |patch| (1, patch)))
            .collect();
        let new = match patched {
            0 => Arc::clone(&action),
            _ => interleave(&[action.as_ref(), self.patches.actions.as_ref()], &places)?,
        };
        let set = BooleanArray::from_iter(rows.iter().map(|patch| Some(patch.is_some())));
        // What was said about a prediction does not hold for what replaces it.
        let mut columns = vec![
            (step::ACTION, new),
            (step::ACTION_SOURCE, Arc::new(words) as _),
        ];
        for name in [step::ACTION_STD, step::ACTION_MODEL] {
            if let Some(column) = old(name) {
                columns.push((name, nullif(&column, &set)?));
            }
        }
        for (name, column) in columns {
            let field = field(&self.steps, &schema, name)?;
            block = block.with_step_column(field, column)?;
        }
        if let Some(kept) = &self.kept {
            block = block.with_step_column(kept.clone(), action)?;
        }
        Ok(block)
    }
}

/// Returns the column `name` of the result, or of the input if the result lacks it.
fn field(after: &Schema, before: &Schema, name: &str) -> Result<Field> {
    let field = after.field_with_name(name);
    Ok(field.or_else(|_| before.field_with_name(name))?.clone())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Float32Type;

    use super::super::support::fixture;
    use super::*;

    const TWO: &str = r#"{"as": "old", "rows": [
        {"trajectory_id": 5, "step": 1, "action": [7]},
        {"trajectory_id": 6, "step": 0, "action": [-0.5]}
    ]}"#;

    #[test]
    fn only_the_named_steps_change_and_they_say_so() {
        let block = fixture::block(&[(5, 2, true), (6, 2, false)]);
        let patch = fixture::transform(&STAGE, TWO);
        let mut tally = Tally::default();
        let after = patch.apply(block.clone(), &mut tally).unwrap();
        assert_eq!(after.steps.schema(), patch.steps());
        let column = |name: &str| after.steps.column_by_name(name).unwrap();
        let numbers = |column: &ArrayRef, row: usize| {
            let list = column.as_fixed_size_list();
            let own = list.value(row);
            list.is_valid(row)
                .then(|| own.as_primitive::<Float32Type>().value(0))
        };
        let before = block.steps.column_by_name("action").unwrap();
        assert_eq!(column("old"), before);
        let source = column("action_source").as_string::<i32>();
        for row in 0..5 {
            let patched = [(1, 7.0), (3, -0.5)].into_iter().find(|(at, _)| *at == row);
            let wanted = patched.map_or(numbers(before, row), |(_, value)| Some(value));
            assert_eq!(numbers(column("action"), row), wanted, "row {row}");
            let word = match patched {
                Some(_) => Some("patched"),
                None => before.is_valid(row).then_some("recorded"),
            };
            assert_eq!(
                source.is_valid(row).then(|| source.value(row)),
                word,
                "row {row}"
            );
        }
        assert_eq!(tally.counts["actions patched"], 2);
    }

    #[test]
    fn an_entry_that_matches_no_step_is_an_error() {
        let selection = |table: &RecordBatch| {
            fixture::selection(&STAGE, TWO, table)
                .select(table)
                .map(|selected| selected.rows)
        };
        let table = fixture::table(&[5, 6], &[2, 1], vec![]);
        assert_eq!(selection(&table).unwrap(), [0, 1]);
        let short = fixture::table(&[6, 5], &[1, 1], vec![]);
        assert_eq!(
            selection(&short).unwrap_err().message,
            "1 entry matches no step, the first that of trajectory 5, step 1: the trajectory has \
             1 step"
        );
        let none = fixture::table(&[7], &[9], vec![]);
        assert_eq!(
            selection(&none).unwrap_err().message,
            "2 entries match no step, the first that of trajectory 5, step 1: there is no such \
             trajectory here"
        );
    }

    #[test]
    fn entries_that_do_not_fit_are_refused() {
        let misfit = |rows: &str| {
            let options = format!(r#"{{"rows": [{rows}]}}"#);
            let misfit = fixture::misfit(&STAGE, &options, None, &fixture::trajectories_schema());
            (misfit.path.join("."), misfit.message)
        };
        let entry =
            |action: &str| format!(r#"{{"trajectory_id": 1, "step": 2, "action": {action}}}"#);
        assert_eq!(
            misfit(&entry("[1, 2]")),
            (
                "rows.0".to_owned(),
                "the action of trajectory 1, step 2 has 2 numbers, and `action` has 1".to_owned()
            )
        );
        assert_eq!(
            misfit(&entry("[1e300]")).1,
            "an action is not finite, or outside the range of float32"
        );
        assert_eq!(
            misfit(&entry("3")).1,
            "the action of trajectory 1, step 2 must be float32[1]"
        );
        assert_eq!(
            misfit(&format!("{},{}", entry("[1]"), entry("[2]"))),
            (
                "rows.1".to_owned(),
                "trajectory 1, step 2 is patched twice".to_owned()
            )
        );
    }
}
