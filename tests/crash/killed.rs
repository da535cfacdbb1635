//! The server of a writable mount is killed at any moment.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use super::images::Pack;
use super::lab::{alive, signal, until};
use super::layers::{self, Dice, Entry, Links, Stack, What, below};
use super::operations::{self, Hands, Op};
use super::scene::{Changes, Scene, Who};
use super::seeds::{before_now, seeds};
use super::walk::{Look, Walk, differences, differences_to_kernel, walk};

/// Each writer has a directory of its own.
const WRITERS: [&str; 3] = ["w0", "w1", "w2"];
const ROUNDS: usize = 8;
/// A slow machine does less in a round.
const ROUND: Duration = Duration::from_secs(2);
const OPS: usize = 400;
/// Large enough that a copy-up takes a moment.
const BIG: usize = 2 << 20;

/// The same for every writer, each below its directory.
fn stack(dice: &mut Dice, links: Links) -> Stack {
    let dir = || What::Dir { opaque: false };
    let mut stack = vec![vec![Entry::new("", dir())]];
    stack.resize_with(5, || vec![Entry::new("", dir())]);
    for writer in WRITERS {
        stack[0].push(Entry::new(writer, dir()));
        for n in 0..4 {
            let path = format!("{writer}/big{n}");
            stack[0].push(Entry::new(&path, What::File(n, BIG)));
        }
        if links != Links::None {
            let target = format!("{writer}/big1");
            let link = Entry::new(&format!("{writer}/again"), What::Link(target));
            stack[0].push(link);
        }
        let made = layers::random(dice, links, writer);
        for (layer, entries) in stack[1..].iter_mut().zip(made) {
            let inner = entries.into_iter().filter(|entry| !entry.path.is_empty());
            layer.extend(inner);
        }
    }
    stack
}

/// Whether it needs a descriptor, or makes one.
fn is_held(op: &Op) -> bool {
    use Op::*;
    let one = matches!(
        op,
        Hold(..) | ReadHeld(_) | WriteHeld(..) | TruncateHeld(..)
    );
    one || matches!(op, ChmodHeld(..) | ChownHeld(..) | StatHeld(_))
}

/// Random changes, and among them those that programs trust in: a file is replaced
/// by a finished one, a log grows.
fn changes_of(dice: &mut Dice, stack: &Stack, writer: &str) -> Vec<Op> {
    let mut ops = operations::random(dice, stack, writer, OPS);
    // A dead server has no descriptors either, and its users none that can be used.
    ops.retain(|op| !is_held(op));
    let path = |name: &str| below(writer, name);
    let mut at = 0;
    for n in 0..OPS / 20 {
        let (temp, state) = (path(&format!("temp{n}")), path("state"));
        let log = OFlags::WRONLY | OFlags::APPEND;
        let more = [
            Op::Create(temp.clone(), 0o600, 1 + n),
            Op::Sync(temp.clone()),
            Op::Rename(temp, state, rustix::fs::RenameFlags::empty()),
            Op::Write(path("log"), log, 0, 10 + n),
            Op::Sync(path("log")),
            Op::Write(path(&format!("big{}", n % 4)), log, 0, 10),
        ];
        at = (at + dice.below(25)).min(ops.len());
        ops.splice(at..at, more);
    }
    ops.insert(0, Op::Create(path("log"), 0o644, 0));
    ops
}

fn look(who: Who) -> Look {
    Look {
        now: before_now(),
        root: who != Who::Kernel,
        // It shows a link group of a layer as that is, whatever became of its names.
        links: who != Who::Kernel,
    }
}

/// Does operations until one cannot be done any more; `done` counts them.
fn write_until_it_is_gone(at: &Path, ops: &[Op], done: &AtomicUsize, stop: &AtomicBool) {
    let mut hands = Hands::new(at);
    for op in ops {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if let Err(Errno::NOTCONN | Errno::CONNABORTED) = hands.act(op) {
            return;
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// One writer's part of a tree.
fn part(walk: &Walk, writer: &str) -> Walk {
    let inside = walk.iter().filter(|(path, _)| path.starts_with(writer));
    inside
        .map(|(path, line)| (path.clone(), line.clone()))
        .collect()
}

/// The first of the two system calls that an operation is, if it has two: a file
/// is opened, which may make it or cut it to nothing, and then written.
fn begun(op: &Op) -> Option<Op> {
    Some(match op {
        Op::Create(path, mode, _) => Op::Create(path.clone(), *mode, 0),
        Op::Write(path, flags, at, _) => Op::Write(path.clone(), *flags, *at, 0),
        _ => return None,
    })
}

/// Files whose contents were coming up when the server was killed: the copy lies in
/// the file that has the attributes already, and has changed its mtime. All else
/// has to be as it was. The copy gets such an mtime, too.
fn touched(copy: &Path, seen: &Walk, of_copy: &Walk, op: &Op) -> bool {
    let comes_up = matches!(op, Op::Write(..) | Op::Truncate(..) | Op::Allocate(..));
    if !comes_up || differences_to_kernel(of_copy, seen).is_some() {
        return false;
    }
    for (path, line) in seen {
        if of_copy.get(path) != Some(line) {
            let file = File::options().write(true).open(copy.join(path)).unwrap();
            file.set_modified(SystemTime::now()).unwrap();
        }
    }
    true
}

/// Brings the copy to where the killed mount has got; fails when it is nowhere.
#[track_caller]
fn catch_up(who: Who, copy: &Path, seen: &Walk, writer: &str, ops: &[Op], done: usize) {
    let seen = part(seen, writer);
    let of_copy = || part(&walk(copy, &look(who)), writer);
    let compare = || match who {
        Who::Kernel => differences_to_kernel(&of_copy(), &seen),
        _ => differences(&of_copy(), &seen),
    };
    Hands::new(copy).all(&ops[..done]);
    let Some(mut why) = compare() else { return };
    let Some(next) = ops.get(done) else {
        panic!("{writer}: all {done} were done: {why}");
    };
    if touched(copy, &seen, &of_copy(), next) {
        println!("{writer}: an mtime is new: {next:?}");
        return;
    }
    if let Some(first) = begun(next) {
        let _ = Hands::new(copy).act(&first);
        match compare() {
            Some(also) => write!(why, "\nnor with {first:?}: {also}").unwrap(),
            None => return,
        }
    }
    let _ = match next {
        // It has just been made.
        Op::Create(path, _, len) => {
            let write = Op::Write(path.clone(), OFlags::WRONLY, 0, *len);
            Hands::new(copy).act(&write)
        }
        _ => Hands::new(copy).act(next),
    };
    if let Some(also) = compare() {
        let last = &ops[done.saturating_sub(3)..done];
        panic!("{writer}: after {done}, {last:?}:\n{why}\nnor with {next:?}:\n{also}");
    }
}

/// Lets all writers write until `enough` is done and a moment longer, and kills the
/// server; what each has done.
fn round(
    scene: &mut Scene,
    who: Who,
    changes: &Changes,
    lists: &[Vec<Op>],
    (enough, moment): (usize, Duration),
) -> Vec<usize> {
    let shown = scene.show(who, changes);
    let done: Vec<AtomicUsize> = lists.iter().map(|_| AtomicUsize::new(0)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (ops, done) in lists.iter().zip(&done) {
            let (at, stop) = (&shown.at, &stop);
            scope.spawn(move || write_until_it_is_gone(at, ops, done, stop));
        }
        let begin = Instant::now();
        let total = || -> usize { done.iter().map(|done| done.load(Ordering::SeqCst)).sum() };
        while total() < enough && begin.elapsed() < ROUND {
            thread::sleep(Duration::from_micros(200));
        }
        thread::sleep(moment);
        match shown.server {
            Some(server) => signal(server, Signal::KILL),
            None => stop.store(true, Ordering::SeqCst),
        }
    });
    if let Some(server) = shown.server {
        // Its directories are in use until its last thread has gone.
        let threads = || fs::read_dir(format!("/proc/{server}/task")).map_or(0, Iterator::count);
        until("the server is gone", || !alive(server) && threads() <= 1);
    }
    unmount(&shown.at, UnmountFlags::DETACH).unwrap();
    done.into_iter().map(AtomicUsize::into_inner).collect()
}

/// Names of the work directory, and theirs.
fn left(work: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![work.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else {
                all.push(entry.path());
            }
        }
    }
    all
}

fn killed(who: Who, links: Links, seed: u64) {
    let mut dice = Dice::new(seed);
    let stack = stack(&mut dice, links);
    let Some(mut scene) = Scene::new(stack.clone()) else {
        return;
    };
    if who == Who::Ours {
        scene.import(&[Pack::Gzip, Pack::Plain]);
    }
    let before = scene.lower_data();
    let (changes, other) = (scene.changes(), scene.changes());
    let copy = scene.show(Who::Plain, &other).at.clone();
    for number in 0..ROUNDS {
        let lists = WRITERS.map(|writer| changes_of(&mut dice, &stack, writer));
        let moment = Duration::from_micros(dice.below(3000) as u64);
        let enough = dice.below(OPS);
        let done = round(&mut scene, who, &changes, &lists, (enough, moment));
        println!("round {number}: {done:?} are done");
        let shown = scene.show(who, &changes);
        let seen = walk(&shown.at, &look(who));
        shown.end(&scene);
        for ((writer, ops), done) in WRITERS.iter().zip(&lists).zip(done) {
            catch_up(who, &copy, &seen, writer, ops, done);
        }
        if who == Who::Ours && links != Links::OverLayers {
            // What was under way is cleared when the directory is taken again.
            let left = left(&changes.work);
            assert!(left.len() <= 2, "the work directory has {left:?}");
            let kernel = scene.show(Who::Kernel, &changes);
            let by_kernel = walk(&kernel.at, &look(Who::Kernel));
            kernel.end(&scene);
            let by_copy = walk(&copy, &look(Who::Kernel));
            assert_eq!(differences_to_kernel(&by_copy, &by_kernel), None);
        }
    }
    assert!(before == scene.lower_data(), "seed {seed}: a layer changed");
}

/// Proves that the comparison is fair: an overlayfs that nobody kills passes.
#[test]
fn who_is_stopped_between_two_operations_has_done_the_first_and_not_the_second() {
    killed(Who::Kernel, Links::None, 1);
}

#[test]
fn a_killed_server_loses_nothing_that_was_acknowledged() {
    for seed in seeds(0..1) {
        killed(Who::Ours, Links::None, seed);
    }
}

#[test]
fn a_killed_server_leaves_link_groups_of_layers_whole() {
    for seed in seeds(10..11) {
        killed(Who::Ours, Links::InOneLayer, seed);
        killed(Who::Ours, Links::OverLayers, seed);
    }
}
