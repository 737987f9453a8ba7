//! What the machine is and how much memory this process has taken of it.

use std::path::Path;

use crate::trainer::free_memory::nvidia_smi;

/// Dense bfloat16 peaks of the makers' data sheets, by a part of the name; the first that matches.
const PEAKS_BF16: [(&str, f64); 6] = [
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989.4e12),
    ("H200 NVL", 835e12),
    ("H200", 989.4e12),
    ("A100", 312e12),
];

/// Operations per second that the device of this name can do at most with dense bfloat16; `None` where nobody has
/// written it down here.
pub fn peak_bf16_flops(name: &str) -> Option<f64> {
    PEAKS_BF16.iter().find(|(part, _)| name.contains(part)).map(|(_, flops)| *flops)
}

/// Bytes in memory of this process: now (`VmRSS`) or at most (`VmHWM`); `None` where the system does not say.
pub fn resident_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Begins the peak of [`resident_bytes`] anew at what is held now; without effect where the system does not allow it.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Processor time of all threads of this process since it began, user and system, without that of other processes that it
/// has started; `None` where the system does not say.
pub fn processor_s() -> Option<f64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to memory of the type that the call fills.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0;
    if failed {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled all of it.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    Some(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// Model of the processor.
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Name of the first GPU.
pub fn gpu() -> Option<String> {
    nvidia_smi("--query-gpu=name")?.lines().next().map(|line| line.trim().to_owned())
}

/// GPU memory that this process holds, CUDA's own included. libtorch's allocator gives nothing back to the device while it
/// works, so after a step this is the peak up to now. Where the process is not listed under its own id, as in a container,
/// what is in use on the first GPU.
pub fn gpu_bytes() -> Option<u64> {
    let mebibytes = |text: &str| text.trim().parse::<u64>().ok().map(|mib| mib << 20);
    let own = std::process::id().to_string();
    let listed = nvidia_smi("--query-compute-apps=pid,used_memory")?;
    let mine = listed.lines().filter_map(|line| line.split_once(',')).find(|(pid, _)| pid.trim() == own);
    if let Some(bytes) = mine.and_then(|(_, used)| mebibytes(used)) {
        return Some(bytes);
    }
    nvidia_smi("--query-gpu=memory.used")?.lines().next().and_then(mebibytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_go_by_name() {
        assert_eq!(peak_bf16_flops("NVIDIA H100 80GB HBM3"), Some(989.4e12));
        assert_eq!(peak_bf16_flops("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(peak_bf16_flops("NVIDIA A100-SXM4-80GB"), Some(312e12));
        assert_eq!(peak_bf16_flops("NVIDIA GeForce RTX 3090"), None);
    }

    #[test]
    fn work_takes_processor_time() {
        let (before, begin) = (processor_s().unwrap(), std::time::Instant::now());
        while begin.elapsed().as_millis() < 60 {}
        assert!(processor_s().unwrap() > before);
    }

    #[test]
    fn the_peak_is_at_least_what_is_held() {
        assert!(resident_bytes("VmHWM") >= resident_bytes("VmRSS"));
        assert!(resident_bytes("VmRSS").is_some());
        assert_eq!(resident_bytes("VmNothing"), None);
    }
}
