//! The columns of several sources together: every column that one of them has. A source that lacks
//! a column gets it as null. Columns of the same name need the same type, unless `widen` lets their
//! types differ. Vectors of different widths become lists if nothing but their width has a meaning.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::dataset::schema::{step, type_name};
use crate::dataset::videos::{DEPTH, TOLERANCE, TOLERANCE_KEY, refers, tolerance};
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
        add(&mut steps, member.steps, index == 0, |fields| {
            common_type(fields, member, members, widen)
        })
        .and_then(|()| {
            add(&mut about, member.about, index == 0, |fields| {
                wider(fields[0].data_type(), fields[1].data_type()).ok_or_else(|| {
                    let what = format!("the trajectory column `{}`", fields[0].name());
                    differs(&what, fields, member, members)
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

/// Returns the columns of `own` that have another type in `all`, and this type in words.
pub(super) fn converted(all: &Schema, own: &Schema) -> Vec<(String, String)> {
    let other = |field: &Arc<Field>| {
        let found = all.field_with_name(field.name()).ok()?.data_type();
        let is_other = found != field.data_type();
        is_other.then(|| (field.name().clone(), type_name(found)))
    };
    own.fields().iter().filter_map(other).collect()
}

/// Returns the type of a list that holds vectors or lists of two columns of the same name; `None`
/// if a value of one of them would lose its meaning: the column has a fixed meaning, or its
/// dimensions have names or a shape. With `widen`, the types of elements may differ.
fn list(fields: [&Field; 2], widen: bool) -> Option<DataType> {
    if step::CANONICAL.contains(&fields[0].name().as_str()) {
        return None;
    }
    let element = |field: &Field| match field.data_type() {
        DataType::FixedSizeList(child, _) | DataType::List(child)
            if field.metadata().is_empty() && !child.data_type().is_nested() =>
        {
            Some(Arc::clone(child))
        }
        _ => None,
    };
    let (one, other) = (element(fields[0])?, element(fields[1])?);
    let data_type = match one.data_type() == other.data_type() {
        true => one.data_type().clone(),
        false if widen => wider(one.data_type(), other.data_type())?,
        false => return None,
    };
    let child = Field::new(
        one.name(),
        data_type,
        one.is_nullable() || other.is_nullable(),
    );
    Some(DataType::List(Arc::new(child)))
}

/// Adds the columns of `more` to `fields`. A column that only one of them has may be null. `common`
/// returns the type of a column that both have.
fn add(
    fields: &mut Vec<Field>,
    more: &Schema,
    first: bool,
    common: impl Fn([&Field; 2]) -> Result<DataType>,
) -> Result<()> {
    for field in &mut *fields {
        let Ok(other) = more.field_with_name(field.name()) else {
            *field = field.clone().with_nullable(true);
            continue;
        };
        let (before, theirs) = (field.data_type(), other.data_type());
        let data_type = match before == theirs {
            true => before.clone(),
            false => common([field, other])?,
        };
        let nullable = field.is_nullable() || other.is_nullable();
        let mut common = field.clone();
        if refers(field) && refers(other) {
            videos_of_both(&mut common, other)?;
        }
        *field = common.with_data_type(data_type).with_nullable(nullable);
    }
    for field in more.fields() {
        if !fields.iter().any(|known| known.name() == field.name()) {
            let nullable = field.is_nullable() || !first;
            fields.push(field.as_ref().clone().with_nullable(nullable));
        }
    }
    Ok(())
}

/// Gives `field`, a column of references to videos, what also holds for those of `other`: the
/// larger tolerance.
///
/// # Errors
/// Returns an error if only one of them refers to depth videos.
fn videos_of_both(field: &mut Field, other: &Field) -> Result<()> {
    let is_depth = |field: &Field| field.metadata().contains_key(DEPTH);
    if is_depth(field) != is_depth(other) {
        return Err(Error::failed(format!(
            "the column `{}` has depth maps in one source and pictures in another",
            field.name()
        ))
        .hint("give the column of one of them another name with `map`"));
    }
    let seconds = tolerance(field)?.max(tolerance(other)?);
    if seconds > TOLERANCE {
        let key = TOLERANCE_KEY.to_owned();
        field.metadata_mut().insert(key, seconds.to_string());
    }
    Ok(())
}

/// Returns the type of a column of steps that has two types, those of `fields`: the one in the
/// sources before `member`, and the one there.
fn common_type(
    fields: [&Field; 2],
    member: &Member,
    members: &[Member],
    widen: bool,
) -> Result<DataType> {
    let column = fields[0].name();
    let wide = wider(fields[0].data_type(), fields[1].data_type());
    if let (Some(wide), true) = (&wide, widen) {
        return Ok(wide.clone());
    }
    if let (None, Some(list)) = (&wide, list(fields, widen)) {
        return Ok(list);
    }
    let error = differs(&format!("`{column}`"), fields, member, members);
    if wide.is_some() || list(fields, true).is_some() {
        return Err(error.hint("add `widen: true` to the source to widen the type"));
    }
    let rename = format!("`map: {{{column}_2: {column}}}`");
    Err(error.hint(match member.own {
        true => format!("to keep both, rename the column with {rename} beside the path"),
        false => {
            let both = format!(
                "to keep both, import {} first and rename the column with {rename} beside the \
                 path of the imported dataset",
                member.path.display()
            );
            // An import needs the observations.
            match column.as_str() {
                step::OBSERVATION => both,
                _ => format!(
                    "{both}; to do without its values there, leave it out with `skip` beside this \
                     path, by its name in the source"
                ),
            }
        }
    }))
}

/// Returns the error for a column that has two types.
fn differs(what: &str, fields: [&Field; 2], member: &Member, members: &[Member]) -> Error {
    let before = match members {
        [first, _] => first.name,
        _ => "the sources before it",
    };
    Error::failed(format!(
        "{what} is {} in {} and {} in {before}",
        type_name(fields[1].data_type()),
        member.name,
        type_name(fields[0].data_type())
    ))
}

/// Returns columns as text. Schemas with the same text are the same to a reader of files.
pub(super) fn describe(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| {
        let tolerance = field.metadata().get(TOLERANCE_KEY);
        let tolerance = tolerance.map(|seconds| format!(" tolerance {seconds}"));
        format!(
            "{} {} {}{}",
            field.name(),
            field.data_type(),
            field.is_nullable(),
            tolerance.unwrap_or_default()
        )
    };
    schema
        .fields()
        .iter()
        .map(column)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns `schema` with columns in front that an import adds.
pub(super) fn with_ids(schema: &Schema, ids: &[(&str, DataType)]) -> Schema {
    let ids = ids
        .iter()
        .map(|(name, data_type)| Arc::new(Field::new(*name, data_type.clone(), false)));
    Schema::new(
        ids.chain(schema.fields().iter().cloned())
            .collect::<Vec<_>>(),
    )
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

    #[test]
    fn vectors_of_different_widths_are_lists_unless_a_meaning_would_be_lost() {
        let widths = |name: &str, element: DataType, widths: &[i32]| -> Vec<Schema> {
            let vectors = widths
                .iter()
                .map(|width| schema(&[(name, vector(element.clone(), *width))]));
            vectors.collect()
        };
        let states = widths("states", DataType::Float64, &[47, 92, 47]);
        let found = united(&states, false).unwrap();
        assert_eq!(type_name(found[0].data_type()), "list[float64]");
        let all = Schema::new(found);
        let expected = [("states".to_owned(), "list[float64]".to_owned())];
        assert_eq!(converted(&all, &states[0]), expected);
        // What is fed to models has one width, and the axes of an image are more than its length.
        for name in [step::OBSERVATION, step::ACTION, step::ACTION_STD] {
            assert!(united(&widths(name, DataType::Float64, &[2, 3]), false).is_err());
        }
        let image = Field::new("image", vector(DataType::UInt8, 12), false);
        let shape = [("shape".to_owned(), "[2,2,3]".to_owned())].into();
        let image = Schema::new(vec![image.with_metadata(shape)]);
        let other = schema(&[("image", vector(DataType::UInt8, 3))]);
        assert!(united(&[other.clone(), image.clone()], true).is_err());
        assert!(united(&[image, other], true).is_err());
        // Elements of different types need to be widened too.
        let mut mixed = widths("states", DataType::Float64, &[47]);
        mixed.extend(widths("states", DataType::Float32, &[92]));
        assert!(united(&mixed, false).is_err());
        let found = united(&mixed, true).unwrap();
        assert_eq!(type_name(found[0].data_type()), "list[float64]");
    }

    #[test]
    fn references_get_the_larger_tolerance_and_depth_maps_stay_apart() {
        let camera = |metadata: &[(&str, &str)]| {
            let metadata = metadata.iter();
            let metadata = metadata.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let references = DataType::Struct(crate::dataset::videos::reference());
            let field = Field::new("top", references, true);
            Schema::new(vec![field.with_metadata(metadata.collect())])
        };
        let (plain, loose) = (camera(&[]), camera(&[(TOLERANCE_KEY, "0.02")]));
        for sources in [[plain.clone(), loose.clone()], [loose, plain.clone()]] {
            let fields = united(&sources, false).unwrap();
            assert_eq!(tolerance(&fields[0]).unwrap(), 0.02);
        }
        let message = united(&[camera(&[(DEPTH, "true")]), plain], false).unwrap_err();
        assert!(message.contains("depth maps in one source"), "{message}");
    }
}
