//! Archives as real writers make them, of one odd tree, against what the system
//! says of the tree itself.
//!
//! Each case names what its format cannot carry; all else must arrive exactly.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]
#![expect(clippy::print_stderr, reason = "skipped cases are said aloud")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use lazyroot::layer::Limits;
use lazyroot::layer::tar::{Member, MemberKind, TarReader, Visitor};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::fs::{mknodat, setxattr, utimensat};

/// What a format can carry beyond plain files, directories and links.
#[derive(Debug, Clone, Copy)]
struct Carries {
    /// Paths of any length.
    long: bool,
    /// Fifos and devices; a path in two parts.
    nodes: bool,
    /// Owners beyond 21 bits.
    large_ids: bool,
    /// Nanoseconds.
    nanos: bool,
    /// Times before 1970.
    negative: bool,
    xattrs: bool,
}

const V7: Carries = Carries {
    long: false,
    nodes: false,
    large_ids: false,
    nanos: false,
    negative: false,
    xattrs: false,
};
const USTAR: Carries = Carries { nodes: true, ..V7 };
const GNU: Carries = Carries {
    long: true,
    large_ids: true,
    negative: true,
    ..USTAR
};
const PAX: Carries = Carries { nanos: true, ..GNU };
const PAX_XATTRS: Carries = Carries {
    xattrs: true,
    ..PAX
};
/// libarchive 3.6 writes -1.5 as `-2.5` (seconds rounded down, then the
/// fraction); POSIX, GNU tar and Go read that as -2.5, and so do we.
const LIBARCHIVE_PAX: Carries = Carries {
    negative: false,
    ..PAX_XATTRS
};

/// And it writes any time before 1970 as 0 here.
const LIBARCHIVE_GNU: Carries = Carries {
    negative: false,
    ..GNU
};

/// One object: as the system says, or as the members say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: MemberKind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    rdev: (u32, u32),
    target: Vec<u8>,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Tree = BTreeMap<Vec<u8>, Node>;

fn touch(path: &Path, seconds: i64, nanos: u32) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanos),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn sparse(path: &Path, size: u64, stretches: impl IntoIterator<Item = (u64, usize)>) {
    let file = File::create(path).unwrap();
    for (at, len) in stretches {
        file.write_all_at(&vec![(at / 4096) as u8 | 1; len], at)
            .unwrap();
    }
    file.set_len(size).unwrap();
}

/// Makes the tree; false where extended attributes are not to be had.
fn make(root: &Path, can: Carries) -> bool {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    fs::create_dir_all(at(b"dir/sub")).unwrap();
    fs::write(at(b"plain"), "hello\n").unwrap();
    fs::write(at(b"empty"), "").unwrap();
    fs::write(at(b"dir/block"), [b'b'; 512]).unwrap();
    fs::write(
        at(b"dir/large"),
        (0..100_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    fs::write(at(b"dir/latin1 caf\xe9"), "1").unwrap();
    fs::write(at(b"dir/new\nline \x01\\"), "2").unwrap();
    // With `./` before it as long as the field is; writers of v7 allow less.
    let fits = vec![b'n'; if can.nodes { 94 } else { 92 }];
    fs::write(at(&[&b"dir/"[..], &fits].concat()), "fits").unwrap();
    fs::hard_link(at(b"plain"), at(b"dir/sub/link")).unwrap();
    symlink("plain", at(b"symlink")).unwrap();
    symlink(OsStr::from_bytes(b"nowhere/\xff"), at(b"dir/dangling")).unwrap();
    sparse(
        &at(b"dir/hole"),
        3 << 20,
        [(64 << 10, 4096), (1 << 20, 8000)],
    );
    sparse(&at(b"dir/all-hole"), 1 << 20, []);
    sparse(&at(b"dir/hole-then-end"), (1 << 20) + 5, [(1 << 20, 5)]);
    sparse(
        &at(b"dir/many-holes"),
        8 << 20,
        (0..60).map(|i| (i * (128 << 10), 4096)),
    );
    fs::set_permissions(at(b"plain"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(at(b"dir/sub"), fs::Permissions::from_mode(0o3770)).unwrap();
    if can.long {
        let deep = at(&[&b"dir/"[..], &[b'd'; 120], b"/", &[b'e'; 120], b"/"].concat());
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "deep").unwrap();
        fs::hard_link(deep.join("f"), at(b"dir/to-deep")).unwrap();
        symlink(OsStr::from_bytes(&[b't'; 300]), deep.join("symlink")).unwrap();
    }
    if can.nodes {
        // ustar and all after it can split a path, too.
        let split = at(&[&b"dir/"[..], &[b'p'; 80]].concat());
        fs::create_dir(&split).unwrap();
        fs::write(split.join("q".repeat(60)), "split").unwrap();
        mknodat(
            CWD,
            at(b"fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o622),
            0,
        )
        .unwrap();
        let device = rustix::fs::makedev(10, 70000);
        // Only root may, and not everywhere.
        let _ = mknodat(
            CWD,
            at(b"device"),
            FileType::CharacterDevice,
            Mode::RUSR,
            device,
        );
    }
    let large = if can.large_ids {
        3_000_000_000
    } else {
        123_456
    };
    // Only root may.
    let _ = std::os::unix::fs::lchown(at(b"dir/block"), Some(large), Some(large + 1));
    let _ = std::os::unix::fs::lchown(at(b"dir/dangling"), Some(77), Some(88));
    let mut xattrs = true;
    if can.xattrs {
        let full = vec![0xfe; 2000];
        let some: [(&str, &[u8]); 3] = [
            ("user.text", b"text"),
            ("user.bytes", b"\0\n=\xff "),
            ("user.long", &full),
        ];
        for (name, value) in some {
            xattrs &= setxattr(at(b"dir/large"), name, value, XattrFlags::empty()).is_ok();
        }
        xattrs &= setxattr(at(b"dir/sub"), "user.dir", b"d", XattrFlags::empty()).is_ok();
    }
    let nanos = if can.nanos { 123_456_789 } else { 0 };
    touch(&at(b"plain"), 1_000_000_000, nanos);
    touch(&at(b"symlink"), 1_000_000_001, nanos / 1000 * 1000);
    touch(&at(b"empty"), if can.negative { -2 } else { 0 }, nanos);
    touch(&at(b"dir/block"), 5_000_000_000, 0);
    touch(&at(b"dir/sub"), 1_500_000_000, nanos);
    if !can.nanos {
        whole_seconds(root);
    }
    xattrs
}

fn whole_seconds(path: &Path) {
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            whole_seconds(&entry.unwrap().path());
        }
    }
    touch(path, path.symlink_metadata().unwrap().mtime(), 0);
}

/// What the system says.
fn look(root: &Path, path: &Path, with_xattrs: bool, tree: &mut Tree) {
    let meta = path.symlink_metadata().unwrap();
    let kind = match FileType::from_raw_mode(meta.mode()) {
        FileType::RegularFile => MemberKind::File,
        FileType::Directory => MemberKind::Dir,
        FileType::Symlink => MemberKind::Symlink,
        FileType::Fifo => MemberKind::Fifo,
        FileType::CharacterDevice => MemberKind::Char,
        FileType::BlockDevice => MemberKind::Block,
        other => panic!("{other:?}"),
    };
    let target = match kind {
        MemberKind::Symlink => fs::read_link(path).unwrap().into_os_string().into_vec(),
        _ => Vec::new(),
    };
    let content = if kind == MemberKind::File {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let xattrs = if with_xattrs {
        xattrs_of(path)
    } else {
        BTreeMap::new()
    };
    let is_device = kind == MemberKind::Char;
    let node = Node {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap()),
        rdev: if is_device {
            (
                rustix::fs::major(meta.rdev()),
                rustix::fs::minor(meta.rdev()),
            )
        } else {
            (0, 0)
        },
        target,
        content,
        xattrs,
    };
    let name = path
        .strip_prefix(root)
        .unwrap()
        .as_os_str()
        .as_bytes()
        .to_vec();
    tree.insert(name, node);
    if kind == MemberKind::Dir {
        for entry in fs::read_dir(path).unwrap() {
            look(root, &entry.unwrap().path(), with_xattrs, tree);
        }
    }
}

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..len]
        .split(|&byte| byte == 0)
        .filter(|name| name.starts_with(b"user."))
    {
        let mut value = vec![0u8; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.insert(name.to_vec(), value[..len].to_vec());
    }
    found
}

#[derive(Default)]
struct Taken(Vec<(Member, Vec<u8>)>);

impl Visitor for Taken {
    type Error = Infallible;

    fn member(&mut self, member: Member) -> Result<(), Infallible> {
        self.0.push((member, Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What the members say, hard links resolved; and how many were sparse.
fn unpack(case: &str, tar: &[u8], with_xattrs: bool) -> (Tree, usize) {
    let mut reader = TarReader::new(Limits::default());
    let mut taken = Taken::default();
    for piece in tar.chunks(10_007) {
        reader
            .push(piece, &mut taken)
            .unwrap_or_else(|stop| panic!("{case}: {stop:?}"));
    }
    reader.finish().unwrap();
    let mut tree = Tree::new();
    let mut holes = 0;
    for (member, stored) in taken.0 {
        let name = clean(&member.path);
        if member.kind == MemberKind::HardLink {
            let target = tree[clean(&member.link)].clone();
            tree.insert(name.to_vec(), target);
            continue;
        }
        let from = usize::try_from(member.data_at).unwrap();
        assert_eq!(tar[from..from + stored.len()], stored, "{case}");
        holes += usize::from(member.sparse.is_some());
        let node = Node {
            kind: member.kind,
            mode: u32::from(member.mode),
            uid: member.uid,
            gid: member.gid,
            mtime: (member.mtime.seconds, member.mtime.nanos),
            rdev: (member.rdev.major, member.rdev.minor),
            content: expand(&member, &stored),
            target: member.link,
            xattrs: member.xattrs.into_iter().filter(|_| with_xattrs).collect(),
        };
        tree.insert(name.to_vec(), node);
    }
    (tree, holes)
}

fn clean(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." { b"" } else { path }
}

fn expand(member: &Member, stored: &[u8]) -> Vec<u8> {
    let Some(map) = &member.sparse else {
        return stored.to_vec();
    };
    let mut content = vec![0; usize::try_from(member.size).unwrap()];
    let range = |from: u64, len: u64| from as usize..(from + len) as usize;
    for extent in map {
        content[range(extent.offset, extent.len)]
            .copy_from_slice(&stored[range(extent.stored_at, extent.len)]);
    }
    content
}

/// Tells of the first object that differs, without its content.
fn compare(case: &str, mut wanted: Tree, mut found: Tree) {
    // The tree's own directory changes while it is looked at from outside.
    for tree in [&mut wanted, &mut found] {
        tree.remove(&b""[..]);
    }
    let names = |tree: &Tree| {
        tree.keys()
            .map(|name| name.escape_ascii().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&wanted), names(&found), "{case}");
    for (name, wanted) in &wanted {
        let found = &found[name];
        let name = name.escape_ascii();
        assert!(
            wanted.content == found.content,
            "{case}: content of `{name}`"
        );
        let bare = |node: &Node| Node {
            content: Vec::new(),
            ..node.clone()
        };
        assert_eq!(bare(wanted), bare(found), "{case}: `{name}`");
    }
}

fn has(tool: &str) -> bool {
    let there = Command::new(tool)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: needs {tool}");
    }
    there
}

/// Makes the tree, lets `archive` pack it, and compares. Gives back how many
/// files were stored sparse.
fn check(case: &str, carries: Carries, archive: impl FnOnce(&Path) -> Vec<u8>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let with_xattrs = make(dir.path(), carries) && carries.xattrs;
    if carries.xattrs && !with_xattrs {
        eprintln!("SKIPPED: needs a temporary directory with user.* extended attributes");
    }
    let tar = archive(dir.path());
    let mut wanted = Tree::new();
    look(dir.path(), dir.path(), with_xattrs, &mut wanted);
    let (found, holes) = unpack(case, &tar, with_xattrs);
    compare(case, wanted, found);
    holes
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output.stdout
}

fn gnu_tar(case: &str, carries: Carries) -> usize {
    check(case, carries, |root| {
        output(
            Command::new("tar")
                .args(case.split(' '))
                .args(["-cf", "-", "."])
                .current_dir(root),
        )
    })
}

#[test]
fn what_gnu_tar_writes_arrives_as_it_was() {
    if !has("tar") {
        return;
    }
    for (case, carries) in [
        ("--format=v7", V7),
        ("--format=ustar", USTAR),
        ("--format=oldgnu", GNU),
        ("--format=gnu", GNU),
        ("--format=posix", PAX),
        ("--format=posix --xattrs", PAX_XATTRS),
        ("--format=gnu --blocking-factor=1 --label=label", GNU),
        (
            "--format=posix --label=label --pax-option=globexthdr.name=g,comment=c",
            PAX,
        ),
    ] {
        assert_eq!(gnu_tar(case, carries), 0, "{case}");
    }
}

#[test]
fn sparse_files_of_every_gnu_format_arrive_as_they_were() {
    if !has("tar") {
        return;
    }
    for (case, carries) in [
        ("--format=gnu --sparse --hole-detection=raw", GNU),
        ("--format=oldgnu --sparse --hole-detection=seek", GNU),
        (
            "--format=posix --sparse --sparse-version=0.0 --hole-detection=raw",
            PAX,
        ),
        (
            "--format=posix --sparse --sparse-version=0.1 --hole-detection=raw",
            PAX,
        ),
        (
            "--format=posix --sparse --sparse-version=1.0 --hole-detection=raw",
            PAX,
        ),
        (
            "--format=posix --sparse --sparse-version=1.0 --hole-detection=seek --xattrs",
            PAX_XATTRS,
        ),
    ] {
        let holes = gnu_tar(case, carries);
        // Where holes are looked for by their zeros they are there on any disk.
        assert!(holes >= 4 || case.contains("=seek"), "{case}: {holes}");
    }
}

#[test]
fn what_bsdtar_writes_arrives_as_it_was() {
    if !has("bsdtar") {
        return;
    }
    for (case, carries) in [
        ("--format=ustar", USTAR),
        ("--format=v7", V7),
        ("--format=gnutar", LIBARCHIVE_GNU),
        ("--format=pax", LIBARCHIVE_PAX),
        (
            "--format=pax --options=xattrheader=LIBARCHIVE",
            LIBARCHIVE_PAX,
        ),
        ("--format=pax --options=xattrheader=SCHILY", LIBARCHIVE_PAX),
        ("--format=pax --read-sparse", LIBARCHIVE_PAX),
    ] {
        check(case, carries, |root| {
            let mut bsdtar = Command::new("bsdtar");
            bsdtar
                .args(case.split(' '))
                .args(["--no-acls", "--no-fflags"]);
            output(bsdtar.args(["-cf", "-", "."]).current_dir(root))
        });
    }
}

#[test]
fn what_pythons_tarfile_writes_arrives_as_it_was() {
    if !has("python3") {
        return;
    }
    let script = "import sys, tarfile\n\
        t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=int(sys.argv[1]), encoding='utf-8')\n\
        t.add('.')\n\
        t.close()\n";
    // 0 ustar, 1 GNU, 2 pax. Times pass through a double: whole seconds only.
    let pax = Carries {
        nanos: false,
        ..PAX
    };
    for (format, carries) in [("0", USTAR), ("1", GNU), ("2", pax)] {
        let case = format!("tarfile, format {format}");
        check(&case, carries, |root| {
            output(
                Command::new("python3")
                    .args(["-c", script, format])
                    .current_dir(root),
            )
        });
    }
}

#[test]
fn what_the_tar_crate_writes_arrives_as_it_was() {
    // It writes times before 1970 as if they were 2^64 seconds later.
    let carries = Carries {
        negative: false,
        ..GNU
    };
    let holes = check("the tar crate", carries, |root| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        builder.sparse(true);
        builder.append_dir_all(".", root).unwrap();
        builder.into_inner().unwrap()
    });
    assert!(holes > 0 || cfg!(not(target_os = "linux")));
}

#[test]
fn the_tar_crate_finds_the_same_members() {
    if !has("tar") {
        return;
    }
    for format in ["--format=ustar", "--format=gnu", "--format=posix"] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), USTAR);
        let bytes = output(
            Command::new("tar")
                .args([format, "-cf", "-", "."])
                .current_dir(dir.path()),
        );
        let mut reader = TarReader::new(Limits::default());
        let mut taken = Taken::default();
        reader.push(&bytes, &mut taken).unwrap();
        reader.finish().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut ours = taken.0.iter();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let (member, _) = ours.next().unwrap();
            assert_eq!(member.path, *entry.path_bytes());
            assert_eq!(
                member.link,
                entry.link_name_bytes().unwrap_or_default().into_owned()
            );
            assert_eq!(member.size, entry.size());
            if member.kind == MemberKind::File {
                assert_eq!(member.data_at, entry.raw_file_position());
            }
        }
        assert!(ours.next().is_none(), "{format}");
    }
}
