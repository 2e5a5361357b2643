//! Inference with models: one interface (shapes in, shapes out, run a batch) and the two runtimes
//! behind it.
//!
//! A process has one [`Runtime`]: ONNX Runtime if its library is found (see [`library`]), and the
//! embedded rten otherwise. It opens a model as a [`Pool`] of sessions. A worker takes a
//! [`Session`] out of the pool, fills its input buffers in place, runs it, and reads its output
//! buffers in place. The size of batches is fixed by a rule, never by timing, because the bits of
//! some activations depend on it. A short batch is padded with its last row.
//!
//! Each session runs on one thread, so that results do not depend on the number of threads. Nothing
//! here knows of trajectories or columns.

mod batch;
mod doctor;
mod embedded;
mod graph;
pub(crate) mod library;
mod narrow;
mod onnx;
mod pin;
mod probe;
mod random;
mod values;
mod verify_onnx;
mod weights;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use crate::dataset::store;
use crate::error::{Error, Result, caught};

pub(crate) use doctor::doctor;
pub(crate) use pin::Pin;
pub(crate) use probe::{rows_depend_on_each_other, slack};
pub(crate) use values::{Data, DataMut, Element, Rows};

/// The device to run models on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// CUDA if it works, otherwise the CPU. A note tells why CUDA is not used.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// Only these CUDA devices. If a node of the model cannot run there, the run fails before it
    /// reads a row.
    Cuda(Vec<usize>),
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// Reads `auto`, `cpu`, `cuda` or `cuda:0,1`.
    fn from_str(text: &str) -> Result<Device> {
        let wrong = || {
            Error::usage(format!("unknown device `{text}`"))
                .hint("use auto, cpu, cuda, or cuda with indices, such as cuda:0 or cuda:0,1")
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

/// The remedy for a model that rten would compute in other types than it declares.
pub(crate) const USE_ONNX_RUNTIME: &str = concat!(
    "use ONNX Runtime, which computes in the declared types: `pip install onnxruntime` in the ",
    "active environment, and do not set TRAJMILL_RUNTIME to `rten` (`trajmill doctor` shows what ",
    "was found)"
);

/// The note of a runtime that is not on CUDA although TF32 was requested.
const TF32_UNUSED: &str = "`--tf32` has no effect: models run on the CPU";

/// Options of the model runtime.
#[derive(Debug, Clone, Default)]
pub struct ModelOptions {
    /// The device to run models on.
    pub device: Device,
    /// Whether CUDA may round float32 products to TF32, which is faster, with an error of at most
    /// about 1e-3.
    pub tf32: bool,
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Shape, batch axis first; `None` for a free axis.
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
        write!(f, "{}: {}[{}]", self.name, self.element, shape.join(", "))
    }
}

/// The description of a model in its file.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The file.
    pub path: PathBuf,
    /// The blake3 hash of the file, in hexadecimal; with weights in other files, one over the
    /// hashes of all files.
    pub hash: String,
    /// The blake3 hash of each file, by the location that the model gives. The ONNX file itself has
    /// the empty location. Empty if the file does not exist yet.
    pub files: BTreeMap<String, String>,
    /// The bytes that run.
    pub pin: Pin,
    /// Inputs, in the graph's order.
    pub inputs: Vec<Port>,
    /// Outputs, in the graph's order.
    pub outputs: Vec<Port>,
    /// Metadata properties of the file.
    pub metadata: BTreeMap<String, String>,
    /// The nodes that draw random numbers or are in training mode, described.
    pub random: Vec<String>,
    /// The tensors that the runtime computes in a narrower type than the model declares, described.
    pub narrowed: Vec<String>,
}

impl Spec {
    /// Returns the error of a model that has [`Spec::random`] nodes.
    pub(crate) fn not_of_one_row(&self) -> Error {
        random::refusal(&listed(&self.random))
    }
}

/// Returns the first of `found`, and the number of the others.
pub(crate) fn listed(found: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut shown = found[..found.len().min(SHOWN)].join("; ");
    if found.len() > SHOWN {
        shown.push_str(&format!("; and {} more", found.len() - SHOWN));
    }
    shown
}

/// The shapes and outputs that a model is opened with.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Number of rows in every batch.
    pub batch: usize,
    /// The shape of one row of each input, in the graph's order.
    pub inputs: Vec<Vec<usize>>,
    /// The outputs to read, by position in the graph.
    pub outputs: Vec<usize>,
    /// The inputs and outputs whose batch axis is not the first.
    pub axes: Axes,
    /// Whether the model may give a row other values beside other rows, so that this is not
    /// verified.
    pub mixed: bool,
}

/// The batch axes of inputs and outputs, by position in the graph. Those that are not listed have
/// the first axis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Axes {
    /// Batch axes of inputs.
    pub inputs: BTreeMap<usize, usize>,
    /// Batch axes of outputs.
    pub outputs: BTreeMap<usize, usize>,
}

impl Geometry {
    /// Returns the number of blocks of rows in the input `index`.
    pub fn input_blocks(&self, index: usize) -> usize {
        let axis = self.axes.inputs.get(&index).copied().unwrap_or(0);
        let row = self.inputs.get(index).map_or(&[][..], Vec::as_slice);
        row.iter().take(axis).product()
    }
}

/// The runtime that runs models in this process, with its devices.
pub enum Runtime {
    /// ONNX Runtime.
    Onnx(onnx::OnnxRuntime),
    /// The embedded rten, on the CPU.
    Embedded(embedded::EmbeddedRuntime),
}

impl Runtime {
    /// Finds the runtime for `options`: ONNX Runtime if its library can be loaded, and rten
    /// otherwise.
    ///
    /// # Errors
    /// Returns an error if `options` request CUDA, or the environment requests a library or
    /// runtime, and it is not available.
    pub fn find(options: &ModelOptions) -> Result<Runtime> {
        let cuda = matches!(options.device, Device::Cuda(_));
        let mut notes: Vec<String> = match library::find()? {
            Some(found) => match onnx::OnnxRuntime::load(&found, options) {
                Ok(runtime) => return Ok(Runtime::Onnx(runtime)),
                Err(error) if found.demanded || cuda => return Err(error),
                Err(error) => vec![error.message],
            },
            None if cuda => {
                return Err(Error::failed(
                    "`device: cuda` needs ONNX Runtime, whose library was not found",
                )
                .hint(
                    "`pip install onnxruntime-gpu` in the active environment, or set \
                     ORT_DYLIB_PATH; `trajmill doctor` shows what was found",
                ));
            }
            None => Vec::new(),
        };
        notes.extend(options.tf32.then(|| TF32_UNUSED.to_owned()));
        Ok(Runtime::Embedded(embedded::EmbeddedRuntime { notes }))
    }

    /// Returns the embedded runtime.
    #[cfg(any(test, feature = "faults"))]
    pub fn embedded() -> Runtime {
        Runtime::Embedded(embedded::EmbeddedRuntime { notes: Vec::new() })
    }

    /// Returns `onnxruntime` or `rten`.
    pub fn name(&self) -> &'static str {
        match self {
            Runtime::Onnx(_) => "onnxruntime",
            Runtime::Embedded(_) => "rten",
        }
    }

    /// Returns the version of the runtime.
    pub fn version(&self) -> String {
        match self {
            Runtime::Onnx(runtime) => runtime.version(),
            Runtime::Embedded(_) => embedded::VERSION.to_owned(),
        }
    }

    /// Returns the devices that models run on: `cpu`, or CUDA devices such as `cuda:0`.
    pub fn devices(&self) -> Vec<String> {
        match self {
            Runtime::Onnx(runtime) => runtime.devices(),
            Runtime::Embedded(_) => vec!["cpu".to_owned()],
        }
    }

    /// Returns whether products of float32 may be rounded to TF32.
    pub fn tf32(&self) -> bool {
        matches!(self, Runtime::Onnx(runtime) if runtime.tf32())
    }

    /// Returns notes for the user, such as why `auto` fell back to the CPU. Opening a model may add
    /// notes.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Runtime::Onnx(runtime) => runtime.notes(),
            Runtime::Embedded(runtime) => runtime.notes.clone(),
        }
    }

    /// Returns the default batch size in rows. It depends only on the device, so that results
    /// repeat.
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

    /// Reads the description of the model at `path`.
    ///
    /// # Errors
    /// Returns an error that names the file, and the operator if one is missing, if the runtime
    /// cannot run the model.
    pub fn spec(&self, path: &Path) -> Result<Spec> {
        match self {
            Runtime::Onnx(runtime) => runtime.spec(path),
            Runtime::Embedded(runtime) => runtime.spec(path),
        }
    }

    /// Opens a model for `workers` threads: one session per thread on the CPU, one shared session
    /// per device on CUDA.
    ///
    /// # Errors
    /// Returns an error if the model cannot be loaded, or if a node cannot run on the requested
    /// device.
    pub fn open(&self, spec: &Spec, geometry: &Geometry, workers: usize) -> Result<Pool> {
        let mut sessions = match self {
            Runtime::Onnx(runtime) => runtime
                .open(spec, geometry, workers)?
                .into_iter()
                .map(Session::Onnx)
                .collect::<Vec<_>>(),
            Runtime::Embedded(runtime) => runtime
                .open(spec, geometry, workers)?
                .into_iter()
                .map(Session::Embedded)
                .collect(),
        };
        if let Some(session) = sessions.first_mut().filter(|_| !geometry.mixed) {
            probe::ensure_rows_are_independent(spec, geometry, session, self.tf32())?;
        }
        Ok(Pool::new(sessions))
    }
}

#[cfg(test)]
impl Runtime {
    /// Returns an ONNX Runtime that claims to run on CUDA; `None` if there is no ONNX Runtime.
    pub(crate) fn pretending(tf32: bool) -> Option<Runtime> {
        onnx::OnnxRuntime::pretending(tf32).map(Runtime::Onnx)
    }
}

/// A loaded model with its own buffers, for one thread at a time.
pub enum Session {
    /// On ONNX Runtime.
    Onnx(onnx::OnnxSession),
    /// On rten.
    Embedded(embedded::EmbeddedSession),
}

impl Session {
    /// Returns the buffer of the input `index` in the graph's order. It has the rows of a batch,
    /// with values of the previous batch.
    pub fn input(&mut self, index: usize) -> DataMut<'_> {
        match self {
            Session::Onnx(session) => session.input(index),
            Session::Embedded(session) => session.input(index),
        }
    }

    /// Runs the batch, of which the caller has filled the first `rows` rows. Pads it with copies of
    /// the last one.
    ///
    /// # Errors
    /// Returns an error if the runtime fails, for example because the device has no memory left, or
    /// if an output has another shape than before.
    pub fn run(&mut self, rows: usize) -> Result<()> {
        match self {
            Session::Onnx(session) => session.run(rows),
            Session::Embedded(session) => session.run(rows),
        }
    }

    /// Returns the values of the geometry's output `index`. It has the rows of a batch; those of
    /// the padding have no meaning.
    pub fn output(&self, index: usize) -> Data<'_> {
        match self {
            Session::Onnx(session) => session.output(index),
            Session::Embedded(session) => session.output(index),
        }
    }
}

/// The sessions of a model, which workers borrow.
pub struct Pool {
    free: Receiver<Session>,
    back: Sender<Session>,
}

impl Pool {
    fn new(sessions: Vec<Session>) -> Pool {
        let (back, free) = crossbeam_channel::bounded(sessions.len());
        for session in sessions {
            // The channel has room for all sessions.
            let _ = back.send(session);
        }
        Pool { free, back }
    }

    /// Lends a session to `work`. Waits if all sessions are lent.
    ///
    /// # Errors
    /// Returns the error of `work`, or an error if no session is left.
    pub fn with<T>(&self, work: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        store::pause();
        let mut session = self
            .free
            .recv()
            .map_err(|_| Error::failed("no model session is left"))?;
        // Catch a panic: if the session were not returned, other workers would wait forever.
        let result = caught("the model", || work(&mut session));
        store::pause();
        // The channel has room for all sessions.
        let _ = self.back.send(session);
        result
    }
}

#[cfg(test)]
mod tests;
