//! `recover`'s plan in a machine that is made of sets: from wherever whoever was
//! killed, doing the plan leaves nothing to be done, nothing without a record, and all that
//! somebody was told is ready. `PROPTEST_CASES` says how many stories are tried.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "recover_model/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::path::Path;

use lazyroot::backend::Kind;
use lazyroot::container::record::directory;
use lazyroot::container::recover::{Action, plan};
use lazyroot::container_id::ContainerId;
use lazyroot::mounts;
use proptest::prelude::*;
use world::World;

const IDS: [&str; 6] = ["a", "a/x", "a/x/y", "a/z", "b", "b/x"];

#[derive(Debug, Clone)]
enum Event {
    Provision(ContainerId, Kind, bool, &'static str),
    Destroy(ContainerId),
    /// With a list, or without.
    Recover(Option<BTreeSet<ContainerId>>),
    KillServer(usize),
    Reboot,
    LoseChanges(usize),
    Damage(ContainerId),
}

fn id() -> impl Strategy<Value = ContainerId> {
    prop::sample::select(&IDS[..]).prop_map(|id| id.parse().unwrap())
}

fn event() -> impl Strategy<Value = Event> {
    let known = prop::option::of(prop::collection::btree_set(id(), 0..4));
    let kind = prop::sample::select(&Kind::ALL[..]);
    let key = prop::sample::select(vec!["k", "l"]);
    prop_oneof![
        8 => (id(), kind, any::<bool>(), key).prop_map(|(id, kind, ro, key)| Event::Provision(id, kind, ro, key)),
        4 => id().prop_map(Event::Destroy),
        1 => known.prop_map(Event::Recover),
        2 => any::<usize>().prop_map(Event::KillServer),
        1 => Just(Event::Reboot),
        1 => any::<usize>().prop_map(Event::LoseChanges),
        1 => id().prop_map(Event::Damage),
    ]
}

/// Things that happen, and before which step of each its doer is killed.
fn story() -> impl Strategy<Value = Vec<(Event, Option<usize>)>> {
    prop::collection::vec((event(), prop::option::of(0..25_usize)), 1..10)
}

fn tell(world: &mut World, story: &[(Event, Option<usize>)]) {
    for (event, fuel) in story {
        world.fuel = *fuel;
        // Killed or done: the next one finds it as it is.
        let _ = match event {
            Event::Provision(id, kind, read_only, key) => {
                world.provision(id, *kind, *read_only, key)
            }
            Event::Destroy(id) => world.destroy(id),
            Event::Recover(known) => recover(world, known.as_ref()),
            Event::KillServer(which) => {
                world.kill_server(*which);
                Ok(())
            }
            Event::Reboot => {
                world.reboot();
                Ok(())
            }
            Event::LoseChanges(which) => {
                world.lose_changes(*which);
                Ok(())
            }
            Event::Damage(id) => {
                world.damage(id);
                Ok(())
            }
        };
    }
    world.fuel = None;
}

fn recover(world: &mut World, known: Option<&BTreeSet<ContainerId>>) -> Result<(), world::Killed> {
    let plan = plan(&world.facts(), known);
    plan.iter().try_for_each(|action| world.apply(action))
}

/// All of it, by nobody who is killed.
fn recover_whole(world: &mut World, known: Option<&BTreeSet<ContainerId>>) {
    recover(world, known).unwrap();
    let again = plan(&world.facts(), known);
    let rest: Vec<_> = again
        .iter()
        .filter(|action| !action.is_only_told())
        .collect();
    assert!(rest.is_empty(), "{rest:#?}\n{world:#?}");
}

/// *No mount, no directory, no server, no shared mount without a record.*
fn nothing_is_without_a_record(world: &World) {
    let unreadable: Vec<_> = (world.aside.iter())
        .map(|id| directory(Path::new("/r"), id))
        .collect();
    let mut mounted = BTreeSet::new();
    let mut there = BTreeSet::new();
    for record in world.records.values() {
        assert!(!record.destroying, "{}", record.id);
        for rootfs in &record.rootfses {
            assert!(rootfs.ready, "{} of {}", rootfs.name, record.id);
            mounted.insert(record.path(rootfs));
            let scratch = record.scratch(rootfs);
            there.extend([record.path(rootfs), scratch.join("upper"), scratch]);
        }
        let inside = |id: &&ContainerId| id.parent().as_ref() == Some(&record.id);
        let all = world.records.keys().chain(&world.aside);
        let holds = all.filter(|id| id.ancestors().contains(&record.id)).count() > 0;
        let children = world.records.keys().filter(inside).count() > 0;
        assert!(
            !record.implicit || holds || children,
            "{} holds nothing",
            record.id
        );
    }
    for lower in world.lowers() {
        assert!(!lower.users.is_empty(), "{lower:?}");
        let dir = Path::new("/s/lowers").join(&lower.name);
        mounted.insert(dir.join("tree"));
        there.insert(dir);
    }
    let known = |path: &Path| unreadable.iter().any(|dir| path.starts_with(dir));
    for mount in &world.mounts {
        assert!(mounted.contains(&mount.at) || known(&mount.at), "{mount:?}");
    }
    for path in &world.paths {
        assert!(there.contains(path) || known(path), "{}", path.display());
    }
}

/// *What was ready is ready.*
fn every_promise_is_kept(world: &World) {
    for (id, name) in &world.promised {
        let record = &world.records[id];
        let mut rootfses = record.rootfses.iter();
        let rootfs = rootfses.find(|rootfs| rootfs.name == *name).unwrap();
        let path = record.path(rootfs);
        if rootfs.has_upper() {
            let upper = record.scratch(rootfs).join("upper");
            assert!(world.paths.contains(&upper), "{}", upper.display());
        }
        if rootfs.backend == Kind::Copy {
            assert!(world.paths.contains(&path), "{}", path.display());
            continue;
        }
        let mount = mounts::uppermost(&world.mounts, &path).unwrap();
        let lowers = world.lowers();
        let serves = match rootfs.backend {
            Kind::Fuse => world.servers.get(name) == Some(&mount.device.1),
            _ => lowers
                .iter()
                .any(|lower| lower.lives && lower.users.contains(&path)),
        };
        assert!(serves, "nobody serves {}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn whoever_was_killed_recover_leaves_nothing_to_be_done_and_loses_nothing(story in story()) {
        let mut world = World::default();
        tell(&mut world, &story);
        let before: BTreeSet<_> = world.records.values().cloned().map(|record| record.id).collect();
        let going = plan(&world.facts(), None);
        for action in &going {
            // Never without a list.
            if let Action::Destroy { id, .. } = action {
                let promised = |(other, _): &(ContainerId, String)| other == id || other.ancestors().contains(id);
                prop_assert!(!world.promised.iter().any(promised), "{action}");
                prop_assert!(before.contains(id));
            }
        }
        recover_whole(&mut world, None);
        nothing_is_without_a_record(&world);
        every_promise_is_kept(&world);
    }

    #[test]
    fn a_list_of_the_known_is_what_stays(
        story in story(),
        known in prop::collection::btree_set(id(), 0..5),
    ) {
        let mut world = World::default();
        tell(&mut world, &story);
        let needed = |id: &ContainerId| known.iter().any(|one| one == id || one.ancestors().contains(id));
        let promised: BTreeSet<_> = world.promised.iter().filter(|(id, _)| needed(id)).cloned().collect();
        recover_whole(&mut world, Some(&known));
        prop_assert!(world.records.keys().all(needed), "{:?}", world.records.keys());
        prop_assert_eq!(&world.promised, &promised);
        nothing_is_without_a_record(&world);
        every_promise_is_kept(&world);
    }

    #[test]
    fn what_is_provisioned_and_destroyed_after_a_recovery_leaves_nothing(story in story(), id in id()) {
        let mut world = World::default();
        tell(&mut world, &story);
        recover_whole(&mut world, None);
        if world.aside.iter().any(|aside| *aside == id || id.ancestors().contains(aside)) {
            return Ok(());
        }
        let others: BTreeSet<_> = world.promised.iter().filter(|(other, _)| *other != id && !other.ancestors().contains(&id)).cloned().collect();
        world.provision(&id, Kind::Overlay, false, "k").unwrap();
        world.destroy(&id).unwrap();
        prop_assert_eq!(&world.promised, &others);
        every_promise_is_kept(&world);
        // Those that it was in stay for a moment.
        recover_whole(&mut world, None);
        nothing_is_without_a_record(&world);
    }
}
