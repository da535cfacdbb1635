//! What is told of changes, and the layer that is made of them, against a comparison of
//! everything there is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lazyroot::commit::pack::Packer;
use lazyroot::digest::{DiffId, Digest, Hasher};
use lazyroot::layer::blocks::BlockCache;
use lazyroot::layer::read::Index;
use lazyroot::layer::tar::{Member, MemberKind, TarReader, Visitor};
use lazyroot::layer::write::{BuildError, IndexBuilder};
use lazyroot::layer::{Dialect, Layer, Limits, SharedLayer};
use lazyroot::node::{Attr, Ino, Kind, Time};
use lazyroot::tree_path::TreePath;
use lazyroot::union::writable::{Difference, Differs, Said, Writable};
use lazyroot::union::{FsError, Listed, Union, Xattrs};

use super::*;

/// A tree that can be asked for everything.
trait Tree {
    fn names(&self, dir: Ino, visit: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), FsError>;
    fn find(&self, dir: Ino, name: &[u8]) -> (Ino, Attr);
    fn look(&self, ino: Ino) -> (Attr, Xattrs, Vec<u8>);
    fn bytes(&self, ino: Ino, to: &mut [u8]) -> usize;
}

impl Tree for Union {
    fn names(&self, dir: Ino, visit: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), FsError> {
        self.list(dir, 0, visit)
    }

    fn find(&self, dir: Ino, name: &[u8]) -> (Ino, Attr) {
        let found = self.lookup(dir, name).unwrap();
        (found.ino, found.attr)
    }

    fn look(&self, ino: Ino) -> (Attr, Xattrs, Vec<u8>) {
        let target = self.target(ino).unwrap_or_default();
        (self.attr(ino).unwrap(), self.xattrs(ino).unwrap(), target)
    }

    fn bytes(&self, ino: Ino, to: &mut [u8]) -> usize {
        self.read(ino, 0, to).unwrap()
    }
}

impl Tree for Writable {
    fn names(&self, dir: Ino, visit: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), FsError> {
        self.list(dir, 0, visit)
    }

    fn find(&self, dir: Ino, name: &[u8]) -> (Ino, Attr) {
        let found = self.lookup(dir, name).unwrap();
        (found.ino, found.stat.attr)
    }

    fn look(&self, ino: Ino) -> (Attr, Xattrs, Vec<u8>) {
        let target = self.target(ino).unwrap_or_default();
        (
            self.attr(ino).unwrap().attr,
            self.xattrs(ino).unwrap(),
            target,
        )
    }

    fn bytes(&self, ino: Ino, to: &mut [u8]) -> usize {
        self.read(ino, 0, to).unwrap()
    }
}

/// Names of a directory, sorted, with what they stand for.
fn entries(tree: &dyn Tree, dir: Ino) -> BTreeMap<Vec<u8>, (Ino, Kind)> {
    let mut names = Vec::new();
    let listed = tree.names(dir, &mut |listed| {
        if !matches!(listed.name, b"." | b"..") {
            names.push(listed.name.to_vec());
        }
        true
    });
    listed.unwrap();
    let find = |name: Vec<u8>| {
        let (ino, attr) = tree.find(dir, &name);
        (name, (ino, attr.kind))
    };
    names.into_iter().map(find).collect()
}

/// All that can be seen of an object but its number and its names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    kind: Kind,
    owner: (u16, u32, u32),
    mtime: Time,
    xattrs: Xattrs,
    contents: Vec<u8>,
    size: u64,
}

fn look(tree: &dyn Tree, ino: Ino) -> Look {
    let (attr, xattrs, target) = tree.look(ino);
    let mut contents = match attr.kind {
        Kind::File => vec![0; attr.size as usize],
        Kind::Symlink => target,
        Kind::Char | Kind::Block => format!("{:?}", attr.rdev).into_bytes(),
        _ => Vec::new(),
    };
    if attr.kind == Kind::File && attr.size > 0 {
        assert_eq!(tree.bytes(ino, &mut contents), contents.len());
    }
    Look {
        kind: attr.kind,
        owner: (attr.mode, attr.uid, attr.gid),
        mtime: attr.mtime,
        xattrs,
        contents,
        size: if attr.kind == Kind::File {
            attr.size
        } else {
            0
        },
    }
}

/// Everything by path, and for each path the first one of the same object.
fn snapshot(tree: &dyn Tree) -> BTreeMap<TreePath, (Look, TreePath)> {
    let mut all = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut waiting = vec![(TreePath::root(), Ino::ROOT)];
    while let Some((path, ino)) = waiting.pop() {
        let seen = look(tree, ino);
        if seen.kind == Kind::Dir {
            let below = entries(tree, ino).into_iter().rev();
            waiting.extend(below.map(|(name, (ino, _))| (path.child(&name), ino)));
        }
        all.insert(path, (seen, ino));
    }
    let of_path = |(path, (look, ino)): (TreePath, (Look, Ino))| {
        let first = first.entry(ino).or_insert_with(|| path.clone()).clone();
        (path, (look, first))
    };
    all.into_iter().map(of_path).collect()
}

/// Extended attributes without a value are what no layer can say.
fn sayable(mut all: BTreeMap<TreePath, (Look, TreePath)>) -> BTreeMap<TreePath, (Look, TreePath)> {
    for (look, _) in all.values_mut() {
        look.xattrs.retain(|(_, value)| !value.is_empty());
    }
    all
}

/// What a comparison of everything says.
fn compare(lower: &Union, now: &Writable) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut waiting = vec![(TreePath::root(), Ino::ROOT, Some(Ino::ROOT))];
    let (was, is) = (look(lower, Ino::ROOT), look(now, Ino::ROOT));
    if let Some(differs) = differs(&was, &is, false) {
        found.push(difference(TreePath::root(), Kind::Dir, differs, None));
    }
    while let Some((path, dir, base)) = waiting.pop() {
        let here = entries(now, dir);
        let there = base.map(|base| entries(lower, base)).unwrap_or_default();
        for (name, (_, kind)) in &there {
            if !here.contains_key(name) {
                found.push(difference(path.child(name), *kind, Differs::Deleted, None));
            }
        }
        for (name, (ino, kind)) in here {
            let path = path.child(&name);
            let below = there.get(&name).copied();
            let below_dir = below
                .filter(|(_, kind)| *kind == Kind::Dir)
                .map(|(ino, _)| ino);
            // What layers have keeps its number.
            let own = (kind == Kind::Dir && ino.0 <= lower.last_ino().0).then_some(ino);
            let moved = own.filter(|own| below_dir != Some(*own));
            let from = moved.map(|ino| lower.path_of(ino).unwrap());
            let how = match below {
                None => Some(Differs::Added),
                Some((below, _)) => differs(&look(lower, below), &look(now, ino), moved.is_some()),
            };
            if let Some(how) = how {
                found.push(difference(path.clone(), kind, how, from));
            }
            if kind == Kind::Dir {
                waiting.push((path, ino, own.or(below_dir)));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn differs(was: &Look, is: &Look, moved: bool) -> Option<Differs> {
    if was.kind != is.kind {
        let contents = is.kind != Kind::Dir;
        let was = Some(was.kind);
        return Some(Differs::Changed {
            was,
            contents,
            attributes: true,
        });
    }
    let contents = was.contents != is.contents;
    let of = |look: &Look| (look.owner, look.mtime, look.xattrs.clone());
    let attributes = of(was) != of(is);
    (contents || attributes || moved).then_some(Differs::Changed {
        was: None,
        contents,
        attributes,
    })
}

fn difference(path: TreePath, kind: Kind, differs: Differs, from: Option<TreePath>) -> Difference {
    Difference {
        path,
        kind,
        differs,
        from,
    }
}

/// A tar as a layer, as an import makes it.
struct Build {
    builder: IndexBuilder,
    file: Option<Hasher>,
}

impl Visitor for Build {
    type Error = BuildError;

    fn member(&mut self, member: Member) -> Result<(), BuildError> {
        self.file = (member.kind == MemberKind::File).then(Hasher::default);
        self.builder.member(member)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        self.file.as_mut().unwrap().update(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BuildError> {
        if let Some(hasher) = self.file.take() {
            self.builder.digest(hasher.finish());
        }
        Ok(())
    }
}

fn layer(tar: Vec<u8>) -> SharedLayer {
    let mut build = Build {
        builder: IndexBuilder::new(Dialect::Docker, Limits::default()),
        file: None,
    };
    let mut reader = TarReader::new(Limits::default());
    reader
        .push(&tar, &mut build)
        .map_err(|_| "a bad tar")
        .unwrap();
    reader.finish().unwrap();
    let diff = DiffId(Digest::sha256(&tar));
    let sealed = build
        .builder
        .finish(diff, tar.len() as u64, Vec::new())
        .unwrap();
    let index = Index::open(Box::new(sealed), BlockCache::new(1 << 20)).unwrap();
    Arc::new(Layer {
        index,
        contents: Box::new(tar),
    })
}

fn packed(tree: &Writable, said: &[Said], live: bool) -> Vec<u8> {
    let packer = Packer {
        tree,
        dialect: Dialect::Docker,
        live,
        spool: env::temp_dir(),
        advance: &|_| (),
        stop: &AtomicBool::new(false),
    };
    let mut tar = Vec::new();
    packer.write(said, &mut tar).unwrap();
    packer.end(&mut tar).unwrap();
    tar
}

/// The same differences, and the same tree by way of a layer.
fn check(twins: &mut Twins, live: bool) -> Result<(), TestCaseError> {
    let (lower, upper) = twins.unmounted();
    let frozen = || Writable::frozen(Arc::clone(&lower), Arc::new(upper.clone())).unwrap();
    let told = frozen().changes().unwrap();
    let tree = frozen();
    let said = tree.layer().unwrap();
    let tar = packed(&tree, &said, live);
    prop_assert_eq!(
        &tar,
        &packed(&frozen(), &said, !live),
        "the same tar every time"
    );
    let tree = frozen();
    let whole = packed(&tree, &tree.whole().unwrap(), live);
    drop(tree);
    upper.remount();

    // A mount mends what a crash left, and then it is the whole truth.
    let now = Writable::new(Arc::clone(&lower), Arc::new(upper.clone())).unwrap();
    let is = sayable(snapshot(&now));
    let compared = compare(&lower, &now);
    prop_assert_eq!(&told, &compared, "{:#?}", upper.picture());
    prop_assert_eq!(said.is_empty(), tar.len() == 1024);
    let mut layers = lower.layers().to_vec();
    layers.push(layer(tar));
    let same = |layers, what: &str| {
        let made = sayable(snapshot(&Union::new(layers)));
        for (path, seen) in &is {
            prop_assert_eq!(made.get(path), Some(seen), "{}: {}", what, path);
        }
        prop_assert_eq!(
            made.keys().collect::<Vec<_>>(),
            is.keys().collect::<Vec<_>>()
        );
        Ok(())
    };
    same(layers, "above the others")?;
    same(vec![layer(whole)], "alone")
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn changes_are_what_a_whole_comparison_says_and_a_layer_of_them_makes_the_same_tree(
        stack in layers(),
        live in prop::bool::ANY,
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let ops: Vec<_> = ops.into_iter().map(|op| (op, None)).collect();
        let mut program = Program::new(&stack, false);
        let verdict = program.run(&ops);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
        let story = program.twins.tale("");
        let checked = check(&mut program.twins, live);
        prop_assert!(checked.is_ok(), "{}\n{:?}", story, checked);
    }

    #[test]
    fn also_after_a_crash(
        stack in layers(),
        ops in prop::collection::vec((op(), fault()), 1..20),
    ) {
        let mut program = Program::new(&stack, false);
        let verdict = program.run(&ops);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
        let story = program.twins.tale("");
        let checked = check(&mut program.twins, false);
        prop_assert!(checked.is_ok(), "{}\n{:?}", story, checked);
    }
}

fn told(story: &mut Story) -> Vec<String> {
    let (lower, upper) = story.0.unmounted();
    let tree = Writable::frozen(lower, Arc::new(upper)).unwrap();
    let line = |change: &Difference| {
        let from = change.from.as_ref().map(|from| format!(" from {from}"));
        let letter = match change.differs {
            Differs::Added => "A",
            Differs::Changed { .. } => "C",
            Differs::Deleted => "D",
        };
        format!("{letter} {}{}", change.path, from.unwrap_or_default())
    };
    tree.changes().unwrap().iter().map(line).collect()
}

#[test]
fn a_group_half_copied_up_by_a_crash_is_whole_in_what_is_told() {
    let mut halves = 0;
    for after in 0..16 {
        let mut twins = Twins::new(&group(), false);
        let (lower, upper) = twins.unmounted();
        let tree = Writable::new(lower, Arc::new(upper.clone())).unwrap();
        let file = tree.lookup(Ino::ROOT, b"a").unwrap().ino;
        upper.arm(after, Fault::Crash);
        let outcome = tree.set_attr(file, &chmod(0o600));
        drop(tree);
        upper.remount();
        // Nobody has looked at it since.
        let names = upper.picture().matches("metacopy").count();
        halves += usize::from(outcome.is_err() && names > 0);
        check(&mut twins, false).unwrap();
    }
    assert!(halves > 1, "no crash came between two names");
}

#[test]
fn a_moved_directory_is_named_once_with_where_it_was() {
    let mut story = Story::of(&[vec![file("d/e/f"), file("d/g"), file("h")]]);
    story.rename("/d", "/x", Rename::Replace);
    story.chmod("/x/g", 0o600);
    assert_eq!(told(&mut story), ["C /", "D /d", "A /x from /d", "C /x/g"]);
    let verdict = story.0.remount();
    story.went(verdict);
    check(&mut story.0, false).unwrap();
    let verdict = story.0.remount();
    story.went(verdict);
}

#[test]
fn what_came_up_and_is_as_it_was_is_no_change() {
    let mut story = Story::of(&[vec![file("d/f"), file("g")]]);
    story.open("/d/f", Open::Write);
    story.make("/d/new", Thing::File);
    story.call(Call::Unlink(story.at("/d/new")));
    let now = told(&mut story);
    // The time of the directory alone.
    assert_eq!(now, ["C /d"]);
    let verdict = story.0.remount();
    story.went(verdict);
}
