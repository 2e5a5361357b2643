//! ONNX Runtime, loaded at run time. Only this folder uses the crate `ort`.
//!
//! `ort` lets one thread at a time run a session, so each worker on the CPU has its own session. A
//! CUDA device has one, which several lanes share (see [`session`]). Shapes are fixed, and buffers
//! are bound once.

mod environment;
mod session;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use ort::value::Tensor;

use self::environment::{environment, offers_cuda, preload, version};
use self::session::{Job, Shared};
use self::types::port;
use super::graph;
use super::pin::{self, Pin};
use super::weights::{self, ModelFiles};
use super::{Device, Geometry, ModelOptions, Spec, batch, library, random};
use crate::error::{Error, Result};

pub(super) use self::environment::providers;
pub(super) use self::session::OnnxSession;

/// A model with one matrix product, which tests whether a device works: it needs the provider, the
/// driver, cudart and cuBLAS.
const PROBE: &[u8] = include_bytes!("probe.onnx");

/// Number of lanes of a CUDA device: one computes, one has copied its input and waits, and two are
/// filled or read.
const LANES_A_DEVICE: usize = 4;

/// Number of sessions that are loaded at the same time.
const LOADED_AT_ONCE: usize = 2;

/// ONNX Runtime, with the devices that it uses.
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
    /// CUDA devices; empty for the CPU.
    cuda: Vec<usize>,
    /// Whether a node that cannot run on CUDA is an error.
    strict: bool,
    tf32: bool,
    notes: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Cpu,
    Cuda(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Cpu => f.write_str("cpu"),
            Place::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl OnnxRuntime {
    /// Loads the library and verifies that the requested devices work.
    pub(super) fn load(found: &library::Found, options: &ModelOptions) -> Result<OnnxRuntime> {
        let mut runtime = OnnxRuntime {
            environment: environment(&found.path)?.clone(),
            version: version(&found.path),
            cuda: Vec::new(),
            strict: false,
            tf32: options.tf32,
            notes: Mutex::default(),
        };
        match &options.device {
            Device::Cpu => {}
            Device::Cuda(indices) => {
                let mut indices = indices.clone();
                indices.sort_unstable();
                indices.dedup();
                for index in &indices {
                    runtime.probe(found, *index)?;
                }
                runtime.cuda = indices;
                runtime.strict = true;
            }
            Device::Auto => match runtime.probe(found, 0) {
                Ok(()) => runtime.cuda = vec![0],
                // Without an NVIDIA GPU, a runtime without CUDA needs no note.
                Err(error) if offers_cuda() || library::nvidia_driver().is_some() => {
                    runtime.say(format!("CUDA is not used: {}", error.message))
                }
                Err(_) => {}
            },
        }
        if options.tf32 && runtime.cuda.is_empty() {
            runtime.say(super::TF32_UNUSED.to_owned());
        }
        Ok(runtime)
    }

    pub(super) fn tf32(&self) -> bool {
        self.tf32 && !self.cuda.is_empty()
    }

    pub(super) fn version(&self) -> String {
        self.version.clone()
    }

    pub(super) fn devices(&self) -> Vec<String> {
        if self.cuda.is_empty() {
            vec![Place::Cpu.to_string()]
        } else {
            self.cuda
                .iter()
                .map(|index| Place::Cuda(*index).to_string())
                .collect()
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn say(&self, text: String) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }

    pub(super) fn spec(&self, path: &Path) -> Result<Spec> {
        let files = ModelFiles::read(path)?;
        let hashes = files.hashes();
        let session = self.inspect(path, &Bytes::of(&files))?;
        let metadata = session.metadata().and_then(|metadata| {
            let keys = metadata.custom_keys()?;
            Ok(keys
                .into_iter()
                .filter_map(|key| metadata.custom(&key).map(|value| (key, value)))
                .collect())
        });
        Ok(Spec {
            path: path.to_owned(),
            pin: Pin::hashed(hashes.clone()),
            hash: pin::identity(&hashes),
            files: hashes,
            random: random::random(&graph::Model::of(&files)),
            narrowed: Vec::new(),
            inputs: session.inputs().iter().map(port).collect(),
            outputs: session.outputs().iter().map(port).collect(),
            metadata: metadata.map_err(|error| refused(path, &error))?,
        })
    }

    pub(super) fn open(
        &self,
        spec: &Spec,
        geometry: &Geometry,
        workers: usize,
    ) -> Result<Vec<OnnxSession>> {
        let shapes = batch::input_shapes(spec, geometry)?;
        let files = spec.files()?;
        let sizes = axes(spec, &graph::Model::of(&files), &shapes);
        let bytes = Bytes::of(&files);
        let job = Job {
            spec,
            geometry,
            shapes: &shapes,
        };
        let load = |place| {
            Ok((
                place,
                Shared::new(Mutex::new(self.commit(
                    spec,
                    &bytes,
                    geometry.batch,
                    &sizes,
                    place,
                )?)),
            ))
        };
        if self.cuda.is_empty() {
            let here = || {
                load(Place::Cpu)
                    .and_then(|(place, session)| OnnxSession::here(&job, place, session))
            };
            // Loading a large model takes a while, and more memory than the model meanwhile.
            let all: Vec<usize> = (0..workers.max(1)).collect();
            let loaded = all.chunks(LOADED_AT_ONCE).flat_map(|some| {
                std::thread::scope(|scope| {
                    let threads: Vec<_> = some.iter().map(|_| scope.spawn(here)).collect();
                    let failed = || Err(Error::failed("a model failed to load"));
                    let loaded = threads.into_iter().map(|thread| thread.join());
                    loaded
                        .map(|loaded| loaded.unwrap_or_else(|_| failed()))
                        .collect::<Vec<_>>()
                })
            });
            return loaded.collect();
        }
        let devices: Vec<(Place, Shared)> = self
            .cuda
            .iter()
            .map(|index| load(Place::Cuda(*index)))
            .collect::<Result<_>>()?;
        let lanes = workers.div_ceil(devices.len()).clamp(1, LANES_A_DEVICE);
        // Lanes alternate between devices, so that a few workers use all of them.
        let places = (0..lanes).flat_map(|_| &devices);
        places
            .map(|(place, session)| OnnxSession::lane(&job, *place, Arc::clone(session)))
            .collect()
    }

    /// Loads the model for `place`. All nodes run there if that is required or possible.
    fn commit(
        &self,
        spec: &Spec,
        bytes: &Bytes,
        batch: usize,
        sizes: &[(String, i64)],
        place: Place,
    ) -> Result<Session> {
        let load = |strict: bool| {
            let mut builder = self.builder(place, strict)?;
            for (axis, size) in sizes {
                builder = builder.with_dimension_override(axis, *size)?;
            }
            bytes.load(builder)
        };
        match load(true) {
            Err(error)
                if place != Place::Cpu && !self.strict && error.message().contains("CPU EP") =>
            {
                self.say(format!(
                    "some nodes of {} cannot run on {place} and run on the CPU",
                    spec.path.display()
                ));
                load(false)
            }
            other => other,
        }
        .map_err(|error| failure(spec, batch, place, &error))
    }

    fn builder(&self, place: Place, strict: bool) -> ort::Result<SessionBuilder> {
        // One thread per session: results must not depend on the number of threads, and batches run
        // in parallel anyway.
        let builder = Session::builder(&self.environment)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_log_level(LogLevel::Fatal)?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        let Place::Cuda(index) = place else {
            // Otherwise the runtime may choose another device.
            return Ok(builder.with_auto_device(AutoDevicePolicy::PreferCPU)?);
        };
        let cuda = ep::CUDA::default()
            .with_device_id(i32::try_from(index).unwrap_or(i32::MAX))
            .with_tf32(self.tf32)
            // A search by timing would choose different kernels, with different bits, from run to
            // run.
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
            .build()
            .error_on_failure();
        let builder = builder
            .with_execution_providers([cuda])?
            .with_deterministic_compute(true)?;
        Ok(if strict {
            builder.with_disable_cpu_fallback()?
        } else {
            builder
        })
    }

    /// Loads the model without optimisations, to read its description.
    fn inspect(&self, path: &Path, bytes: &Bytes) -> Result<Session> {
        let load = || {
            let builder = self
                .builder(Place::Cpu, false)?
                .with_optimization_level(GraphOptimizationLevel::Disable)?;
            bytes.load(builder)
        };
        load().map_err(|error| refused(path, &error))
    }

    /// Verifies that a CUDA device works by running a tiny model on it.
    fn probe(&self, found: &library::Found, index: usize) -> Result<()> {
        if !offers_cuda() {
            return Err(Error::failed(format!(
                "the ONNX Runtime at {} was built without CUDA",
                found.path.display()
            ))
            .hint(
                "`pip install onnxruntime-gpu` instead of onnxruntime; `trajmill doctor` shows \
                 what was found",
            ));
        }
        preload(&found.path);
        let run = || {
            let mut session = self
                .builder(Place::Cuda(index), true)?
                .commit_from_memory(PROBE)?;
            let input = Tensor::<f32>::from_array(([1_usize, 2], vec![1.0, 2.0]))?;
            session.run(ort::inputs![input]).map(|_| ())
        };
        run().map_err(|error: ort::Error| {
            let reason = reason(first_line(error.message()));
            Error::failed(format!(
                "ONNX Runtime {} cannot use cuda:{index}: {reason}",
                self.version
            ))
            .hint(
                "`trajmill doctor` shows which CUDA libraries were found, and what to install for \
                 the missing ones",
            )
        })
    }
}

/// Returns the sizes of the inputs' axes that have names, so that the graph can be optimised for
/// fixed shapes.
fn axes(spec: &Spec, model: &graph::Model, shapes: &[Vec<usize>]) -> Vec<(String, i64)> {
    let mut sizes: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (port, shape) in spec.inputs.iter().zip(shapes) {
        let mut inputs = model.graph.inputs.iter();
        let input = inputs.find(|input| input.name == port.name);
        let names = input.into_iter().flat_map(|input| &input.axes);
        for (name, size) in names.zip(shape).filter(|(name, _)| !name.is_empty()) {
            sizes.entry(name).or_default().insert(*size);
        }
    }
    // A name with two sizes cannot be fixed.
    let fixed = sizes.into_iter().filter(|(_, sizes)| sizes.len() == 1);
    fixed
        .flat_map(|(name, sizes)| sizes.into_iter().map(move |size| (name.to_owned(), size)))
        .map(|(name, size)| (name, i64::try_from(size).unwrap_or(i64::MAX)))
        .collect()
}

/// The bytes of a model as ONNX Runtime takes them.
struct Bytes {
    model: Arc<[u8]>,
    /// Files with weights, by location.
    weights: Vec<(String, Arc<[u8]>)>,
}

impl Bytes {
    /// Returns `files` as one file, or beside each other if one would be too large.
    fn of(files: &ModelFiles) -> Bytes {
        Bytes::within(files, weights::LARGEST)
    }

    fn within(files: &ModelFiles, largest: usize) -> Bytes {
        if files.size() < largest {
            return Bytes {
                model: files.whole(),
                weights: Vec::new(),
            };
        }
        Bytes {
            model: Arc::clone(&files.model),
            weights: files.weights.clone().into_iter().collect(),
        }
    }

    fn load(&self, mut builder: SessionBuilder) -> ort::Result<Session> {
        for (location, bytes) in &self.weights {
            builder =
                builder.with_external_initializer_file_in_memory(location, Arc::clone(bytes))?;
        }
        builder.commit_from_memory(&self.model)
    }
}

fn refused(path: &Path, error: &ort::Error) -> Error {
    Error::failed(format!(
        "{} is not a model that ONNX Runtime can load: {}",
        path.display(),
        first_line(error.message())
    ))
}

/// Returns the error of loading or running a model, with a remedy if there is one.
fn failure(spec: &Spec, batch: usize, place: Place, error: &ort::Error) -> Error {
    let text = error.message();
    let says = |parts: &[&str]| parts.iter().any(|part| text.to_lowercase().contains(part));
    let model = spec.path.display();
    if says(&[
        "out of memory",
        "failed to allocate",
        "smaller than requested",
        "bad allocation",
        "bad_alloc",
        "memoryallocation",
        "alloc_failed",
    ]) {
        let memory = if place == Place::Cpu {
            "memory".to_owned()
        } else {
            format!("the memory of {place}")
        };
        return batch::out_of_memory(spec, batch, &memory);
    }
    if says(&["shape verification failed", "computed output shape"]) {
        return batch::shape_depends_on_data(&spec.path);
    }
    if place != Place::Cpu && says(&["cpu ep"]) {
        return Error::failed(format!(
            "{model} cannot run on {place} alone: CUDA lacks some of its operators"
        ))
        .hint(
            "use `device: auto` to run these operators on the CPU, or `device: cpu` to run all \
             operators there",
        )
        .hint(
            "if these operators only compute shapes, export the model with a named or fixed batch \
             axis",
        );
    }
    Error::failed(format!(
        "{model}: ONNX Runtime failed on {place}: {}",
        first_line(text)
    ))
}

/// Returns the part of a message that says what is wrong with a device, such as a missing library
/// or CUDA's own error, without places in the runtime's source.
fn reason(text: &str) -> &str {
    let text = text.rsplit_once("FAIL : ").map_or(text, |(_, text)| text);
    let text = text
        .split_once("with error: ")
        .map_or(text, |(_, text)| text);
    let text = text
        .find("CUDA failure")
        .and_then(|at| text.get(at..))
        .unwrap_or(text);
    text.split(" ; ").next().unwrap_or(text)
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or("no reason given")
}

#[cfg(test)]
impl OnnxRuntime {
    /// Returns a runtime that claims to run on CUDA; `None` if there is no ONNX Runtime.
    pub(super) fn pretending(tf32: bool) -> Option<OnnxRuntime> {
        tests::runtime().map(|runtime| OnnxRuntime {
            cuda: vec![0],
            tf32,
            ..runtime
        })
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::super::{Axes, Data, DataMut, Pool, Session};
    use super::*;

    pub(super) fn runtime() -> Option<OnnxRuntime> {
        let named = std::env::var_os("TRAJMILL_TEST_ORT").map(Into::into);
        let path = named.or_else(|| {
            library::candidates()
                .into_iter()
                .next()
                .map(|found| found.path)
        })?;
        let found = library::Found {
            path,
            how: "a test".to_owned(),
            demanded: true,
        };
        Some(
            OnnxRuntime::load(
                &found,
                &ModelOptions {
                    device: Device::Cpu,
                    tf32: false,
                },
            )
            .unwrap(),
        )
    }

    /// Weights that make a model too large for one message stay beside it in memory.
    #[test]
    fn weights_beside_a_model_in_memory_give_the_same_outputs() {
        let Some(runtime) = runtime() else { return };
        let files = weights::example();
        let outputs = [usize::MAX, 0].map(|largest| {
            let bytes = Bytes::within(&files, largest);
            assert_eq!(bytes.weights.len(), usize::from(largest == 0));
            let builder = runtime.builder(Place::Cpu, false).unwrap();
            let mut session = bytes.load(builder).unwrap();
            let input = Tensor::<f32>::from_array(([1_usize, 3], vec![1.0, 2.0, 3.0])).unwrap();
            let outputs = session.run(ort::inputs![input]).unwrap();
            let (_, values) = outputs[0].try_extract_tensor::<f32>().unwrap();
            values.to_vec()
        });
        assert_eq!(outputs, [vec![7.0, 11.0], vec![7.0, 11.0]]);
    }

    /// Simulates a CUDA device on the CPU: lanes share a session, and there are more workers than
    /// lanes.
    #[test]
    fn lanes_of_one_session_keep_their_batches_apart() {
        let Some(runtime) = runtime() else { return };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/copy.onnx");
        let spec = runtime.spec(&path).unwrap();
        let bytes = Bytes::of(&spec.files().unwrap());
        let geometry = Geometry {
            batch: 64,
            inputs: vec![vec![9]],
            outputs: vec![0],
            axes: Axes::default(),
            mixed: false,
        };
        let shapes = batch::input_shapes(&spec, &geometry).unwrap();
        let job = Job {
            spec: &spec,
            geometry: &geometry,
            shapes: &shapes,
        };
        let shared = Shared::new(Mutex::new(
            runtime.commit(&spec, &bytes, 64, &[], Place::Cpu).unwrap(),
        ));
        let lanes = (0..LANES_A_DEVICE)
            .map(|_| OnnxSession::lane(&job, Place::Cpu, Arc::clone(&shared)).map(Session::Onnx));
        let pool = Pool::new(lanes.collect::<Result<_>>().unwrap());
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(8)
            .build()
            .unwrap();
        workers.install(|| {
            (0..500_usize).into_par_iter().for_each(|turn| {
                let given = pool.with(|session| {
                    let DataMut::F32(buffer) = session.input(0) else {
                        panic!("no float32")
                    };
                    buffer
                        .iter_mut()
                        .enumerate()
                        .for_each(|(index, slot)| *slot = (turn * 1000 + index) as f32);
                    session.run(64)?;
                    let Data::F32(values) = session.output(0) else {
                        panic!("no float32")
                    };
                    Ok(values.to_vec())
                });
                // The model copies the fourth of nine values.
                let wanted: Vec<f32> = (0..64)
                    .map(|row| (turn * 1000 + row * 9 + 3) as f32)
                    .collect();
                assert_eq!(given.unwrap(), wanted, "turn {turn}");
            });
        });
        drop(pool);
        assert_eq!(
            Arc::strong_count(&shared),
            1,
            "the thread of a lane still runs"
        );

        let narrow = Geometry {
            outputs: vec![0],
            inputs: vec![vec![9]],
            batch: 8,
            axes: Axes::default(),
            mixed: false,
        };
        let error = OnnxSession::lane(
            &Job {
                spec: &spec,
                geometry: &narrow,
                shapes: &shapes,
            },
            Place::Cpu,
            shared,
        )
        .err()
        .unwrap();
        assert!(
            error
                .message
                .contains("has the shape [64, 1] for a batch of 8 rows"),
            "{}",
            error.message
        );
    }

    /// Messages of ONNX Runtime 1.31.1.
    #[test]
    fn the_reason_why_a_device_does_not_work_is_extracted() {
        let cases = [
            (
                "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 \
                 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 \
                 : FAIL : Failed to load library /x/libonnxruntime_providers_cuda.so with error: \
                 libcublasLt.so.13: cannot open shared object file: No such file or directory",
                "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            ),
            (
                "/onnxruntime_src/onnxruntime/core/\
                 providers/cuda/cuda_execution_provider_info.cc:63 \
                 static FromProviderOptions() [ONNXRuntimeError] : 1 : FAIL : \
                 provider_options_utils.h:187 Parse Failed to parse provider option \"device_id\": \
                 CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; \
                 GPU=-1 ; hostname=vm ; line=70 ; expr=cudaGetDeviceCount(&n);",
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
            ),
            ("another matter", "another matter"),
        ];
        for (said, wanted) in cases {
            assert_eq!(reason(said), wanted);
        }
    }
}
