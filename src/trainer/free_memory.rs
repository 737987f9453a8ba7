//! How much memory a device has left, as far as somebody says.

use std::path::Path;
use std::process::Command;

use tch::Device;

/// Free bytes of `device`; `None` where nothing says.
pub fn free_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(_) => of_gpu(),
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

/// The first GPU that this process sees, as the driver's own tool says.
fn of_gpu() -> Option<u64> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.free", "--format=csv,noheader,nounits"]);
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let first = visible.as_deref().and_then(|list| list.split(',').next()).filter(|first| !first.is_empty());
    command.args(["-i", first.unwrap_or("0")]);
    let output = command.output().ok().filter(|output| output.status.success())?;
    let mib: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(mib << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_what_is_free() {
        let text = "MemTotal:       24689764 kB\nMemFree:          524288 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(2 << 30));
        assert_eq!(meminfo(text, "SwapFree:"), None);
        assert!(free_bytes(Device::Cpu).is_some_and(|bytes| bytes > 1 << 20));
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
