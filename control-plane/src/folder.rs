//! The state folder: files that appear whole or not at all, private by default, and one control plane at a time.
//! It never writes a file in place and never widens a file's mode.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;

/// Nothing that we keep here comes near this; a larger file is not ours.
pub const FILE_MAX: u64 = 1 << 20;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// 0600: keys, tokens.
    Private,
    /// 0644: trust anchors, addresses.
    Public,
}

#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// Held while a control plane runs; the kernel drops it with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Folder {
    /// Opens the folder, 0700 where it has to be made.
    pub fn open(path: &Path) -> Result<Folder, Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file("create", path))?;
        Ok(Folder(path.to_owned()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.path("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(Error::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::FolderInUse { path: self.0.clone() }),
            Err(TryLockError::Error(source)) => Err(Error::File { doing: "lock", path, source }),
        }
    }

    /// The file's content, `None` where there is no such file.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        read(&self.path(name))
    }

    /// Makes the file unless another process was first; then that one's stays.
    pub fn create(&self, name: &str, access: Access, bytes: &[u8]) -> Result<(), Error> {
        let (aside, path) = (self.path(&format!(".{name}.{}.first", std::process::id())), self.path(name));
        write(&aside, access, bytes)?;
        let linked = std::fs::hard_link(&aside, &path);
        let _ = std::fs::remove_file(&aside);
        match linked {
            Err(there) if there.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(Error::file("create", &path)),
        }
    }

    pub fn write(&self, name: &str, access: Access, bytes: &[u8]) -> Result<(), Error> {
        write(&self.path(name), access, bytes)
    }

    /// Removes the file; it is no error that it was not there.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::file("remove", &path)),
        }
    }
}

pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(Error::file("open", path)(other)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::content(path, format!("larger than {FILE_MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// Replaces the file as a whole: a reader, or a restart after a crash, sees the old bytes or the new ones.
pub fn write(path: &Path, access: Access, bytes: &[u8]) -> Result<(), Error> {
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let aside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(&aside)
        .map_err(Error::file("create", &aside))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&aside, path)).map_err(|source| {
        let _ = std::fs::remove_file(&aside);
        Error::file("write", path)(source)
    })?;
    // The rename itself must survive a power cut; some filesystems refuse to sync a directory, and then it cannot be had.
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
        && let Ok(parent) = File::open(parent)
    {
        let _ = parent.sync_all();
    }
    Ok(())
}
