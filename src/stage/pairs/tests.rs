//! Draws, segments and their scores, against the definition.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Float64Type, Int32Type, Int64Type};
use proptest::prelude::*;

use super::*;
use crate::dataset::Block;
use crate::stage::support::{cut, fixture};
use crate::stage::{Selection, Tally, Transform};

fn parts(options: &str) -> (Box<dyn Selection>, Arc<dyn Transform>, Box<dyn Selection>) {
    let mut operators = fixture::operators(
        &STAGE,
        options,
        &fixture::steps_schema(),
        &fixture::trajectories_schema(),
    )
    .into_iter();
    match (operators.next(), operators.next(), operators.next()) {
        (
            Some(Operator::Selection(draw)),
            Some(Operator::Transform(cut)),
            Some(Operator::Selection(judge)),
        ) => (draw, cut, judge),
        _ => panic!("three operators"),
    }
}

/// Returns the trajectory, start, side and pair of each segment that is drawn.
fn drawn(table: &RecordBatch, draw: &dyn Selection) -> Vec<(i64, i32, i32, i64)> {
    let selected = draw.select(table).unwrap();
    let ids = rank::ids(table).unwrap();
    let row = |(index, row): (usize, &u32)| {
        let [pair, side, start, origin] = &selected.columns[..] else {
            panic!("four columns")
        };
        assert_eq!(
            origin.as_primitive::<Int64Type>().value(index),
            ids.value(*row as usize)
        );
        let integer = |column: &ArrayRef| column.as_primitive::<Int32Type>().value(index);
        (
            ids.value(*row as usize),
            integer(start),
            integer(side),
            pair.as_primitive::<Int64Type>().value(index),
        )
    };
    selected.rows.iter().enumerate().map(row).collect()
}

proptest! {
    #[test]
    fn segments_lie_in_their_trajectories_and_differ_whatever_the_tables_order(
        lengths in prop::collection::vec(0i64..9, 2..8),
        length in 1u32..4,
        seed in 0u64..50,
    ) {
        let segments: i64 = lengths
            .iter()
            .map(|n| (n - i64::from(length) + 1).max(0))
            .sum();
        prop_assume!(segments >= 2);
        let ids: Vec<i64> = (0..lengths.len() as i64).collect();
        let table = fixture::table(&ids, &lengths, vec![]);
        let (draw, ..) = parts(&format!(
            r#"{{"length": {length}, "count": 40, "seed": {seed}, "by": "nothing"}}"#
        ));
        let made = drawn(&table, &*draw);
        prop_assert_eq!(made.len(), 80);
        for pair in made.chunks(2) {
            prop_assert!((pair[0].0, pair[0].1) != (pair[1].0, pair[1].1));
            prop_assert_eq!((pair[0].2, pair[1].2, pair[0].3), (1, 2, pair[1].3));
        }
        for (id, start, ..) in &made {
            prop_assert!(
                *start >= 0 && i64::from(*start) + i64::from(length) <= lengths[*id as usize]
            );
        }
        let (mut ids, mut turned) = (ids, lengths.clone());
        ids.reverse();
        turned.reverse();
        prop_assert_eq!(drawn(&fixture::table(&ids, &turned, vec![]), &*draw), made);
    }
}

#[test]
fn every_segment_is_as_likely_as_any_other_and_groups_keep_to_themselves() {
    let groups = fixture::float(
        "task",
        &[Some(1.0), Some(1.0), Some(2.0), Some(2.0), Some(3.0)],
    );
    let table = fixture::table(&[0, 1, 2, 3, 4], &[5, 3, 4, 4, 2], vec![groups]);
    let options = r#"{"length": 2, "count": 6000, "seed": 3, "by": "nothing", "group": "task"}"#;
    let schema = fixture::steps_schema();
    let Some(Operator::Selection(draw)) =
        fixture::operators(&STAGE, options, &schema, &table.schema())
            .into_iter()
            .next()
    else {
        panic!()
    };
    let made = drawn(&table, &*draw);
    let task = |id: i64| [1, 1, 2, 2, 3][id as usize];
    assert!(
        made.chunks(2)
            .all(|pair| task(pair[0].0) == task(pair[1].0) && task(pair[0].0) != 3),
        "one segment alone makes no pair"
    );
    // Four, two, three and three segments: each of the twelve is drawn first 500 times, four
    // standard deviations wide.
    for id in 0..4 {
        for start in 0..[4, 2, 3, 3][id as usize] {
            let count = made
                .iter()
                .filter(|(other, begin, side, _)| (*other, *begin, *side) == (id, start, 1))
                .count();
            assert!(
                (414..=586).contains(&count),
                "segment {start} of trajectory {id}: {count}"
            );
        }
    }
}

#[test]
fn segments_are_scored_and_know_where_they_come_from() {
    // Rewards are row numbers: trajectory 4 has rows 0 to 3 and a final row, trajectory 6 rows 5 to
    // 7.
    let options = r#"{
        "length": 2, "count": 1, "teacher": {"gamma": 0.5}, "by": "regret",
        "value": "10 * observation[1]"
    }"#;
    let (_, cut, judge) = parts(options);
    let segments = |starts: [i32; 2]| {
        let block = fixture::block(&[(4, 4, true), (6, 3, false)]);
        let columns: [(&str, ArrayRef); 4] = [
            (PAIR, Arc::new(Int64Array::from(vec![0, 0]))),
            (SIDE, Arc::new(Int32Array::from(vec![1, 2]))),
            (START, Arc::new(Int32Array::from(starts.to_vec()))),
            (ORIGIN, Arc::new(Int64Array::from(vec![4, 6]))),
        ];
        let with = |block: Block, (name, column): (&str, ArrayRef)| {
            block
                .with_trajectory_column(Field::new(name, column.data_type().clone(), false), column)
                .unwrap()
        };
        let mut tally = Tally::default();
        let block = columns.into_iter().fold(block, with);
        let after = cut.apply(block, &mut tally).unwrap();
        assert_eq!(tally.dropped_rows["outside the segment"], 4);
        after
    };
    let after = segments([1, 0]);
    let floats = |block: &Block, name: &str| {
        block
            .trajectories
            .column_by_name(name)
            .unwrap()
            .as_primitive::<Float64Type>()
            .clone()
    };
    // 1 + 2 + 10·3 - 10·1 and 5 + 6 + 10·7 - 10·5; felt are 0.5·1 + 2 and 0.5·5 + 6 and the same
    // values.
    assert_eq!(floats(&after, SCORE).values().as_ref(), [23.0, 31.0]);
    assert_eq!(floats(&after, FELT).values().as_ref(), [22.5, 28.5]);
    let truncated: Vec<bool> = after
        .steps
        .column_by_name("truncated")
        .unwrap()
        .as_boolean()
        .values()
        .iter()
        .collect();
    assert_eq!(
        (truncated, after.offsets.clone()),
        (vec![false, true, false, true], vec![0, 2, 4])
    );
    let begins = after
        .trajectories
        .column_by_name(cut::PARENT_STEP)
        .unwrap()
        .as_primitive::<Int32Type>()
        .values()
        .to_vec();
    assert_eq!(begins, [1, 0]);
    let judged = judge.select(&after.trajectories).unwrap();
    assert_eq!(
        judged.columns[1]
            .as_primitive::<Float64Type>()
            .values()
            .as_ref(),
        [0.0, 1.0]
    );
    // A segment that ends in a terminal state, 2 + 3 - 10·2, and one that ends with its trajectory.
    let ended = segments([2, 1]);
    assert_eq!(
        floats(&ended, SCORE).iter().collect::<Vec<_>>(),
        [Some(-15.0), Some(6.0 + 7.0 - 60.0)]
    );
}

#[test]
fn options_that_cannot_be_are_refused() {
    let misfit =
        |options: &str| fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
    assert_eq!(misfit(r#"{"length": 0, "count": 1}"#).path, ["length"]);
    assert_eq!(
        misfit(r#"{"length": 2, "count": 1, "by": "regret"}"#).path,
        ["by"]
    );
    assert_eq!(
        misfit(r#"{"length": 2, "count": 1, "value": "reward"}"#).path,
        ["value"]
    );
    assert_eq!(
        misfit(r#"{"length": 2, "count": 1, "disagreement": {"by": "reward"}}"#).path,
        ["disagreement", "by"]
    );
    assert_eq!(
        misfit(r#"{"length": 2, "count": 1, "teacher": {"mistake": 3}}"#).path,
        ["teacher", "mistake"]
    );
    let table = fixture::table(&[7], &[2], vec![]);
    let (draw, ..) = parts(r#"{"length": 2, "count": 1}"#);
    assert_eq!(
        draw.select(&table).err().unwrap().message,
        "there are no two segments of length 2 to draw"
    );
}
