//! `lazyroot ls`

use std::io::IsTerminal as _;

use super::report::{Failure, in_image};
use super::target::{Opened, Target, TargetParser};
use super::{Context, date, print, print_json};
use crate::node::{Attr, Ino, Kind};
use crate::tree_path::printable;
use crate::union::FsError;

/// List directories of an image without mounting it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One line per entry: mode, links, owner, group, size, time (UTC), name.
    #[arg(short)]
    long: bool,
    /// List subdirectories too.
    #[arg(short = 'R')]
    recursive: bool,
    /// Show entries that begin with a dot, `.` and `..` included.
    #[arg(short)]
    all: bool,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
    /// Image and path: `debian:12`, `debian:12:/etc`.
    #[arg(required = true, value_name = "IMAGE[:PATH]", value_parser = TargetParser)]
    targets: Vec<Target>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut lister = Lister {
        args,
        escape: std::io::stdout().is_terminal(),
        json: Vec::new(),
        blank: false,
        headings: args.recursive || args.targets.len() > 1,
    };
    for target in &args.targets {
        let opened = target.open(context, false)?;
        lister
            .target(&opened, target)
            .map_err(|error| in_image(&opened.name, &error))??;
    }
    if args.json {
        print_json(&lister.json)
    } else {
        Ok(())
    }
}

/// One entry that is listed.
struct Entry {
    name: Vec<u8>,
    ino: Ino,
    attr: Attr,
}

/// One entry for programs.
#[derive(serde::Serialize)]
struct Json {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    ino: u64,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    mtime_nanos: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

struct Lister<'a> {
    args: &'a Args,
    /// Names go to a terminal: control characters must not.
    escape: bool,
    json: Vec<Json>,
    blank: bool,
    headings: bool,
}

type Outcome = Result<Result<(), Failure>, FsError>;

impl Lister<'_> {
    fn target(&mut self, opened: &Opened, target: &Target) -> Outcome {
        let path = std::os::unix::ffi::OsStrExt::as_bytes(target.path.as_os_str()).to_vec();
        if opened.found.attr.kind != Kind::Dir {
            let entry = Entry {
                name: path,
                ino: opened.found.ino,
                attr: opened.found.attr,
            };
            return self.show(opened, b"", &[entry]);
        }
        // A stack of our own: a tree may be deeper than ours.
        let mut stack = vec![(path, opened.found.ino)];
        while let Some((path, ino)) = stack.pop() {
            let entries = self.entries(opened, ino)?;
            if let Err(failure) = self.heading(&path) {
                return Ok(Err(failure));
            }
            if let Err(failure) = self.show(opened, &path, &entries)? {
                return Ok(Err(failure));
            }
            if self.args.recursive {
                let below = entries.into_iter().rev().filter(|entry| {
                    entry.attr.kind == Kind::Dir && entry.name != b"." && entry.name != b".."
                });
                stack.extend(below.map(|entry| (join(&path, &entry.name), entry.ino)));
            }
        }
        Ok(Ok(()))
    }

    fn heading(&mut self, path: &[u8]) -> Result<(), Failure> {
        if !self.headings || self.args.json {
            return Ok(());
        }
        let mut line = Vec::new();
        if std::mem::replace(&mut self.blank, true) {
            line.push(b'\n');
        }
        line.extend(self.name(path));
        line.extend(b":\n");
        print(&line)
    }

    fn entries(&self, opened: &Opened, dir: Ino) -> Result<Vec<Entry>, FsError> {
        let mut names = Vec::new();
        opened.union.list(dir, 0, &mut |listed| {
            let wanted = match listed.name {
                // Programs know where they are.
                b"." | b".." => self.args.all && !self.args.json,
                name => self.args.all || !name.starts_with(b"."),
            };
            if wanted {
                names.push((listed.name.to_vec(), listed.ino));
            }
            true
        })?;
        let entry = |(name, ino)| {
            Ok(Entry {
                name,
                ino,
                attr: opened.union.attr(ino)?,
            })
        };
        names.into_iter().map(entry).collect()
    }

    fn show(&mut self, opened: &Opened, dir: &[u8], entries: &[Entry]) -> Outcome {
        let mut out = Vec::new();
        let columns = Columns::of(entries);
        let lists = match self.args.long && opened.union.any_xattrs() {
            true => entries
                .iter()
                .map(|entry| has_list(opened, entry.ino))
                .collect::<Result<_, _>>()?,
            false => vec![false; entries.len()],
        };
        for (entry, &list) in entries.iter().zip(&lists) {
            let target = match entry.attr.kind {
                Kind::Symlink => Some(opened.union.target(entry.ino)?),
                _ => None,
            };
            if self.args.json {
                self.json.push(json(&join(dir, &entry.name), entry, target));
                continue;
            }
            if self.args.long {
                // The column is there when anybody needs it.
                let mark = match list {
                    true => "+",
                    false if lists.contains(&true) => " ",
                    false => "",
                };
                out.extend(columns.line(&entry.attr, mark).into_bytes());
            }
            out.extend(self.name(&entry.name));
            if let (Some(target), true) = (target, self.args.long) {
                out.extend(b" -> ");
                out.extend(self.name(&target));
            }
            out.push(b'\n');
        }
        Ok(print(&out))
    }

    fn name(&self, name: &[u8]) -> Vec<u8> {
        if self.escape {
            printable(name).into_bytes()
        } else {
            name.to_vec()
        }
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether an object has an access control list, which `ls` marks with `+`.
fn has_list(opened: &Opened, ino: Ino) -> Result<bool, FsError> {
    let all = opened.union.xattrs(ino)?;
    let list = |(name, _): &(Vec<u8>, Vec<u8>)| name.starts_with(b"system.posix_acl_");
    Ok(all.iter().any(list))
}

/// Widths of the columns of one listing, as GNU `ls -ln` has them.
#[derive(Debug, Clone, Copy)]
struct Columns {
    nlink: usize,
    uid: usize,
    gid: usize,
    size: usize,
    major: usize,
    minor: usize,
}

impl Columns {
    fn of(entries: &[Entry]) -> Self {
        let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
        let width = |of: &dyn Fn(&Attr) -> Option<u64>| {
            let widths = entries.iter().filter_map(|e| of(&e.attr)).map(digits);
            widths.max().unwrap_or(0)
        };
        let major = width(&|attr| is_device(attr).then_some(attr.rdev.major.into()));
        let minor = width(&|attr| is_device(attr).then_some(attr.rdev.minor.into()));
        let devices = if major > 0 { major + 2 + minor } else { 0 };
        let sizes = width(&|attr| (!is_device(attr)).then(|| attr.shown_size()));
        Self {
            nlink: width(&|attr| Some(attr.nlink.into())),
            uid: width(&|attr| Some(attr.uid.into())),
            gid: width(&|attr| Some(attr.gid.into())),
            size: sizes.max(devices),
            // The minor numbers end where sizes end.
            major: sizes.max(devices).saturating_sub(2 + minor),
            minor,
        }
    }

    /// All of a line but the name; `mark` stands behind the mode.
    fn line(&self, attr: &Attr, mark: &str) -> String {
        let Self {
            nlink,
            uid,
            gid,
            size,
            major,
            minor,
        } = *self;
        let number = if is_device(attr) {
            format!("{:>major$}, {:>minor$}", attr.rdev.major, attr.rdev.minor)
        } else {
            format!("{:>size$}", attr.shown_size())
        };
        format!(
            "{}{mark} {:>nlink$} {:>uid$} {:>gid$} {number} {} ",
            mode(attr),
            attr.nlink,
            attr.uid,
            attr.gid,
            date(attr.mtime.seconds),
        )
    }
}

fn is_device(attr: &Attr) -> bool {
    matches!(attr.kind, Kind::Char | Kind::Block)
}

pub(super) fn kind(kind: Kind) -> (char, &'static str) {
    match kind {
        Kind::File => ('-', "file"),
        Kind::Dir => ('d', "directory"),
        Kind::Symlink => ('l', "symlink"),
        Kind::Char => ('c', "char"),
        Kind::Block => ('b', "block"),
        Kind::Fifo => ('p', "fifo"),
        Kind::Socket => ('s', "socket"),
    }
}

/// `-rwsr-xr-t` and the like, as POSIX `ls` prints it.
fn mode(attr: &Attr) -> String {
    let mut text = String::from(kind(attr.kind).0);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attr.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn json(path: &[u8], entry: &Entry, target: Option<Vec<u8>>) -> Json {
    let attr = &entry.attr;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Json {
        path: String::from_utf8_lossy(path).into_owned(),
        path_hex: std::str::from_utf8(path).is_err().then(|| hex(path)),
        kind: kind(attr.kind).1,
        ino: entry.ino.0,
        mode: format!("{:04o}", attr.mode),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.shown_size(),
        mtime: attr.mtime.seconds,
        mtime_nanos: attr.mtime.nanos,
        target: target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        device: matches!(attr.kind, Kind::Char | Kind::Block)
            .then_some((attr.rdev.major, attr.rdev.minor)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Device, Time};

    #[test]
    fn modes_print_as_ls_prints_them() {
        let attr = |kind, mode| Attr {
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            stored: 0,
            mtime: Time::default(),
            nlink: 1,
            rdev: Device::default(),
        };
        for (k, m, text) in [
            (Kind::File, 0o4755, "-rwsr-xr-x"),
            (Kind::File, 0o2611, "-rw---s--x"),
            (Kind::File, 0o2601, "-rw---S--x"),
            (Kind::Dir, 0o1777, "drwxrwxrwt"),
            (Kind::Dir, 0o1000, "d--------T"),
            (Kind::Fifo, 0, "p---------"),
        ] {
            assert_eq!(mode(&attr(k, m)), text);
        }
    }
}
