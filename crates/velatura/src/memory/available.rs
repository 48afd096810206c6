//! How much memory is free.

use std::path::{Path, PathBuf};

/// Bytes that this process can still allocate without swapping: what the system has, and what the limits of the control
/// groups that it runs in leave. `None` where the system does not say.
pub(crate) fn available() -> Option<u64> {
    let system = meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|own| control_groups(&own));
    Some(group.map_or(system, |group| group.min(system)))
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least that the process's group and the groups around it leave; `own` is `/proc/self/cgroup`.
fn control_groups(own: &str) -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let within = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let group: PathBuf = root.join(within);
    group.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left).min()
}

/// What one group's limit leaves. Pages of files that are not in use count against it, and go when room is wanted.
fn left(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    // "max" does not parse, which is as good as no limit.
    let most: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let files = read("memory.stat").and_then(|stat| inactive_files(&stat)).unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(files)))
}

fn inactive_files(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_available_line_is_found() {
        let text = "MemTotal:       24614440 kB\nMemFree:  1 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(meminfo(text), Some(23_000_000 * 1024));
        assert_eq!(meminfo("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn unused_pages_of_files_do_not_count_against_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("memory.max", "1000\n");
        put("memory.current", "900\n");
        assert_eq!(left(folder.path()), Some(100));
        put("memory.stat", "anon 300\ninactive_file 600\nactive_file 7\n");
        assert_eq!(left(folder.path()), Some(700));
        put("memory.max", "max\n");
        assert_eq!(left(folder.path()), None);
    }
}
