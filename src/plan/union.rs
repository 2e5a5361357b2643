//! The columns of several sources together: every column that one of them has. A source that lacks
//! a column gets it as null. Columns of the same name need the same type, unless `widen` lets their
//! types differ.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result};
use crate::transfer::read::align::wider;

/// A source, as far as its columns go.
pub(super) struct Member<'a> {
    /// The name of the source.
    pub(super) name: &'a str,
    /// Its file or directory.
    pub(super) path: &'a Path,
    /// Whether it is a trajmill dataset.
    pub(super) own: bool,
    /// Its columns of steps.
    pub(super) steps: &'a Schema,
    /// Its columns of trajectories.
    pub(super) about: &'a Schema,
}

/// Returns the columns of steps and of trajectories that `members` have together. With `widen`, a
/// column of steps gets the type that holds the values of all sources without loss.
///
/// # Errors
/// Returns an error and the position of a source if a column has another type there than in the
/// sources before it.
pub(super) fn of(
    members: &[Member],
    widen: bool,
) -> Result<(SchemaRef, SchemaRef), (usize, Error)> {
    let (mut steps, mut about) = (Vec::new(), Vec::new());
    for (index, member) in members.iter().enumerate() {
        add(&mut steps, member.steps, index == 0, |column, types| {
            common_type(column, types, member, members, widen)
        })
        .and_then(|()| {
            add(&mut about, member.about, index == 0, |column, types| {
                wider(types[0], types[1]).ok_or_else(|| {
                    let what = format!("the trajectory column `{column}`");
                    differs(&what, types, member, members)
                        .hint("drop or convert it first, with a pipeline of its own")
                })
            })
        })
        .map_err(|error| (index, error))?;
    }
    Ok((Arc::new(Schema::new(steps)), Arc::new(Schema::new(about))))
}

/// Returns the names of the columns of `all` that `own` lacks, apart from the source of actions,
/// which follows from the actions themselves.
pub(super) fn missing(all: &Schema, own: &Schema) -> Vec<String> {
    all.fields()
        .iter()
        .map(|field| field.name())
        .filter(|name| own.index_of(name).is_err() && *name != step::ACTION_SOURCE)
        .cloned()
        .collect()
}

/// Adds the columns of `more` to `fields`. A column that only one of them has may be null. `common`
/// returns the type of a column that both have.
fn add(
    fields: &mut Vec<Field>,
    more: &Schema,
    first: bool,
    common: impl Fn(&str, [&DataType; 2]) -> Result<DataType>,
) -> Result<()> {
    for field in &mut *fields {
        let Ok(other) = more.field_with_name(field.name()) else {
            *field = field.clone().with_nullable(true);
            continue;
        };
        let (before, theirs) = (field.data_type(), other.data_type());
        let data_type = match before == theirs {
            true => before.clone(),
            false => common(field.name(), [before, theirs])?,
        };
        let nullable = field.is_nullable() || other.is_nullable();
        *field = field
            .clone()
            .with_data_type(data_type)
            .with_nullable(nullable);
    }
    for field in more.fields() {
        if !fields.iter().any(|known| known.name() == field.name()) {
            let nullable = field.is_nullable() || !first;
            fields.push(field.as_ref().clone().with_nullable(nullable));
        }
    }
    Ok(())
}

/// Returns the type of a column of steps that has two `types`: that of the sources before `member`,
/// and its own.
fn common_type(
    column: &str,
    types: [&DataType; 2],
    member: &Member,
    members: &[Member],
    widen: bool,
) -> Result<DataType> {
    let wide = wider(types[0], types[1]);
    if let (Some(wide), true) = (&wide, widen) {
        return Ok(wide.clone());
    }
    let error = differs(&format!("`{column}`"), types, member, members);
    if wide.is_some() {
        return Err(error.hint("add `widen: true` to the source to widen the type"));
    }
    let rename = format!("`map: {{{column}_2: {column}}}`");
    Err(error.hint(match member.own {
        true => format!("to keep both, rename the column with {rename} beside the path"),
        false => format!(
            "to keep both, import {} first and rename the column with {rename} beside the path of \
             the imported dataset; to do without it, leave it out with `skip` beside each path",
            member.path.display()
        ),
    }))
}

/// Returns the error for a column that has two types.
fn differs(what: &str, types: [&DataType; 2], member: &Member, members: &[Member]) -> Error {
    let before = match members {
        [first, _] => first.name,
        _ => "the sources before it",
    };
    Error::failed(format!(
        "{what} is {} in {} and {} in {before}",
        type_name(types[1]),
        member.name,
        type_name(types[0])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::schema::vector;

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        let field =
            |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), false);
        Schema::new(fields.iter().map(field).collect::<Vec<_>>())
    }

    fn united(sources: &[Schema], widen: bool) -> Result<Vec<Field>, String> {
        let about = Schema::empty();
        let members: Vec<Member> = sources
            .iter()
            .map(|steps| Member {
                name: "a",
                path: Path::new("a"),
                own: true,
                steps,
                about: &about,
            })
            .collect();
        of(&members, widen)
            .map(|(steps, _)| {
                steps
                    .fields()
                    .iter()
                    .map(|field| field.as_ref().clone())
                    .collect()
            })
            .map_err(|(index, error)| format!("{index}: {}", error.message))
    }

    #[test]
    fn a_column_that_one_source_lacks_may_be_null() {
        let sources = [
            schema(&[("step", DataType::Int32), ("force", DataType::Float64)]),
            schema(&[("step", DataType::Int32)]),
            schema(&[("gripper", DataType::Int8), ("step", DataType::Int32)]),
        ];
        let expected = [
            Field::new("step", DataType::Int32, false),
            Field::new("force", DataType::Float64, true),
            Field::new("gripper", DataType::Int8, true),
        ];
        assert_eq!(united(&sources, false).unwrap(), expected);
        let all = Schema::new(expected.to_vec());
        assert_eq!(missing(&all, &sources[1]), ["force", "gripper"]);
    }

    #[test]
    fn types_that_differ_are_widened_only_if_asked() {
        let sources = [
            schema(&[("action", vector(DataType::Float32, 2))]),
            schema(&[("action", vector(DataType::Float64, 2))]),
        ];
        let error = united(&sources, false).unwrap_err();
        assert_eq!(error, "1: `action` is float64[2] in a and float32[2] in a");
        let wide = united(&sources, true).unwrap();
        assert_eq!(wide[0].data_type(), &vector(DataType::Float64, 2));
    }
}
