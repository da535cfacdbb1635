//! Random lists of operations.
//!
//! What it is for: lists that are likely to find something to change, and to meet
//! what layers and earlier operations have left. Must not know what an operation
//! comes to.

use std::collections::BTreeMap;

use rustix::fs::{FileType, OFlags, RenameFlags, XattrFlags};

use super::layers::{Dice, Entry, MODES, NAMES, OWNERS, What, below, parent, within};
use super::operations::{Op, SLOTS};

/// What is written into files here, beside what layers have.
const LENGTHS: [usize; 5] = [0, 1, 100, 4097, 70_000];
const OFFSETS: [u64; 4] = [0, 3, 4096, 90_000];

/// Makes lists; remembers what is probably where.
struct Maker<'a> {
    dice: &'a mut Dice,
    top: &'a str,
    /// Every path that is probably there; `true` for directories.
    there: BTreeMap<String, bool>,
    /// Paths that were there: what comes to be in such a place must not show what
    /// was there before.
    former: Vec<String>,
}

/// A list of `len` operations for a tree that begins with these layers, all of
/// them below `top`.
pub(crate) fn random(dice: &mut Dice, stack: &[Vec<Entry>], top: &str, len: usize) -> Vec<Op> {
    let mut there = BTreeMap::from([(top.to_owned(), true)]);
    for entry in stack.iter().flatten() {
        match entry.what {
            What::Dir { opaque } => {
                there.retain(|path, _| !opaque || !within(path, &entry.path));
                there.insert(entry.path.clone(), true);
            }
            ref what => {
                there.retain(|path, _| !within(path, &entry.path));
                if *what != What::Whiteout {
                    there.insert(entry.path.clone(), false);
                }
            }
        }
    }
    there.retain(|path, _| within(path, top));
    there.insert(top.to_owned(), true);
    let former = Vec::new();
    let mut maker = Maker {
        dice,
        top,
        there,
        former,
    };
    (0..len).map(|_| maker.op()).collect()
}

impl Maker<'_> {
    /// Something that is probably there; never the top.
    fn old(&mut self) -> String {
        let all: Vec<&String> = self.there.keys().filter(|path| *path != self.top).collect();
        if all.is_empty() || self.dice.one_in(12) {
            return self.new_path();
        }
        (*self.dice.pick(&all)).clone()
    }

    fn of_kind(&mut self, dir: bool) -> String {
        let all: Vec<&String> = self
            .there
            .iter()
            .filter(|(path, is_dir)| **is_dir == dir && *path != self.top)
            .map(|(path, _)| path)
            .collect();
        if all.is_empty() || self.dice.one_in(12) {
            return self.old();
        }
        (*self.dice.pick(&all)).clone()
    }

    /// A name in a directory; it may well be there.
    fn new_path(&mut self) -> String {
        if self.dice.one_in(3) {
            let open = |path: &&String| self.there.get(parent(path)) == Some(&true);
            let former: Vec<&String> = self.former.iter().filter(open).collect();
            if !former.is_empty() {
                return (*self.dice.pick(&former)).clone();
            }
        }
        let dirs: Vec<&String> = self
            .there
            .iter()
            .filter(|(_, is_dir)| **is_dir)
            .map(|(path, _)| path)
            .collect();
        let dir = match dirs.is_empty() {
            true => self.top.to_owned(),
            false => (*self.dice.pick(&dirs)).clone(),
        };
        below(&dir, self.dice.one_of(&NAMES))
    }

    fn made(&mut self, path: &str, dir: bool) {
        self.there.entry(path.to_owned()).or_insert(dir);
    }

    fn gone(&mut self, path: &str) {
        self.former.push(path.to_owned());
        self.there.retain(|p, _| !within(p, path));
    }

    fn moved(&mut self, from: &str, to: &str, exchange: bool) {
        let taken = |there: &BTreeMap<String, bool>, dir: &str| -> Vec<(String, bool)> {
            let inside = there.iter().filter(|(path, _)| within(path, dir));
            inside
                .map(|(path, is)| (path[dir.len()..].to_owned(), *is))
                .collect()
        };
        let (one, other) = (taken(&self.there, from), taken(&self.there, to));
        self.gone(from);
        self.gone(to);
        let put = one
            .into_iter()
            .map(|(rest, is)| (format!("{to}{rest}"), is));
        self.there.extend(put);
        if exchange {
            let put = other
                .into_iter()
                .map(|(rest, is)| (format!("{from}{rest}"), is));
            self.there.extend(put);
        }
    }

    fn op(&mut self) -> Op {
        match self.dice.below(100) {
            0..14 => self.make(),
            14..38 => self.names(),
            38..58 => self.attributes(),
            58..76 => self.contents(),
            76..96 => self.held(),
            _ => Op::List(self.of_kind(true)),
        }
    }

    fn make(&mut self) -> Op {
        let path = self.new_path();
        let mode = *self.dice.pick(&MODES);
        match self.dice.below(8) {
            0..3 => {
                self.made(&path, true);
                return Op::Mkdir(path, mode);
            }
            3..6 => {
                self.made(&path, false);
                return Op::Create(path, mode, *self.dice.pick(&LENGTHS));
            }
            _ => self.made(&path, false),
        }
        if self.dice.one_in(2) {
            let target = *self.dice.pick(&["a", "b/c", "nowhere", "."]);
            return Op::Symlink(target.to_owned(), path);
        }
        let minor = 1 + self.dice.below(9) as u32;
        match self.dice.below(4) {
            0 => Op::Mknod(path, FileType::Fifo, 0, 0),
            1 => Op::Mknod(path, FileType::Socket, 0, 0),
            2 => Op::Mknod(path, FileType::CharacterDevice, 60, minor),
            _ => Op::Mknod(path, FileType::BlockDevice, 61, minor),
        }
    }

    fn names(&mut self) -> Op {
        match self.dice.below(12) {
            0..2 => {
                let path = self.of_kind(false);
                self.gone(&path);
                Op::Unlink(path)
            }
            2..4 => {
                let path = self.of_kind(true);
                // Most have something in them.
                if !self.there.keys().any(|p| p != &path && within(p, &path)) {
                    self.gone(&path);
                }
                Op::Rmdir(path)
            }
            4..6 => {
                let (from, to) = (self.of_kind(false), self.new_path());
                self.made(&to, false);
                Op::Link(from, to)
            }
            kind => {
                let from = self.old();
                let to = match self.dice.one_in(2) {
                    true => self.new_path(),
                    false => self.old(),
                };
                let exchange = kind == 6;
                let flags = match kind {
                    6 => RenameFlags::EXCHANGE,
                    7 => RenameFlags::NOREPLACE,
                    _ => RenameFlags::empty(),
                };
                let inside = within(&from, &to) || within(&to, &from);
                let stays = kind == 7 && self.there.contains_key(&to);
                if !inside && !stays && self.there.contains_key(&from) {
                    self.moved(&from, &to, exchange);
                }
                Op::Rename(from, to, flags)
            }
        }
    }

    fn attributes(&mut self) -> Op {
        const XATTRS: [&str; 4] = ["user.x", "user.of-layer", "trusted.x", "trusted.overlay.x"];
        let path = self.old();
        let dice = &mut *self.dice;
        match dice.below(10) {
            0..3 => Op::Chmod(path, *dice.pick(&MODES)),
            3..5 => Op::Chown(path, *dice.pick(&OWNERS), *dice.pick(&OWNERS)),
            5..7 => {
                let seconds = 500_000_000 + dice.below(1000) as i64;
                Op::Times(path, seconds, dice.below(1_000_000_000) as i64)
            }
            7..9 => {
                let how = match dice.below(4) {
                    0 => XattrFlags::CREATE,
                    1 => XattrFlags::REPLACE,
                    _ => XattrFlags::empty(),
                };
                if dice.one_in(8) {
                    return Op::DefaultAcl(path);
                }
                Op::SetXattr(path, dice.one_of(&XATTRS), dice.below(50), how)
            }
            _ => Op::RemoveXattr(path, dice.one_of(&XATTRS)),
        }
    }

    fn contents(&mut self) -> Op {
        let path = self.of_kind(false);
        let dice = &mut *self.dice;
        let (at, len) = (*dice.pick(&OFFSETS), *dice.pick(&LENGTHS));
        match dice.below(10) {
            0..3 => Op::Write(path, OFlags::WRONLY, at, len),
            3..5 => Op::Write(path, OFlags::RDWR | OFlags::APPEND, at, len),
            5..7 => Op::Write(path, OFlags::WRONLY | OFlags::TRUNC, at, len),
            7 => Op::Truncate(path, at),
            8 => Op::Allocate(path, dice.one_in(2), at, 1 + len as u64),
            _ => Op::Sync(path),
        }
    }

    fn held(&mut self) -> Op {
        let path = self.of_kind(false);
        let dice = &mut *self.dice;
        let slot = dice.below(SLOTS);
        let (at, len) = (*dice.pick(&OFFSETS), *dice.pick(&LENGTHS));
        match dice.below(12) {
            0..4 => {
                let modes = [OFlags::RDONLY, OFlags::RDWR, OFlags::RDWR | OFlags::TRUNC];
                Op::Hold(slot, path, *dice.pick(&modes))
            }
            4..6 => Op::ReadHeld(slot),
            6..8 => Op::WriteHeld(slot, at, len),
            8 => Op::TruncateHeld(slot, at),
            9 => Op::ChmodHeld(slot, *dice.pick(&MODES)),
            10 => Op::ChownHeld(slot, *dice.pick(&OWNERS)),
            _ => Op::StatHeld(slot),
        }
    }
}
