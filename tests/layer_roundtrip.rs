//! What an index says is what the members said: random members against a naive
//! model, and the golden index, whose bytes never change. `PROPTEST_CASES` says how
//! many layers are tried (six times that).

#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod layer_support;

use std::collections::{BTreeMap, BTreeSet};

use layer_support::{TAR_LEN, build, diff_id, digest_of, golden, member, open, several};
use lazyroot::layer::read::{Hit, Index, Summary};
use lazyroot::layer::tar::{Extent, Member, MemberKind};
use lazyroot::layer::write::IndexBuilder;
use lazyroot::layer::{Dialect, Limits, Row};
use lazyroot::node::{Device, Kind, Time};
use lazyroot::tree_path::{TreePath, printable};
use proptest::prelude::*;

type Path = Vec<Vec<u8>>;

/// An object of the model: the member that made it, or nothing for one that is
/// implied. Its number is its place in the order of the tar.
type Object = Option<Member>;

#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Object(usize),
    Link(Path),
}

/// A layer, applied member by member in the plainest way.
#[derive(Debug, Clone)]
struct Model {
    docker: bool,
    objects: Vec<Object>,
    entries: BTreeMap<Path, Entry>,
    whiteouts: BTreeSet<Path>,
    opaque: BTreeSet<Path>,
    hidden: BTreeMap<Path, Entry>,
}

/// The member is refused.
#[derive(Debug)]
struct No;

impl Model {
    fn new(dialect: Dialect) -> Self {
        Self {
            docker: dialect == Dialect::Docker,
            objects: vec![None],
            entries: BTreeMap::from([(Path::new(), Entry::Object(0))]),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            hidden: BTreeMap::new(),
        }
    }

    fn kind(&self, object: usize) -> Kind {
        match self.objects[object].as_ref().map(|member| member.kind) {
            None | Some(MemberKind::Dir) => Kind::Dir,
            Some(MemberKind::File) => Kind::File,
            Some(MemberKind::Symlink) => Kind::Symlink,
            Some(MemberKind::Char) => Kind::Char,
            Some(MemberKind::Block) => Kind::Block,
            Some(MemberKind::Fifo) => Kind::Fifo,
            Some(MemberKind::HardLink) => unreachable!("hard links make no objects"),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        matches!(self.entries.get(path), Some(Entry::Object(o)) if self.kind(*o) == Kind::Dir)
    }

    /// Nothing on the way to a path is in the way.
    fn reachable(&self, path: &Path) -> Result<(), No> {
        let above = (0..path.len()).map(|n| path[..n].to_vec());
        let blocked = above
            .filter(|p| self.entries.contains_key(p))
            .any(|p| !self.is_dir(&p));
        if blocked { Err(No) } else { Ok(()) }
    }

    fn parents(&mut self, path: &Path) -> Result<(), No> {
        self.reachable(path)?;
        for n in 1..path.len() {
            let above = path[..n].to_vec();
            if !self.entries.contains_key(&above) {
                self.objects.push(None);
                self.entries
                    .insert(above, Entry::Object(self.objects.len() - 1));
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &Path, entry: Entry) {
        if self.is_dir(path) {
            let below = |p: &Path| p.len() > path.len() && p.starts_with(path);
            self.entries.retain(|p, _| !below(p));
            self.whiteouts.retain(|p| !below(p));
            self.opaque.retain(|p| !p.starts_with(path));
        } else if self.entries.contains_key(path) {
            // It removed what lower layers have, and that does not come back.
            self.whiteouts.insert(path.clone());
        }
        self.entries.insert(path.clone(), entry);
    }

    fn hidden(&self, path: &Path) -> bool {
        let first = path.iter().find(|name| name.starts_with(b".wh."));
        self.docker && first.is_some_and(|n| n.starts_with(b".wh..wh.") && n != b".wh..wh..opq")
    }

    fn special(&self, path: &Path) -> bool {
        self.docker && path.iter().any(|name| name.starts_with(b".wh."))
    }

    fn linked(&self, link: &[u8]) -> Result<Entry, No> {
        if link.is_empty() {
            return Err(No);
        }
        let target = names(&TreePath::parse(link).map_err(|_| No)?);
        let found = if self.hidden(&target) {
            self.hidden.get(&target)
        } else if self.special(&target) {
            return Err(No);
        } else {
            self.reachable(&target)?;
            self.entries.get(&target)
        };
        match found {
            Some(Entry::Object(object)) if self.kind(*object) == Kind::Dir => Err(No),
            Some(entry) => Ok(entry.clone()),
            None => Ok(Entry::Link(target)),
        }
    }

    fn object(&mut self, member: &Member) -> Result<Entry, No> {
        if member.kind == MemberKind::HardLink {
            return self.linked(&member.link);
        }
        if member.kind == MemberKind::Symlink && member.link.is_empty() {
            return Err(No);
        }
        self.objects.push(Some(member.clone()));
        Ok(Entry::Object(self.objects.len() - 1))
    }

    fn member(&mut self, member: &Member) -> Result<(), No> {
        if member.path.is_empty() {
            return Err(No);
        }
        let path = names(&TreePath::parse_relative(&member.path).map_err(|_| No)?);
        // A whiteout may only come last, and must hide something.
        if let (true, Some(at)) = (
            self.docker,
            path.iter().position(|n| n.starts_with(b".wh.")),
        ) {
            let (name, dir) = (&path[at], path[..at].to_vec());
            let last = at + 1 == path.len();
            if name.starts_with(b".wh..wh.") && name != b".wh..wh..opq" {
                if member.kind != MemberKind::Dir {
                    let entry = self.object(member)?;
                    self.hidden.insert(path, entry);
                }
                return Ok(());
            }
            let hides = name[4..].to_vec();
            if !last || [&b""[..], b".", b".."].contains(&hides.as_slice()) {
                return Err(No);
            }
            self.parents(&path)?;
            if name == b".wh..wh..opq" {
                self.opaque.insert(dir);
            } else {
                self.whiteouts.insert([dir, vec![hides]].concat());
            }
            return Ok(());
        }
        if path.is_empty() && member.kind != MemberKind::Dir {
            return Err(No);
        }
        let mut next = self.clone();
        // The order of the tar: what is implied comes before what implies it.
        if member.kind == MemberKind::HardLink {
            let entry = next.linked(&member.link)?;
            next.parents(&path)?;
            next.put(&path, entry);
        } else {
            next.parents(&path)?;
            match next.entries.get(&path) {
                Some(Entry::Object(old))
                    if member.kind == MemberKind::Dir && next.is_dir(&path) =>
                {
                    let old = *old;
                    next.objects[old] = Some(member.clone());
                }
                _ => {
                    let entry = next.object(member)?;
                    next.put(&path, entry);
                }
            }
        }
        *self = next;
        Ok(())
    }

    /// A directory that is hidden, and in which a member names nothing but what is hidden, is not there.
    fn settled(&self) -> Self {
        let mut settled = self.clone();
        for hidden in &self.whiteouts {
            let mut inside = self
                .entries
                .iter()
                .filter(|(path, _)| path.starts_with(hidden));
            let named = inside.any(|(_, entry)| match entry {
                Entry::Object(object) => self.objects[*object].is_some(),
                Entry::Link(_) => true,
            });
            if !named {
                let below = |path: &Path| path.len() > hidden.len() && path.starts_with(hidden);
                settled.entries.retain(|path, _| !path.starts_with(hidden));
                settled.whiteouts.retain(|path| !below(path));
                settled.opaque.retain(|path| !path.starts_with(hidden));
            }
        }
        settled
    }

    fn names_of(&self, object: usize) -> BTreeSet<&Path> {
        let is = |entry: &Entry| *entry == Entry::Object(object);
        self.entries
            .iter()
            .filter(|(_, entry)| is(entry))
            .map(|(path, _)| path)
            .collect()
    }

    /// What a directory lists, in order.
    fn listed(&self, dir: &Path) -> BTreeSet<&[u8]> {
        let all = self.entries.keys().chain(&self.whiteouts);
        let below = all.filter(|p| p.len() == dir.len() + 1 && p.starts_with(dir));
        below
            .filter_map(|path| path.last().map(Vec::as_slice))
            .collect()
    }
}

fn names(path: &TreePath) -> Path {
    path.names().map(<[u8]>::to_vec).collect()
}

/// Compares index and model by every question there is.
fn compare(index: &Index, model: &Model) {
    let model = &model.settled();
    index.verify().unwrap();
    assert_eq!((index.diff_id(), index.tar_len()), (diff_id(), TAR_LEN));
    let rows = rows(index, model);
    let mut summary = Summary::default();
    let mut links = 0;
    for (path, entry) in &model.entries {
        let hit = lookup(index, &rows, path);
        match entry {
            Entry::Object(object) => {
                let row = rows[object];
                assert_eq!(hit, Hit::Node(row, model.kind(*object)), "{path:?}");
                if model.names_of(*object).first() == Some(&path) {
                    node(index, model, &rows, *object, path, &mut summary);
                }
            }
            Entry::Link(target) => {
                let Hit::Link(number) = hit else {
                    panic!("{path:?}: {hit:?}")
                };
                let link = &index.unresolved().unwrap()[number as usize];
                assert_eq!(names(&link.target), *target);
                assert_eq!(Some(&link.name), path.last());
                assert_eq!(link.dir, rows[&parent(model, path)]);
                links += 1;
            }
        }
    }
    for path in &model.whiteouts {
        if !model.entries.contains_key(path) {
            assert_eq!(lookup(index, &rows, path), Hit::Whiteout, "{path:?}");
            summary.whiteouts += 1;
            summary.entries += 1;
        }
    }
    assert_eq!(index.unresolved().unwrap().len(), links);
    summary.entries += u32::try_from(model.entries.len()).unwrap() - 1;
    summary.unresolved = u32::try_from(links).unwrap();
    summary.rows = u32::try_from(rows.len()).unwrap();
    assert_eq!(index.summary(), summary);
}

/// Rows by object: in the order of the tar, without gaps.
fn rows(index: &Index, model: &Model) -> BTreeMap<usize, Row> {
    let live: BTreeSet<usize> = model
        .entries
        .values()
        .filter_map(|entry| match entry {
            Entry::Object(object) => Some(*object),
            Entry::Link(_) => None,
        })
        .collect();
    assert_eq!(index.summary().rows as usize, live.len());
    live.into_iter().zip((0..).map(Row)).collect()
}

fn parent(model: &Model, path: &Path) -> usize {
    match model.entries[&path[..path.len() - 1]] {
        Entry::Object(object) => object,
        Entry::Link(_) => panic!("{path:?} has no directory"),
    }
}

fn lookup(index: &Index, rows: &BTreeMap<usize, Row>, path: &Path) -> Hit {
    let mut hit = Hit::Node(Row::ROOT, Kind::Dir);
    for name in path {
        let Hit::Node(dir, Kind::Dir) = hit else {
            panic!("{path:?}: {hit:?}")
        };
        assert!(rows.values().any(|row| *row == dir));
        hit = index.lookup(dir, name).unwrap();
    }
    hit
}

fn node(
    index: &Index,
    model: &Model,
    rows: &BTreeMap<usize, Row>,
    object: usize,
    path: &Path,
    summary: &mut Summary,
) {
    let row = rows[&object];
    let node = index.node(row).unwrap();
    let implied = member(MemberKind::Dir, b"");
    let implied = Member {
        mode: 0o755,
        ..implied
    };
    let made = model.objects[object].as_ref();
    let from = made.unwrap_or(&implied);
    let attr = node.attr;
    assert_eq!(attr.kind, model.kind(object));
    assert_eq!(
        (attr.mode, attr.uid, attr.gid),
        (from.mode, from.uid, from.gid)
    );
    assert_eq!((attr.mtime, attr.rdev), (from.mtime, from.rdev));
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    xattrs.extend(from.xattrs.iter().cloned());
    assert_eq!(node.has_xattrs, !xattrs.is_empty());
    assert_eq!(
        index.xattrs(row).unwrap(),
        xattrs.into_iter().collect::<Vec<_>>()
    );
    summary.with_xattrs += u32::from(node.has_xattrs);

    let mut named: Vec<(Row, Vec<u8>)> = Vec::new();
    for path in model
        .names_of(object)
        .into_iter()
        .filter(|path| !path.is_empty())
    {
        named.push((rows[&parent(model, path)], path.last().unwrap().clone()));
    }
    named.sort();
    assert_eq!(index.names(row).unwrap(), named);

    match attr.kind {
        Kind::File => {
            assert_eq!((attr.size, attr.stored), (from.size, from.stored));
            let extents = index.extents(row).unwrap();
            assert_eq!((extents.start, extents.size), (from.data_at, from.size));
            assert_eq!(extents.map, from.sparse);
            assert_eq!(index.digest(row).unwrap(), digest_of(from));
            summary.files += 1;
            summary.bytes += from.size;
        }
        Kind::Symlink => {
            assert_eq!(index.target(row).unwrap(), from.link);
            assert_eq!(attr.size, from.link.len() as u64);
        }
        _ => assert_eq!(attr.size, 0),
    }
    if attr.kind != Kind::Dir {
        assert_eq!(attr.nlink as usize, named.len());
        assert_eq!(node.dir, None);
        assert!(index.lookup(row, b"a").is_err());
        return;
    }
    directory(index, model, row, path);
    let dir = node.dir.unwrap();
    // A whiteout with members below its name makes the directory anew.
    let hidden = model.whiteouts.contains(path);
    assert_eq!(dir.implied, made.is_none() && !hidden);
    assert_eq!(dir.opaque, model.opaque.contains(path) || hidden);
    assert_eq!(dir.entries as usize, model.listed(path).len());
    let above = if path.is_empty() {
        Row::ROOT
    } else {
        rows[&parent(model, path)]
    };
    assert_eq!(dir.parent, above);
    let subdirs = model
        .listed(path)
        .into_iter()
        .filter(|name| model.is_dir(&[path.clone(), vec![name.to_vec()]].concat()));
    assert_eq!(attr.nlink as usize, 2 + subdirs.count());
    summary.dirs += 1;
    summary.whiteouts += u32::from(dir.opaque);
}

fn directory(index: &Index, model: &Model, row: Row, path: &Path) {
    let wanted: Vec<&[u8]> = model.listed(path).into_iter().collect();
    for from in 0..=wanted.len() {
        let mut seen = Vec::new();
        index
            .list(
                row,
                u32::try_from(from).unwrap(),
                &mut |number, name, hit| {
                    assert_eq!(number as usize, from + seen.len());
                    assert_eq!(index.lookup(row, name).unwrap(), hit);
                    seen.push(name.to_vec());
                    true
                },
            )
            .unwrap();
        assert_eq!(seen, wanted[from..]);
    }
    for name in [&b"zz"[..], b"", b".", b"..", b"a/b", b"\0"] {
        assert_eq!(index.lookup(row, name).unwrap(), Hit::Absent);
    }
}

/// Few names, so that members meet often; long ones share their beginnings.
const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"abcdef",
    b"abcdefg",
    b"abcdefgh",
    b"abcdefg-\xff",
    b"a ",
    b".wh.a",
    b".wh.abcdefg",
    b".wh..wh..opq",
    b".wh..wh.plnk",
    b"..",
    b".",
    b"",
    b".wh.",
];

fn path() -> impl Strategy<Value = Vec<u8>> {
    // Names that are refused or hidden come rarely.
    let name = prop_oneof![12 => 0..7usize, 3 => 7..11usize, 1 => 11..NAMES.len()];
    prop::collection::vec(name.prop_map(|n| NAMES[n]), 1..4).prop_map(|names| names.join(&b'/'))
}

fn kind() -> impl Strategy<Value = MemberKind> {
    prop_oneof![
        4 => Just(MemberKind::File),
        4 => Just(MemberKind::Dir),
        4 => Just(MemberKind::HardLink),
        2 => Just(MemberKind::Symlink),
        1 => Just(MemberKind::Char),
        1 => Just(MemberKind::Block),
        1 => Just(MemberKind::Fifo),
    ]
}

fn a_member() -> impl Strategy<Value = Member> {
    let xattr = (0..3u8, prop::collection::vec(any::<u8>(), 0..20));
    let xattrs = prop::collection::vec(xattr, 0..4).prop_map(|all| {
        all.into_iter()
            .map(|(n, value)| (format!("user.{n}").into_bytes(), value))
            .collect()
    });
    let numbers = (
        0..0o10000u16,
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0..1_000_000_000u32,
    );
    let data = (0..1u64 << 30, 0..1u64 << 39, any::<bool>());
    (
        path(),
        kind(),
        path(),
        numbers,
        data,
        prop_oneof![3 => Just(Vec::new()), 1 => xattrs],
    )
        .prop_map(
            |(
                path,
                kind,
                link,
                (mode, uid, gid, seconds, nanos),
                (size, data_at, sparse),
                xattrs,
            )| {
                let mtime = Time { seconds, nanos };
                let mut member = Member {
                    mode,
                    uid,
                    gid,
                    mtime,
                    xattrs,
                    ..member(kind, &path)
                };
                match kind {
                    MemberKind::File => {
                        (member.size, member.stored, member.data_at) = (size, size, data_at);
                        if sparse && size > 9 {
                            let last = Extent {
                                offset: size - 2,
                                len: 2,
                                stored_at: 3,
                            };
                            let first = Extent {
                                offset: 1,
                                len: 3,
                                stored_at: 0,
                            };
                            (member.stored, member.sparse) = (5, Some(vec![first, last]));
                        }
                    }
                    MemberKind::HardLink | MemberKind::Symlink => member.link = link,
                    MemberKind::Char | MemberKind::Block => {
                        member.rdev = Device {
                            major: uid,
                            minor: gid,
                        };
                    }
                    MemberKind::Dir | MemberKind::Fifo => {}
                }
                member
            },
        )
}

proptest! {
    #![proptest_config(several(6))]

    #[test]
    fn an_index_says_what_its_members_said(
        members in prop::collection::vec(a_member(), 0..40),
        appc in any::<bool>(),
    ) {
        let dialect = if appc { Dialect::AppC } else { Dialect::Docker };
        let mut model = Model::new(dialect);
        let mut builder = IndexBuilder::new(dialect, Limits::default());
        for member in &members {
            // A member that is refused leaves no trace.
            let taken = builder.member(member.clone());
            let modelled = model.member(member);
            prop_assert_eq!(taken.is_ok(), modelled.is_ok(), "{:?}: {:?}", member, taken);
            if member.kind == MemberKind::File {
                builder.digest(digest_of(member));
            }
        }
        let bytes = builder.finish(diff_id(), TAR_LEN, Vec::new()).unwrap();
        let index = open(&bytes).unwrap();
        prop_assert_eq!(index.dialect(), dialect);
        compare(&index, &model);
    }
}

#[test]
fn the_same_members_make_the_same_bytes() {
    let first = build(Dialect::Docker, &golden()).unwrap();
    assert_eq!(build(Dialect::Docker, &golden()).unwrap(), first);
}

/// A tree in lines, as a reader may check it by hand.
fn lines(index: &Index, dir: Row, path: &str, to: &mut String) {
    use std::fmt::Write as _;
    index
        .list(dir, 0, &mut |_, name, hit| {
            let path = format!("{path}/{}", printable(name));
            match hit {
                Hit::Node(row, kind) => {
                    writeln!(to, "{path} {}", line(index, row)).unwrap();
                    if kind == Kind::Dir {
                        lines(index, row, &path, to);
                    }
                }
                Hit::Link(number) => {
                    let link = &index.unresolved().unwrap()[number as usize];
                    writeln!(to, "{path} link to {}", link.target).unwrap();
                }
                Hit::Whiteout => writeln!(to, "{path} whiteout").unwrap(),
                Hit::Absent => panic!("{path} is listed and absent"),
            }
            true
        })
        .unwrap();
}

fn line(index: &Index, row: Row) -> String {
    use std::fmt::Write as _;
    let node = index.node(row).unwrap();
    let a = node.attr;
    let mut line = format!(
        "{:?} {:o} {}:{} links {} size {} stored {} time {}.{:09}",
        a.kind, a.mode, a.uid, a.gid, a.nlink, a.size, a.stored, a.mtime.seconds, a.mtime.nanos
    );
    if let Some(dir) = node.dir {
        let marks = [(dir.opaque, " opaque"), (dir.implied, " implied")];
        line.extend(marks.iter().filter(|mark| mark.0).map(|mark| mark.1));
    }
    match a.kind {
        Kind::File => {
            let extents = index.extents(row).unwrap();
            let digest = index.digest(row).unwrap().hex();
            write!(line, " at {} {}", extents.start, &digest[..8]).unwrap();
            for extent in extents.map.unwrap_or_default() {
                let Extent {
                    offset,
                    len,
                    stored_at,
                } = extent;
                write!(line, " {offset}+{len}@{stored_at}").unwrap();
            }
        }
        Kind::Symlink => {
            write!(line, " to {}", printable(&index.target(row).unwrap())).unwrap();
        }
        Kind::Char | Kind::Block => write!(line, " {}:{}", a.rdev.major, a.rdev.minor).unwrap(),
        Kind::Dir | Kind::Fifo | Kind::Socket => {}
    }
    for (name, value) in index.xattrs(row).unwrap() {
        write!(line, " {}={value:?}", printable(&name)).unwrap();
    }
    line
}

/// Writes a fixture where that is asked for, and else compares with it.
fn fixture(name: &str, now: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    if std::env::var_os("LAZYROOT_BLESS").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert!(
        golden == now,
        "`fixtures/{name}` is not what the code makes (fixtures/README.md)"
    );
}

#[test]
fn the_golden_index_is_what_the_builder_writes() {
    fixture("layer-v1.idx", &build(Dialect::Docker, &golden()).unwrap());
}

#[test]
fn the_golden_index_reads_as_the_tree_that_was_written_out() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/layer-v1.idx");
    let index = open(&std::fs::read(path).unwrap()).unwrap();
    index.verify().unwrap();
    let mut text = format!("/ {}\n", line(&index, Row::ROOT));
    lines(&index, Row::ROOT, "", &mut text);
    fixture("layer-v1.txt", text.as_bytes());
}
