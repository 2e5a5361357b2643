//! Tests of both runtimes: against ONNX's reference evaluator, against each other, and on bad
//! input.
//!
//! rten is always tested. ONNX Runtime is tested if `TRAJMILL_TEST_ORT` names its library or the
//! search finds one.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::*;

fn runtimes() -> Vec<Runtime> {
    let named = std::env::var_os("TRAJMILL_TEST_ORT").map(PathBuf::from);
    let path = named.or_else(|| {
        library::candidates()
            .into_iter()
            .next()
            .map(|found| found.path)
    });
    let found = path.map(|path| library::Found {
        path,
        how: "a test".to_owned(),
        demanded: true,
    });
    let options = ModelOptions {
        device: Device::Cpu,
        tf32: false,
    };
    let onnx = found.map(|found| Runtime::Onnx(onnx::OnnxRuntime::load(&found, &options).unwrap()));
    onnx.into_iter().chain([Runtime::embedded()]).collect()
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(format!("{name}.onnx"))
}

fn geometry(spec: &Spec, batch: usize) -> Geometry {
    let inputs = spec
        .inputs
        .iter()
        .map(|port| port.shape[1..].iter().map(|size| size.unwrap()).collect())
        .collect();
    Geometry {
        batch,
        inputs,
        outputs: (0..spec.outputs.len()).collect(),
        axes: Axes::default(),
        mixed: false,
    }
}

fn fill(session: &mut Session, inputs: &[Vec<f64>], rows: usize) {
    for (index, values) in inputs.iter().enumerate() {
        let count = values.len() / 8 * rows;
        match session.input(index) {
            DataMut::F32(buffer) => buffer
                .iter_mut()
                .zip(&values[..count])
                .for_each(|(slot, value)| *slot = *value as f32),
            DataMut::F64(buffer) => buffer[..count].copy_from_slice(&values[..count]),
            other => panic!("{other:?}"),
        }
    }
}

fn numbers(data: Data) -> Vec<f64> {
    match data {
        Data::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        Data::F64(values) => values.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn outputs(session: &Session, count: usize) -> Vec<Vec<f64>> {
    (0..count)
        .map(|index| numbers(session.output(index)))
        .collect()
}

/// Values by model and port; `None` for a value that is not finite.
type Expected = BTreeMap<String, BTreeMap<String, Vec<Vec<Option<f64>>>>>;

fn expected() -> Expected {
    serde_json::from_str(include_str!("../../tests/models/expected.json")).unwrap()
}

fn known(values: &[Vec<Option<f64>>]) -> Vec<Vec<f64>> {
    values
        .iter()
        .map(|values| {
            values
                .iter()
                .map(|value| value.unwrap_or(f64::NAN))
                .collect()
        })
        .collect()
}

#[test]
fn every_model_gives_what_the_reference_evaluator_gives() {
    let expected = expected();
    assert!(expected.len() >= 13, "{}", expected.len());
    for runtime in runtimes() {
        for (name, tensors) in &expected {
            let spec = runtime.spec(&model(name)).unwrap();
            let pool = runtime.open(&spec, &geometry(&spec, 8), 1).unwrap();
            let given = pool.with(|session| {
                fill(session, &known(&tensors["inputs"]), 8);
                session.run(8)?;
                Ok(outputs(session, spec.outputs.len()))
            });
            for (given, wanted) in given.unwrap().iter().zip(known(&tensors["outputs"])) {
                assert_eq!(given.len(), wanted.len());
                for (given, wanted) in given.iter().zip(wanted) {
                    assert!(
                        (given - wanted).abs() < 1e-5 || given.is_nan() && wanted.is_nan(),
                        "{} {name}: {given} for {wanted}",
                        runtime.name()
                    );
                }
            }
        }
    }
}

#[test]
fn weights_in_another_file_run_and_are_pinned() {
    let files = weights::example();
    for runtime in runtimes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, data) = (folder.path().join("m.onnx"), folder.path().join("w.data"));
        store::replace(&path, &files.model).unwrap();
        store::replace(&data, &files.weights["w.data"]).unwrap();
        let spec = runtime.spec(&path).unwrap();
        let pool = runtime.open(&spec, &geometry(&spec, 8), 1).unwrap();
        let given = pool.with(|session| {
            let inputs: Vec<f64> = (0..24).map(f64::from).collect();
            fill(session, &[inputs], 8);
            session.run(8)?;
            Ok(outputs(session, 1))
        });
        let wanted: Vec<f64> = (0..8)
            .flat_map(|row| {
                let [x, y, z] = [0, 1, 2].map(|cell| f64::from(row * 3 + cell));
                [x + 2.0 * z, y + 3.0 * z]
            })
            .collect();
        assert_eq!(given.unwrap(), [wanted], "{}", runtime.name());
        store::replace(&data, &[1; 28]).unwrap();
        let error = runtime.open(&spec, &geometry(&spec, 8), 1).err().unwrap();
        assert!(
            error.message.starts_with("the file `w.data` of the model")
                && error.message.ends_with("was replaced"),
            "{}",
            error.message
        );
    }
}

/// The models include Elu and Softplus, whose bits depend on the position of a row in a batch.
/// Since the batch size is fixed, they repeat.
#[test]
fn a_padded_batch_another_session_and_many_threads_give_the_same_bits() {
    let expected = expected();
    for runtime in runtimes() {
        for (name, tensors) in &expected {
            let inputs = known(&tensors["inputs"]);
            let spec = runtime.spec(&model(name)).unwrap();
            let pool = runtime.open(&spec, &geometry(&spec, 13), 3).unwrap();
            let run = |rows: usize| {
                pool.with(|session| {
                    // The content of an earlier batch must not matter.
                    fill(session, &vec![vec![0.5; inputs[0].len()]; inputs.len()], 8);
                    fill(session, &inputs, rows);
                    session.run(rows)?;
                    Ok(outputs(session, spec.outputs.len())
                        .iter()
                        .map(|values| {
                            values[..values.len() / 13 * 5]
                                .iter()
                                .map(|value| value.to_bits())
                                .collect::<Vec<_>>()
                        })
                        .collect::<Vec<_>>())
                })
                .unwrap()
            };
            let whole = run(8);
            let again: Vec<_> = (0..24)
                .into_par_iter()
                .map(|turn| run(5 + turn % 4))
                .collect();
            assert!(
                again.iter().all(|bits| *bits == whole),
                "{} {name}",
                runtime.name()
            );
        }
    }
}

/// A worker of rayon that waits for a model must not take up another task, which would wait for the
/// session it holds.
#[test]
fn one_session_serves_many_workers_without_a_deadlock() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for runtime in runtimes() {
            let spec = runtime.spec(&model("mlp")).unwrap();
            let pool = runtime.open(&spec, &geometry(&spec, 64), 1).unwrap();
            let workers = rayon::ThreadPoolBuilder::new()
                .num_threads(4)
                .build()
                .unwrap();
            workers.install(|| {
                (0..400)
                    .into_par_iter()
                    .for_each(|_| pool.with(|session| session.run(64)).unwrap())
            });
        }
        done.send(()).unwrap();
    });
    // It takes a second; a thread that waits for itself would wait for ever.
    finished
        .recv_timeout(std::time::Duration::from_secs(120))
        .unwrap();
}

#[test]
fn a_panic_at_a_session_leaves_it_to_the_others() {
    for runtime in runtimes() {
        let spec = runtime.spec(&model("mlp")).unwrap();
        let pool = runtime.open(&spec, &geometry(&spec, 8), 1).unwrap();
        let failed: Result<()> = pool.with(|_| panic!("damaged weights"));
        assert!(failed.unwrap_err().message.contains("damaged weights"));
        pool.with(|session| session.run(8)).unwrap();
    }
}

#[test]
fn a_spec_tells_ports_metadata_and_hash() {
    for runtime in runtimes() {
        let spec = runtime.spec(&model("mlp")).unwrap();
        assert_eq!(
            spec.inputs.iter().map(Port::to_string).collect::<Vec<_>>(),
            ["x: float32[batch, 9]"]
        );
        assert_eq!(
            spec.outputs.iter().map(Port::to_string).collect::<Vec<_>>(),
            ["action: float32[batch, 2]"]
        );
        let wanted = [("note", "für Tests"), ("trajmill.window", "1,1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(spec.metadata, BTreeMap::from(wanted));
        assert_eq!(
            spec.hash,
            blake3::hash(&std::fs::read(model("mlp")).unwrap())
                .to_hex()
                .to_string()
        );
        let horizon = runtime.spec(&model("horizon")).unwrap();
        assert_eq!(
            horizon.outputs[0].shape,
            [None, Some(4), Some(2)],
            "{}",
            runtime.name()
        );
        assert_eq!(
            runtime.spec(&model("named")).unwrap().inputs[1].name,
            "s_next"
        );
        assert_eq!(runtime.devices(), ["cpu"]);
        assert!(
            runtime
                .version()
                .starts_with(|first: char| first.is_ascii_digit()),
            "{}",
            runtime.version()
        );
    }
}

#[test]
fn a_file_that_is_not_a_model_gives_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(model("mlp")).unwrap();
    for runtime in runtimes() {
        let message = runtime
            .spec(&root.path().join("none.onnx"))
            .unwrap_err()
            .message;
        assert!(
            message.starts_with("cannot read ") && message.contains("none.onnx"),
            "{message}"
        );
        assert!(runtime.spec(root.path()).is_err());
        for (index, content) in [&b""[..], b"not a model", &[0xff; 4096]]
            .into_iter()
            .chain((0..40).map(|cut| &bytes[..cut * bytes.len() / 40]))
            .enumerate()
        {
            let path = root.path().join(format!("{}{index}.onnx", runtime.name()));
            crate::dataset::store::write(&path, content).unwrap();
            if let Err(error) = runtime.spec(&path) {
                assert!(
                    error
                        .message
                        .starts_with(&format!("{} is not a model that ", path.display())),
                    "{}",
                    error.message
                );
                assert!(!error.message.contains('\n'), "{}", error.message);
            } else {
                assert!(index > 2, "{} took garbage for a model", runtime.name());
            }
        }
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_a_row_is_run() {
    for runtime in runtimes() {
        let refusal = |name: &str, change: &dyn Fn(&mut Geometry)| {
            let spec = runtime.spec(&model(name)).unwrap();
            let mut geometry = geometry(&spec, 8);
            change(&mut geometry);
            let error = runtime
                .open(&spec, &geometry, 1)
                .err()
                .unwrap_or_else(|| panic!("{} took {name}", runtime.name()));
            error
                .to_string()
                .replace(&format!("{}", model(name).display()), "MODEL")
        };
        let fixed = "MODEL: the input `x` takes batches of exactly 7 rows, not 8; \
                     set `batch: 7`, or export the model with a free batch axis";
        assert_eq!(refusal("fixed_batch", &|_| ()), fixed);
        assert!(refusal("no_batch", &|_| ()).starts_with(
            "MODEL: the output `action` has the shape [3] for a batch of 8 rows; its first axis \
                 must be the batch axis"
        ));
        assert_eq!(
            refusal("mlp", &|geometry| geometry.inputs = vec![vec![6]]),
            "MODEL: the input `x: float32[batch, 9]` does not take rows of shape [6]"
        );
        assert_eq!(
            refusal("named", &|geometry| geometry.inputs = vec![vec![3]]),
            "MODEL has 2 inputs, but the stage gives it 1"
        );
        let huge = refusal("mlp", &|geometry| geometry.batch = 1 << 46);
        assert!(
            huge.starts_with(
                "MODEL: out of memory: a batch of 70,368,744,177,664 rows does not fit in \
                 memory; set a smaller `batch:`"
            ),
            "{huge}"
        );
    }
}

#[test]
fn rten_names_the_operator_that_it_lacks() {
    let message = Runtime::embedded()
        .spec(&model("selu"))
        .unwrap_err()
        .message;
    assert!(
        message.contains("selu.onnx is not a model that rten can run") && message.contains("Selu"),
        "{message}"
    );
}

#[test]
fn a_build_for_the_cpu_refuses_cuda() {
    let Some(Runtime::Onnx(_)) = runtimes().into_iter().next() else {
        return;
    };
    let found = std::env::var_os("TRAJMILL_TEST_ORT")
        .map(PathBuf::from)
        .or_else(|| Some(library::candidates().first()?.path.clone()));
    let found = library::Found {
        path: found.unwrap(),
        how: "a test".to_owned(),
        demanded: true,
    };
    if onnx::providers(&found).unwrap().contains(&"CUDA") {
        return;
    }
    let options = ModelOptions {
        device: Device::Cuda(vec![0]),
        tf32: false,
    };
    let message = onnx::OnnxRuntime::load(&found, &options)
        .err()
        .unwrap()
        .message;
    assert!(message.ends_with("was built without CUDA"), "{message}");
}
