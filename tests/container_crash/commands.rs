//! The program itself is killed: before any call of any command.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::scene::{BACKENDS, Scene, list};
use super::servers::kill_all;
use super::strace::{Counts, Dice, Moment, count, kill};

/// How often whom is killed, if nobody says otherwise.
const RUNS: u64 = 160;
/// So often in one scene, which has a watchdog; an even number.
const FRESH: u64 = 40;

/// Something that is begun and does not come to its end.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// With an image that nobody shows, or with one that others show.
    Provision(&'static str, &'static str),
    ProvisionInner(&'static str),
    /// One more rootfs of a container that is ready.
    Another(&'static str),
    Destroy(&'static str),
    /// With another in it.
    DestroyOuter(&'static str),
    /// After all servers died, and what was being made was interrupted.
    Recover,
}

fn deeds() -> Vec<Deed> {
    let mut deeds = Vec::new();
    for backend in BACKENDS {
        deeds.extend([
            Deed::Provision(backend, "other:1"),
            Deed::Provision(backend, "app:1"),
            Deed::ProvisionInner(backend),
            Deed::Another(backend),
            Deed::Destroy(backend),
            Deed::DestroyOuter(backend),
            Deed::Recover,
        ]);
    }
    deeds
}

impl Deed {
    fn backend(self) -> &'static str {
        match self {
            Self::Provision(backend, _)
            | Self::ProvisionInner(backend)
            | Self::Another(backend)
            | Self::Destroy(backend)
            | Self::DestroyOuter(backend) => backend,
            Self::Recover => "overlay",
        }
    }

    /// What has to be there before; the command, and a rootfs that must survive it.
    fn begin(self, scene: &Scene) -> (Command, Option<PathBuf>) {
        let provision = |id, image| ["provision", "--quiet", "--id", id, image];
        let words: Vec<&str> = match self {
            Self::Provision(_, image) => provision("new", image).into(),
            Self::ProvisionInner(_) => provision("new/inner", "other:1").into(),
            Self::Another(backend) => {
                let first = scene.provision("new", backend, "other:1");
                return (
                    scene.command(backend, &provision("new", "app:1")),
                    Some(first),
                );
            }
            Self::Destroy(backend) => {
                scene.provision("new", backend, "other:1");
                vec!["destroy", "new"]
            }
            Self::DestroyOuter(backend) => {
                scene.provision("new", "fuse", "other:1");
                scene.provision("new/inner", backend, "other:1");
                vec!["destroy", "new"]
            }
            Self::Recover => {
                let half = scene.command("overlay", &provision("new/inner", "other:1"));
                let moment = Moment {
                    call: "mount".to_owned(),
                    number: 1,
                };
                assert!(kill(&half, &moment));
                kill_all(scene);
                vec!["recover"]
            }
        };
        (scene.command(self.backend(), &words), None)
    }

    /// What it made when nobody killed it.
    fn end(self, scene: &Scene) {
        if scene.states().contains_key("new") {
            scene.destroy("new");
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Each half is a test, so that two run beside each other.
fn killed_anywhere(half: u64) {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let deeds = deeds();
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    let seed = number("LAZYROOT_CRASH_SEED", 0);
    let mut kills = 0;
    for seed in (seed..seed + number("LAZYROOT_CRASH_RUNS", RUNS)).filter(|seed| seed % 2 == half) {
        if seed % FRESH == half && kills > 0 {
            scene = Scene::new().unwrap();
        }
        let deed = deeds[usize::try_from(seed / 2).unwrap() % deeds.len()];
        let counts = counts.entry(format!("{deed:?}")).or_insert_with(|| {
            let counts = count(&deed.begin(&scene).0, &scene.lab.path("trace"));
            deed.end(&scene);
            scene.recover(&deed);
            counts
        });
        let moment = Moment::any(&mut Dice::new(seed), counts);
        let why = (seed, deed, &moment);
        println!("{why:?}");
        let (command, ready) = deed.begin(&scene);
        kills += u64::from(kill(&command, &moment));
        scene.recover(&why);
        scene.is_whole(&["new", "new/inner"], &why);
        if let Some(ready) = ready {
            assert_eq!(
                fs::read(ready.join("etc/says")).unwrap(),
                b"other",
                "{why:?}"
            );
        }
        deed.end(&scene);
        scene.can_be_used("new", deed.backend(), &why);
        if matches!(deed, Deed::ProvisionInner(_) | Deed::DestroyOuter(_)) {
            scene.can_be_used("new/inner", deed.backend(), &why);
        }
        scene.recover(&why);
        scene.is_whole(&[], &why);
    }
    println!("{kills} were killed");
    assert!(3 * kills > number("LAZYROOT_CRASH_RUNS", RUNS), "{kills}");
}

#[test]
fn a_command_that_is_killed_anywhere_loses_nothing_and_leaves_nothing_after_recover() {
    killed_anywhere(0);
}

#[test]
fn a_command_that_is_killed_elsewhere_loses_nothing_and_leaves_nothing_after_recover() {
    killed_anywhere(1);
}

#[test]
fn an_import_and_a_gc_that_are_killed_leave_a_whole_store() {
    let Some(scene) = Scene::new() else { return };
    let trace = scene.lab.path("trace");
    let from = scene.lab.place("layout");
    let mut layer = super::images::Layer::new();
    layer
        .dir("etc", 0o755)
        .file("etc/base", b"base")
        .file("etc/says", b"late");
    let late = layer.pack(super::images::Pack::Gzip);
    super::images::layout(&from, std::slice::from_ref(&late));
    let import = || {
        let mut command = scene
            .lab
            .lazyroot(&["import", "--quiet", "--name", "late:1"]);
        command.arg(&from);
        command
    };
    let gc = || scene.lab.lazyroot(&["gc"]);
    let run = |mut command: Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    };
    let forget = || scene.run(&["remove", "late:1"]);
    let imports = count(&import(), &trace);
    forget();
    let gcs = count(&gc(), &trace);
    let mut dice = Dice::new(number("LAZYROOT_CRASH_SEED", 0));
    for turn in 0..number("LAZYROOT_CRASH_RUNS", RUNS) / 4 {
        let gc_dies = turn % 2 == 1;
        let moment = Moment::any(&mut dice, if gc_dies { &gcs } else { &imports });
        println!("{turn} {moment:?}");
        if gc_dies {
            run(import());
            forget();
            kill(&gc(), &moment);
        } else {
            kill(&import(), &moment);
        }
        scene.run(&["verify"]);
        run(import());
        scene.run(&["verify"]);
        scene.can_be_used("new", "fuse", &moment);
        forget();
        run(gc());
        for directory in ["staging", "trash"] {
            let left = list(&scene.lab.store(directory));
            assert_eq!(left, [""; 0], "{moment:?}: {directory}");
        }
        let blobs = list(&scene.lab.store("blobs/sha256"));
        assert!(!blobs.contains(&late.hex()), "{moment:?}");
    }
    scene.recover(&"at the end");
    scene.is_whole(&[], &"at the end");
}
