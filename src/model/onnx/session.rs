//! A session with the buffers of a batch. On the CPU each worker has one; on a CUDA device several
//! lanes share one.
//!
//! A CUDA device has one session, so that its memory holds the model's weights once. The lanes
//! share the session: each has a thread, buffers in pinned host memory and a binding. `ort` lets
//! one thread at a time run a session, and a device is not faster with two batches at once. So one
//! lane computes, another has copied its input to the device and waits for its turn, and workers
//! fill and read the buffers of the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynTensor, TensorElementType};

use super::super::{Data, DataMut, Element, Geometry, Spec, batch};
use super::types::{describe, element_type};
use super::{Place, failure};
use crate::error::{Error, Result};

/// A session that several lanes share, or that belongs to one worker.
pub(super) type Shared = Arc<Mutex<Session>>;

/// A model to open: the description in its file, the geometry, and the shapes of its inputs.
pub(super) struct Job<'a> {
    pub(super) spec: &'a Spec,
    pub(super) geometry: &'a Geometry,
    pub(super) shapes: &'a [Vec<usize>],
}

/// A model on ONNX Runtime, with its own buffers.
pub struct OnnxSession {
    batch: usize,
    /// Number of blocks of rows in each input.
    blocks: Vec<usize>,
    buffers: Buffers,
    engine: Engine,
}

/// The buffers of a batch.
struct Buffers {
    inputs: Vec<DynTensor>,
    /// One tensor per output that is read. `slots` maps the geometry's outputs to these.
    outputs: Vec<DynTensor>,
    slots: Vec<usize>,
}

enum Engine {
    /// Runs on the calling thread.
    Here(Box<Bound>),
    /// Runs on its own thread.
    Lane(Lane),
}

/// A session with buffers bound to it.
struct Bound {
    spec: Spec,
    batch: usize,
    place: Place,
    /// Whether inputs are bound again for every batch, which copies them to the device.
    copies: bool,
    binding: IoBinding,
    session: Shared,
}

/// A thread that runs batches. The inputs of a batch are sent to it and come back with the result.
struct Lane {
    /// `None` after the lane is closed.
    batches: Option<Sender<Vec<DynTensor>>>,
    done: Receiver<(Vec<DynTensor>, Result<()>)>,
    thread: Option<JoinHandle<()>>,
}

impl Job<'_> {
    fn blocks(&self) -> Vec<usize> {
        (0..self.shapes.len())
            .map(|index| self.geometry.input_blocks(index))
            .collect()
    }
}

impl OnnxSession {
    /// Creates buffers for a session that runs on the worker's thread.
    pub(super) fn here(job: &Job, place: Place, session: Shared) -> Result<OnnxSession> {
        let (bound, buffers) = Bound::new(job, place, session, false)?;
        Ok(OnnxSession {
            batch: job.geometry.batch,
            blocks: job.blocks(),
            buffers,
            engine: Engine::Here(Box::new(bound)),
        })
    }

    /// Creates buffers for a shared session, and a thread that runs their batches.
    ///
    /// The lane needs its own thread because waiting for copies waits for the device that the
    /// calling thread used last.
    pub(super) fn lane(job: &Job, place: Place, session: Shared) -> Result<OnnxSession> {
        let (batches, todo) = crossbeam_channel::bounded::<Vec<DynTensor>>(1);
        let (reply, done) = crossbeam_channel::bounded(1);
        let (opened, opening) = crossbeam_channel::bounded(1);
        let (spec, geometry, shapes) =
            (job.spec.clone(), job.geometry.clone(), job.shapes.to_vec());
        let work = move || {
            let mut bound = match Bound::new(
                &Job {
                    spec: &spec,
                    geometry: &geometry,
                    shapes: &shapes,
                },
                place,
                session,
                true,
            ) {
                Ok((bound, buffers)) => {
                    let _ = opened.send(Ok(buffers));
                    bound
                }
                Err(error) => return drop(opened.send(Err(error))),
            };
            for inputs in todo {
                let result = bound.run(&inputs);
                if reply.send((inputs, result)).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(place.to_string())
            .spawn(work);
        let thread = thread.map_err(|error| {
            Error::failed(format!("cannot start a thread for a model: {error}"))
        })?;
        let lane = Lane {
            batches: Some(batches),
            done,
            thread: Some(thread),
        };
        let buffers = opening.recv().unwrap_or_else(|_| Err(stopped(job.spec)))?;
        Ok(OnnxSession {
            batch: job.geometry.batch,
            blocks: job.blocks(),
            buffers,
            engine: Engine::Lane(lane),
        })
    }

    pub(in crate::model) fn input(&mut self, index: usize) -> DataMut<'_> {
        let Some(tensor) = self.buffers.inputs.get_mut(index) else {
            return DataMut::F32(&mut []);
        };
        match *tensor.data_type() {
            TensorElementType::Float64 => DataMut::F64(
                tensor
                    .try_extract_tensor_mut()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Float16 => DataMut::F16(
                tensor
                    .try_extract_tensor_mut()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Int32 => DataMut::I32(
                tensor
                    .try_extract_tensor_mut()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Int64 => DataMut::I64(
                tensor
                    .try_extract_tensor_mut()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Uint8 => DataMut::U8(
                tensor
                    .try_extract_tensor_mut()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            _ => DataMut::F32(
                tensor
                    .try_extract_tensor_mut()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
        }
    }

    pub(in crate::model) fn run(&mut self, rows: usize) -> Result<()> {
        for index in 0..self.buffers.inputs.len() {
            let (batch, blocks) = (self.batch, self.blocks[index]);
            self.input(index).pad(rows, batch, blocks);
        }
        match &mut self.engine {
            Engine::Here(bound) => bound.run(&self.buffers.inputs),
            Engine::Lane(lane) => lane.run(&mut self.buffers.inputs),
        }
    }

    pub(in crate::model) fn output(&self, index: usize) -> Data<'_> {
        let buffers = &self.buffers;
        let Some(tensor) = buffers
            .slots
            .get(index)
            .and_then(|slot| buffers.outputs.get(*slot))
        else {
            return Data::F32(&[]);
        };
        match *tensor.data_type() {
            TensorElementType::Float64 => Data::F64(
                tensor
                    .try_extract_tensor()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Float16 => Data::F16(
                tensor
                    .try_extract_tensor()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Int32 => Data::I32(
                tensor
                    .try_extract_tensor()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Int64 => Data::I64(
                tensor
                    .try_extract_tensor()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            TensorElementType::Uint8 => Data::U8(
                tensor
                    .try_extract_tensor()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
            _ => Data::F32(
                tensor
                    .try_extract_tensor()
                    .map(|(_, values)| values)
                    .unwrap_or_default(),
            ),
        }
    }
}

impl Bound {
    /// Creates the buffers of a batch, runs a batch of zeros, and binds the buffers.
    fn new(job: &Job, place: Place, session: Shared, copies: bool) -> Result<(Bound, Buffers)> {
        let (spec, batch) = (job.spec, job.geometry.batch);
        let failed = |error: ort::Error| failure(spec, batch, place, &error);
        let mut held = session.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = host_memory(&held, place, MemoryType::CPUInput);
        let download = host_memory(&held, place, MemoryType::CPUOutput);

        let inputs = spec.inputs.iter().zip(job.shapes).map(|(port, shape)| {
            DynTensor::new(&upload, element_type(port.element), shape.as_slice())
        });
        let inputs = inputs.collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let mut read: Vec<usize> = job.geometry.outputs.clone();
        read.sort_unstable();
        read.dedup();
        let slots = job
            .geometry
            .outputs
            .iter()
            .filter_map(|index| read.binary_search(index).ok())
            .collect();
        let names: Vec<&str> = read
            .iter()
            .filter_map(|index| spec.outputs.get(*index))
            .map(|port| port.name.as_str())
            .collect();

        // A batch of zeros reveals the outputs' shapes, and whether the batch fits on the device,
        // before any row is read. It runs without a binding, because copies need a run to make the
        // session's device current on this thread.
        let chosen = names
            .iter()
            .fold(OutputSelector::no_default(), |chosen, name| {
                chosen.with(*name)
            });
        let options = RunOptions::new().map_err(failed)?.with_outputs(chosen);
        let feed: Vec<(&str, SessionInputValue)> = spec
            .inputs
            .iter()
            .zip(&inputs)
            .map(|(port, tensor)| (port.name.as_str(), SessionInputValue::from(tensor)))
            .collect();
        let mut outputs = Vec::with_capacity(names.len());
        {
            let given = held.run_with_options(feed, &options).map_err(failed)?;
            for (index, name) in read.iter().zip(&names) {
                let (element, shape) = given
                    .get(name)
                    .map_or((Element::Other("missing"), Vec::new()), |value| {
                        describe(value.dtype())
                    });
                let shape: Vec<usize> = shape.into_iter().map(Option::unwrap_or_default).collect();
                batch::verify_output(spec, *index, element, &shape, job.geometry)?;
                outputs.push(
                    DynTensor::new(&download, element_type(element), shape.as_slice())
                        .map_err(failed)?,
                );
            }
        }
        let mut binding = held.create_binding().map_err(failed)?;
        for (name, tensor) in names.iter().zip(&mut outputs) {
            binding.bind_output(*name, tensor).map_err(failed)?;
        }
        drop(held);
        let mut bound = Bound {
            spec: spec.clone(),
            batch,
            place,
            copies,
            binding,
            session,
        };
        bound.bind(&inputs).map_err(failed)?;
        Ok((
            bound,
            Buffers {
                inputs,
                outputs,
                slots,
            },
        ))
    }

    /// Binds inputs. On CUDA this copies them to the device; on the CPU they are read in place.
    fn bind(&mut self, inputs: &[DynTensor]) -> ort::Result<()> {
        for (port, tensor) in self.spec.inputs.iter().zip(inputs) {
            self.binding.bind_input(&port.name, tensor)?;
        }
        Ok(())
    }

    fn run(&mut self, inputs: &[DynTensor]) -> Result<()> {
        self.carry_out(inputs)
            .map_err(|error| failure(&self.spec, self.batch, self.place, &error))
    }

    fn carry_out(&mut self, inputs: &[DynTensor]) -> ort::Result<()> {
        if self.copies {
            // The copies run on their own stream while another lane computes, and the run does not
            // wait for them.
            self.bind(inputs)?;
            self.binding.synchronize_inputs()?;
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        // The run returns when its outputs are in host memory.
        session.run_binding(&self.binding).map(drop)
    }
}

impl Lane {
    fn run(&mut self, inputs: &mut Vec<DynTensor>) -> Result<()> {
        let gone = || Error::failed("the model's thread has ended");
        let batches = self.batches.as_ref().ok_or_else(gone)?;
        batches.send(std::mem::take(inputs)).map_err(|_| gone())?;
        let (back, result) = self.done.recv().map_err(|_| gone())?;
        *inputs = back;
        result
    }
}

impl Drop for Lane {
    /// Waits for the thread, so that the process does not end while a session is dropped.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn stopped(spec: &Spec) -> Error {
    Error::failed(format!(
        "{}: ONNX Runtime stopped while it opened the model",
        spec.path.display()
    ))
}

/// Returns an allocator of host memory. It is pinned if the session is on CUDA, which makes copies
/// direct.
fn host_memory(session: &Session, place: Place, kind: MemoryType) -> Allocator {
    let pinned = |device: i32| {
        let info = MemoryInfo::new(
            AllocationDevice::CUDA_PINNED,
            device,
            AllocatorType::Device,
            kind,
        )
        .ok()?;
        // The host must be able to read and write a buffer.
        Allocator::new(session, info)
            .ok()
            .filter(|allocator| allocator.memory_info().is_cpu_accessible())
    };
    match place {
        Place::Cpu => Allocator::default(),
        // Some versions register pinned memory under device 0 for every device.
        Place::Cuda(index) => i32::try_from(index)
            .ok()
            .and_then(pinned)
            .or_else(|| pinned(0))
            .unwrap_or_default(),
    }
}
