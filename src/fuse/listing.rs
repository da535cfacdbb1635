//! Directories into replies.
//!
//! What it is for: READDIR and READDIRPLUS, from an image or from names. May
//! assume: cookies of a tree never change. Must not know how many bytes the
//! kernel has room for; the reply says when it is full.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, INodeNo, ReplyDirectoryPlus};

use super::adapter::{AT_ONCE, Adapter, FOR_EVER, GENERATION, Shown};
use super::attr;
use super::browse::{Browse, Entry, Place};
use super::image::Image;
use crate::node::Ino;
use crate::union::Listed;

/// One line of a listing.
pub(super) enum Line<'a> {
    Object(&'a Image, Ino, Listed<'a>),
    Name(&'a Browse, &'a Entry),
}

impl Adapter {
    /// Lists from behind `cookie` into `add`, which says whether there is no more room.
    pub(super) fn list(
        &self,
        number: INodeNo,
        cookie: u64,
        add: &mut dyn FnMut(Line<'_>) -> bool,
    ) -> Result<(), Errno> {
        let (image, dir) = match (self.place(number)?, &self.shown) {
            (Place::Image(image, dir), _) => (image, dir),
            (Place::Names(dir), Shown::Many(browse)) => {
                for entry in browse.list(dir, cookie, &self.reports)? {
                    if add(Line::Name(browse, &entry)) {
                        break;
                    }
                }
                return Ok(());
            }
            (Place::Names(_), Shown::One(_)) => return Err(Errno::ESTALE),
        };
        let mut some = false;
        let listed = image.union.list(dir, cookie, &mut |listed| {
            some = true;
            !add(Line::Object(&image, dir, listed))
        });
        match listed {
            // What was listed before the damage is handed out first; the next
            // request begins at the damage.
            Err(error) if !some => Err(self.failed(&image, dir, &error)),
            _ => Ok(()),
        }
    }

    /// Adds one line with attributes; says whether there is no more room.
    pub(super) fn add_plus(&self, line: &Line<'_>, reply: &mut ReplyDirectoryPlus) -> bool {
        let mut add = |number: u64, cookie: u64, name: &[u8], ttl: &Duration, attr: &FileAttr| {
            let name = OsStr::from_bytes(name);
            reply.add(INodeNo(number), cookie, name, ttl, attr, GENERATION)
        };
        match line {
            Line::Object(image, dir, listed) => {
                let number = image.listed(*dir, listed.name, listed.ino);
                // The kernel takes neither of these two into its caches.
                if matches!(listed.name, b"." | b"..") {
                    let attr = attr::directory(number, SystemTime::UNIX_EPOCH, 0);
                    return add(number, listed.cookie, listed.name, &FOR_EVER, &attr);
                }
                match image.union.attr(listed.ino) {
                    Ok(of) => {
                        self.told(number);
                        let attr = attr::attr(number, &of);
                        let full = add(number, listed.cookie, listed.name, &FOR_EVER, &attr);
                        if full && let Shown::Many(browse) = &self.shown {
                            browse.forget(number, 1);
                        }
                        full
                    }
                    Err(error) => {
                        let name = Some(listed.name);
                        let _ = image.failed(&self.reports, *dir, name, &error);
                        // Number 0: the name is listed, a lookup gets the error.
                        let mut attr = attr::directory(0, SystemTime::UNIX_EPOCH, 0);
                        attr.kind = attr::kind(listed.kind);
                        add(0, listed.cookie, listed.name, &AT_ONCE, &attr)
                    }
                }
            }
            Line::Name(browse, entry) => {
                let known = browse.listed(entry);
                let shown = known.as_ref().and_then(|image| {
                    let of = image.union.attr(Ino::ROOT).ok()?;
                    Some(attr::attr(image.number(Ino::ROOT), &of))
                });
                let stand_in = || attr::directory(entry.number, SystemTime::UNIX_EPOCH, 0);
                let attr = shown.unwrap_or_else(stand_in);
                let full = add(
                    attr.ino.0,
                    entry.cookie,
                    entry.name.as_bytes(),
                    &AT_ONCE,
                    &attr,
                );
                if let Some(image) = known.filter(|_| full || shown.is_none()) {
                    browse.forget(image.number(Ino::ROOT), 1);
                }
                full
            }
        }
    }
}
