//! Many threads change one tree at once: nothing hangs, the strict upper directory
//! (`upper.rs`) has no complaint, and whoever shows the tree afterwards shows
//! what the changes left in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::support::layers::{Data, Entry, Maker as LayerMaker, What};
use super::upper::Memory;
use lazyroot::node::{Attr, Ino, Kind};
use lazyroot::union::upper::{Change, SetXattr, Upper, What as New};
use lazyroot::union::writable::{Contents, Maker, Open, Rename, Writable};
use lazyroot::union::{FsError, Union};

const THREADS: u64 = 4;
const STEPS: u32 = 600;
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// Marsaglia's xorshift: the same programs every time, if not in the same order.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }

    fn name(&mut self) -> &'static [u8] {
        NAMES[self.roll(NAMES.len())]
    }
}

fn lower() -> Arc<Union> {
    let file = |path: &str| {
        let data = Data {
            size: 3000,
            salt: 9,
            stored: None,
        };
        Entry::new(path, What::File(data))
    };
    let link = |path: &str, to: &str| Entry::new(path, What::Link(to.as_bytes().to_vec()));
    let below = [
        file("a/a"),
        link("a/b", "a/a"),
        link("b/c/d", "a/a"),
        file("b/a"),
        file("c/a/b/c"),
        file("d"),
    ];
    let above = [link("c/b", "b/a"), file("a/c/a"), link("b/c/a", "a/b")];
    let mut maker = LayerMaker::new();
    Arc::new(Union::new(vec![maker.layer(&below), maker.layer(&above)]))
}

fn mount(lower: &Arc<Union>, memory: &Memory) -> Writable {
    let upper: Arc<dyn Upper> = Arc::new(memory.clone());
    Writable::new(Arc::clone(lower), upper).unwrap()
}

/// What another thread was faster with.
fn lost_race(error: &FsError) -> bool {
    matches!(
        error,
        FsError::NotFound
            | FsError::NotDir
            | FsError::IsDir
            | FsError::WrongKind
            | FsError::Exists
            | FsError::NotEmpty
            | FsError::NotPermitted
            | FsError::BelowItself
            | FsError::NoAttribute
    )
}

/// A directory, and all that was looked up on the way.
fn walk(union: &Writable, dice: &mut Dice, known: &mut Vec<Ino>) -> Result<Ino, FsError> {
    let mut at = Ino::ROOT;
    for _ in 0..dice.roll(4) {
        let found = union.lookup(at, dice.name())?;
        known.push(found.ino);
        if found.stat.attr.kind != Kind::Dir {
            break;
        }
        at = found.ino;
    }
    Ok(at)
}

fn step(union: &Writable, dice: &mut Dice, known: &mut Vec<Ino>) -> Result<(), FsError> {
    let (dir, name) = (walk(union, dice, known)?, dice.name());
    let maker = Maker {
        uid: 1,
        gid: 1,
        mode: 0o755,
        umask: 0,
    };
    match dice.roll(12) {
        0 => known.push(union.make(dir, name, New::File(0), &maker)?.ino),
        1 => known.push(union.make(dir, name, New::Dir, &maker)?.ino),
        2 => union.unlink(dir, name)?,
        3 => union.rmdir(dir, name)?,
        4..=6 => {
            let modes = [
                Rename::Replace,
                Rename::Replace,
                Rename::NoReplace,
                Rename::Exchange,
            ];
            let (to, how) = (walk(union, dice, known)?, modes[dice.roll(4)]);
            union.rename((dir, name), (to, dice.name()), how)?;
        }
        kind => {
            let found = union.lookup(dir, name)?;
            known.push(found.ino);
            change(union, dice, known, found.ino, kind)?;
        }
    }
    Ok(())
}

fn change(
    union: &Writable,
    dice: &mut Dice,
    known: &mut Vec<Ino>,
    ino: Ino,
    kind: usize,
) -> Result<(), FsError> {
    match kind {
        7 => {
            let to = walk(union, dice, known)?;
            known.push(union.link(ino, to, dice.name())?.ino);
        }
        8 => {
            let change = Change {
                mode: Some(dice.roll(0o1000) as u16),
                ..Change::default()
            };
            union.set_attr(ino, &change)?;
        }
        9 => {
            let Contents::Upper(data) = union.open(ino, Open::Write)? else {
                panic!("writing into a layer");
            };
            data.write_at(dice.roll(4000) as u64, b"written").unwrap();
        }
        10 => union.set_xattr(ino, b"user.x", &[dice.roll(3) as u8], SetXattr::Any)?,
        _ => {
            let mut seen = BTreeMap::new();
            union.list(ino, 0, &mut |listed| {
                let before = seen.insert(listed.name.to_vec(), listed.cookie);
                assert!(before.is_none_or(|cookie| cookie < listed.cookie));
                true
            })?;
        }
    }
    Ok(())
}

fn run(union: &Writable, seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..STEPS {
        let mut known = Vec::new();
        if let Err(error) = step(union, &mut dice, &mut known) {
            assert!(lost_race(&error), "{error:?}");
        }
        for ino in known {
            union.forget(ino, 1);
        }
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    ino: Ino,
    attr: Attr,
    bytes: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn all(union: &Writable, dir: Ino, path: &[u8], seen: &mut BTreeMap<Vec<u8>, Seen>) {
    let mut names = Vec::new();
    let mut visit = |listed: lazyroot::union::Listed<'_>| {
        names.push((listed.name.to_vec(), listed.ino));
        true
    };
    union.list(dir, 0, &mut visit).unwrap();
    for (name, listed) in names
        .into_iter()
        .filter(|(name, _)| !name.starts_with(b"."))
    {
        let found = union.lookup(dir, &name).unwrap();
        let path = [path, b"/", &name].concat();
        assert_eq!(found.ino, listed, "{}", String::from_utf8_lossy(&path));
        let mut attr = found.stat.attr;
        let mut bytes = vec![0; attr.size as usize];
        match attr.kind {
            Kind::Dir => {
                // Before and after a remount a directory may count or not.
                attr.nlink = 0;
                all(union, found.ino, &path, seen);
            }
            _ => {
                let read = union.read(found.ino, 0, &mut bytes).unwrap();
                assert_eq!(read, bytes.len());
            }
        }
        let object = Seen {
            ino: found.ino,
            attr,
            bytes,
            xattrs: union.xattrs(found.ino).unwrap(),
        };
        seen.insert(path, object);
        union.forget(found.ino, 1);
    }
}

fn stress(seed: u64) {
    let (lower, memory) = (lower(), Memory::new());
    let union = mount(&lower, &memory);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let union = &union;
            scope.spawn(move || {
                run(
                    union,
                    (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number + 1),
                )
            });
        }
    });
    let (mut here, mut again) = (BTreeMap::new(), BTreeMap::new());
    all(&union, Ino::ROOT, b"", &mut here);
    assert!(
        memory.known_files().is_empty(),
        "{:?}",
        memory.known_files()
    );
    drop(union);
    memory.remount();
    all(&mount(&lower, &memory), Ino::ROOT, b"", &mut again);
    assert_eq!(here, again);
    let links = here.values().filter(|seen| seen.attr.kind == Kind::File);
    for seen in links {
        let names = here.values().filter(|other| other.ino == seen.ino).count();
        assert_eq!(seen.attr.nlink as usize, names, "{:?}", seen.ino);
    }
}

#[test]
fn what_many_threads_did_at_once_is_there_after_a_remount() {
    let (done, wait) = mpsc::channel();
    let worker = thread::spawn(move || {
        for seed in 0..12 {
            stress(seed);
        }
        done.send(()).unwrap();
    });
    let outcome = wait.recv_timeout(Duration::from_secs(120));
    assert!(outcome != Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    worker.join().unwrap();
}
