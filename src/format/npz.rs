//! numpy's npz files: arrays that hold all trajectories, one after the other.

use std::path::Path;

use super::{Detection, Evidence, Format};
use crate::container::npz;
use crate::dataset::Account;
use crate::error::Result;
use crate::transfer::read::arrays::{are_trajectories, is_role};
use crate::transfer::read::concatenated::{Besides, Concatenated, is_marker};
use crate::transfer::read::{Choice, Options, Reader, Source};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "npz",
    detection: Some(Detection {
        evidence: Evidence::Container,
        probe,
    }),
    read: Some(Reader {
        takes: &["map", "layout", "max_steps", "split_on_gaps"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// The arrays by which a file of the library `imitation` is recognised.
const IMITATION: [&str; 3] = ["obs", "acts", "indices"];

/// Whether the file at `path` has arrays that are named as parts of trajectories.
fn probe(path: &Path) -> Result<bool> {
    if !npz::is_npz(path)? {
        return Ok(false);
    }
    let arrays = npz::arrays(path, &is_role)?;
    are_trajectories(|name| {
        let mut arrays = arrays.iter();
        let found = arrays.find(|array| array.layout.name == name);
        Ok(found.map(|array| array.layout.rows))
    })
}

/// The array of pickled objects in a file of `imitation`.
const INFOS: &str = "infos";

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    // `imitation` stores `infos` as pickled objects. The import does not need them.
    let names = npz::names(path)?.unwrap_or_default();
    let imitation = IMITATION
        .iter()
        .all(|own| names.iter().any(|name| name == own));
    let choice = Choice::new(options, is_marker);
    let arrays = npz::arrays(path, &|name| {
        choice.reads(name) && !(imitation && name == INFOS)
    })?;
    let metadata = npz::single_values(path, &|name| choice.reads(name))?;
    choice.verify().map_err(|error| error.at(path.display()))?;
    let mut account = choice.account(Account::default());
    if imitation && names.iter().any(|name| name == INFOS) {
        account.leave_out(INFOS, "it holds pickled Python objects");
    }
    let besides = Besides {
        metadata,
        account,
        envelope: None,
    };
    Ok(Box::new(Concatenated::new(path, arrays, options, besides)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
    use std::path::PathBuf;

    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::transfer::read::IncomingTrajectory;

    fn npy(descr: &str, fortran: bool, shape: &str, bytes: &[u8]) -> Vec<u8> {
        let mut header = format!(
            "{{'descr': '{descr}', 'fortran_order': {}, 'shape': {shape}, }}",
            if fortran { "True" } else { "False" }
        );
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        [
            b"\x93NUMPY\x01\x00".as_slice(),
            &(header.len() as u16).to_le_bytes(),
            header.as_bytes(),
            bytes,
        ]
        .concat()
    }

    fn floats(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
        values.into_iter().flat_map(f64::to_le_bytes).collect()
    }

    fn write(arrays: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.npz");
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (index, (name, bytes)) in arrays.iter().enumerate() {
            let method = if index % 2 == 0 {
                zip::CompressionMethod::Deflated
            } else {
                zip::CompressionMethod::Stored
            };
            archive
                .start_file(
                    format!("{name}.npy"),
                    SimpleFileOptions::default().compression_method(method),
                )
                .unwrap();
            archive.write_all(bytes).unwrap();
        }
        crate::dataset::store::write(&path, &archive.finish().unwrap().into_inner()).unwrap();
        (folder, path)
    }

    fn all(path: &Path) -> Result<Vec<IncomingTrajectory>> {
        let mut source = read(path, &Options::default())?;
        let mut found = Vec::new();
        while let Some(incoming) = source.next()? {
            assert_eq!(incoming.steps.schema(), source.schema());
            found.push(incoming);
        }
        Ok(found)
    }

    fn message(arrays: &[(&str, Vec<u8>)]) -> String {
        let (_folder, path) = write(arrays);
        let error = all(&path).err().unwrap();
        assert!(error.message.contains("set.npz"), "{error}");
        error.message
    }

    #[test]
    fn start_flags_big_endian_numbers_and_images_are_read() {
        let rows = 100_000_u32;
        let big: Vec<u8> = (0..rows)
            .flat_map(|row| (row as f32).to_be_bytes())
            .collect();
        let starts: Vec<u8> = (0..rows).map(|row| u8::from(row % 1000 == 0)).collect();
        let actions: Vec<u8> = (0..i64::from(rows)).flat_map(i64::to_le_bytes).collect();
        let images: Vec<u8> = (0..rows)
            .flat_map(|row| [row as u8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
            .collect();
        let (_folder, path) = write(&[
            ("obs", npy(">f4", false, &format!("({rows}, 1)"), &big)),
            (
                "actions",
                npy("<i8", false, &format!("({rows},)"), &actions),
            ),
            (
                "episode_starts",
                npy("|b1", false, &format!("({rows},)"), &starts),
            ),
            (
                "camera",
                npy("|u1", false, &format!("({rows}, 2, 2, 3)"), &images),
            ),
            (
                "episode_returns",
                npy("<f8", false, "(2,)", &floats([1.0, 2.0])),
            ),
        ]);
        let source = read(&path, &Options::default()).unwrap();
        assert_eq!(
            source
                .schema()
                .field_with_name("camera")
                .unwrap()
                .metadata()["shape"],
            "2,2,3"
        );
        assert!(source.account().left_out[0].name == "episode_returns");
        drop(source);
        let found = all(&path).unwrap();
        assert_eq!(found.len(), 100);
        let sum: f64 = found
            .iter()
            .map(|incoming| {
                incoming.steps["observation"]
                    .as_fixed_size_list()
                    .values()
                    .as_primitive::<Float32Type>()
                    .values()
                    .iter()
                    .map(|value| f64::from(*value))
                    .sum::<f64>()
            })
            .sum();
        assert_eq!(sum, 4_999_950_000.0);
        let last = &found[99].steps;
        assert_eq!(
            (
                last.num_rows(),
                last["action"].as_primitive::<Int64Type>().value(999)
            ),
            (1000, 99_999)
        );
        assert_eq!(last["camera"].as_fixed_size_list().value(999).len(), 12);
        assert_eq!(
            last["terminated"].as_boolean().true_count()
                + last["truncated"].as_boolean().true_count(),
            0
        );
    }

    #[test]
    fn split_indices_give_final_rows() {
        let (_folder, path) = write(&[
            (
                "obs",
                npy("<f8", false, "(7, 1)", &floats((0..7).map(f64::from))),
            ),
            (
                "acts",
                npy("<f8", false, "(5, 1)", &floats((10..15).map(f64::from))),
            ),
            (
                "rews",
                npy("<f8", false, "(5,)", &floats((20..25).map(f64::from))),
            ),
            ("indices", npy("<i8", false, "(1,)", &2_i64.to_le_bytes())),
            ("terminal", npy("|b1", false, "(2,)", &[0, 1])),
        ]);
        let found = all(&path).unwrap();
        let column = |index: usize, name: &str| {
            found[index].steps[name]
                .as_fixed_size_list()
                .values()
                .as_primitive::<Float64Type>()
                .values()
                .to_vec()
        };
        assert_eq!(column(0, "observation"), [0.0, 1.0, 2.0]);
        assert_eq!(column(1, "observation"), [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(&column(1, "action")[..3], [12.0, 13.0, 14.0]);
        assert!(
            found[1].steps["action"].is_null(3) && found[1].steps["is_final"].as_boolean().value(3)
        );
        let terminated: Vec<usize> = found
            .iter()
            .map(|incoming| incoming.steps["terminated"].as_boolean().true_count())
            .collect();
        assert_eq!(terminated, [0, 1]);
    }

    #[test]
    fn errors_say_what_is_wrong_with_a_file() {
        let obs = ("obs", npy("<f8", false, "(2, 2)", &floats([0.0; 4])));
        let ends = ("terminals", npy("|b1", false, "(2,)", &[0, 1]));
        assert!(
            message(&[obs.clone(), ("infos", npy("|O", false, "(2,)", b"pickle"))])
                .contains("`infos` holds pickled Python objects, which are never executed")
        );
        assert!(
            message(&[
                ("obs", npy("<f8", true, "(2, 2)", &floats([0.0; 4]))),
                ends.clone()
            ])
            .contains("Fortran order")
        );
        assert!(
            message(&[
                ("obs", npy("<f8", false, "(3, 2)", &floats([0.0; 4]))),
                ends.clone()
            ])
            .contains("`obs` declares more rows than it holds")
        );
        assert!(
            message(&[
                obs.clone(),
                (
                    "terminals",
                    npy("<f8", false, "(2,)", &floats([0.0, f64::NAN]))
                )
            ])
            .contains("`terminals` is NaN at row 1")
        );
        assert!(
            message(&[
                obs.clone(),
                ends.clone(),
                ("rewards", npy("<f8", false, "(3,)", &floats([0.0; 3])))
            ])
            .contains("`rewards` has 3 rows, but `obs` has 2")
        );
        assert!(
            message(&[
                obs.clone(),
                ends.clone(),
                ("actions", npy("<U1", false, "(2,)", &[0; 8]))
            ])
            .contains("`actions` holds")
        );
        assert!(message(std::slice::from_ref(&obs)).contains("no trajectory boundaries"));
        assert!(
            message(&[
                ("obs", npy("<f8", false, "(0, 2)", &[])),
                ("terminals", npy("|b1", false, "(0,)", &[]))
            ])
            .contains("`obs` holds no rows")
        );

        // The checksum of an entry reveals a changed byte.
        let (_folder, path) = write(&[ends, obs]);
        let mut bytes = std::fs::read(&path).unwrap();
        let central = bytes
            .windows(4)
            .position(|window| window == b"PK\x01\x02")
            .unwrap();
        let zeros = bytes[..central]
            .windows(32)
            .rposition(|window| window == [0; 32])
            .unwrap();
        bytes[zeros + 3] = 7;
        let wrong = path.with_file_name("wrong.npz");
        crate::dataset::store::write(&wrong, &bytes).unwrap();
        assert!(all(&wrong).err().unwrap().message.contains("array `obs`"));
        let cut = path.with_file_name("cut.npz");
        crate::dataset::store::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            all(&cut)
                .err()
                .unwrap()
                .message
                .contains("not a readable npz file")
        );
    }
}
