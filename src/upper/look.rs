//! Looking: what a name stands for, what stat says, what a directory lists.
//!
//! What it is for: from what the system says to what programs see. May assume:
//! `find` and `stat` come under the directory's lock. Must not change anything on disk.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat as RawStat};

use super::reach::{self, Opened};
use super::xattrs::Of;
use super::{Directory, clean, device};
use crate::node::{Attr, Device, Kind, Time};
use crate::union::upper::{Entry, Key, Stat};

/// Bytes of what `st_blocks` counts (stat(2)).
const BLOCK: u64 = 512;

impl Directory {
    /// What a directory has under a name.
    pub(super) fn look_up(&self, dir: Key, name: &[u8]) -> io::Result<Option<Entry>> {
        let parent = self.dir(dir)?;
        let Some(raw) = self.stat_here(&parent, name)? else {
            return Ok(None);
        };
        if reach::is_whiteout(&raw) {
            return Ok(Some(Entry::Whiteout));
        }
        let kind = self.seen_kind(Of::Name(&parent, name), &raw)?;
        let key = Key(raw.st_ino);
        self.table.lock().found(key, kind, dir, name);
        Ok(Some(Entry::Object(key, kind)))
    }

    /// The kind that programs see.
    fn seen_kind(&self, of: Of<'_>, raw: &RawStat) -> io::Result<Kind> {
        if device::hints(raw) && device::sticky(of, self.prefix)?.is_some() {
            return Ok(Kind::Char);
        }
        reach::kind_of(raw)
    }

    /// What stat says of a known object.
    pub(super) fn seen_stat(&self, key: Key) -> io::Result<Stat> {
        let raw = self.raw_stat(key)?;
        if device::hints(&raw) {
            let (opened, raw) = self.object(key)?;
            return self.stat_of(&opened, &raw);
        }
        plain(&raw)
    }

    /// What programs see of an object that is open.
    pub(super) fn stat_of(&self, opened: &Opened, raw: &RawStat) -> io::Result<Stat> {
        let mut stat = plain(raw)?;
        if device::hints(raw)
            && let Some(sticky) = device::sticky(Of::Object(opened), self.prefix)?
        {
            stat.attr.kind = Kind::Char;
            if !sticky {
                stat.attr.mode &= !device::HINT;
            }
        }
        Ok(stat)
    }

    /// Everything that a directory has; `fd` is the same directory, for listing.
    pub(super) fn list_all(
        &self,
        dir: &Opened,
        fd: &OwnedFd,
        visit: &mut dyn FnMut(&[u8], Entry),
    ) -> io::Result<()> {
        let devices = device::may_be_in(dir, self.prefix)?;
        clean::list(fd, |name, file_type, number| {
            let entry = match file_type {
                FileType::CharacterDevice if self.is_shared_whiteout(number) => {
                    Some(Entry::Whiteout)
                }
                FileType::RegularFile if devices => self.entry(dir, name)?,
                FileType::CharacterDevice | FileType::Unknown => self.entry(dir, name)?,
                other => reach::kind(other).map(|kind| Entry::Object(Key(number), kind)),
            };
            if let Some(entry) = entry {
                visit(name, entry);
            }
            Ok(())
        })
    }

    /// An entry that only stat can tell; nothing: gone since.
    fn entry(&self, dir: &Opened, name: &[u8]) -> io::Result<Option<Entry>> {
        let Some(raw) = self.stat_here(dir, name)? else {
            return Ok(None);
        };
        if reach::is_whiteout(&raw) {
            return Ok(Some(Entry::Whiteout));
        }
        match self.seen_kind(Of::Name(dir, name), &raw) {
            Ok(kind) => Ok(Some(Entry::Object(Key(raw.st_ino), kind))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What stat says of an object that is no device of `device`'s kind.
pub(super) fn plain(raw: &RawStat) -> io::Result<Stat> {
    let kind = reach::kind_of(raw)?;
    let size = match kind {
        Kind::File | Kind::Symlink => raw.st_size.cast_unsigned(),
        _ => 0,
    };
    let rdev = match kind {
        Kind::Char | Kind::Block => Device {
            major: rustix::fs::major(raw.st_rdev),
            minor: rustix::fs::minor(raw.st_rdev),
        },
        _ => Device::default(),
    };
    let time = |seconds: i64, nanos: u64| Time {
        seconds,
        // Below 1 000 000 000 (timespec(3type)).
        nanos: nanos as u32,
    };
    let attr = Attr {
        kind,
        // Twelve bits are left.
        mode: (raw.st_mode & 0o7777) as u16,
        uid: raw.st_uid,
        gid: raw.st_gid,
        size,
        stored: size.min(raw.st_blocks.cast_unsigned().saturating_mul(BLOCK)),
        mtime: time(raw.st_mtime, raw.st_mtime_nsec),
        nlink: u32::try_from(raw.st_nlink).unwrap_or(u32::MAX),
        rdev,
    };
    Ok(Stat {
        attr,
        atime: time(raw.st_atime, raw.st_atime_nsec),
        ctime: time(raw.st_ctime, raw.st_ctime_nsec),
    })
}
