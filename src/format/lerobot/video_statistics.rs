//! The statistics of videos that a LeRobot dataset states for its episodes.
//!
//! They travel with a trajectory as a text, because they hold only for the whole episode:
//!
//! ```text
//! {"observation.images.top": {"frames": 120, "min": [[[0.0]], …], "max": …, "count": [100]}}
//! ```

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::{Map, Value};

use super::files::lines;
use super::info::{Info, Layout};
use crate::dataset::files;
use crate::error::Result;

pub(crate) use crate::dataset::videos::VIDEO_STATISTICS;

/// The key of the number of frames of the whole episode.
pub(crate) const FRAMES: &str = "frames";

/// The prefix of the columns of statistics in v3's table of episodes.
pub(crate) const STATS: &str = "stats/";

/// The statistics of each camera of an episode, by the name of its feature.
pub(crate) type Statistics = Map<String, Value>;

/// Returns the statistics in the rows of v3's table of episodes.
pub(crate) fn of_table(info: &Info, batch: &RecordBatch) -> Vec<Statistics> {
    let mut rows = vec![Statistics::new(); batch.num_rows()];
    for (at, field) in batch.schema().fields().iter().enumerate() {
        let named = field.name().strip_prefix(STATS);
        let Some((camera, statistic)) = named.and_then(|name| name.rsplit_once('/')) else {
            continue;
        };
        if !info.videos().any(|video| video.name == camera) {
            continue;
        }
        for (row, all) in rows.iter_mut().enumerate() {
            let Some(value) = json(&batch.column(at).slice(row, 1)) else {
                continue;
            };
            let own = all
                .entry(camera)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Some(own) = own.as_object_mut() {
                own.insert(statistic.to_owned(), value);
            }
        }
    }
    rows
}

/// Returns the statistics in `meta/episodes_stats.jsonl` of v2.1, by the index of the episode; none
/// if there is no such file.
pub(crate) fn of_lines(info: &Info) -> Result<HashMap<u64, Statistics>> {
    let path = info.root.join("meta/episodes_stats.jsonl");
    let mut found = HashMap::new();
    if info.layout != Layout::PerEpisode
        || info.videos().next().is_none()
        || !files::is_file(&path)?
    {
        return Ok(found);
    }
    lines(&path, |line| {
        let index = line.get("episode_index").and_then(Value::as_u64);
        let stats = line.get("stats").and_then(Value::as_object);
        if let (Some(index), Some(stats)) = (index, stats) {
            let of_videos = info.videos().filter_map(|video| {
                let stats = stats.get(&video.name).filter(|stats| stats.is_object())?;
                Some((video.name.clone(), stats.clone()))
            });
            found.insert(index, of_videos.collect());
        }
        Ok(())
    })?;
    Ok(found)
}

/// Returns the text of an episode of `frames` frames.
pub(crate) fn text(info: &Info, frames: u64, mut statistics: Statistics) -> String {
    let mut all = Map::new();
    for video in info.videos() {
        let mut own = Map::from_iter([(FRAMES.to_owned(), Value::from(frames))]);
        if let Some(Value::Object(stated)) = statistics.remove(&video.name) {
            own.extend(stated);
        }
        all.insert(video.name.clone(), Value::Object(own));
    }
    Value::Object(all).to_string()
}

/// Returns the first value of a column of numbers, or of nested lists of numbers.
fn json(column: &ArrayRef) -> Option<Value> {
    if column.is_empty() || column.is_null(0) {
        return None;
    }
    let list = match column.data_type() {
        DataType::List(_) => column.as_list::<i32>().value(0),
        DataType::LargeList(_) => column.as_list::<i64>().value(0),
        DataType::FixedSizeList(..) => column.as_fixed_size_list().value(0),
        other if other.is_integer() => {
            let whole = cast(column, &DataType::Int64).ok()?;
            let whole = whole.as_primitive::<arrow::datatypes::Int64Type>();
            return Some(Value::from(whole.value(0)));
        }
        _ => {
            let number = cast(column, &DataType::Float64).ok()?;
            return Some(Value::from(number.as_primitive::<Float64Type>().value(0)));
        }
    };
    (0..list.len()).map(|at| json(&list.slice(at, 1))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn lists_become_json() {
        let column: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some([
                Some(100),
            ])]));
        assert_eq!(json(&column), Some(serde_json::json!([100])));
        let none: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        assert_eq!(json(&none), None);
    }
}
