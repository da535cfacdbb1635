//! [`Upper`] for a directory: which lock each method takes, and whom it asks.
//!
//! What it is for: whoever changes names has the lock for writing; whoever reaches
//! an object has it for reading until there is a descriptor, which means the object
//! whatever happens to its names. Nothing that may take long happens under it.
//! Must not know more than that.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{OFlags, Timespec, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::make::{chmod, chown, set_times, timespec};
use super::reach::{self, Opened, check_name};
use super::xattrs::{self, Of, Prefix};
use super::{Directory, device, marks};
use crate::node::Kind;
use crate::union::Xattrs;
use crate::union::upper::{
    Change, Data, Entry, Key, Mark, Marks, New, SetTime, SetXattr, Space, Stat, Upper,
};

impl Directory {
    /// A known object, and what stat says.
    fn reached(&self, key: Key) -> io::Result<(Arc<Opened>, rustix::fs::Stat)> {
        let _looking = self.changes.read();
        self.object(key)
    }

    fn dir_of_name(&self, dir: Key, name: &[u8]) -> io::Result<Arc<Opened>> {
        check_name(name)?;
        self.dir(dir)
    }
}

impl Upper for Directory {
    fn root(&self) -> Key {
        self.root
    }

    fn find(&self, dir: Key, name: &[u8]) -> io::Result<Option<Entry>> {
        check_name(name)?;
        let _looking = self.changes.read();
        self.look_up(dir, name)
    }

    fn list(&self, dir: Key, visit: &mut dyn FnMut(&[u8], Entry)) -> io::Result<()> {
        // `visit` may call any method: no lock here.
        let opened = {
            let _looking = self.changes.read();
            self.dir(dir)?
        };
        self.list_all(&opened, &opened.readable()?, visit)
    }

    fn stat(&self, key: Key) -> io::Result<Stat> {
        let _looking = self.changes.read();
        self.seen_stat(key)
    }

    fn marks(&self, key: Key) -> io::Result<Marks> {
        marks::read(Of::Object(&self.reached(key)?.0), self.prefix)
    }

    fn marks_at(&self, dir: Key, name: &[u8]) -> io::Result<Marks> {
        let _looking = self.changes.read();
        let parent = self.dir_of_name(dir, name)?;
        marks::read(Of::Name(&parent, name), self.prefix)
    }

    fn target(&self, key: Key) -> io::Result<Vec<u8>> {
        let (opened, _) = self.reached(key)?;
        let target = rustix::fs::readlinkat(&*opened, "", Vec::new());
        match target {
            Ok(target) => Ok(target.into_bytes()),
            // An empty path means the descriptor's object, if that is a symlink.
            Err(Errno::NOENT) => Err(Errno::INVAL.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn xattrs(&self, key: Key) -> io::Result<Xattrs> {
        Of::Object(&self.reached(key)?.0).seen(self.prefix)
    }

    fn xattr(&self, key: Key, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let stored = self.prefix.stored(name);
        Of::Object(&self.reached(key)?.0).get(&stored)
    }

    fn leaves_xattrs(&self) -> bool {
        // Root of the machine, who begins with the other one, sets them all.
        self.prefix == Prefix::User
    }

    fn forget(&self, key: Key) {
        let forgotten = self.table.lock().forget(key, self.work_key);
        for name in forgotten.staged {
            self.discard(&String::from_utf8_lossy(&name));
        }
        // To close one that was cut to nothing and written may take long (ext4 writes it out then), and
        // nobody is to wait for the table meanwhile.
        drop(forgotten.open);
    }

    fn space(&self) -> io::Result<Space> {
        let all = rustix::fs::fstatvfs(&*self.work)?;
        Ok(Space {
            block: u32::try_from(all.f_frsize).map_err(|_| Errno::OVERFLOW)?,
            blocks: [all.f_blocks, all.f_bfree, all.f_bavail],
            inodes: [all.f_files, all.f_ffree],
        })
    }

    fn make(&self, dir: Key, name: &[u8], new: &New<'_>) -> io::Result<(Key, Stat)> {
        check_name(name)?;
        let _changing = self.changes.write();
        self.make_at(dir, name, new)
    }

    fn stage(&self, new: &New<'_>) -> io::Result<Key> {
        // A name in the work directory is nobody else's: no lock.
        self.make_staged(new)
    }

    fn publish(&self, key: Key, names: &[(Key, &[u8])]) -> io::Result<()> {
        self.publish_staged(key, names)
    }

    fn link(&self, key: Key, dir: Key, name: &[u8], quiet: bool) -> io::Result<()> {
        check_name(name)?;
        let _changing = self.changes.write();
        self.link_at(key, dir, name, quiet)
    }

    fn remove(&self, dir: Key, name: &[u8], cover: bool) -> io::Result<()> {
        check_name(name)?;
        let _changing = self.changes.write();
        self.remove_at(dir, name, cover)
    }

    fn tidy(&self) {
        // Nobody else knows these names.
        let names = std::mem::take(&mut *self.put_off.lock());
        for name in names {
            self.discard(&name);
        }
    }

    fn rest(&self) {
        // Closed when nobody waits for the table.
        let _kept = self.table.lock().keep_none();
    }

    fn cover(&self, dir: Key, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        let _changing = self.changes.write();
        self.cover_at(dir, name)
    }

    fn rename(&self, from: (Key, &[u8]), to: (Key, &[u8]), cover: bool) -> io::Result<()> {
        check_name(from.1)?;
        check_name(to.1)?;
        let _changing = self.changes.write();
        self.rename_at(from, to, cover)
    }

    fn exchange(&self, one: (Key, &[u8]), other: (Key, &[u8])) -> io::Result<()> {
        check_name(one.1)?;
        check_name(other.1)?;
        let _changing = self.changes.write();
        self.exchange_at(one, other)
    }

    fn mark(&self, key: Key, mark: Mark<'_>) -> io::Result<()> {
        let (opened, raw) = self.reached(key)?;
        marks::set(&opened, reach::kind_of(&raw)?, mark, self.prefix)
    }

    fn set_attr(&self, key: Key, change: &Change) -> io::Result<()> {
        let (opened, raw) = self.reached(key)?;
        if change.uid.is_some() || change.gid.is_some() {
            chown(&opened, change.uid, change.gid)?;
        }
        if let Some(mut mode) = change.mode {
            if device::hints(&raw) && device::sticky(Of::Object(&opened), self.prefix)?.is_some() {
                device::mark(&opened, mode, self.prefix)?;
                mode |= device::HINT;
            }
            chmod(&opened, mode)?;
        }
        if let Some(size) = change.size {
            self.set_size(key, &opened, size)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            set_times(&opened, moment(change.atime), moment(change.mtime))?;
        }
        if reach::kind_of(&raw)? == Kind::Dir {
            opened.learn(&opened.stat()?);
        }
        Ok(())
    }

    fn set_xattr(&self, key: Key, name: &[u8], value: &[u8], how: SetXattr) -> io::Result<()> {
        let flags = match how {
            SetXattr::Any => XattrFlags::empty(),
            SetXattr::Create => XattrFlags::CREATE,
            SetXattr::Replace => XattrFlags::REPLACE,
        };
        let stored = self.prefix.stored(name);
        xattrs::set(&self.reached(key)?.0, &stored, value, flags)
    }

    fn remove_xattr(&self, key: Key, name: &[u8]) -> io::Result<()> {
        let stored = self.prefix.stored(name);
        xattrs::remove(&self.reached(key)?.0, &stored)
    }

    fn open(&self, key: Key) -> io::Result<Arc<dyn Data>> {
        if let Some(whole) = self.table.lock().whole(key) {
            return Ok(whole);
        }
        let _looking = self.changes.read();
        let whole = Arc::new(Opened::whole(self.file(key, OFlags::RDWR)?));
        self.keep_file(key, &whole);
        Ok(whole)
    }

    fn sync_dir(&self, key: Key) -> io::Result<()> {
        let opened = {
            let _looking = self.changes.read();
            self.dir(key)?
        };
        Ok(rustix::fs::fsync(opened.readable()?)?)
    }
}

impl Directory {
    /// Sets the length of a regular file.
    fn set_size(&self, key: Key, opened: &Opened, size: u64) -> io::Result<()> {
        // The table's kind: a program's own 0/0 device is no file.
        match self.table.lock().place(key)?.0 {
            Kind::File => {}
            Kind::Dir => return Err(Errno::ISDIR.into()),
            _ => return Err(Errno::INVAL.into()),
        }
        let cut = |fd: &dyn AsFd| rustix::io::retry_on_intr(|| rustix::fs::ftruncate(fd, size));
        Ok(match opened.is_whole() {
            true => cut(opened),
            false => cut(&opened.reopen(OFlags::WRONLY)?),
        }?)
    }
}

/// A time as utimensat(2) wants it.
fn moment(time: Option<SetTime>) -> Timespec {
    let special = |tv_nsec: i64| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => special(UTIME_OMIT),
        Some(SetTime::Now) => special(UTIME_NOW),
        Some(SetTime::To(time)) => timespec(time),
    }
}
