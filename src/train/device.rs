//! The device that networks are trained on.

use candle_core::utils::cuda_is_available;

use crate::error::{Error, Result};

/// A device that networks are trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device with this index. Requires the Cargo feature `cuda`.
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
    /// Returns whether this build can train on a GPU.
    pub(crate) fn built_for_cuda() -> bool {
        cuda_is_available()
    }

    /// Opens the device with candle.
    pub(super) fn open(self) -> Result<candle_core::Device> {
        match self {
            Device::Cpu => Ok(candle_core::Device::Cpu),
            Device::Cuda(_) if !Self::built_for_cuda() => {
                let message = format!(
                    "cannot train on {self}: this trajmill was built without the Cargo feature \
                     `cuda` and trains on the CPU only"
                );
                let help = "build trajmill with `--features cuda`, or run with `--device auto`, \
                            which trains on the CPU and labels on a GPU if there is one";
                Err(Error::failed(message).hint(help))
            }
            Device::Cuda(index) => candle_core::Device::new_cuda(index).map_err(|error| {
                Error::failed(format!("cannot train on {self}: {error}"))
                    .hint("`trajmill doctor` lists the available devices")
            }),
        }
    }

    /// Verifies that networks can be trained on the device.
    ///
    /// # Errors
    /// Returns an error if the device does not exist, or if this build cannot use it.
    pub(crate) fn works(self) -> Result<()> {
        self.open().map(|_| ())
    }
}
