//! Binds the predicates of `check` to the columns of the result that they are about.

use arrow::datatypes::{DataType, Field, Schema};

use super::columns::Columns;
use crate::config::{Content, Node, Span};
use crate::dataset::block::with_field;
use crate::dataset::schema::step;
use crate::expr::{Aggregate, Misfit};
use crate::stage::Check;

/// Binds the predicates of `check`, whose options are `node`. Returns each misfit with the place of
/// its predicate.
pub(super) fn bind(check: &Check, node: &Node, columns: &Columns) -> Vec<(Span, Misfit)> {
    // An aggregate over steps leaves final rows out and needs the column that marks them. The table
    // of trajectories has none.
    let final_rows = Field::new(step::IS_FINAL, DataType::Boolean, false);
    let trajectories = with_field(&columns.trajectories, final_rows).0;
    let misfits = check
        .predicates()
        .into_iter()
        .filter_map(|(table, predicate)| {
            let schema: &Schema = match table {
                "steps" => &columns.steps,
                _ => &trajectories,
            };
            let misfit = bind_predicate(predicate, schema).err()?;
            Some((find(node, predicate).unwrap_or(node.span), misfit))
        });
    misfits.collect()
}

fn bind_predicate(predicate: &str, schema: &Schema) -> Result<(), Misfit> {
    match Aggregate::bind(predicate, schema)?.data_type() {
        DataType::Boolean => Ok(()),
        _ => Err(Misfit {
            word: None,
            message: format!("a check must be true or false, and `{predicate}` is neither"),
            help: Some("compare it with something, as in `count(*) > 0`".to_owned()),
        }),
    }
}

/// Finds the place of the text `wanted` in a tree.
fn find(node: &Node, wanted: &str) -> Option<Span> {
    match &node.content {
        Content::Str(text) => (text == wanted).then_some(node.span),
        Content::Seq(nodes) => nodes.iter().find_map(|node| find(node, wanted)),
        Content::Map(entries) => entries.iter().find_map(|(_, node)| find(node, wanted)),
        _ => None,
    }
}
