//! What differs between operating systems.

#[cfg(unix)]
pub(crate) use unix::*;

#[cfg(not(unix))]
pub(crate) use other::*;

/// What is neither a regular file, a folder nor a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(unix), expect(dead_code, reason = "such files have no names there"))]
pub(crate) enum Special {
    Fifo,
    Socket,
    Device,
    Disk,
}

#[cfg(unix)]
mod unix {
    use std::fs::{File, Metadata, OpenOptions, Permissions};
    use std::io::{Error, ErrorKind, Result};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{Access, Mode, OFlags};

    use super::Special;

    /// Device and inode.
    pub(crate) type Id = (u64, u64);

    /// Bytes that a pipe with room takes without waiting.
    pub(crate) const PIPE_BUF: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

    pub(crate) fn id(_: &Path, meta: &Metadata) -> Id {
        (meta.dev(), meta.ino())
    }

    pub(crate) fn is_disk(meta: &Metadata) -> bool {
        meta.file_type().is_block_device()
    }

    /// The regular file that standard input is, if it is one.
    pub(crate) fn standard_input() -> Option<Id> {
        let stat = rustix::fs::fstat(std::io::stdin()).ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        #[cfg_attr(target_os = "linux", expect(clippy::useless_conversion, reason = "narrower elsewhere"))]
        is_file.then_some((stat.st_dev as u64, stat.st_ino.into()))
    }

    pub(crate) fn special(meta: &Metadata) -> Option<Special> {
        let ty = meta.file_type();
        if ty.is_fifo() {
            Some(Special::Fifo)
        } else if ty.is_socket() {
            Some(Special::Socket)
        } else if ty.is_block_device() {
            Some(Special::Disk)
        } else {
            (!ty.is_file()).then_some(Special::Device)
        }
    }

    /// Whether `full`, whose folder has no links, names an open descriptor: `/dev/fd/3`, `/proc/self/fd/1`.
    pub(crate) fn is_descriptor(full: &Path) -> bool {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !full.file_name().and_then(|n| n.to_str()).is_some_and(digits) {
            return false;
        }
        let folder = full.parent().unwrap_or(Path::new("/"));
        folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
    }

    /// Opens a descriptor of this process for appending. Standard output and error are shared with their other users;
    /// the others are opened again, which leaves their own position alone.
    pub(crate) fn open_descriptor(full: &Path) -> Result<File> {
        let own = full.starts_with("/dev") || full.starts_with(format!("/proc/{}", std::process::id()));
        let shared: Option<Result<OwnedFd>> = match full.file_name().and_then(|n| n.to_str()).filter(|_| own) {
            Some("1") => Some(std::io::stdout().as_fd().try_clone_to_owned()),
            Some("2") => Some(std::io::stderr().as_fd().try_clone_to_owned()),
            _ => None,
        };
        match shared {
            Some(fd) => Ok(File::from(fd?)),
            None => {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
                Ok(File::from(rustix::fs::open(full, flags, Mode::empty())?))
            }
        }
    }

    /// Opens a named pipe; `None` while nobody reads from it.
    pub(crate) fn open_fifo(path: &Path) -> Result<Option<File>> {
        match open_waiting_for_nothing(path) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => Ok(None),
            opened => opened.map(Some),
        }
    }

    pub(crate) fn open_device(path: &Path) -> Result<File> {
        open_waiting_for_nothing(path)
    }

    fn open_waiting_for_nothing(path: &Path) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK)?;
        Ok(File::from(fd))
    }

    pub(crate) fn open_socket(path: &Path) -> Result<File> {
        Ok(File::from(OwnedFd::from(UnixStream::connect(path)?)))
    }

    /// Waits until `file` takes bytes or has failed, but not longer than `time`; whether it does.
    pub(crate) fn wait_for_room(file: &File, time: Duration) -> Result<bool> {
        let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&time)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Bytes that a file of this process may have.
    pub(crate) fn size_limit() -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Fsize).current
    }

    /// What a write beyond [`size_limit`] gives where it does not end the process.
    pub(crate) fn too_large() -> Error {
        rustix::io::Errno::FBIG.into()
    }

    /// Whether a file with `meta` at `path` may be replaced by this user.
    pub(crate) fn may_replace(path: &Path, meta: &Metadata) -> bool {
        if rustix::fs::access(path, Access::WRITE_OK).is_err() {
            return false;
        }
        // In a folder with the sticky bit, names belong to the owner of the file.
        let me = rustix::process::geteuid();
        let folder = path.parent().and_then(|folder| folder.metadata().ok());
        folder.is_none_or(|folder| {
            folder.mode() & 0o1000 == 0 || me.is_root() || [meta.uid(), folder.uid()].contains(&me.as_raw())
        })
    }

    pub(crate) fn is_mine(meta: &Metadata) -> bool {
        meta.uid() == rustix::process::geteuid().as_raw()
    }

    /// Permissions of a new file, before the process's mask.
    pub(crate) fn permissions(private: bool) -> Permissions {
        Permissions::from_mode(if private { 0o600 } else { 0o666 })
    }

    /// Gives `file` the owner and the permissions of `old`, as far as this user can. A group that cannot be kept must
    /// not open the file to another one.
    pub(crate) fn take_over(file: &File, old: &Metadata) -> Result<()> {
        let mut mode = old.mode() & 0o777;
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid())
            && fchown(file, Some(old.uid()), Some(old.gid())).is_err()
            && new.gid() != old.gid()
            && fchown(file, None, Some(old.gid())).is_err()
        {
            mode &= !0o070;
        }
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Opens what may be a stale temporary file or folder, to try its lock.
    pub(crate) fn open_to_lock(path: &Path, is_folder: bool) -> Result<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let flags = i32::try_from(flags).map_err(|_| Error::from(ErrorKind::Unsupported))?;
        OpenOptions::new().read(true).write(!is_folder).custom_flags(flags).open(path)
    }

    /// Swaps the names of two files, where the file system can.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(crate) fn exchange(a: &Path, b: &Path) -> Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(crate) fn exchange(_: &Path, _: &Path) -> Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Bytes free for this user in `folder`.
    pub(crate) fn free_space(folder: &Path) -> Result<Option<u64>> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    /// Brings a change of names in `folder` to disk. Not every file system can; the data is safe.
    pub(crate) fn sync_folder(folder: &Path) {
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
    }
}

#[cfg(not(unix))]
mod other {
    use std::fs::{File, Metadata, Permissions};
    use std::io::{Error, ErrorKind, Result};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::Special;

    /// The path without links.
    pub(crate) type Id = PathBuf;

    pub(crate) const PIPE_BUF: usize = 4096;

    pub(crate) fn id(path: &Path, _: &Metadata) -> Id {
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    }

    pub(crate) fn is_disk(_: &Metadata) -> bool {
        false
    }

    pub(crate) fn standard_input() -> Option<Id> {
        None
    }

    pub(crate) fn special(_: &Metadata) -> Option<Special> {
        None
    }

    pub(crate) fn is_descriptor(_: &Path) -> bool {
        false
    }

    pub(crate) fn open_descriptor(_: &Path) -> Result<File> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn open_fifo(_: &Path) -> Result<Option<File>> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn open_device(_: &Path) -> Result<File> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn open_socket(_: &Path) -> Result<File> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn wait_for_room(_: &File, _: Duration) -> Result<bool> {
        Ok(true)
    }

    pub(crate) fn size_limit() -> Option<u64> {
        None
    }

    pub(crate) fn too_large() -> Error {
        ErrorKind::FileTooLarge.into()
    }

    pub(crate) fn may_replace(_: &Path, meta: &Metadata) -> bool {
        !meta.permissions().readonly()
    }

    pub(crate) fn is_mine(_: &Metadata) -> bool {
        true
    }

    pub(crate) fn take_over(_: &File, _: &Metadata) -> Result<()> {
        Ok(())
    }

    pub(crate) fn open_to_lock(path: &Path, is_folder: bool) -> Result<File> {
        if is_folder {
            return Err(ErrorKind::Unsupported.into());
        }
        std::fs::OpenOptions::new().read(true).write(true).open(path)
    }

    pub(crate) fn exchange(_: &Path, _: &Path) -> Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn free_space(_: &Path) -> Result<Option<u64>> {
        Ok(None)
    }

    pub(crate) fn sync_folder(_: &Path) {}
}
