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
    /// Lists from behind `cookie` into `add`, which says whether there is no more
    /// room, or why this line cannot be told.
    pub(super) fn list(
        &self,
        number: INodeNo,
        cookie: u64,
        add: &mut dyn FnMut(Line<'_>) -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        let (image, dir) = match (self.place(number)?, &self.shown) {
            (Place::Image(image, dir), _) => (image, dir),
            (Place::Names(dir), Shown::Many(browse)) => {
                for entry in browse.list(dir, cookie, &self.reports)? {
                    if add(Line::Name(browse, &entry))? {
                        break;
                    }
                }
                return Ok(());
            }
            (Place::Names(_), Shown::One(_)) => return Err(Errno::ESTALE),
        };
        let mut some = false;
        let mut damage = None;
        let listed =
            image.union.list(
                dir,
                cookie,
                &mut |listed| match add(Line::Object(&image, dir, listed)) {
                    Ok(full) => {
                        some = true;
                        !full
                    }
                    Err(errno) => {
                        damage = Some(errno);
                        false
                    }
                },
            );
        // What was listed before the damage is handed out first; the next request
        // begins at the damage.
        match (listed, damage) {
            (Err(error), _) if !some => Err(self.failed(&image, dir, &error)),
            (Ok(()), Some(errno)) if !some => Err(errno),
            _ => Ok(()),
        }
    }

    /// Adds one line with attributes; says whether there is no more room.
    pub(super) fn add_plus(
        &self,
        line: &Line<'_>,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<bool, Errno> {
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
                    return Ok(add(number, listed.cookie, listed.name, &FOR_EVER, &attr));
                }
                match image.union.attr(listed.ino) {
                    Ok(of) => {
                        self.told(number);
                        let attr = attr::attr(number, &of);
                        let full = add(number, listed.cookie, listed.name, &FOR_EVER, &attr);
                        if full && let Shown::Many(browse) = &self.shown {
                            browse.forget(number, 1);
                        }
                        Ok(full)
                    }
                    // The protocol lets a line be without attributes by number 0,
                    // but fuser lists it with that number, and readdir(3) passes
                    // such names over: they would be missing without an error.
                    Err(error) => {
                        let name = Some(listed.name);
                        Err(image.failed(&self.reports, *dir, name, &error))
                    }
                }
            }
            Line::Name(browse, entry) => {
                let begun = browse.generation();
                let known = browse.listed(entry);
                let shown = match &known {
                    Some(image) => image.union.attr(Ino::ROOT).ok().map(|of| {
                        let attr = attr::attr(image.number(Ino::ROOT), &of);
                        (browse.name_holds(image, begun), attr)
                    }),
                    None if entry.image => None,
                    // The kernel takes neither of these two into its caches.
                    None if matches!(&*entry.name, "." | "..") => None,
                    None => Some(self.directory(browse, entry.number, begun)?),
                };
                let stand_in = || attr::directory(entry.number, SystemTime::UNIX_EPOCH, 0);
                let (ttl, attr) = shown.unwrap_or_else(|| (AT_ONCE, stand_in()));
                let name = entry.name.as_bytes();
                let full = add(attr.ino.0, entry.cookie, name, &ttl, &attr);
                if let Some(image) = known.filter(|_| full || shown.is_none()) {
                    browse.forget(image.number(Ino::ROOT), 1);
                }
                Ok(full)
            }
        }
    }
}
