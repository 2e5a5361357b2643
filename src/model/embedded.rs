//! The embedded runtime, rten. Only this file uses the crate `rten`.
//!
//! rten has no tensors of float64, float16 or int64. It runs models that have them in float32 and
//! int32, and their ports say so; [`narrow`] finds out where that makes a difference.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use rten::{
    DataType, Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView,
    ValueType,
};
use rten_tensor::{Layout, Tensor};

use super::graph;
use super::pin::{self, Pin};
use super::weights::ModelFiles;
use super::{
    Data, DataMut, Element, Geometry, Port, Spec, batch, listed, narrow, random, verify_onnx,
};
use crate::error::{Error, Result};

/// The version of rten in `Cargo.lock`.
pub(super) const VERSION: &str = "0.27.0";

/// rten on the CPU.
pub struct EmbeddedRuntime {
    /// Why an ONNX Runtime that was found is not used.
    pub(super) notes: Vec<String>,
}

/// A model on rten with its own buffers and its own thread.
pub struct EmbeddedSession {
    path: std::path::PathBuf,
    batch: usize,
    /// Number of blocks of rows in each input.
    blocks: Vec<usize>,
    inputs: Vec<Value>,
    outputs: Vec<Output>,
    jobs: Sender<Vec<Value>>,
    done: Receiver<Done>,
}

/// The inputs, which the thread returns, and the outputs.
type Done = (Vec<Value>, Result<Vec<Value>, String>);

enum Output {
    F32(Vec<f32>),
    I32(Vec<i32>),
    U8(Vec<u8>),
}

impl EmbeddedRuntime {
    pub(super) fn spec(&self, path: &Path) -> Result<Spec> {
        let files = ModelFiles::read(path)?;
        let hashes = files.hashes();
        let graph = graph::Model::of(&files);
        let random = random::random(&graph);
        let model = load(path, &files).map_err(|error| {
            // rten was built without these operators, but installing another runtime is not all
            // there is to do.
            if random.is_empty() {
                error
            } else {
                random::refusal(&listed(&random))
            }
        })?;
        let ports = |ids: &[NodeId]| {
            ids.iter()
                .map(|id| port(&model, *id))
                .collect::<Vec<Port>>()
        };
        let standard = ["producer_name", "producer_version"];
        let metadata = model
            .metadata()
            .fields()
            .filter(|(key, _)| !standard.contains(key));
        Ok(Spec {
            path: path.to_owned(),
            pin: Pin::hashed(hashes.clone()),
            hash: pin::identity(&hashes),
            files: hashes,
            random,
            narrowed: narrow::narrowed(&graph),
            inputs: ports(model.input_ids())
                .into_iter()
                .map(|port| declared(port, &graph))
                .collect(),
            outputs: ports(model.output_ids()),
            metadata: metadata
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    pub(super) fn open(
        &self,
        spec: &Spec,
        geometry: &Geometry,
        workers: usize,
    ) -> Result<Vec<EmbeddedSession>> {
        let shapes = batch::input_shapes(spec, geometry)?;
        let model = Arc::new(load(&spec.path, &spec.files()?)?);
        (0..workers.max(1))
            .map(|_| EmbeddedSession::start(spec, geometry, &shapes, &model))
            .collect()
    }
}

impl EmbeddedSession {
    fn start(
        spec: &Spec,
        geometry: &Geometry,
        shapes: &[Vec<usize>],
        model: &Arc<Model>,
    ) -> Result<EmbeddedSession> {
        let buffers = spec
            .inputs
            .iter()
            .zip(shapes)
            .map(|(port, shape)| buffer(spec, port, shape, geometry.batch));
        let inputs = buffers.collect::<Result<Vec<_>>>()?;
        let outputs: Vec<NodeId> = geometry
            .outputs
            .iter()
            .filter_map(|index| model.output_ids().get(*index).copied())
            .collect();
        let (jobs, done) = serve(Arc::clone(model), outputs)?;
        let mut session = EmbeddedSession {
            path: spec.path.clone(),
            batch: geometry.batch,
            blocks: (0..inputs.len())
                .map(|index| geometry.input_blocks(index))
                .collect(),
            inputs,
            outputs: Vec::new(),
            jobs,
            done,
        };
        // A batch of zeros reveals the outputs' shapes before any row is read.
        let given = session.infer()?;
        for (index, value) in geometry.outputs.iter().zip(&given) {
            let (element, shape) = match value {
                Value::FloatTensor(tensor) => (Element::F32, tensor.shape().to_vec()),
                Value::Int32Tensor(tensor) => (Element::I32, tensor.shape().to_vec()),
                Value::UInt8Tensor(tensor) => (Element::U8, tensor.shape().to_vec()),
                _ => (Element::Other("of another type"), Vec::new()),
            };
            batch::verify_output(spec, *index, element, &shape, geometry)?;
        }
        session.keep(given);
        Ok(session)
    }

    pub(super) fn input(&mut self, index: usize) -> DataMut<'_> {
        match self.inputs.get_mut(index) {
            Some(Value::FloatTensor(tensor)) => DataMut::F32(tensor.data_mut().unwrap_or_default()),
            Some(Value::Int32Tensor(tensor)) => DataMut::I32(tensor.data_mut().unwrap_or_default()),
            Some(Value::UInt8Tensor(tensor)) => DataMut::U8(tensor.data_mut().unwrap_or_default()),
            _ => DataMut::F32(&mut []),
        }
    }

    pub(super) fn run(&mut self, rows: usize) -> Result<()> {
        for index in 0..self.inputs.len() {
            let (batch, blocks) = (self.batch, self.blocks[index]);
            self.input(index).pad(rows, batch, blocks);
        }
        let lengths: Vec<usize> = (0..self.outputs.len())
            .map(|index| self.output(index).len())
            .collect();
        let given = self.infer()?;
        self.keep(given);
        let same = lengths
            .iter()
            .enumerate()
            .all(|(index, length)| self.output(index).len() == *length);
        if same {
            Ok(())
        } else {
            Err(batch::shape_depends_on_data(&self.path))
        }
    }

    pub(super) fn output(&self, index: usize) -> Data<'_> {
        match self.outputs.get(index) {
            Some(Output::F32(values)) => Data::F32(values),
            Some(Output::I32(values)) => Data::I32(values),
            Some(Output::U8(values)) => Data::U8(values),
            None => Data::F32(&[]),
        }
    }

    fn infer(&mut self) -> Result<Vec<Value>> {
        let path = self.path.display();
        let stopped = || {
            Error::failed(format!("{path}: rten stopped while running the model")).hint(
                "use ONNX Runtime instead: `pip install onnxruntime` in the active environment",
            )
        };
        self.jobs
            .send(std::mem::take(&mut self.inputs))
            .map_err(|_| stopped())?;
        let (inputs, given) = self.done.recv().map_err(|_| stopped())?;
        self.inputs = inputs;
        given.map_err(|reason| {
            // Nodes of most models have no name.
            let reason = reason.replace("operator \"\" failed", "an operator failed");
            Error::failed(format!("{path}: rten cannot run the model: {reason}")).hint(
                "use ONNX Runtime, which has every ONNX operator: `pip install onnxruntime` in \
                 the active environment",
            )
        })
    }

    fn keep(&mut self, given: Vec<Value>) {
        let kept = given.into_iter().filter_map(|value| match value {
            Value::FloatTensor(tensor) => Some(Output::F32(tensor.into_data())),
            Value::Int32Tensor(tensor) => Some(Output::I32(tensor.into_data())),
            Value::UInt8Tensor(tensor) => Some(Output::U8(tensor.into_data())),
            _ => None,
        });
        self.outputs = kept.collect();
    }
}

/// Starts the thread that runs batches of `model`.
///
/// The thread runs rten in a pool of one thread, for two reasons. The bits of a result must not
/// depend on the number of threads. And rten uses rayon, where a worker that waits for another pool
/// takes up other work: a task that holds a session would start a second task, which could wait for
/// that session forever.
fn serve(model: Arc<Model>, outputs: Vec<NodeId>) -> Result<(Sender<Vec<Value>>, Receiver<Done>)> {
    let (jobs, todo) = crossbeam_channel::bounded::<Vec<Value>>(1);
    let (reply, done) = crossbeam_channel::bounded::<Done>(1);
    let work = move || {
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&pool)));
        pool.run(|| {
            for inputs in todo {
                let feed = || {
                    let views = model
                        .input_ids()
                        .iter()
                        .copied()
                        .zip(inputs.iter().map(ValueOrView::from))
                        .collect();
                    model
                        .run(views, &outputs, Some(options.clone()))
                        .map_err(|error| error.to_string())
                };
                let given = catch_unwind(AssertUnwindSafe(feed))
                    .unwrap_or_else(|_| Err("it panicked".to_owned()));
                if reply.send((inputs, given)).is_err() {
                    break;
                }
            }
        });
    };
    let thread = std::thread::Builder::new()
        .name("rten".to_owned())
        .spawn(work);
    thread.map_err(|error| Error::failed(format!("cannot start a thread for a model: {error}")))?;
    Ok((jobs, done))
}

/// Returns an input buffer of zeros.
fn buffer(spec: &Spec, port: &Port, shape: &[usize], batch: usize) -> Result<Value> {
    fn zeros<T: Clone + Default>(count: usize) -> Option<Vec<T>> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).ok()?;
        values.resize(count, T::default());
        Some(values)
    }
    let count = shape.iter().product();
    let value = match port.element {
        Element::I32 => {
            zeros(count).map(|values: Vec<i32>| Value::from(Tensor::from_data(shape, values)))
        }
        Element::U8 => {
            zeros(count).map(|values: Vec<u8>| Value::from(Tensor::from_data(shape, values)))
        }
        _ => zeros(count).map(|values: Vec<f32>| Value::from(Tensor::from_data(shape, values))),
    };
    value.ok_or_else(|| batch::out_of_memory(spec, batch, "memory"))
}

fn port(model: &Model, id: NodeId) -> Port {
    let info = model.node_info(id);
    let element = match info.as_ref().and_then(rten::NodeInfo::dtype) {
        Some(ValueType::Tensor(DataType::Float)) => Element::F32,
        Some(ValueType::Tensor(DataType::Int32)) => Element::I32,
        Some(ValueType::Tensor(DataType::UInt8)) => Element::U8,
        Some(ValueType::Tensor(DataType::Int8)) => Element::Other("int8"),
        _ => Element::Other("of another type"),
    };
    let axis = |dimension: Dimension| match dimension {
        Dimension::Fixed(size) => Some(size),
        Dimension::Symbolic(_) => None,
    };
    let shape = info
        .as_ref()
        .and_then(rten::NodeInfo::shape)
        .unwrap_or_default();
    let name = info
        .as_ref()
        .and_then(rten::NodeInfo::name)
        .unwrap_or_default()
        .to_owned();
    Port {
        name,
        element,
        shape: shape.into_iter().map(axis).collect(),
    }
}

/// Returns an input with the type that the model declares, if nothing feeds that type. rten takes
/// int32 for booleans and for all integers but 8-bit ones.
fn declared(port: Port, graph: &graph::Model) -> Port {
    let mut inputs = graph.graph.inputs.iter();
    let found = inputs.find(|input| input.name == port.name);
    let unfed = found.and_then(|input| graph::element::unfed(input.element));
    match unfed {
        Some(name) => Port {
            element: Element::Other(name),
            ..port
        },
        None => port,
    }
}

fn load(path: &Path, files: &ModelFiles) -> Result<Model> {
    let refused = |reason: String| {
        Error::failed(format!(
            "{} is not a model that rten can run: {reason}",
            path.display()
        ))
        .hint(
            "use ONNX Runtime, which has every ONNX operator: `pip install onnxruntime` in the \
             active environment",
        )
    };
    let bytes = files.whole().to_vec();
    if !verify_onnx::is_well_formed(&bytes) {
        return Err(refused("it is damaged, or not an ONNX file".to_owned()));
    }
    let parse = || {
        ModelOptions::with_all_ops()
            .prepack_weights(true)
            .load(bytes)
            .map_err(|error| error.to_string())
    };
    // The parser may panic on a malformed file.
    catch_unwind(AssertUnwindSafe(parse))
        .unwrap_or_else(|_| Err("it is malformed".to_owned()))
        .map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::VERSION;

    #[test]
    fn the_version_is_the_locked_one() {
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{VERSION}\"")));
    }
}
