//! A tree that nobody has changed.
//!
//! What it is for: packing all of a tree by the rules that changed ones have, where there
//! is no upper directory. It is an [`Upper`] with nothing in it but the top
//! directory, which has what the layers' has; nothing can be written to it.

use std::io;
use std::sync::Arc;

use super::{Writable, lower_stat};
use crate::node::Ino;
use crate::union::upper::{
    Change, Data, Entry, Key, Mark, Marks, New, SetXattr, Space, Stat, Upper,
};
use crate::union::{FsError, Union, Xattrs};

/// The only one there is.
const TOP: Key = Key(1);

#[derive(Debug)]
struct Unchanged {
    top: Stat,
    xattrs: Xattrs,
}

impl Writable {
    /// The tree of `lower` as it is, to be looked at.
    ///
    /// # Errors
    /// A layer is damaged.
    pub fn unchanged(lower: Arc<Union>) -> Result<Self, FsError> {
        let upper = Unchanged {
            top: lower_stat(lower.attr(Ino::ROOT)?),
            xattrs: lower.xattrs(Ino::ROOT)?,
        };
        Self::frozen(lower, Arc::new(upper))
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

fn absent<T>() -> io::Result<T> {
    Err(io::ErrorKind::NotFound.into())
}

fn of_top<T>(key: Key, it: impl FnOnce() -> T) -> io::Result<T> {
    match key {
        TOP => Ok(it()),
        _ => absent(),
    }
}

impl Upper for Unchanged {
    fn root(&self) -> Key {
        TOP
    }

    fn find(&self, _: Key, _: &[u8]) -> io::Result<Option<Entry>> {
        Ok(None)
    }

    fn list(&self, _: Key, _: &mut dyn FnMut(&[u8], Entry)) -> io::Result<()> {
        Ok(())
    }

    fn stat(&self, key: Key) -> io::Result<Stat> {
        of_top(key, || self.top)
    }

    fn marks(&self, key: Key) -> io::Result<Marks> {
        of_top(key, Marks::default)
    }

    fn marks_at(&self, _: Key, _: &[u8]) -> io::Result<Marks> {
        absent()
    }

    fn target(&self, _: Key) -> io::Result<Vec<u8>> {
        absent()
    }

    fn xattrs(&self, key: Key) -> io::Result<Xattrs> {
        of_top(key, || self.xattrs.clone())
    }

    fn xattr(&self, key: Key, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let named = |(key, _): &&(Vec<u8>, Vec<u8>)| key == name;
        of_top(key, || {
            let found = self.xattrs.iter().find(named);
            found.map(|(_, value)| value.clone())
        })
    }

    fn forget(&self, _: Key) {}

    fn space(&self) -> io::Result<Space> {
        Ok(Space::default())
    }

    fn make(&self, _: Key, _: &[u8], _: &New<'_>) -> io::Result<(Key, Stat)> {
        refused()
    }

    fn stage(&self, _: &New<'_>) -> io::Result<Key> {
        refused()
    }

    fn publish(&self, _: Key, _: &[(Key, &[u8])]) -> io::Result<()> {
        refused()
    }

    fn link(&self, _: Key, _: Key, _: &[u8], _: bool) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: Key, _: &[u8], _: bool) -> io::Result<()> {
        refused()
    }

    fn cover(&self, _: Key, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: (Key, &[u8]), _: (Key, &[u8]), _: bool) -> io::Result<()> {
        refused()
    }

    fn exchange(&self, _: (Key, &[u8]), _: (Key, &[u8])) -> io::Result<()> {
        refused()
    }

    fn mark(&self, _: Key, _: Mark<'_>) -> io::Result<()> {
        refused()
    }

    fn set_attr(&self, _: Key, _: &Change) -> io::Result<()> {
        refused()
    }

    fn set_xattr(&self, _: Key, _: &[u8], _: &[u8], _: SetXattr) -> io::Result<()> {
        refused()
    }

    fn remove_xattr(&self, _: Key, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn open(&self, _: Key) -> io::Result<Arc<dyn Data>> {
        absent()
    }

    fn sync_dir(&self, _: Key) -> io::Result<()> {
        Ok(())
    }
}
