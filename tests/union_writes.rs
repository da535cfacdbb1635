//! *The model is the definition*, of changes too: random operations on a writable
//! union over random layers, and on a naive POSIX file system
//! (`support/posix.rs`). After every step the two must look the same, names,
//! numbers and contents. No disk and no kernel. `PROPTEST_CASES` says how many
//! stories are tried; a failing one is printed as a list of calls.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "union_writes/changes.rs"]
mod changes;
#[path = "union_writes/copying.rs"]
mod copying;
mod support;

#[path = "support/posix.rs"]
mod posix;
#[path = "support/program.rs"]
mod program;
#[path = "support/threads.rs"]
mod threads;
#[path = "support/twins.rs"]
mod twins;
#[path = "support/upper.rs"]
mod upper;

use std::env;
use std::sync::Arc;

use lazyroot::node::Ino;
use lazyroot::union::upper::{Change, SetXattr};
use lazyroot::union::writable::{Maker, Open, Rename, Writable};
use lazyroot::union::{Listed, Union};
use posix::Id;
use program::{Program, fault, op};
use proptest::prelude::*;
use support::layers::{Data, Entry, What};
use support::stacks::stacks;
use twins::{At, Call, Thing, Twins, Verdict};
use upper::Fault;

/// Fewer than in the layers' own test, so that operations meet more often.
const NAMES: &[&[u8]] = &[b"a", b"b", b"c"];

/// As many as take seconds; `PROPTEST_CASES` asks for more.
fn cases(few: u32) -> ProptestConfig {
    let cases = match env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => few,
    };
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// The flat ones have more hard links that lead somewhere.
fn layers() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    prop_oneof![stacks(NAMES, 3, 9, 3), stacks(NAMES, 2, 9, 3)]
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn a_writable_union_is_a_posix_file_system(
        stack in layers(),
        keeps in prop::bool::ANY,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let ops: Vec<_> = ops.into_iter().map(|op| (op, None)).collect();
        let verdict = Program::new(&stack, keeps).run(&ops);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    }
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn what_fails_or_crashes_has_happened_or_not(
        stack in layers(),
        keeps in prop::bool::ANY,
        ops in prop::collection::vec((op(), fault()), 1..30),
    ) {
        let verdict = Program::new(&stack, keeps).run(&ops);
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    }
}

/// A tree with a hand for each change, by path.
struct Story(Twins);

impl Story {
    fn of(stack: &[Vec<Entry>]) -> Self {
        let mut story = Self(Twins::new(stack, false));
        let verdict = story.0.check();
        story.went(verdict);
        story
    }

    #[track_caller]
    fn went(&self, verdict: Verdict) {
        if let Err(wrong) = verdict {
            panic!("{}", self.0.tale(&wrong));
        }
    }

    fn at(&self, path: &str) -> At {
        let (dir, name) = path.rsplit_once('/').unwrap();
        (self.id(dir), name.as_bytes().to_vec())
    }

    fn id(&self, path: &str) -> Id {
        let names = path.split('/').filter(|name| !name.is_empty());
        let model = &self.0.model;
        names.fold(model.root, |dir, name| {
            model.lookup(dir, name.as_bytes()).unwrap()
        })
    }

    #[track_caller]
    fn call(&mut self, call: Call) {
        let verdict = self.0.call(&call, None);
        self.went(verdict);
    }

    #[track_caller]
    fn make(&mut self, path: &str, thing: Thing) {
        let maker = Maker {
            uid: 1,
            gid: 2,
            mode: 0o755,
            umask: 0,
        };
        self.call(Call::Make(self.at(path), thing, maker));
    }

    #[track_caller]
    fn rename(&mut self, from: &str, to: &str, how: Rename) {
        self.call(Call::Rename(self.at(from), self.at(to), how));
    }

    #[track_caller]
    fn chmod(&mut self, path: &str, mode: u16) {
        self.call(Call::SetAttr(self.id(path), chmod(mode)));
    }

    #[track_caller]
    fn open(&mut self, path: &str, how: Open) {
        self.call(Call::Open(self.id(path), how));
    }

    #[track_caller]
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let verdict = self.0.write(0, offset, bytes);
        self.went(verdict);
    }

    #[track_caller]
    fn remount(&mut self) {
        let verdict = self.0.remount().and_then(|()| self.0.check());
        self.went(verdict);
    }

    fn names(&self, path: &str) -> usize {
        self.0.model.get(self.id(path)).entries.len()
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let verdict = self.0.end();
            self.went(verdict);
        }
    }
}

fn chmod(mode: u16) -> Change {
    Change {
        mode: Some(mode),
        ..Change::default()
    }
}

fn file(path: &str) -> Entry {
    let stored = None;
    Entry::new(
        path,
        What::File(Data {
            size: 20,
            salt: 4,
            stored,
        }),
    )
}

fn link(path: &str, target: &str) -> Entry {
    Entry::new(path, What::Link(target.as_bytes().to_vec()))
}

/// Four names of one file: two in a layer, two in others above.
fn group() -> Vec<Vec<Entry>> {
    vec![
        vec![file("a"), link("d/b", "a")],
        vec![link("d/e/c", "d/b")],
        vec![link("f", "d/e/c"), file("d/e/other")],
    ]
}

#[test]
fn a_hard_link_group_of_layers_is_one_object_over_copy_up_and_remount() {
    let mut story = Story::of(&group());
    story.chmod("/d/b", 0o600);
    story.remount();
    story.open("/f", Open::Write);
    story.write(3, b"new");
    story.rename("/d", "/moved", Rename::Replace);
    story.remount();
    story.call(Call::Unlink(story.at("/a")));
    story.call(Call::Link(story.id("/moved/b"), story.at("/moved/e/again")));
    story.remount();
    assert_eq!(story.id("/moved/e/again"), story.id("/f"));
}

#[test]
fn a_name_of_a_group_in_a_renamed_directory_goes_up_where_it_is_now() {
    let mut story = Story::of(&group());
    story.rename("/d", "/moved", Rename::Replace);
    story.make("/d", Thing::Dir);
    story.remount();
    story.chmod("/a", 0o600);
    story.remount();
    assert_eq!(
        (story.names("/d"), story.id("/moved/b")),
        (0, story.id("/a"))
    );
}

#[test]
fn who_renames_and_makes_what_he_lists_comes_to_an_end() {
    let layer = support::layers::Maker::new().layer(&[file("d/a"), file("d/b"), file("d/c")]);
    let union = Arc::new(Union::new(vec![layer]));
    let tree = Writable::new(union, Arc::new(upper::Memory::new())).unwrap();
    let dir = tree.lookup(Ino::ROOT, b"d").unwrap().ino;
    let make = |name: &str| {
        let maker = Maker {
            uid: 0,
            gid: 0,
            mode: 0o644,
            umask: 0,
        };
        let made = tree.make(
            dir,
            name.as_bytes(),
            lazyroot::union::upper::What::File(0),
            &maker,
        );
        made.map(drop).unwrap();
    };
    ["x", "y", "z"].into_iter().for_each(make);
    let (mut cookie, mut listed) = (0, Vec::new());
    loop {
        let mut next = None;
        let mut one = |line: Listed<'_>| {
            let first = next.is_none();
            next.get_or_insert((line.cookie, line.name.to_vec()));
            first
        };
        tree.list(dir, cookie, &mut one).unwrap();
        let Some((behind, name)) = next else { break };
        cookie = behind;
        if !name.starts_with(b".") {
            let renamed = [&name[..], b"!"].concat();
            tree.rename((dir, &name), (dir, &renamed), Rename::Replace)
                .unwrap();
            make(&format!("new {}", listed.len()));
            listed.push(String::from_utf8(name).unwrap());
        }
        assert!(listed.len() <= 6, "{listed:?}");
    }
    listed.sort();
    assert_eq!(listed, ["a", "b", "c", "x", "y", "z"]);
}

#[test]
fn a_file_that_cannot_be_cut_for_want_of_room_is_whole() {
    for after in 0..2 {
        let mut story = Story::of(&[vec![file("f")]]);
        // Its attributes go up, its contents stay below.
        story.chmod("/f", 0o600);
        let whole = story.0.model.get(story.id("/f")).bytes.clone();
        let change = Change {
            size: Some(3),
            ..Change::default()
        };
        let call = Call::SetAttr(story.id("/f"), change);
        let verdict = story.0.call(&call, Some((after, Fault::NoSpace)));
        story.went(verdict);
        assert_eq!(story.0.model.get(story.id("/f")).bytes, whole);
        story.remount();
    }
}

#[test]
fn a_crash_or_a_full_disk_between_the_names_of_a_group_leaves_it_whole() {
    // Attributes alone, contents at once, a new name for one of them.
    for (kind, fault) in (0..3).flat_map(|kind| [(kind, Fault::Crash), (kind, Fault::NoSpace)]) {
        for after in 0..16 {
            let mut story = Story::of(&group());
            let call = match kind {
                0 => Call::SetAttr(story.id("/a"), chmod(0o600)),
                1 => Call::Open(story.id("/d/e/c"), Open::Write),
                _ => Call::Link(story.id("/a"), story.at("/d/new")),
            };
            let verdict = story.0.call(&call, Some((after, fault)));
            story.went(verdict);
            story.open("/f", Open::Write);
            story.write(0, b"one");
            story.remount();
        }
    }
}

#[test]
fn a_renamed_lower_directory_takes_along_what_is_below_and_leaves_nothing() {
    let mut story = Story::of(&[
        vec![file("d/e/low"), file("d/gone"), file("d/same")],
        vec![
            file("d/e/high"),
            Entry::new("d/gone", What::Whiteout),
            file("d/same"),
        ],
    ]);
    story.rename("/d", "/x", Rename::Replace);
    assert_eq!((story.names("/x"), story.names("/x/e")), (2, 2));
    story.make("/d", Thing::Dir);
    assert_eq!(story.names("/d"), 0);
    story.remount();
    story.rename("/x/e", "/d/e", Rename::Replace);
    story.make("/x/e", Thing::Dir);
    story.remount();
    assert_eq!((story.names("/d/e"), story.names("/x/e")), (2, 0));
}

#[test]
fn lower_directories_go_round_and_come_back() {
    let mut story = Story::of(&[vec![file("d/one"), file("e/two"), file("f/three")]]);
    for _ in 0..2 {
        story.rename("/d", "/spare", Rename::Replace);
        story.rename("/e", "/d", Rename::Replace);
        story.rename("/f", "/e", Rename::Replace);
        story.rename("/spare", "/f", Rename::Replace);
        story.remount();
        story.rename("/d", "/e", Rename::Exchange);
        story.rename("/d", "/f", Rename::Exchange);
        story.remount();
        let first = story.0.model.get(story.id("/d")).entries.keys().next();
        assert_eq!(first.unwrap(), b"one");
    }
    story.rename("/d", "/e/d", Rename::Replace);
    story.rename("/e", "/f/e", Rename::Replace);
    story.rename("/f/e/d", "/d", Rename::Replace);
    story.rename("/f/e", "/e", Rename::Replace);
    story.remount();
}

#[test]
fn a_directory_made_where_one_was_removed_is_empty() {
    let mut story = Story::of(&[vec![file("d/e/f")], vec![file("d/g")]]);
    for _ in 0..2 {
        for path in ["/d/e/f", "/d/g"] {
            if story.names("/d") > 0 {
                story.call(Call::Unlink(story.at(path)));
            }
        }
        if story.names("/d") > 0 {
            story.call(Call::Rmdir(story.at("/d/e")));
        }
        story.call(Call::Rmdir(story.at("/d")));
        story.remount();
        story.make("/d", Thing::Dir);
        assert_eq!(story.names("/d"), 0);
        story.remount();
        story.rename("/d", "/elsewhere", Rename::Replace);
        story.rename("/elsewhere", "/d", Rename::Replace);
        story.remount();
    }
}

#[test]
fn marks_that_a_program_or_an_image_says_are_plain_attributes() {
    let forged: &[(&[u8], &[u8])] = &[
        (b"trusted.overlay.metacopy", b""),
        (b"trusted.overlay.opaque", b"y"),
        (b"trusted.overlay.overlay.opaque", b"y"),
        (b"trusted.overlay.redirect", b"/e"),
        (b"user.overlay.opaque", b"y"),
    ];
    let mut from_image = Entry::new("d", What::Dir);
    from_image.xattrs = forged
        .iter()
        .map(|(n, v)| (n.to_vec(), v.to_vec()))
        .collect();
    let mut story = Story::of(&[vec![file("d/f"), file("e/g")], vec![from_image]]);
    story.chmod("/d", 0o711);
    for path in ["/e", "/d/f"] {
        for (name, value) in forged {
            let (name, value) = (name.to_vec(), value.to_vec());
            story.call(Call::SetXattr(story.id(path), name, value, SetXattr::Any));
        }
    }
    story.remount();
    assert_eq!((story.names("/d"), story.names("/e")), (1, 1));
    let marks = story.0.upper.marks_of(&[b"d"]).unwrap();
    assert!(!marks.opaque && marks.redirect.is_none(), "{marks:?}");
}

#[test]
fn changes_of_attributes_and_names_copy_no_contents() {
    let stored = Some(vec![(4, 3), (1000, 10)]);
    let sparse = Data {
        size: 2000,
        salt: 1,
        stored,
    };
    let mut story = Story::of(&[vec![Entry::new("d/f", What::File(sparse)), file("g")]]);
    let id = story.id("/d/f");
    story.chmod("/d/f", 0o600);
    let owner = Change {
        uid: Some(5),
        ..Change::default()
    };
    story.call(Call::SetAttr(id, owner));
    story.call(Call::SetXattr(
        id,
        b"user.a".to_vec(),
        b"1".to_vec(),
        SetXattr::Create,
    ));
    story.rename("/d/f", "/h", Rename::Replace);
    story.rename("/d", "/e", Rename::Replace);
    story.rename("/h", "/g", Rename::Exchange);
    story.call(Call::Link(id, story.at("/e/again")));
    story.remount();
    story.open("/g", Open::Read);
    assert_eq!(story.0.upper.written(), 0);
    // Holes are not written either.
    story.open("/g", Open::Write);
    assert_eq!(story.0.upper.written(), 13);
    let other = story.id("/h");
    story.call(Call::Open(other, Open::Truncate));
    assert_eq!(story.0.upper.written(), 13);
}

#[test]
fn a_file_open_for_reading_shows_what_is_written_later() {
    let mut story = Story::of(&[vec![file("a"), link("b", "a")]]);
    story.open("/a", Open::Read);
    story.open("/b", Open::Write);
    // Every handle is compared after every step.
    story.write(2, b"later");
    story.call(Call::Unlink(story.at("/a")));
    story.call(Call::Unlink(story.at("/b")));
    story.write(30, b"and still");
}

#[test]
fn a_removed_file_of_a_layer_can_still_be_changed() {
    for how in [Open::Write, Open::Truncate] {
        let mut story = Story::of(&[vec![file("d/a"), file("d/b")]]);
        let (a, b) = (story.id("/d/a"), story.id("/d/b"));
        story.call(Call::Open(a, Open::Read));
        story.call(Call::Open(b, Open::Read));
        story.call(Call::Unlink(story.at("/d/a")));
        story.call(Call::SetAttr(b, chmod(0o600)));
        story.call(Call::Unlink(story.at("/d/b")));
        story.call(Call::Rmdir(story.at("/d")));
        story.make("/d", Thing::File);
        for id in [a, b] {
            story.call(Call::SetAttr(id, chmod(0o640)));
            story.call(Call::SetXattr(
                id,
                b"user.x".to_vec(),
                b"1".to_vec(),
                SetXattr::Any,
            ));
            story.call(Call::Open(id, how));
        }
        story.write(1, b"nobody finds this");
    }
}
