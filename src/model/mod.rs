//! Models: one small contract (shapes in, shapes out, run a batch) and the two runtimes behind it.
//!
//! A [`Runtime`] is found once per process: ONNX Runtime where its library is (see [`library`]), rten, which is built
//! in, where it is not. It opens a model as a [`Pool`] of sessions; a worker takes a [`Session`] out, fills its input
//! buffers in place, runs it and reads its outputs in place. Batches have one fixed size, chosen by rule and never by
//! timing, because the bits of some activations depend on it; a short batch is padded with its last row.
//!
//! Each session runs on one thread, so that results do not depend on how many there are. Nothing here knows of
//! trajectories or columns.

mod batch;
mod doctor;
pub mod library;
mod message;
mod onnx;
mod pin;
mod pure;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use crate::dataset::store;
use crate::error::{Error, Result, caught};

pub use doctor::doctor;
pub use pin::Pin;

/// Where models are to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// CUDA where it works, else the CPU; which one is said.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// These CUDA devices and nothing else: where a node cannot run there, the run fails before it reads a row.
    Cuda(Vec<usize>),
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// Reads `auto`, `cpu`, `cuda` or `cuda:0,1`.
    fn from_str(text: &str) -> Result<Device> {
        let wrong = || {
            Error::usage(format!("unknown device `{text}`"))
                .hint("one of auto, cpu, cuda, cuda:0, cuda:0,1")
        };
        match text.split_once(':') {
            None if text == "auto" => Ok(Device::Auto),
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(vec![0])),
            Some(("cuda", indices)) => {
                let indices = indices
                    .split(',')
                    .map(|index| index.trim().parse().map_err(|_| wrong()));
                Ok(Device::Cuda(indices.collect::<Result<_>>()?))
            }
            _ => Err(wrong()),
        }
    }
}

/// Said where TF32 is asked for and CUDA is not used.
const TF32_UNUSED: &str = "`--tf32` changes nothing: it is about CUDA, and models run on the CPU";

/// What the user asked of the runtime.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where models run.
    pub device: Device,
    /// Whether CUDA may round float32 products to TF32: faster, and off by at most about 1e-3.
    pub tf32: bool,
}

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float32.
    F32,
    /// float64.
    F64,
    /// int32.
    I32,
    /// int64.
    I64,
    /// uint8.
    U8,
    /// Any other, which no stage feeds or reads.
    Other,
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Element::F32 => "float32",
            Element::F64 => "float64",
            Element::I32 => "int32",
            Element::I64 => "int64",
            Element::U8 => "uint8",
            Element::Other => "an unsupported type",
        })
    }
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Shape, batch axis first; `None` for an axis that is free.
    pub shape: Vec<Option<usize>>,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let axis = |(index, size): (usize, &Option<usize>)| match size {
            Some(size) => size.to_string(),
            None if index == 0 => "batch".to_owned(),
            None => "?".to_owned(),
        };
        let shape: Vec<String> = self.shape.iter().enumerate().map(axis).collect();
        write!(f, "{}: {} [{}]", self.name, self.element, shape.join(", "))
    }
}

/// What a model file says of itself.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The file.
    pub path: PathBuf,
    /// blake3 of the file, in hexadecimal.
    pub hash: String,
    /// Which bytes are to run.
    pub pin: Pin,
    /// Inputs, in the graph's order.
    pub inputs: Vec<Port>,
    /// Outputs, in the graph's order.
    pub outputs: Vec<Port>,
    /// Metadata properties of the file.
    pub metadata: BTreeMap<String, String>,
}

/// How a model is to be opened.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Rows of every batch.
    pub batch: usize,
    /// Shape of one row of each input, in the graph's order.
    pub inputs: Vec<Vec<usize>>,
    /// Which outputs are read, by position in the graph.
    pub outputs: Vec<usize>,
}

/// The runtime that models run on in this process, with its devices.
pub enum Runtime {
    /// ONNX Runtime.
    Onnx(onnx::OnnxRuntime),
    /// rten, built in; CPU only.
    Pure(pure::PureRuntime),
}

impl Runtime {
    /// Finds the runtime for `options`: ONNX Runtime where its library is found and can be loaded, rten otherwise.
    ///
    /// # Errors
    /// Where CUDA, or by the environment a library or runtime, is asked for and is not to be had.
    pub fn find(options: &Options) -> Result<Runtime> {
        let cuda = matches!(options.device, Device::Cuda(_));
        let mut notes: Vec<String> = match library::find()? {
            Some(found) => match onnx::OnnxRuntime::load(&found, options) {
                Ok(runtime) => return Ok(Runtime::Onnx(runtime)),
                Err(error) if found.demanded || cuda => return Err(error),
                Err(error) => vec![error.message],
            },
            None if cuda => {
                return Err(Error::failed("`device: cuda` needs ONNX Runtime, and its library was not found")
                    .hint("`pip install onnxruntime-gpu` in the active environment, or set ORT_DYLIB_PATH; `trajmill doctor` shows where was looked"));
            }
            None => Vec::new(),
        };
        notes.extend(options.tf32.then(|| TF32_UNUSED.to_owned()));
        Ok(Runtime::Pure(pure::PureRuntime { notes }))
    }

    /// The runtime that is built in.
    pub fn embedded() -> Runtime {
        Runtime::Pure(pure::PureRuntime { notes: Vec::new() })
    }

    /// `onnxruntime` or `rten`.
    pub fn name(&self) -> &'static str {
        match self {
            Runtime::Onnx(_) => "onnxruntime",
            Runtime::Pure(_) => "rten",
        }
    }

    /// Version of the runtime.
    pub fn version(&self) -> String {
        match self {
            Runtime::Onnx(runtime) => runtime.version(),
            Runtime::Pure(_) => pure::VERSION.to_owned(),
        }
    }

    /// The devices that models run on: `cpu`, or `cuda:0` and so on.
    pub fn devices(&self) -> Vec<String> {
        match self {
            Runtime::Onnx(runtime) => runtime.devices(),
            Runtime::Pure(_) => vec!["cpu".to_owned()],
        }
    }

    /// Whether products of float32 may be rounded to TF32.
    pub fn tf32(&self) -> bool {
        matches!(self, Runtime::Onnx(runtime) if runtime.tf32())
    }

    /// What a person should know of the choice, such as why `auto` fell back to the CPU; opening a model may add to it.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Runtime::Onnx(runtime) => runtime.notes(),
            Runtime::Pure(runtime) => runtime.notes.clone(),
        }
    }

    /// Rows of a batch where the user gives none: a constant of the device, so that results repeat.
    pub fn batch(&self) -> usize {
        if self
            .devices()
            .iter()
            .any(|device| device.starts_with("cuda"))
        {
            16_384
        } else {
            512
        }
    }

    /// Reads what the model at `path` says of itself.
    ///
    /// # Errors
    /// Where the file cannot be read or is not a model that the runtime can run; the message names file and operator.
    pub fn spec(&self, path: &Path) -> Result<Spec> {
        match self {
            Runtime::Onnx(runtime) => runtime.spec(path),
            Runtime::Pure(runtime) => runtime.spec(path),
        }
    }

    /// Opens a model for `workers` threads: a session a thread on the CPU; on CUDA one a device, which several may use.
    ///
    /// # Errors
    /// Where the model cannot be loaded, or a node cannot run on the device that was asked for.
    pub fn open(&self, spec: &Spec, geometry: &Geometry, workers: usize) -> Result<Pool> {
        let sessions = match self {
            Runtime::Onnx(runtime) => runtime
                .open(spec, geometry, workers)?
                .into_iter()
                .map(Session::Onnx)
                .collect::<Vec<_>>(),
            Runtime::Pure(runtime) => runtime
                .open(spec, geometry, workers)?
                .into_iter()
                .map(Session::Pure)
                .collect(),
        };
        Ok(Pool::new(sessions))
    }
}

#[cfg(test)]
impl Runtime {
    /// One that says it is on CUDA, where there is an ONNX Runtime at all.
    pub(crate) fn pretending(tf32: bool) -> Option<Runtime> {
        onnx::OnnxRuntime::pretending(tf32).map(Runtime::Onnx)
    }
}

/// Values of a tensor, batch axis first, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Data<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float64.
    F64(&'a [f64]),
    /// int32.
    I32(&'a [i32]),
    /// int64.
    I64(&'a [i64]),
    /// uint8.
    U8(&'a [u8]),
}

impl Data<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::F64(values) => values.len(),
            Data::I32(values) => values.len(),
            Data::I64(values) => values.len(),
            Data::U8(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Values of a tensor, to be filled.
#[derive(Debug, PartialEq)]
pub enum DataMut<'a> {
    /// float32.
    F32(&'a mut [f32]),
    /// float64.
    F64(&'a mut [f64]),
    /// int32.
    I32(&'a mut [i32]),
    /// int64.
    I64(&'a mut [i64]),
    /// uint8.
    U8(&'a mut [u8]),
}

/// A loaded model with its own buffers, used by one thread at a time.
pub enum Session {
    /// On ONNX Runtime.
    Onnx(onnx::OnnxSession),
    /// On rten.
    Pure(pure::PureSession),
}

impl Session {
    /// The buffer of input `index` (graph order): `batch` rows, whatever is left of the last batch in it.
    pub fn input(&mut self, index: usize) -> DataMut<'_> {
        match self {
            Session::Onnx(session) => session.input(index),
            Session::Pure(session) => session.input(index),
        }
    }

    /// Runs the batch whose first `rows` rows are filled; the rest is padded with a repeat of the last of them.
    ///
    /// # Errors
    /// Where the runtime fails, out of device memory among others, or an output has not the shape it should have.
    pub fn run(&mut self, rows: usize) -> Result<()> {
        match self {
            Session::Onnx(session) => session.run(rows),
            Session::Pure(session) => session.run(rows),
        }
    }

    /// Values of the `index`-th of the geometry's outputs: `batch` rows, of which only the filled ones mean anything.
    pub fn output(&self, index: usize) -> Data<'_> {
        match self {
            Session::Onnx(session) => session.output(index),
            Session::Pure(session) => session.output(index),
        }
    }
}

/// Sessions of one model, lent to workers one at a time.
pub struct Pool {
    free: Receiver<Session>,
    back: Sender<Session>,
}

impl Pool {
    fn new(sessions: Vec<Session>) -> Pool {
        let (back, free) = crossbeam_channel::bounded(sessions.len());
        for session in sessions {
            // The channel holds as many as there are sessions.
            let _ = back.send(session);
        }
        Pool { free, back }
    }

    /// Lends a session to `work`, waiting for one where all are lent.
    ///
    /// # Errors
    /// What `work` returns, or that no session is left.
    pub fn with<T>(&self, work: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        store::pause();
        let mut session = self
            .free
            .recv()
            .map_err(|_| Error::failed("no model session is left"))?;
        // A session that was not given back would let the others wait for ever.
        let result = caught("the model", || work(&mut session));
        store::pause();
        // The channel holds as many as there are sessions, and this one has just left it.
        let _ = self.back.send(session);
        result
    }
}

#[cfg(test)]
mod tests;
