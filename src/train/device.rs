//! The device that networks are trained on.

use candle_core::utils::cuda_is_available;

use crate::error::{Error, Result};

/// Where networks learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device of this index, where the feature `cuda` was built in.
    Cuda(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Device {
    /// Whether this build can learn on a GPU at all.
    pub fn built_for_cuda() -> bool {
        cuda_is_available()
    }

    /// The device as candle has it.
    pub(super) fn open(self) -> Result<candle_core::Device> {
        match self {
            Device::Cpu => Ok(candle_core::Device::Cpu),
            Device::Cuda(_) if !Self::built_for_cuda() => {
                let message = format!(
                    "cannot learn on {self}: this trajmill was built without the feature `cuda`, and learns on the CPU"
                );
                let help = "build it with `--features cuda`, or run with `--device auto`, which labels on a GPU that it finds";
                Err(Error::failed(message).hint(help))
            }
            Device::Cuda(index) => candle_core::Device::new_cuda(index).map_err(|error| {
                Error::failed(format!("cannot learn on {self}: {error}"))
                    .hint("`trajmill doctor` shows which devices there are")
            }),
        }
    }

    /// Looks whether networks can learn there.
    ///
    /// # Errors
    /// Where there is no such device, or this build has no use for it.
    pub fn works(self) -> Result<()> {
        self.open().map(|_| ())
    }
}
