//! How many threads to use when nobody says.

use std::collections::HashSet;
use std::path::Path;

/// The machine's physical cores, at most the processors this program may run on. Two threads on one core share its
/// multipliers and gain nothing here; of two kinds of cores only the fast ones count, because all threads meet several
/// times per layer and the slowest decides. `-t` has the last word.
#[must_use]
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    count_cores(Path::new("/sys/devices")).map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// `n_threads`, 0 standing for the physical cores.
pub(crate) fn or_physical_cores(n_threads: usize) -> usize {
    if n_threads == 0 { physical_cores() } else { n_threads }
}

/// Counts distinct sets of sibling threads among the processors that Linux lists below `devices`, efficiency cores left out.
fn count_cores(devices: &Path) -> Option<usize> {
    let fast = fast_processors(devices);
    let mut cores = HashSet::new();
    for (number, dir) in processors(devices)? {
        if fast.as_ref().is_none_or(|fast| fast.contains(&number))
            && let Ok(siblings) = std::fs::read_to_string(dir.join("topology/thread_siblings_list"))
        {
            cores.insert(siblings.trim().to_owned());
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Numbers and folders of all processors.
fn processors(devices: &Path) -> Option<Vec<(usize, std::path::PathBuf)>> {
    let entries = std::fs::read_dir(devices.join("system/cpu")).ok()?.flatten();
    let numbered = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok()?;
        Some((number, entry.path()))
    };
    Some(entries.filter_map(numbered).collect())
}

/// The processors that are no efficiency cores, where there are two kinds: as Intel's two performance counters divide them,
/// else those with more than two thirds of the largest capacity (1024 for the fastest by definition; big.LITTLE's small
/// cores have 300 – 500).
fn fast_processors(devices: &Path) -> Option<HashSet<usize>> {
    if devices.join("cpu_atom").exists()
        && let Ok(list) = std::fs::read_to_string(devices.join("cpu_core/cpus"))
    {
        return Some(numbers(&list)).filter(|fast| !fast.is_empty());
    }
    let capacity = |dir: &Path| std::fs::read_to_string(dir.join("cpu_capacity")).ok()?.trim().parse::<u64>().ok();
    let all: Vec<(usize, u64)> =
        processors(devices)?.into_iter().filter_map(|(number, dir)| Some((number, capacity(&dir)?))).collect();
    let most = all.iter().map(|(_, capacity)| *capacity).max()?;
    Some(all.into_iter().filter(|(_, capacity)| 3 * capacity > 2 * most).map(|(number, _)| number).collect())
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> HashSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processors with their siblings, and a capacity where one is told.
    fn machine(cpus: &[(&str, Option<u32>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (i, (siblings, capacity)) in cpus.iter().enumerate() {
            let cpu = dir.path().join(format!("system/cpu/cpu{i}"));
            std::fs::create_dir_all(cpu.join("topology")).unwrap();
            std::fs::write(cpu.join("topology/thread_siblings_list"), format!("{siblings}\n")).unwrap();
            if let Some(capacity) = capacity {
                std::fs::write(cpu.join("cpu_capacity"), format!("{capacity}\n")).unwrap();
            }
        }
        std::fs::create_dir_all(dir.path().join("system/cpu/cpufreq/topology")).unwrap();
        dir
    }

    #[test]
    fn siblings_count_once() {
        let dir = machine(&[("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)]);
        assert_eq!(count_cores(dir.path()), Some(2));
        assert_eq!(count_cores(&dir.path().join("nowhere")), None);
        assert!(physical_cores() >= 1);
    }

    #[test]
    fn efficiency_cores_do_not_count() {
        // Two fast cores of two threads and four slow ones.
        let cpus = [("0-1", None), ("0-1", None), ("2-3", None), ("2-3", None)];
        let slow = [("4", None), ("5", None), ("6", None), ("7", None)];
        let dir = machine(&[&cpus[..], &slow[..]].concat());
        assert_eq!(count_cores(dir.path()), Some(6), "nothing says that they differ");
        for (name, list) in [("cpu_core", "0-3\n"), ("cpu_atom", "4-7\n")] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("cpus"), list).unwrap();
        }
        assert_eq!(count_cores(dir.path()), Some(2));
        // One large, three middle, four small: the large and the middle ones.
        let sizes = [1024, 760, 760, 760, 420, 420, 420, 420];
        let names: Vec<String> = (0..8).map(|i| i.to_string()).collect();
        let cpus: Vec<_> = names.iter().map(String::as_str).zip(sizes.map(Some)).collect();
        assert_eq!(count_cores(machine(&cpus).path()), Some(4));
        let same: Vec<_> = names.iter().map(|name| (name.as_str(), Some(1024))).collect();
        assert_eq!(count_cores(machine(&same).path()), Some(8));
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(numbers("0-2,5,7-7\n"), HashSet::from([0, 1, 2, 5, 7]));
        assert_eq!(numbers("\n"), HashSet::new());
        assert_eq!(numbers("x-2,3-"), HashSet::new());
    }
}
