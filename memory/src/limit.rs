//! How much memory this process may still take, and what says so.
//!
//! The machine is one limit, and often not the narrowest: a container, a systemd unit or `ulimit` may allow less, and
//! passing theirs ends the process without a word. Three kinds are asked, and the least counts:
//!
//! ```text
//! machine         /proc/meminfo             MemAvailable
//! control groups  cgroup v2                 memory.max − (memory.current − inactive_file), for the group and all above it
//!                 cgroup v1                 memory.limit_in_bytes − (memory.usage_in_bytes − total_inactive_file), likewise
//! this process    /proc/self/limits         address space − VmSize, data size − VmData, less what small allocations take
//! ```
//!
//! Pages of files that nobody used lately (`inactive_file`) count as free: the system drops them before it refuses. Where a
//! container sees only its own group, `/proc/self/cgroup` says `/` and the group's files lie where the hierarchy is mounted.
//! All paths are below a root, so that tests can bring a tree of their own.

use std::path::{Component, Path, PathBuf};

/// What sets a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The memory of the machine.
    Machine,
    /// A control group (of a container, a service, a job); its file with the limit.
    ControlGroup(PathBuf),
    /// The limit of the process's address space (`ulimit -v`).
    AddressSpace,
    /// The limit of the process's data (`ulimit -d`).
    Data,
}

/// What may still be taken, and why not more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Bytes.
    pub bytes: u64,
    /// The narrowest limit.
    pub source: Source,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} ", super::human(self.bytes))?;
        let process = |f: &mut std::fmt::Formatter<'_>, limit: &str| {
            let kept = super::human(super::SMALL_BYTES);
            write!(f, "left below the limit of {limit}, beside {kept} kept back for small allocations")
        };
        match &self.source {
            Source::Machine => write!(f, "of memory available"),
            Source::ControlGroup(file) => {
                write!(f, "left below the memory limit of this container or service ({})", file.display())
            }
            Source::AddressSpace => process(f, "address space (`ulimit -v`)"),
            Source::Data => process(f, "data (`ulimit -d`)"),
        }
    }
}

/// The narrowest limit that the files below `root` (`/` but in tests) tell of.
pub(super) fn left(root: &Path) -> Option<Left> {
    let machine = read(root, "proc/meminfo").and_then(|text| field_kb(&text, "MemAvailable:"));
    let machine = machine.map(|bytes| Left { bytes, source: Source::Machine });
    machine.into_iter().chain(control_groups(root)).chain(process(root)).min_by_key(|left| left.bytes)
}

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// The value in bytes of a line such as `MemAvailable:   2048 kB`.
fn field_kb(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Version and names of the files of a hierarchy.
struct Hierarchy {
    fs_type: &'static str,
    limit: &'static str,
    used: &'static str,
    reclaimable: &'static str,
    /// Where it usually is, should the list of mounts not be readable.
    usual: &'static str,
}

const V2: Hierarchy = Hierarchy {
    fs_type: "cgroup2",
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file",
    usual: "/sys/fs/cgroup",
};

const V1: Hierarchy = Hierarchy {
    fs_type: "cgroup",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
    usual: "/sys/fs/cgroup/memory",
};

/// A mounted hierarchy: the group that stands at its top, and where.
struct Mount {
    top: String,
    at: PathBuf,
}

fn control_groups(root: &Path) -> Vec<Left> {
    let Some(groups) = read(root, "proc/self/cgroup") else { return Vec::new() };
    let mounts = read(root, "proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in groups.lines() {
        // `0::/a/b` for version 2, `4:memory:/a/b` for version 1.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let hierarchy = match controllers {
            "" => V2,
            list if list.split(',').any(|name| name == "memory") => V1,
            _ => continue,
        };
        for mount in mounts_of(&hierarchy, &mounts) {
            found.extend(limits_of(root, &hierarchy, &mount, group));
        }
    }
    found
}

/// Where `hierarchy` is mounted. A line of mountinfo: `36 35 0:28 TOP AT rw,… shared:9 - TYPE SOURCE OPTIONS`.
fn mounts_of(hierarchy: &Hierarchy, mounts: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' '), right.split(' '));
        let (top, at) = (left.nth(3)?, left.next()?);
        let (fs_type, options) = (right.next()?, right.nth(1)?);
        let of_memory = fs_type != V1.fs_type || options.split(',').any(|option| option == "memory");
        (fs_type == hierarchy.fs_type && of_memory).then(|| Mount { top: unescape(top), at: unescape(at).into() })
    };
    let found: Vec<_> = mounts.lines().filter_map(mount).collect();
    if found.is_empty() { vec![Mount { top: "/".to_owned(), at: hierarchy.usual.into() }] } else { found }
}

/// Blanks and backslashes are written `\040` and so on.
fn unescape(text: &str) -> String {
    text.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", r"\")
}

/// The limits of `group` and of all groups above it that can be seen.
fn limits_of(root: &Path, hierarchy: &Hierarchy, mount: &Mount, group: &str) -> Vec<Left> {
    // Where only a part of the hierarchy is mounted, the group is named from the whole one's top or from this one's.
    let top = mount.top.trim_end_matches('/');
    let below = match group.strip_prefix(top) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => group,
    };
    // A group outside the namespace is called `/../…`; what can be seen of it is the top.
    let names: Vec<_> = Path::new(below).components().filter(|c| *c != Component::RootDir).collect();
    let names = if names.iter().all(|c| matches!(c, Component::Normal(_))) { names } else { Vec::new() };
    let at = |names: &[Component<'_>]| mount.at.join(names.iter().collect::<PathBuf>());
    let limit = |n: usize| {
        let group = at(&names[..n]);
        let file = |name: &str| {
            let path = group.join(name);
            std::fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(&path))).ok()
        };
        let limit = parse_limit(&file(hierarchy.limit)?)?;
        let used: u64 = file(hierarchy.used)?.trim().parse().ok()?;
        let free = file("memory.stat").and_then(|stat| stat_field(&stat, hierarchy.reclaimable)).unwrap_or(0);
        let bytes = limit.saturating_sub(used.saturating_sub(free));
        Some(Left { bytes, source: Source::ControlGroup(group.join(hierarchy.limit)) })
    };
    (0..=names.len()).filter_map(limit).collect()
}

/// A limit in bytes; `None` for `max`, and for what version 1 says instead of it: a number that no machine has.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60)
}

/// A line of memory.stat such as `inactive_file 4096`.
fn stat_field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The narrowest limit of the process itself, less [`super::SMALL_BYTES`].
pub(super) fn left_to_process(root: &Path) -> Option<Left> {
    process(root).into_iter().min_by_key(|left| left.bytes)
}

/// What the limits of the process itself leave.
fn process(root: &Path) -> Vec<Left> {
    let (Some(limits), Some(status)) = (read(root, "proc/self/limits"), read(root, "proc/self/status")) else {
        return Vec::new();
    };
    let left = |name: &str, used: &str, source: Source| {
        let soft = limits.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?;
        let bytes = parse_limit(soft)?.saturating_sub(field_kb(&status, used)?).saturating_sub(super::SMALL_BYTES);
        Some(Left { bytes, source })
    };
    let space = left("Max address space ", "VmSize:", Source::AddressSpace);
    let data = left("Max data size ", "VmData:", Source::Data);
    space.into_iter().chain(data).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::SMALL_BYTES;

    const MIB: u64 = 1 << 20;

    /// A machine with 8 GiB available and these files.
    fn machine(files: &[(&str, &str)]) -> Left {
        let root = tempfile::tempdir().unwrap();
        let meminfo = [("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")];
        for (path, content) in meminfo.iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        left(root.path()).unwrap()
    }

    #[track_caller]
    fn limited(files: &[(&str, &str)], mib: u64, file: &str) {
        let left = machine(files);
        assert_eq!((left.bytes / MIB, left.source), (mib, Source::ControlGroup(file.into())));
    }

    #[track_caller]
    fn unlimited(files: &[(&str, &str)]) {
        assert_eq!(machine(files), Left { bytes: 8192 * MIB, source: Source::Machine });
    }

    const V2_MOUNT: (&str, &str) =
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");

    #[test]
    fn version_2() {
        let group = ("proc/self/cgroup", "0::/user.slice/job\n");
        let (max, current) = ("sys/fs/cgroup/user.slice/job/memory.max", "sys/fs/cgroup/user.slice/job/memory.current");
        let file = "/sys/fs/cgroup/user.slice/job/memory.max";
        limited(&[group, V2_MOUNT, (max, "1073741824\n"), (current, "104857600\n")], 924, file);
        // Without the list of mounts it is looked for where it usually is.
        limited(&[group, (max, "1073741824\n"), (current, "104857600\n")], 924, file);
        // Pages of files that nobody used lately can be had back.
        let stat =
            ("sys/fs/cgroup/user.slice/job/memory.stat", "anon 1\nfile 9\ninactive_file 52428800\nactive_file 7\n");
        limited(&[group, V2_MOUNT, (max, "1073741824\n"), (current, "104857600\n"), stat], 974, file);
        // More in use than allowed, as after a limit was lowered.
        limited(&[group, V2_MOUNT, (max, "1048576\n"), (current, "104857600\n")], 0, file);
        unlimited(&[group, V2_MOUNT, (max, "max\n"), (current, "104857600\n")]);
        unlimited(&[group, V2_MOUNT, (max, "1073741824\n")]);
        unlimited(&[group, V2_MOUNT, (max, "what\n"), (current, "1\n")]);
    }

    #[test]
    fn groups_above_count_and_the_narrowest_is_named() {
        let files = [
            ("proc/self/cgroup", "0::/a/b/c\n"),
            V2_MOUNT,
            ("sys/fs/cgroup/a/b/c/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/c/memory.current", "0\n"),
            ("sys/fs/cgroup/a/b/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/a/b/memory.current", "0\n"),
            ("sys/fs/cgroup/a/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/a/memory.current", "1073741824\n"),
        ];
        limited(&files, 1024, "/sys/fs/cgroup/a/memory.max");
    }

    /// A container sees its own group as the top, of either kind of mount.
    #[test]
    fn containers() {
        let top = [
            ("proc/self/cgroup", "0::/\n"),
            V2_MOUNT,
            ("sys/fs/cgroup/memory.max", "536870912\n"),
            ("sys/fs/cgroup/memory.current", "0\n"),
        ];
        limited(&top, 512, "/sys/fs/cgroup/memory.max");
        // The group's name as the host sees it, and a mount of just that group.
        let host = ("proc/self/cgroup", "4:memory,hugetlb:/docker/abc\n3:cpuset:/docker/abc\n");
        let bound = "41 40 0:30 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n\
                     42 40 0:31 /docker/abc /sys/fs/cgroup/cpuset ro,nosuid - cgroup cgroup rw,cpuset\n";
        let v1 = [
            host,
            ("proc/self/mountinfo", bound),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 134217728\n"),
        ];
        limited(&v1, 384, "/sys/fs/cgroup/memory/memory.limit_in_bytes");
        // A namespace of its own, seen from outside.
        let outside = [("proc/self/cgroup", "0::/../../other\n"), top[1], top[2], top[3]];
        limited(&outside, 512, "/sys/fs/cgroup/memory.max");
    }

    #[test]
    fn version_1_and_both_versions_at_once() {
        let mounts = "41 40 0:30 / /cg/my\\040memory rw - cgroup cgroup rw,memory\n\
                      43 40 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let (limit, usage) = ("cg/my memory/x/memory.limit_in_bytes", "cg/my memory/x/memory.usage_in_bytes");
        let both = [
            ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/x\n0::/\n"),
            ("proc/self/mountinfo", mounts),
            (usage, "0\n"),
            (limit, "1048576\n"),
        ];
        limited(&both, 1, "/cg/my memory/x/memory.limit_in_bytes");
        // No limit, as version 1 says it.
        unlimited(&[both[0], both[1], both[2], (limit, "9223372036854771712\n")]);
    }

    #[test]
    fn limits_of_the_process() {
        let limits = |space: &str, data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max data size             {data:<20} unlimited            bytes     \n\
                 Max address space         {space:<20} unlimited            bytes     \n"
            )
        };
        let status = ("proc/self/status", "Name: x\nVmSize:\t  102400 kB\nVmData:\t  51200 kB\n");
        let space = machine(&[status, ("proc/self/limits", &limits("1073741824", "unlimited"))]);
        assert_eq!(space, Left { bytes: 924 * MIB - SMALL_BYTES, source: Source::AddressSpace });
        let data = machine(&[status, ("proc/self/limits", &limits("unlimited", "1073741824"))]);
        assert_eq!(data, Left { bytes: 974 * MIB - SMALL_BYTES, source: Source::Data });
        unlimited(&[status, ("proc/self/limits", &limits("unlimited", "unlimited"))]);
    }

    #[test]
    fn limits_of_the_process_alone() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| std::fs::write(root.path().join("proc").join(name), content).unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        write("meminfo", "MemAvailable:    1024 kB\n");
        write("self/status", "VmSize:\t  1024 kB\nVmData:\t  1024 kB\n");
        write("self/limits", "Max data size   unlimited   unlimited   bytes\n");
        assert_eq!(left_to_process(root.path()), None, "the machine's memory is no limit of the process");
        write(
            "self/limits",
            "Max data size   18874368   unlimited   bytes\nMax address space   17825792   unlimited   bytes\n",
        );
        assert_eq!(left_to_process(root.path()), Some(Left { bytes: 4 * MIB, source: Source::AddressSpace }));
    }

    #[test]
    fn without_any_file_nothing_is_known() {
        assert_eq!(left(tempfile::tempdir().unwrap().path()), None);
        assert_eq!(field_kb("MemAvailable: 99999999999999999999 kB", "MemAvailable:"), None);
        assert_eq!(field_kb("MemTotal: 10 kB\n", "MemAvailable:"), None);
    }
}
