//! zarr replay buffers, as diffusion policy writes them: `data/*` and `meta/episode_ends`.
//!
//! The arrays in `data` hold all trajectories, one after the other. `meta/episode_ends` has one
//! past the last row of each.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use serde_json::Map;

use super::{Detection, Evidence, Format};
use crate::container::arrays::{ArrayReader, StoredArray, decode};
use crate::container::zarr::{Array, Chunks, Store};
use crate::dataset::schema::step;
use crate::dataset::{Account, files};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::concatenated::{Besides, Concatenated, at_rows, is_marker};
use crate::transfer::read::{Axes, Choice, Options, Reader, Source};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "zarr",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| {
            let named = path.to_string_lossy().to_lowercase().ends_with(".zarr.zip");
            Ok(files::is_file(&path.join("meta/episode_ends/.zarray"))?
                || named && files::is_file(path)?)
        },
    }),
    read: Some(Reader {
        takes: &["map", "layout", "max_steps", "split_on_gaps"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// Names of observations in this format, besides those that every format recognises.
const STATES: [&str; 3] = ["state", "states", "full_state"];

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let mut store = Store::open(path)?;
    let failed = |error: Error| error.at(path.display());
    // A rollout of vectorised environments has flags instead of ends, and may have no group.
    let is_rollout =
        options.layout != Axes::Step && store.json("meta/episode_ends/.zarray")?.is_none();
    let mut group = "data/";
    let mut names = store.arrays("data")?;
    if is_rollout && names.is_empty() {
        group = "";
        names = store.arrays("")?;
    }
    let choice = Choice::new(options, is_marker);
    names.retain(|name| choice.reads(name));
    let mut metadata = Map::new();
    choice.verify().map_err(failed)?;
    let mut account = choice.account(Account::default());
    for group in ["", "data/", "meta/"] {
        if let Some(attributes) = store.json(&format!("{group}.zattrs"))? {
            metadata.insert(format!("{group}.zattrs"), attributes);
        }
    }
    let ends = match is_rollout {
        true => None,
        false => Some(Array::open(&mut store, "meta/episode_ends")?),
    };
    let arrays = names
        .iter()
        .map(|name| Array::open(&mut store, &format!("{group}{name}")))
        .collect::<Result<Vec<_>>>()?;
    let store = Rc::new(RefCell::new(store));
    let ends = ends
        .map(|ends| episode_ends(&store, ends).map_err(failed))
        .transpose()?;
    let rows = ends.as_ref().map(|ends| ends.last().copied().unwrap_or(0));
    let mut stored = Vec::new();
    for (name, array) in names.iter().zip(arrays) {
        if let Some(rows) = rows.filter(|rows| array.shape[0] < *rows) {
            return Err(failed(Error::failed(format!(
                "`data/{name}` has {}, but the last of `meta/episode_ends` is {}",
                count(array.shape[0], "row"),
                number(rows)
            )))
            .hint(
                "the replay buffer is cut short or was not finished: write or fetch it again, or \
                 remove the array",
            ));
        }
        let mut layout = array.layout(name).map_err(failed)?;
        if let Some(rows) = rows.filter(|rows| layout.rows > *rows) {
            account.leave_out(
                format!("rows {rows} to {} of data/{name}", layout.rows - 1),
                "they are behind the last of `meta/episode_ends`",
            );
            layout.rows = rows;
        }
        let row_bytes = layout.row_bytes();
        stored.push(StoredArray {
            layout,
            reader: Box::new(Chunks::new(&store, array, row_bytes)),
        });
    }
    if let Some((ends, rows)) = ends.zip(rows) {
        let last = ends.iter().map(|end| end - 1).collect();
        stored.push(at_rows("episode_ends".to_owned(), last, rows));
    }
    let mut options = options.clone();
    let has = |name: &str| names.iter().any(|known| known == name);
    let is_observation_mapped = options
        .map
        .iter()
        .any(|(target, _)| target == step::OBSERVATION);
    if !is_observation_mapped
        && !["observations", "observation", "obs"].into_iter().any(has)
        && let Some(state) = STATES.into_iter().find(|name| has(name))
    {
        options
            .map
            .push((step::OBSERVATION.to_owned(), state.to_owned()));
    }
    let besides = Besides {
        metadata,
        account,
        envelope: None,
    };
    Ok(Box::new(Concatenated::new(
        path, stored, &options, besides,
    )?))
}

/// Reads `meta/episode_ends`: one past the last row of each trajectory.
fn episode_ends(store: &Rc<RefCell<Store>>, array: Array) -> Result<Vec<u64>> {
    let wrong = |what: String| {
        Error::failed(format!("`meta/episode_ends` {what}")).hint(
            "it must hold one past the last row of each episode, in ascending order: write the \
                 replay buffer again",
        )
    };
    if array.shape.len() != 1 || !array.element.is_integer() {
        return Err(wrong(format!(
            "has the type {} and the shape {:?}, but must be a vector of whole numbers",
            array.kind, array.shape
        )));
    }
    let layout = array.layout("episode_ends")?;
    let rows = layout.rows;
    let bytes = Chunks::new(store, array, layout.row_bytes()).read(rows)?;
    let values = cast(&decode(&layout, bytes)?, &arrow::datatypes::DataType::Int64)?;
    let ends: Vec<u64> = values
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|end| u64::try_from(*end).unwrap_or(0))
        .collect();
    match std::iter::once(&0)
        .chain(&ends)
        .zip(&ends)
        .position(|(before, end)| before >= end)
    {
        Some(at) => Err(wrong(format!(
            "is {} at {at}, which is not greater than the end before it",
            ends[at]
        ))),
        None if ends.is_empty() => Err(wrong("is empty".to_owned())),
        None => Ok(ends),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::dataset::store;
    use crate::transfer::read::IncomingTrajectory;

    fn array(
        folder: &Path,
        name: &str,
        shape: &[u64],
        chunks: &[u64],
        dtype: &str,
        change: impl Fn(&mut Value),
    ) {
        let mut value = json!({
            "zarr_format": 2,
            "shape": shape,
            "chunks": chunks,
            "dtype": dtype,
            "compressor": null,
            "fill_value": 0,
            "order": "C",
            "filters": null,
        });
        change(&mut value);
        let folder = folder.join(name);
        store::create_dir(&folder).unwrap();
        store::write(&folder.join(".zarray"), value.to_string().as_bytes()).unwrap();
    }

    fn floats(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
        values
            .into_iter()
            .flat_map(|value| (value as f32).to_le_bytes())
            .collect()
    }

    fn all(path: &Path) -> Result<Vec<IncomingTrajectory>> {
        let mut source = read(path, &Options::default())?;
        let mut found = Vec::new();
        while let Some(incoming) = source.next()? {
            found.push(incoming);
        }
        Ok(found)
    }

    /// Writes five steps in two episodes: a state of 3 × 2 in chunks of 2 × 2 × 2, one of them
    /// missing.
    fn write_buffer(folder: &Path, change: impl Fn(&mut Value)) {
        array(folder, "meta/episode_ends", &[2], &[10], "<i8", |_| {});
        let mut ends: Vec<u8> = [2_i64, 5]
            .iter()
            .flat_map(|end| end.to_le_bytes())
            .collect();
        ends.resize(80, 0);
        store::write(&folder.join("meta/episode_ends/0"), &ends).unwrap();
        array(
            folder,
            "data/state",
            &[5, 3, 2],
            &[2, 2, 2],
            "<f4",
            |value| {
                value["fill_value"] = json!("NaN");
                change(value);
            },
        );
        let value = |row: u32, a: u32, b: u32| {
            if row < 5 && a < 3 {
                row * 100 + a * 10 + b
            } else {
                9999
            }
        };
        for (chunk, row, a) in [
            ("0.0.0", 0, 0),
            ("0.1.0", 0, 2),
            ("1.0.0", 2, 0),
            ("1.1.0", 2, 2),
            ("2.0.0", 4, 0),
        ] {
            let values = (0..8).map(|at| value(row + at / 4, a + at / 2 % 2, at % 2));
            store::write(&folder.join("data/state").join(chunk), &floats(values)).unwrap();
        }
    }

    #[test]
    fn chunks_are_assembled_and_missing_ones_are_filled() {
        let folder = tempfile::tempdir().unwrap();
        write_buffer(folder.path(), |_| {});
        let found = all(folder.path()).unwrap();
        assert_eq!(
            found
                .iter()
                .map(|incoming| incoming.steps.num_rows())
                .collect::<Vec<_>>(),
            [2, 3]
        );
        let row = |episode: usize, row: usize| {
            found[episode].steps["observation"]
                .as_fixed_size_list()
                .value(row)
                .as_primitive::<arrow::datatypes::Float32Type>()
                .values()
                .to_vec()
        };
        assert_eq!(row(0, 1), [100.0, 101.0, 110.0, 111.0, 120.0, 121.0]);
        assert_eq!(row(1, 1), [300.0, 301.0, 310.0, 311.0, 320.0, 321.0]);
        assert_eq!(row(1, 2)[..4], [400.0, 401.0, 410.0, 411.0]);
        assert!(row(1, 2)[4..].iter().all(|value| value.is_nan()));
    }

    #[test]
    fn errors_say_what_is_wrong_with_an_array() {
        let message = |change: &dyn Fn(&mut Value)| {
            let folder = tempfile::tempdir().unwrap();
            write_buffer(folder.path(), change);
            let error = all(folder.path()).err().unwrap();
            assert!(
                error.message.contains("state") && !error.hints.is_empty(),
                "{error}"
            );
            error.message
        };
        assert!(message(&|value| value["zarr_format"] = json!(3)).contains("`zarr_format` is 3"));
        assert!(message(&|value| value["compressor"] = json!({"id": "lzma"})).contains("`lzma`"));
        assert!(
            message(&|value| value["compressor"] = json!({"id": "zlib"})).contains("cannot unpack")
        );
        assert!(message(&|value| value["shape"] = json!([4, 3, 2])).contains("4 rows, but"));
        assert!(
            message(&|value| value["chunks"] = json!([2, 0, 2])).contains("does not fit chunks of")
        );
        assert!(
            message(&|value| value["chunks"] = json!([1_000_000, 1_000_000, 2]))
                .contains("larger than 1 GiB")
        );
        assert!(
            message(&|value| value["filters"] = json!([{"id": "delta"}])).contains("`filters`")
        );
        assert!(message(&|value| value["dtype"] = json!("|O")).contains("|O"));
        assert!(
            message(&|value| value["dtype"] = json!("<f8"))
                .contains("32 bytes where the chunk has 64")
        );
    }

    proptest! {
        #[test]
        fn any_description_ends(
            text in "[\\[\\]{}\":,0-9a-z_<|.-]{0,60}",
            sizes in prop::collection::vec(prop_oneof![0..4_u64, 1 << 20..1_u64 << 62], 0..4),
            is_list in any::<bool>(),
            key in prop::sample::select(vec![
                "shape",
                "chunks",
                "dtype",
                "compressor",
                "fill_value",
                "order",
            ]),
        ) {
            let mut value = json!({
                "zarr_format": 2,
                "shape": [5],
                "chunks": [2],
                "dtype": "<f4",
                "compressor": null,
                "fill_value": 0,
                "order": "C",
            });
            if is_list {
                if key == "shape" {
                    value["chunks"] = json!(vec![1; sizes.len()]);
                }
                value[key] = json!(sizes);
            } else {
                value[key] = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text));
            }
            match Array::parse("a", &value) {
                Ok(array) => {
                    // Nothing limits the size of an array that has no values.
                    prop_assert!(array.layout("a").is_ok() || array.shape.contains(&0));
                    prop_assert_eq!(array.chunks.len(), array.shape.len());
                    prop_assert!(!array.chunks.contains(&0));
                    prop_assert_eq!(
                        array.fill.len(),
                        array.element.primitive_width().unwrap_or(1)
                    );
                }
                Err(error) => {
                    let named = key == "dtype" || error.message.contains(key);
                    prop_assert!(named && !error.hints.is_empty(), "{}", error);
                }
            }
        }
    }
}
