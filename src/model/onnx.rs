//! ONNX Runtime, loaded at run time. The only file that names `ort`.
//!
//! `ort` lets one thread at a time use a session, so there is a session per worker on the CPU and two per device on
//! CUDA, where the copies of one overlap the compute of the other; each loads its weights. Shapes are fixed, buffers
//! are bound once; on CUDA they are pinned host memory, from which each batch is copied to the device.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Outlet, Tensor, TensorElementType, ValueType};

use super::{Data, DataMut, Device, Element, Geometry, Options, Port, Spec, batch, external, library};
use crate::dataset::store;
use crate::error::{Error, Result};

/// One matrix product, to see whether a device works: it needs the provider, the driver, cudart and cuBLAS.
const PROBE: &[u8] = include_bytes!("probe.onnx");

/// Sessions on a CUDA device.
const SESSIONS_A_DEVICE: usize = 2;

/// ONNX Runtime with the devices that it uses.
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
    /// CUDA devices; empty for the CPU.
    cuda: Vec<usize>,
    /// Whether a node that cannot run on CUDA is an error.
    strict: bool,
    tf32: bool,
    note: Mutex<Option<String>>,
}

/// A model on ONNX Runtime with its own buffers.
pub struct OnnxSession {
    spec: Spec,
    batch: usize,
    place: Place,
    inputs: Vec<DynTensor>,
    /// One tensor per output that is read; `slots` says which the geometry's outputs are.
    outputs: Vec<DynTensor>,
    slots: Vec<usize>,
    binding: IoBinding,
    session: Session,
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
            note: Mutex::new(None),
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
            self.cuda.iter().map(|index| Place::Cuda(*index).to_string()).collect()
        }
    }

    pub(super) fn note(&self) -> Option<String> {
        self.note.lock().ok().and_then(|note| note.clone())
    }

    fn say(&self, text: String) {
        if let Ok(mut note) = self.note.lock() {
            *note = Some(text);
        }
    }

    pub(super) fn spec(&self, path: &Path) -> Result<Spec> {
        let hash = store::digest(path)?.blake3;
        let session = self.inspect(path)?;
        let metadata = session.metadata().and_then(|metadata| {
            let keys = metadata.custom_keys()?;
            Ok(keys.into_iter().filter_map(|key| metadata.custom(&key).map(|value| (key, value))).collect())
        });
        Ok(Spec {
            path: path.to_owned(),
            hash,
            inputs: session.inputs().iter().map(port).collect(),
            outputs: session.outputs().iter().map(port).collect(),
            metadata: metadata.map_err(|error| refused(path, &error))?,
        })
    }

    pub(super) fn open(&self, spec: &Spec, geometry: &Geometry, workers: usize) -> Result<Vec<OnnxSession>> {
        let shapes = batch::input_shapes(spec, geometry)?;
        let sizes = self.axes(spec, &shapes)?;
        let places: Vec<Place> = if self.cuda.is_empty() {
            vec![Place::Cpu; workers.max(1)]
        } else {
            (0..SESSIONS_A_DEVICE).flat_map(|_| self.cuda.iter().map(|index| Place::Cuda(*index))).collect()
        };
        places.into_iter().map(|place| self.session(spec, geometry, &shapes, &sizes, place)).collect()
    }

    /// Opens one session, with its buffers bound and one batch of zeros behind it.
    fn session(
        &self,
        spec: &Spec,
        geometry: &Geometry,
        shapes: &[Vec<usize>],
        sizes: &[(String, i64)],
        place: Place,
    ) -> Result<OnnxSession> {
        let failed = |error: ort::Error| failure(spec, geometry.batch, place, &error);
        let mut session = self.commit(spec, geometry.batch, sizes, place)?;
        let upload = host_memory(&session, place, MemoryType::CPUInput);
        let download = host_memory(&session, place, MemoryType::CPUOutput);

        let inputs =
            spec.inputs.iter().zip(shapes).map(|(port, shape)| DynTensor::new(&upload, element_type(port.element), shape.as_slice()));
        let inputs = inputs.collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let mut read: Vec<usize> = geometry.outputs.clone();
        read.sort_unstable();
        read.dedup();
        let slots = geometry.outputs.iter().filter_map(|index| read.binary_search(index).ok()).collect();
        let names: Vec<&str> = read.iter().filter_map(|index| spec.outputs.get(*index)).map(|port| port.name.as_str()).collect();

        let mut binding = session.create_binding().map_err(failed)?;
        for (port, tensor) in spec.inputs.iter().zip(&inputs) {
            binding.bind_input(&port.name, tensor).map_err(failed)?;
        }
        // A batch of zeros shows what the outputs look like and that the batch fits the device, before any row is read.
        let anywhere = MemoryInfo::default();
        for name in &names {
            binding.bind_output_to_device(*name, &anywhere).map_err(failed)?;
        }
        let mut outputs = Vec::with_capacity(names.len());
        {
            let given = session.run_binding(&binding).map_err(failed)?;
            for (index, name) in read.iter().zip(&names) {
                let (element, shape) = given.get(name).map_or((Element::Other, Vec::new()), |value| describe(value.dtype()));
                let shape: Vec<usize> = shape.into_iter().map(Option::unwrap_or_default).collect();
                batch::check_output(spec, *index, element, &shape, geometry.batch)?;
                outputs.push(DynTensor::new(&download, element_type(element), shape.as_slice()).map_err(failed)?);
            }
        }
        binding.clear_outputs();
        for (name, tensor) in names.iter().zip(&mut outputs) {
            binding.bind_output(*name, tensor).map_err(failed)?;
        }
        Ok(OnnxSession { spec: spec.clone(), batch: geometry.batch, place, inputs, outputs, slots, binding, session })
    }

    /// Loads the model for `place`, with every node on it where that is asked for or possible.
    fn commit(&self, spec: &Spec, batch: usize, sizes: &[(String, i64)], place: Place) -> Result<Session> {
        let load = |strict: bool| {
            let mut builder = self.builder(place, strict)?;
            for (axis, size) in sizes {
                builder = builder.with_dimension_override(axis, *size)?;
            }
            builder.commit_from_file(&spec.path)
        };
        match load(true) {
            Err(error) if place != Place::Cpu && !self.strict && error.message().contains("CPU EP") => {
                self.say(format!("some nodes of {} do not run on {place} and run on the CPU", spec.path.display()));
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
        let builder = builder.with_execution_providers([cuda])?;
        Ok(if strict { builder.with_disable_cpu_fallback()? } else { builder })
    }

    /// The model as it is in the file, not optimised.
    fn inspect(&self, path: &Path) -> Result<Session> {
        let bytes = std::fs::read(path).map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
        external::refuse(path, &bytes)?;
        let load = || self.builder(Place::Cpu, false)?.with_optimization_level(GraphOptimizationLevel::Disable)?.commit_from_file(path);
        load().map_err(|error| refused(path, &error))
    }

    /// Sizes of the free axes of the inputs, by name, so that the graph can be optimised for fixed shapes.
    fn axes(&self, spec: &Spec, shapes: &[Vec<usize>]) -> Result<Vec<(String, i64)>> {
        let session = self.inspect(&spec.path)?;
        let mut sizes: Vec<(String, i64)> = Vec::new();
        for (outlet, sizes_of_input) in session.inputs().iter().zip(shapes) {
            let ValueType::Tensor { dimension_symbols, .. } = outlet.dtype() else { continue };
            for (symbol, size) in dimension_symbols.iter().zip(sizes_of_input).filter(|(symbol, _)| !symbol.is_empty()) {
                sizes.push((symbol.clone(), i64::try_from(*size).unwrap_or(i64::MAX)));
            }
        }
        sizes.sort();
        sizes.dedup();
        // A name that stands for two sizes fixes nothing.
        let clash = |axis: &str| sizes.iter().filter(|(other, _)| other == axis).count() > 1;
        Ok(sizes.iter().filter(|(axis, _)| !clash(axis)).cloned().collect())
    }

    /// Runs a tiny model on a CUDA device.
    fn probe(&self, found: &library::Found, index: usize) -> Result<()> {
        if !offers_cuda() {
            return Err(Error::failed(format!("the ONNX Runtime at {} is a build without CUDA", found.path.display()))
                .hint("`pip install onnxruntime-gpu` in place of onnxruntime; `trajmill doctor` shows what was found"));
        }
        preload(&found.path);
        let run = || {
            let mut session = self.builder(Place::Cuda(index), true)?.commit_from_memory(PROBE)?;
            let input = Tensor::<f32>::from_array(([1_usize, 2], vec![1.0, 2.0]))?;
            session.run(ort::inputs![input]).map(|_| ())
        };
        run().map_err(|error: ort::Error| {
            Error::failed(format!("ONNX Runtime {} cannot use cuda:{index}: {}", self.version, first_line(error.message())))
                .hint("`trajmill doctor` shows which CUDA libraries were found, and what to install for the rest")
        })
    }
}

impl OnnxSession {
    pub(super) fn input(&mut self, index: usize) -> DataMut<'_> {
        let Some(tensor) = self.inputs.get_mut(index) else { return DataMut::F32(&mut []) };
        match *tensor.data_type() {
            TensorElementType::Float64 => DataMut::F64(tensor.try_extract_tensor_mut().map(|(_, values)| values).unwrap_or_default()),
            TensorElementType::Int32 => DataMut::I32(tensor.try_extract_tensor_mut().map(|(_, values)| values).unwrap_or_default()),
            TensorElementType::Int64 => DataMut::I64(tensor.try_extract_tensor_mut().map(|(_, values)| values).unwrap_or_default()),
            _ => DataMut::F32(tensor.try_extract_tensor_mut().map(|(_, values)| values).unwrap_or_default()),
        }
    }

    pub(super) fn run(&mut self, rows: usize) -> Result<()> {
        for index in 0..self.inputs.len() {
            let batch = self.batch;
            self.input(index).pad(rows, batch);
        }
        let (spec, batch, place) = (&self.spec, self.batch, self.place);
        let failed = |error: ort::Error| failure(spec, batch, place, &error);
        if place != Place::Cpu {
            // Binding is what copies an input to the device.
            for (port, tensor) in spec.inputs.iter().zip(&self.inputs) {
                self.binding.bind_input(&port.name, tensor).map_err(failed)?;
            }
            self.binding.synchronize_inputs().map_err(failed)?;
        }
        drop(self.session.run_binding(&self.binding).map_err(failed)?);
        if place != Place::Cpu {
            self.binding.synchronize_outputs().map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn output(&self, index: usize) -> Data<'_> {
        let Some(tensor) = self.slots.get(index).and_then(|slot| self.outputs.get(*slot)) else { return Data::F32(&[]) };
        match *tensor.data_type() {
            TensorElementType::Float64 => Data::F64(tensor.try_extract_tensor().map(|(_, values)| values).unwrap_or_default()),
            TensorElementType::Int32 => Data::I32(tensor.try_extract_tensor().map(|(_, values)| values).unwrap_or_default()),
            TensorElementType::Int64 => Data::I64(tensor.try_extract_tensor().map(|(_, values)| values).unwrap_or_default()),
            _ => Data::F32(tensor.try_extract_tensor().map(|(_, values)| values).unwrap_or_default()),
        }
    }
}

/// The process's environment: ONNX Runtime allows one, and it lives as long as the process.
fn environment(path: &Path) -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    let start = || -> Result<Environment, String> {
        let builder = ort::init_from(path).map_err(|error| error.to_string())?;
        // What goes wrong comes back as an error; the library's own log would only garble the terminal.
        let silent = Arc::new(|_: LogLevel, _: &str, _: &str, _: &str, _: &str| {});
        let environment =
            builder.with_name("trajmill").with_telemetry(false).with_logger(silent).build().map_err(|error| error.to_string())?;
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
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let numbered = |text: &str| text.starts_with(|first: char| first.is_ascii_digit()) && text.contains('.');
    let by_name = name.split_once(".so.").map(|(_, version)| version.to_owned()).filter(|version| numbered(version));
    let branch = ort::info().split("git-branch=rel-").nth(1).and_then(|rest| rest.split(',').next());
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
    let built = [(offers_cuda(), "CUDA"), (ep::TensorRT::is_available().unwrap_or(false), "TensorRT")];
    Ok(built.into_iter().filter(|(offered, _)| *offered).map(|(_, name)| name).collect())
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

/// An allocator of host memory: pinned where the session is on CUDA, so that copies need no staging.
fn host_memory(session: &Session, place: Place, kind: MemoryType) -> Allocator {
    let pinned = |device: i32| {
        let info = MemoryInfo::new(AllocationDevice::CUDA_PINNED, device, AllocatorType::Device, kind).ok()?;
        // Memory that cannot be read and written from here would be no buffer.
        Allocator::new(session, info).ok().filter(|allocator| allocator.memory_info().is_cpu_accessible())
    };
    match place {
        Place::Cpu => Allocator::default(),
        // Some versions keep pinned memory under device 0 whatever the device is.
        Place::Cuda(index) => i32::try_from(index).ok().and_then(pinned).or_else(|| pinned(0)).unwrap_or_default(),
    }
}

fn port(outlet: &Outlet) -> Port {
    let (element, shape) = describe(outlet.dtype());
    Port { name: outlet.name().to_owned(), element, shape }
}

fn describe(dtype: &ValueType) -> (Element, Vec<Option<usize>>) {
    let ValueType::Tensor { ty, shape, .. } = dtype else { return (Element::Other, Vec::new()) };
    let element = match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float64 => Element::F64,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Int64 => Element::I64,
        _ => Element::Other,
    };
    (element, shape.iter().map(|size| usize::try_from(*size).ok()).collect())
}

fn element_type(element: Element) -> TensorElementType {
    match element {
        Element::F64 => TensorElementType::Float64,
        Element::I32 => TensorElementType::Int32,
        Element::I64 => TensorElementType::Int64,
        Element::F32 | Element::Other => TensorElementType::Float32,
    }
}

fn refused(path: &Path, error: &ort::Error) -> Error {
    Error::failed(format!("{} is not a model that ONNX Runtime can load: {}", path.display(), first_line(error.message())))
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
        let memory = if place == Place::Cpu { "memory".to_owned() } else { format!("the memory of {place}") };
        return batch::out_of_memory(spec, batch, &memory);
    }
    if place != Place::Cpu && says(&["cpu ep"]) {
        return Error::failed(format!("{model} cannot run on {place} alone: some of its operators have no CUDA version"))
            .hint("`device: auto` lets those operators run on the CPU, `device: cpu` all of them");
    }
    Error::failed(format!("{model}: ONNX Runtime failed on {place}: {}", first_line(text)))
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or("it gave no reason")
}
