//! Where to compute: finds CUDA without needing it at link time.

use std::path::Path;

use tch::Device;

use super::error::TrainerError;
use crate::config::DeviceChoice;

/// The device of `choice`.
///
/// # Errors
/// [`TrainerError::NoCuda`] if CUDA is demanded and there is none.
pub fn pick(choice: DeviceChoice) -> Result<Device, TrainerError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda => cuda().ok_or(TrainerError::NoCuda),
        // Loading the CUDA half costs seconds and 200 MB, so it is not tried where there is no driver.
        DeviceChoice::Auto if !has_driver() => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(cuda().unwrap_or_else(|| {
            tracing::warn!("there is an NVIDIA driver, but libtorch sees no CUDA device: training on the processor");
            Device::Cpu
        })),
    }
}

fn has_driver() -> bool {
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

/// The binary depends on the CPU half of libtorch only (the linker drops what is not referred to), so the CUDA half is
/// loaded here. It must come before the first question about CUDA, whose answer libtorch remembers.
fn cuda() -> Option<Device> {
    // SAFETY: the name ends in NUL; the library's initialisers only register kernels with libtorch.
    let handle = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
    (!handle.is_null() && tch::Cuda::is_available()).then_some(Device::Cuda(0))
}
