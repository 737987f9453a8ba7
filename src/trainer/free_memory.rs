//! How much memory a device has for training, as far as somebody says.

use std::path::Path;
use std::process::{Command, Stdio};

use tch::Device;

/// What a sleeping server keeps of a GPU: its CUDA context, and what does not lie in the pools that it empties. A guess,
/// above what vLLM reports.
pub const SLEEPING_BYTES: u64 = 3 << 30;

/// Who else is going to take memory of the GPU that trains. A server that is being started shows in no figure yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Neighbor {
    /// Nobody that is known of.
    #[default]
    None,
    /// A server beside it, with this share of the whole.
    Beside {
        /// `inference.gpu_memory_frac`.
        frac: f64,
    },
    /// A server that sleeps while there is training, and is started later.
    InTurns,
}

/// Memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// What nobody has taken.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

impl GpuMemory {
    /// The first GPU that this process sees, as the driver's own tool says; `None` where there is none.
    pub fn read() -> Option<GpuMemory> {
        GpuMemory::parse(&nvidia_smi("--query-gpu=memory.free,memory.total")?)
    }

    fn parse(text: &str) -> Option<GpuMemory> {
        let (free, total) = text.trim().split_once(',')?;
        let bytes = |mib: &str| Some(mib.trim().parse::<u64>().ok()? << 20);
        Some(GpuMemory { free_bytes: bytes(free)?, total_bytes: bytes(total)? })
    }

    /// What training may take beside `neighbor`.
    pub fn for_training(self, neighbor: Neighbor) -> u64 {
        match neighbor {
            Neighbor::None => self.free_bytes,
            // Whether the server has taken its share by now or not.
            Neighbor::Beside { frac } => self.free_bytes.min((self.total_bytes as f64 * (1.0 - frac)) as u64),
            Neighbor::InTurns => self.free_bytes.saturating_sub(SLEEPING_BYTES),
        }
    }
}

/// What the driver's own tool answers to `query` about the first GPU that this process sees, without headings and units;
/// `None` where there is none.
pub fn nvidia_smi(query: &str) -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let first = visible.as_deref().and_then(|list| list.split(',').next()).filter(|first| !first.is_empty());
    command.args(["-i", first.unwrap_or("0"), query, "--format=csv,noheader,nounits"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok();
    String::from_utf8(output.filter(|output| output.status.success())?.stdout).ok()
}

/// Bytes of `device` that training may take; `None` where nothing says.
pub fn for_training(device: Device, neighbor: Neighbor) -> Option<u64> {
    match device {
        Device::Cuda(_) => Some(GpuMemory::read()?.for_training(neighbor)),
        _ => of_host(),
    }
}

/// The smaller of what the machine has and what the process' control group leaves.
fn of_host() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| meminfo(&text, "MemAvailable:"));
    let group = read(Path::new("/proc/self/cgroup")).and_then(|text| {
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        let root = Path::new("/sys/fs/cgroup");
        // A limit of an outer group holds for the inner ones; the root has none of its own, except inside a container.
        let all = Path::new(&own).ancestors().map(|inner| root.join(inner));
        all.filter_map(|dir| left(&|name| read(&dir.join(name)))).min()
    });
    machine.into_iter().chain(group).min()
}

/// Bytes of an entry of /proc/meminfo.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// What a control group leaves; `read` gives the text of one of its files. `None`: it has no limit.
fn left(read: &impl Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    // File pages that nobody has used lately are given up for a process that asks.
    let idle = read("memory.stat").and_then(|text| {
        let value = text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse::<u64>();
        value.ok()
    });
    Some(limit.saturating_sub(used.saturating_sub(idle.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_what_is_free() {
        let text = "MemTotal:       24689764 kB\nMemFree:          524288 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(2 << 30));
        assert_eq!(meminfo(text, "SwapFree:"), None);
        assert!(for_training(Device::Cpu, Neighbor::None).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn a_server_that_has_not_begun_is_left_its_share() {
        let memory = GpuMemory::parse("70000, 80000\n").unwrap();
        let mib = |neighbor| memory.for_training(neighbor) >> 20;
        assert_eq!(mib(Neighbor::None), 70000);
        assert_eq!(mib(Neighbor::Beside { frac: 0.45 }), 44000, "it shows in no figure yet");
        assert_eq!(mib(Neighbor::Beside { frac: 0.1 }), 70000, "somebody else has taken more");
        assert_eq!(mib(Neighbor::InTurns), 70000 - 3 * 1024);
        for text in ["", "70000", "a, b", "[N/A], [N/A]"] {
            assert_eq!(GpuMemory::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_control_group_leaves_its_limit_less_what_cannot_be_given_up() {
        let files = |max: &'static str| {
            move |name: &str| match name {
                "memory.max" => Some(format!("{max}\n")),
                "memory.current" => Some("3000\n".to_owned()),
                "memory.stat" => Some("anon 2000\ninactive_file 800\nactive_file 200\n".to_owned()),
                _ => None,
            }
        };
        assert_eq!(left(&files("5000")), Some(2800));
        assert_eq!(left(&files("2000")), Some(0));
        assert_eq!(left(&files("max")), None);
        assert_eq!(left(&|_| None), None);
    }
}
