//! The same operations come to the same on two trees.

use super::images::PACKS;
use super::layers::{Dice, Links, random};
use super::operations::{self, Hands, Op};
use super::scene::{Scene, Who};
use super::seeds::{Numbered, before_now, holds, seeds};
use super::walk::{Look, differences, differences_to_kernel, walk};

const OPS: usize = 60;

/// Does `ops` on one and `others` on the other; how they differ.
fn difference(scene: &mut Scene, who: [Who; 2], ops: [&[Numbered]; 2]) -> Option<String> {
    let kernel = who.contains(&Who::Kernel);
    let look = Look {
        now: before_now(),
        root: !kernel,
        links: true,
    };
    let shown = who.map(|who| {
        let changes = scene.changes();
        scene.show(who, &changes)
    });
    let mut hands = [&shown[0], &shown[1]].map(|shown| Hands::new(&shown.at));
    let mut why = None;
    for ((number, one), (_, other)) in ops[0].iter().zip(ops[1]) {
        let outcomes = [(0, one), (1, other)].map(|(i, op): (usize, &Op)| {
            hands[i].readers = !kernel;
            hands[i].act(op)
        });
        if outcomes[0] != outcomes[1] {
            let [ours, theirs] = outcomes;
            why = Some(format!("{number}: {one:?}:\n  {ours:?}\n  {theirs:?}"));
            break;
        }
    }
    drop(hands);
    let walks = [&shown[0], &shown[1]].map(|shown| walk(&shown.at, &look));
    why = why.or_else(|| match who {
        [_, Who::Kernel] => differences_to_kernel(&walks[0], &walks[1]),
        _ => differences(&walks[0], &walks[1]),
    });
    for shown in shown {
        shown.end(scene);
    }
    why
}

/// Random layers, random operations, on two trees.
fn agree(who: [Who; 2], links: Links, always: std::ops::Range<u64>) {
    for seed in seeds(always) {
        let mut dice = Dice::new(seed);
        let stack = random(&mut dice, links, "");
        let ops = operations::random(&mut dice, &stack, "", OPS);
        let Some(mut scene) = Scene::new(stack.clone()) else {
            return;
        };
        let ours = who.contains(&Who::Ours);
        if ours {
            let pack = *dice.pick(&PACKS);
            scene.import(&[pack]);
        }
        let before = ours.then(|| scene.lower_data());
        holds(&(seed, &stack), ops, |ops| {
            difference(&mut scene, who, [ops, ops])
        });
        if let Some(before) = before {
            assert!(before == scene.lower_data(), "seed {seed}: a layer changed");
        }
    }
}

#[test]
fn what_the_kernel_does_our_mount_does() {
    agree([Who::Ours, Who::Kernel], Links::None, 0..40);
}

#[test]
fn what_an_unpacked_copy_does_our_mount_does() {
    agree([Who::Ours, Who::Plain], Links::OverLayers, 0..40);
}

/// Proves that the comparison is fair: nothing differs where nothing may.
#[test]
fn an_unpacked_copy_agrees_with_the_kernel() {
    agree([Who::Plain, Who::Kernel], Links::None, 0..6);
}

/// Proves that the comparison can fail: one operation less is a difference.
#[test]
fn an_operation_that_is_lost_is_found() {
    let mut found = 0;
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let stack = random(&mut dice, Links::None, "");
        let ops = operations::random(&mut dice, &stack, "", OPS);
        let Some(mut scene) = Scene::new(stack) else {
            return;
        };
        let changes = scene.changes();
        let tried = scene.show(Who::Kernel, &changes);
        // A change that was one.
        let outcomes = Hands::new(&tried.at).all(&ops);
        tried.end(&scene);
        let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        println!("{done} of {OPS} can be done");
        assert!(done > OPS / 3, "most operations find what they need");
        let renames = |(op, outcome): (&Op, &operations::Outcome)| {
            matches!(op, Op::Rename(from, to, _) if from != to) && outcome.is_ok()
        };
        let Some(lost) = ops.iter().zip(&outcomes).position(renames) else {
            continue;
        };
        let ops: Vec<Numbered> = ops.into_iter().enumerate().collect();
        let mut fewer = ops.clone();
        fewer[lost].1 = Op::StatHeld(0);
        assert!(difference(&mut scene, [Who::Kernel; 2], [&ops, &fewer]).is_some());
        found += 1;
    }
    assert!(found > 0, "some list renames something");
}
