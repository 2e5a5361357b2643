//! ONNX Runtime, loaded at run time. The only folder that names `ort`.
//!
//! `ort` lets one thread at a time run a session, so there is a session per worker on the CPU. A CUDA device has one, which
//! several lanes share (see [`session`]). Shapes are fixed and buffers are bound once.

mod session;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, Tensor, TensorElementType, ValueType};

use self::session::{Job, Shared};
use super::pin::{self, Pin};
use super::{Device, Element, Geometry, Options, Port, Spec, batch, library, message};
use crate::error::{Error, Result};

pub(super) use self::session::OnnxSession;

/// One matrix product, to see whether a device works: it needs the provider, the driver, cudart and cuBLAS.
const PROBE: &[u8] = include_bytes!("probe.onnx");

/// Lanes of a CUDA device: one computes, one waits with its input copied, and two are filled or read.
const LANES_A_DEVICE: usize = 4;

/// ONNX Runtime with the devices that it uses.
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
    /// Loads the library and makes sure that the devices which are asked for work.
    pub(super) fn load(found: &library::Found, options: &Options) -> Result<OnnxRuntime> {
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
                // On a machine without an NVIDIA GPU, a runtime without CUDA is nothing to speak of.
                Err(error) if offers_cuda() || super::doctor::driver().is_some() => {
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
        let bytes = pin::read(path)?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let session = self.inspect(path, &bytes)?;
        let metadata = session.metadata().and_then(|metadata| {
            let keys = metadata.custom_keys()?;
            Ok(keys
                .into_iter()
                .filter_map(|key| metadata.custom(&key).map(|value| (key, value)))
                .collect())
        });
        Ok(Spec {
            path: path.to_owned(),
            pin: Pin::hashed(hash.clone()),
            hash,
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
        let bytes = spec.bytes()?;
        let sizes = self.axes(spec, &bytes, &shapes)?;
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
            let here = |_| {
                load(Place::Cpu)
                    .and_then(|(place, session)| OnnxSession::here(&job, place, session))
            };
            return (0..workers.max(1)).map(here).collect();
        }
        let devices: Vec<(Place, Shared)> = self
            .cuda
            .iter()
            .map(|index| load(Place::Cuda(*index)))
            .collect::<Result<_>>()?;
        let lanes = workers.div_ceil(devices.len()).clamp(1, LANES_A_DEVICE);
        // Devices take turns, so that few workers use all of them.
        let places = (0..lanes).flat_map(|_| &devices);
        places
            .map(|(place, session)| OnnxSession::lane(&job, *place, Arc::clone(session)))
            .collect()
    }

    /// Loads the model for `place`, with every node on it where that is asked for or possible.
    fn commit(
        &self,
        spec: &Spec,
        bytes: &[u8],
        batch: usize,
        sizes: &[(String, i64)],
        place: Place,
    ) -> Result<Session> {
        let load = |strict: bool| {
            let mut builder = self.builder(place, strict)?;
            for (axis, size) in sizes {
                builder = builder.with_dimension_override(axis, *size)?;
            }
            builder.commit_from_memory(bytes)
        };
        match load(true) {
            Err(error)
                if place != Place::Cpu && !self.strict && error.message().contains("CPU EP") =>
            {
                self.say(format!(
                    "some nodes of {} do not run on {place} and run on the CPU",
                    spec.path.display()
                ));
                load(false)
            }
            other => other,
        }
        .map_err(|error| failure(spec, batch, place, &error))
    }

    fn builder(&self, place: Place, strict: bool) -> ort::Result<SessionBuilder> {
        // A lone thread per session: results must not depend on how many there are, and batches run side by side anyway.
        let builder = Session::builder(&self.environment)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_log_level(LogLevel::Fatal)?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        let Place::Cuda(index) = place else {
            // Or else the runtime may choose another device by itself.
            return Ok(builder.with_auto_device(AutoDevicePolicy::PreferCPU)?);
        };
        let cuda = ep::CUDA::default()
            .with_device_id(i32::try_from(index).unwrap_or(i32::MAX))
            .with_tf32(self.tf32)
            // A search by timing would choose other kernels, and with them other bits, from run to run.
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

    /// The model as it is in the file, not optimised.
    fn inspect(&self, path: &Path, bytes: &[u8]) -> Result<Session> {
        message::refuse(path, bytes)?;
        let load = || {
            self.builder(Place::Cpu, false)?
                .with_optimization_level(GraphOptimizationLevel::Disable)?
                .commit_from_memory(bytes)
        };
        load().map_err(|error| refused(path, &error))
    }

    /// Sizes of the free axes of the inputs, by name, so that the graph can be optimised for fixed shapes.
    fn axes(&self, spec: &Spec, bytes: &[u8], shapes: &[Vec<usize>]) -> Result<Vec<(String, i64)>> {
        let session = self.inspect(&spec.path, bytes)?;
        let mut sizes: Vec<(String, i64)> = Vec::new();
        for (outlet, sizes_of_input) in session.inputs().iter().zip(shapes) {
            let ValueType::Tensor {
                dimension_symbols, ..
            } = outlet.dtype()
            else {
                continue;
            };
            for (symbol, size) in dimension_symbols
                .iter()
                .zip(sizes_of_input)
                .filter(|(symbol, _)| !symbol.is_empty())
            {
                sizes.push((symbol.clone(), i64::try_from(*size).unwrap_or(i64::MAX)));
            }
        }
        sizes.sort();
        sizes.dedup();
        // A name that stands for two sizes fixes nothing.
        let clash = |axis: &str| sizes.iter().filter(|(other, _)| other == axis).count() > 1;
        Ok(sizes
            .iter()
            .filter(|(axis, _)| !clash(axis))
            .cloned()
            .collect())
    }

    /// Runs a tiny model on a CUDA device.
    fn probe(&self, found: &library::Found, index: usize) -> Result<()> {
        if !offers_cuda() {
            return Err(Error::failed(format!("the ONNX Runtime at {} is a build without CUDA", found.path.display()))
                .hint("`pip install onnxruntime-gpu` in place of onnxruntime; `trajmill doctor` shows what was found"));
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
            Error::failed(format!("ONNX Runtime {} cannot use cuda:{index}: {reason}", self.version))
                .hint("`trajmill doctor` shows which CUDA libraries were found, and what to install for the rest")
        })
    }
}

/// The process's environment: ONNX Runtime allows one, and it lives as long as the process.
fn environment(path: &Path) -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    let start = || -> Result<Environment, String> {
        let builder = ort::init_from(path).map_err(|error| match error {
            ort::LoadDynamicError::BadVersion { version_str, .. } => {
                format!("it is version {version_str}, and 1.23 is the oldest that will do")
            }
            error => error.to_string(),
        })?;
        // What goes wrong comes back as an error; the library's own log would only garble the terminal.
        let silent = Arc::new(|_: LogLevel, _: &str, _: &str, _: &str, _: &str| {});
        let environment = builder
            .with_name("trajmill")
            .with_telemetry(false)
            .with_logger(silent)
            .build()
            .map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Fatal);
        Ok(environment)
    };
    ENVIRONMENT.get_or_init(start).as_ref().map_err(|reason| {
        Error::failed(format!("{} is not an ONNX Runtime that trajmill can use: {reason}", path.display()))
            .hint("`pip install --upgrade onnxruntime`, or point ORT_DYLIB_PATH to libonnxruntime of version 1.23 or later")
    })
}

/// Version by the name of the file, as packages have it, else by what the library says of its build.
fn version(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let numbered =
        |text: &str| text.starts_with(|first: char| first.is_ascii_digit()) && text.contains('.');
    let by_name = name
        .split_once(".so.")
        .map(|(_, version)| version.to_owned())
        .filter(|version| numbered(version));
    let branch = ort::info()
        .split("git-branch=rel-")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    by_name
        .or_else(|| branch.filter(|branch| numbered(branch)).map(str::to_owned))
        .or_else(|| ort::util::probe(path).map(|minor| format!("1.{minor}")))
        .unwrap_or_else(|| "of unknown version".to_owned())
}

fn offers_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or(false)
}

/// Execution providers that the library at `found` was built with, CPU aside.
///
/// # Errors
/// Where the library cannot be loaded.
pub(super) fn providers(found: &library::Found) -> Result<Vec<&'static str>> {
    environment(&found.path)?;
    let built = [
        (offers_cuda(), "CUDA"),
        (ep::TensorRT::is_available().unwrap_or(false), "TensorRT"),
    ];
    Ok(built
        .into_iter()
        .filter(|(offered, _)| *offered)
        .map(|(_, name)| name)
        .collect())
}

/// Loads the CUDA libraries that were found, once: the provider asks for them by name, wherever they are.
fn preload(runtime: &Path) {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        for library in library::cuda_libraries(Some(runtime)) {
            // One that does not load is missed by the provider itself, which then says so.
            let _ = ort::util::preload_dylib(&library);
        }
    });
}

fn port(outlet: &Outlet) -> Port {
    let (element, shape) = describe(outlet.dtype());
    Port {
        name: outlet.name().to_owned(),
        element,
        shape,
    }
}

fn describe(dtype: &ValueType) -> (Element, Vec<Option<usize>>) {
    let ValueType::Tensor { ty, shape, .. } = dtype else {
        return (Element::Other, Vec::new());
    };
    let element = match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float64 => Element::F64,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Uint8 => Element::U8,
        _ => Element::Other,
    };
    (
        element,
        shape
            .iter()
            .map(|size| usize::try_from(*size).ok())
            .collect(),
    )
}

fn refused(path: &Path, error: &ort::Error) -> Error {
    Error::failed(format!(
        "{} is not a model that ONNX Runtime can load: {}",
        path.display(),
        first_line(error.message())
    ))
}

/// A failure to load or run a model, in words that say what to do where that is known.
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
        return Error::failed(format!("{model} cannot run on {place} alone: some of its operators have no CUDA version"))
            .hint("`device: auto` lets those operators run on the CPU, `device: cpu` all of them")
            .hint("where they only work out shapes, give the batch axis a name, or a size, when you export the model");
    }
    Error::failed(format!(
        "{model}: ONNX Runtime failed on {place}: {}",
        first_line(text)
    ))
}

/// What is wrong with a device, less the runtime's own places: that a library is missing, or what CUDA says.
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
    text.trim().lines().next().unwrap_or("it gave no reason")
}

#[cfg(test)]
impl OnnxRuntime {
    /// One that says it is on CUDA, where there is an ONNX Runtime at all.
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

    use super::super::{Data, DataMut, Pool, Session};
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
                &Options {
                    device: Device::Cpu,
                    tf32: false,
                },
            )
            .unwrap(),
        )
    }

    /// What a CUDA device has, on the CPU: lanes that share a session, fed by more workers than there are lanes.
    #[test]
    fn lanes_of_one_session_keep_their_batches_apart() {
        let Some(runtime) = runtime() else { return };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/copy.onnx");
        let spec = runtime.spec(&path).unwrap();
        let bytes = spec.bytes().unwrap();
        let geometry = Geometry {
            batch: 64,
            inputs: vec![vec![9]],
            outputs: vec![0],
        };
        let shapes = batch::input_shapes(&spec, &geometry).unwrap();
        let job = Job {
            spec: &spec,
            geometry: &geometry,
            shapes: &shapes,
        };
        let sizes = runtime.axes(&spec, &bytes, &shapes).unwrap();
        let shared = Shared::new(Mutex::new(
            runtime
                .commit(&spec, &bytes, 64, &sizes, Place::Cpu)
                .unwrap(),
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
        assert_eq!(Arc::strong_count(&shared), 1, "a lane's thread lives on");

        let narrow = Geometry {
            outputs: vec![0],
            inputs: vec![vec![9]],
            batch: 8,
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
                .contains("has shape [64, 1] for a batch of 8 rows"),
            "{}",
            error.message
        );
    }

    /// As ONNX Runtime 1.31.1 says them.
    #[test]
    fn of_a_device_that_does_not_work_the_reason_is_said() {
        let cases = [
            (
                "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() \
                 [ONNXRuntimeError] : 1 : FAIL : Failed to load library /x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: \
                 cannot open shared object file: No such file or directory",
                "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            ),
            (
                "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc:63 static FromProviderOptions() \
                 [ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to parse provider option \"device_id\": CUDA failure 35: \
                 CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; line=70 ; expr=cudaGetDeviceCount(&n);",
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
            ),
            ("another matter", "another matter"),
        ];
        for (said, wanted) in cases {
            assert_eq!(reason(said), wanted);
        }
    }
}
