//! Changes of a tree, as a list that can be done anywhere.
//!
//! What it is for: random lists of system calls that are likely to find something
//! to change, and what each of them comes to. May assume: root, and a tree whose
//! symlinks do not leave it. Must not know who serves the tree.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec,
    Timestamps, Uid, XattrFlags, chownat, fallocate, fchmod, fchown, fstat, fsync, ftruncate,
    linkat, lremovexattr, lsetxattr, makedev, mkdirat, mknodat, open, renameat_with, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use super::images::contents;
use super::layers::{Dice, Entry, MODES, NAMES, OWNERS, What, below, within};

/// What is written into files here, beside what layers have.
const LENGTHS: [usize; 5] = [0, 1, 100, 4097, 70_000];
const OFFSETS: [u64; 4] = [0, 3, 4096, 90_000];
const SLOTS: usize = 4;

/// One change, or one look.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// O_CREAT|O_EXCL, and something to begin with.
    Create(String, u32, usize),
    /// Opens what is there with these flags and writes.
    Write(String, OFlags, u64, usize),
    Truncate(String, u64),
    /// Makes room, or with `true` a hole.
    Allocate(String, bool, u64, u64),
    Sync(String),
    Mkdir(String, u32),
    Rmdir(String),
    Unlink(String),
    Symlink(String, String),
    Link(String, String),
    Rename(String, String, RenameFlags),
    Chmod(String, u32),
    Chown(String, u32, u32),
    Times(String, i64, i64),
    SetXattr(String, &'static str, usize, XattrFlags),
    /// Lets what is made below have an access control list of its own (acl(5)).
    DefaultAcl(String),
    RemoveXattr(String, &'static str),
    Mknod(String, FileType, u32, u32),
    /// Opens a file, or with `Flags` another mode, into one of a few slots.
    Hold(usize, String, OFlags),
    ReadHeld(usize),
    WriteHeld(usize, u64, usize),
    TruncateHeld(usize, u64),
    ChmodHeld(usize, u32),
    ChownHeld(usize, u32),
    StatHeld(usize),
    List(String),
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path, mode, len) => write!(f, "create {path:?} {mode:o} {len}"),
            Self::Write(path, flags, at, len) => {
                write!(f, "write {path:?} {flags:?} {len} at {at}")
            }
            Self::Truncate(path, size) => write!(f, "truncate {path:?} {size}"),
            Self::Allocate(path, punch, at, len) => {
                write!(f, "allocate {path:?} punch={punch} {len} at {at}")
            }
            Self::Sync(path) => write!(f, "fsync {path:?}"),
            Self::Mkdir(path, mode) => write!(f, "mkdir {path:?} {mode:o}"),
            Self::Rmdir(path) => write!(f, "rmdir {path:?}"),
            Self::Unlink(path) => write!(f, "unlink {path:?}"),
            Self::Symlink(target, path) => write!(f, "symlink {target:?} {path:?}"),
            Self::Link(from, to) => write!(f, "link {from:?} {to:?}"),
            Self::Rename(from, to, flags) => write!(f, "rename {from:?} {to:?} {flags:?}"),
            Self::Chmod(path, mode) => write!(f, "chmod {path:?} {mode:o}"),
            Self::Chown(path, uid, gid) => write!(f, "chown {path:?} {uid}:{gid}"),
            Self::Times(path, s, ns) => write!(f, "times {path:?} {s}.{ns:09}"),
            Self::SetXattr(path, name, len, how) => {
                write!(f, "setxattr {path:?} {name} {len} {how:?}")
            }
            Self::DefaultAcl(path) => write!(f, "default acl {path:?}"),
            Self::RemoveXattr(path, name) => write!(f, "removexattr {path:?} {name}"),
            Self::Mknod(path, kind, major, minor) => {
                write!(f, "mknod {path:?} {kind:?} {major}:{minor}")
            }
            Self::Hold(slot, path, flags) => write!(f, "{slot} = open {path:?} {flags:?}"),
            Self::ReadHeld(slot) => write!(f, "read {slot}"),
            Self::WriteHeld(slot, at, len) => write!(f, "write {slot} {len} at {at}"),
            Self::TruncateHeld(slot, size) => write!(f, "ftruncate {slot} {size}"),
            Self::ChmodHeld(slot, mode) => write!(f, "fchmod {slot} {mode:o}"),
            Self::ChownHeld(slot, uid) => write!(f, "fchown {slot} {uid}"),
            Self::StatHeld(slot) => write!(f, "fstat {slot}"),
            Self::List(path) => write!(f, "list {path:?}"),
        }
    }
}

/// Makes lists; remembers what is probably where.
struct Maker<'a> {
    dice: &'a mut Dice,
    top: &'a str,
    /// Every path that is probably there; `true` for directories.
    there: BTreeMap<String, bool>,
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
    let mut maker = Maker { dice, top, there };
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

/// What an operation came to: an error, or what a look has shown.
pub(crate) type Outcome = Result<String, Errno>;

/// Does operations below one directory; its descriptors are closed with it.
#[derive(Debug)]
pub(crate) struct Hands<'a> {
    at: &'a Path,
    held: [Option<(OwnedFd, OFlags)>; SLOTS],
    /// Whether a descriptor that was opened for reading alone is of interest: in
    /// overlayfs it reads the lower file for ever (kernel
    /// Documentation/filesystems/overlayfs.rst, "Non-standard behavior"), which
    /// keeps its link count and cannot change attributes when its name has gone
    /// (EEXIST, tried).
    pub(crate) readers: bool,
}

impl<'a> Hands<'a> {
    pub(crate) fn new(at: &'a Path) -> Self {
        let held = Default::default();
        let readers = true;
        Self { at, held, readers }
    }

    pub(crate) fn all(&mut self, ops: &[Op]) -> Vec<Outcome> {
        ops.iter().map(|op| self.act(op)).collect()
    }

    pub(crate) fn act(&mut self, op: &Op) -> Outcome {
        self.name(op).unwrap_or_else(|| self.object(op))
    }

    /// Operations on names.
    fn name(&self, op: &Op) -> Option<Outcome> {
        let path = |path: &String| self.at.join(path);
        let done = match op {
            Op::Mkdir(at, mode) => mkdirat(CWD, path(at), Mode::from_raw_mode(*mode)),
            Op::Rmdir(at) => unlinkat(CWD, path(at), AtFlags::REMOVEDIR),
            Op::Unlink(at) => unlinkat(CWD, path(at), AtFlags::empty()),
            Op::Symlink(target, at) => symlinkat(target.as_str(), CWD, path(at)),
            Op::Link(from, to) => linkat(CWD, path(from), CWD, path(to), AtFlags::empty()),
            Op::Rename(from, to, flags) => renameat_with(CWD, path(from), CWD, path(to), *flags),
            Op::Mknod(at, kind, major, minor) => {
                let mode = Mode::from_raw_mode(0o644);
                mknodat(CWD, path(at), *kind, mode, makedev(*major, *minor))
            }
            Op::Chown(at, uid, gid) => {
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                chownat(CWD, path(at), Some(uid), Some(gid), flags)
            }
            Op::Chmod(at, mode) => rustix::fs::chmod(path(at), Mode::from_raw_mode(*mode)),
            Op::Times(at, tv_sec, tv_nsec) => {
                let (tv_sec, tv_nsec) = (*tv_sec, *tv_nsec);
                let time = Timespec { tv_sec, tv_nsec };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                utimensat(CWD, path(at), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::SetXattr(at, name, len, how) => lsetxattr(path(at), *name, &[7; 64][..*len], *how),
            Op::DefaultAcl(at) => {
                let name = "system.posix_acl_default";
                lsetxattr(path(at), name, &default_acl(), XattrFlags::empty())
            }
            Op::RemoveXattr(at, name) => lremovexattr(path(at), *name),
            _ => return None,
        };
        Some(done.map(|()| String::new()))
    }

    /// Operations on what is open, or gets opened.
    fn object(&mut self, op: &Op) -> Outcome {
        let none = String::new;
        match op {
            Op::Create(at, mode, len) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let file = open(self.at.join(at), flags, Mode::from_raw_mode(*mode))?;
                write(&file, 0, *len)
            }
            Op::Write(at, flags, offset, len) => write(&self.open(at, *flags)?, *offset, *len),
            Op::Truncate(at, size) => {
                // As truncate(2), which never waits for anybody.
                ftruncate(self.open(at, OFlags::WRONLY)?, *size).map(|()| none())
            }
            Op::Allocate(at, punch, offset, len) => {
                let flags = match punch {
                    true => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    false => FallocateFlags::empty(),
                };
                let file = self.open(at, OFlags::WRONLY)?;
                fallocate(&file, flags, *offset, *len).map(|()| none())
            }
            Op::Sync(at) => fsync(self.open(at, OFlags::RDONLY)?).map(|()| none()),
            Op::Hold(slot, at, flags) => {
                self.held[*slot] = None;
                self.held[*slot] = Some((self.open(at, *flags)?, *flags));
                Ok(none())
            }
            Op::List(at) => self.list(at),
            Op::ReadHeld(slot)
            | Op::WriteHeld(slot, ..)
            | Op::TruncateHeld(slot, _)
            | Op::ChmodHeld(slot, _)
            | Op::ChownHeld(slot, _)
            | Op::StatHeld(slot) => self.held(*slot, op),
            _ => unreachable!("an operation on names"),
        }
    }

    /// Opens a regular file or directory; nothing else, as that may wait, or be a
    /// device of this machine.
    fn open(&self, at: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = self.at.join(at);
        let peeked = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&peeked)?.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                open(&path, flags | OFlags::CLOEXEC, Mode::empty())
            }
            _ => Err(Errno::NXIO),
        }
    }

    fn list(&self, at: &str) -> Outcome {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(self.at.join(at), flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            names.push(format!("{:?}:{:?}", entry.file_name(), entry.file_type()));
        }
        names.sort();
        Ok(names.join(" "))
    }

    fn held(&self, slot: usize, op: &Op) -> Outcome {
        let Some((file, flags)) = &self.held[slot] else {
            return Err(Errno::BADF);
        };
        if !self.readers && !flags.contains(OFlags::RDWR) {
            return Ok("not of interest".to_owned());
        }
        let none = |()| String::new();
        match op {
            Op::ReadHeld(_) => read(file),
            Op::WriteHeld(_, at, len) => write(file, *at, *len),
            Op::TruncateHeld(_, size) => ftruncate(file, *size).map(none),
            Op::ChmodHeld(_, mode) => fchmod(file, Mode::from_raw_mode(*mode)).map(none),
            Op::ChownHeld(_, uid) => fchown(file, Some(Uid::from_raw(*uid)), None).map(none),
            _ => {
                let stat = fstat(file)?;
                let dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                // Those of directories count something else everywhere.
                let (size, links) = match dir {
                    true => (0, 0),
                    false => (stat.st_size, stat.st_nlink),
                };
                let (uid, gid) = (stat.st_uid, stat.st_gid);
                Ok(format!(
                    "{:o} {uid}:{gid} {size} {links} links",
                    stat.st_mode
                ))
            }
        }
    }
}

/// Writes `len` bytes that are told by their offset and number.
fn write(file: &OwnedFd, at: u64, len: usize) -> Outcome {
    let bytes = contents(at + len as u64, len);
    let mut done = 0;
    while done < len {
        match pwrite(file, &bytes[done..], at + done as u64)? {
            0 => return Err(Errno::IO),
            n => done += n,
        }
    }
    Ok(String::new())
}

fn read(file: &OwnedFd) -> Outcome {
    let mut bytes = vec![0; 1 << 19];
    let mut done = 0;
    loop {
        match pread(file, &mut bytes[done..], done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    let hash = lazyroot::digest::Digest::sha256(&bytes[..done]).hex();
    Ok(format!("{done} bytes {}", &hash[..16]))
}

/// `u::rwx,g::r-x,u:1000:rw-,m::rwx,o::---` as the kernel keeps it.
fn default_acl() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 7, NOBODY),
        (0x02, 6, 1000),
        (0x04, 5, NOBODY),
        (0x10, 7, NOBODY),
        (0x20, 0, NOBODY),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
