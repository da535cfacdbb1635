//! Either goes on with what the other has written.

use std::fs;
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::images::Pack;
use super::layers::{Dice, Entry, Links, What, random};
use super::operations::{self, Hands};
use super::scene::{Changes, Scene, Who};
use super::seeds::{Numbered, holds, seeds};
use super::walk::{Look, Walk, differences, walk};

const OPS: usize = 60;
/// How often the upper directory changes hands.
const TURNS: usize = 4;

/// Everything counts here, to the nanosecond: it is the same upper directory. But
/// link counts: what the kernel has broken out of a lower link group it shows as it
/// is below.
const LOOK: Look = Look {
    now: i64::MAX,
    root: true,
    links: false,
};

fn after(scene: &mut Scene, who: Who, changes: &Changes, ops: &[Numbered]) -> Walk {
    let shown = scene.show(who, changes);
    let mut hands = Hands::new(&shown.at);
    for (_, op) in ops {
        // Whatever it comes to.
        let _ = hands.act(op);
    }
    drop(hands);
    let shown = match who {
        // Without the file handle that it keeps of an object's origin (we cannot:
        // the layers that we copy from are tars) overlayfs takes two names of a
        // file for two until it is mounted again, if it copies contents up between
        // the first looks at them.
        Who::Kernel if !ops.is_empty() => {
            shown.end(scene);
            scene.show(who, changes)
        }
        _ => shown,
    };
    let seen = walk(&shown.at, &LOOK);
    shown.end(scene);
    seen
}

/// In turns, `who` first; how the tree differs for the next one.
fn difference(scene: &mut Scene, who: [Who; 2], ops: &[Numbered]) -> Option<String> {
    let changes = scene.changes();
    if who[0] == Who::Kernel {
        // An empty upper directory is a new one: we give it the attributes of the
        // layers' root, which the kernel never does.
        fs::create_dir_all(changes.upper.join("not new")).unwrap();
    }
    let mut last = None;
    for turn in 0..=TURNS {
        let now = who[turn % 2];
        // First as it is found.
        let seen = after(scene, now, &changes, &[]);
        if let Some(last) = &last
            && let Some(why) = differences(&seen, last)
        {
            return Some(format!("turn {turn}, {now:?} sees it so:\n{why}"));
        }
        let mine = |(number, _): &&Numbered| number * TURNS / OPS == turn;
        let mine: Vec<Numbered> = ops.iter().filter(mine).cloned().collect();
        last = Some(after(scene, now, &changes, &mine));
    }
    None
}

fn exchange(who: [Who; 2], links: Links, always: std::ops::Range<u64>) {
    for seed in seeds(always) {
        let mut dice = Dice::new(seed);
        let stack = random(&mut dice, links, "");
        let ops = operations::random(&mut dice, &stack, "", OPS);
        let Some(mut scene) = Scene::new(stack.clone()) else {
            return;
        };
        let ours = who.contains(&Who::Ours);
        if ours {
            scene.import(&[Pack::Gzip]);
        }
        let before = ours.then(|| scene.lower_data());
        holds(&(seed, &stack), ops, |ops| difference(&mut scene, who, ops));
        if let Some(before) = before {
            assert!(before == scene.lower_data(), "seed {seed}: a layer changed");
        }
    }
}

#[test]
fn the_kernel_goes_on_with_what_we_wrote_and_we_with_what_it_wrote() {
    exchange([Who::Ours, Who::Kernel], Links::InOneLayer, 100..115);
}

#[test]
fn we_go_on_with_what_the_kernel_wrote_and_it_with_what_we_wrote() {
    exchange([Who::Kernel, Who::Ours], Links::InOneLayer, 200..215);
}

/// Proves that the comparison is fair.
#[test]
fn the_kernel_goes_on_with_what_it_wrote_itself() {
    exchange([Who::Kernel; 2], Links::InOneLayer, 300..304);
}

/// Changes that meet one another in the same few directories.
#[test]
fn what_four_changed_at_once_is_what_is_there_later() {
    for seed in seeds(500..506) {
        let mut dice = Dice::new(seed);
        let stack = random(&mut dice, Links::InOneLayer, "");
        let lists = [(); 4].map(|()| operations::random(&mut dice, &stack, "", 200));
        let Some(mut scene) = Scene::new(stack) else {
            return;
        };
        scene.import(&[Pack::Gzip]);
        let changes = scene.changes();
        let shown = scene.show(Who::Ours, &changes);
        thread::scope(|scope| {
            for ops in &lists {
                let at = &shown.at;
                scope.spawn(move || Hands::new(at).all(ops));
            }
        });
        let seen = walk(&shown.at, &LOOK);
        shown.end(&scene);
        for who in [Who::Ours, Who::Kernel] {
            let later = after(&mut scene, who, &changes, &[]);
            assert_eq!(differences(&seen, &later), None, "seed {seed}, {who:?}");
        }
    }
}

fn own_device(at: &Path) {
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, at, FileType::CharacterDevice, mode, makedev(0, 0)).unwrap();
}

/// The one case that is lost: overlayfs cannot keep such a device at all.
#[test]
fn a_programs_own_zero_device_is_kept_by_us_and_an_empty_file_for_the_kernel() {
    let stack = vec![vec![
        Entry::new("", What::Dir { opaque: false }),
        Entry::new("dir", What::Dir { opaque: false }),
        Entry::new("dir/lower", What::File(1, 100)),
    ]];
    let Some(mut scene) = Scene::new(stack) else {
        return;
    };
    scene.import(&[Pack::Gzip]);
    let changes = scene.changes();
    let shown = scene.show(Who::Ours, &changes);
    own_device(&shown.at.join("dir/null"));
    fs::remove_file(shown.at.join("dir/lower")).unwrap();
    own_device(&shown.at.join("dir/lower"));
    let seen = walk(&shown.at, &LOOK);
    for name in ["dir/null", "dir/lower"] {
        let line = seen[Path::new(name)].to_string();
        assert!(
            line.starts_with("20640 ") && line.contains("device 0:0"),
            "{line}"
        );
    }
    shown.end(&scene);
    let kernel = scene.show(Who::Kernel, &changes);
    for name in ["dir/null", "dir/lower"] {
        let stat = kernel.at.join(name).symlink_metadata().unwrap();
        assert!(stat.is_file() && stat.len() == 0, "{name}: {stat:?}");
    }
    kernel.end(&scene);
    let shown = scene.show(Who::Ours, &changes);
    assert_eq!(differences(&walk(&shown.at, &LOOK), &seen), None);
    shown.end(&scene);
}
