//! `recover` while others are at work: it leaves them alone.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lazyroot::container::Containers;
use lazyroot::container::recover::{Action, Why};
use lazyroot::store::Store;

use super::lab::Running;
use super::scene::{BACKENDS, Scene};
use super::servers::kill_all;
use super::strace::{Moment, kill};

#[test]
fn recover_leaves_those_alone_who_are_at_work() {
    let Some(scene) = Scene::new() else { return };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let recovering = scope.spawn(|| {
            let mut times = 0;
            while !done.load(Ordering::SeqCst) {
                let output = scene.command("fuse", &["recover"]).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                times += 1;
            }
            times
        });
        let workers: Vec<_> = BACKENDS
            .iter()
            .map(|backend| {
                let scene = &scene;
                scope.spawn(move || {
                    for turn in 0..6 {
                        let id = match turn % 2 {
                            0 => format!("new-{backend}"),
                            _ => format!("new-{backend}/inner"),
                        };
                        let path = scene.provision(&id, backend, "other:1");
                        if *backend != "bind" {
                            fs::write(path.join("etc/says"), &id).unwrap();
                        }
                        let says = fs::read(path.join("etc/says")).unwrap();
                        assert!(says == id.as_bytes() || says == b"other");
                        scene.run(&["destroy", "--quiet", &id]);
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::SeqCst);
        println!("recovered {} times meanwhile", recovering.join().unwrap());
        assert!(outcomes.iter().all(Result::is_ok));
    });
    scene.recover(&"at the end");
    scene.is_whole(&[], &"at the end");
}

#[test]
fn two_who_recover_at_once_bring_everything_back() {
    let Some(scene) = Scene::new() else { return };
    for round in 0..5 {
        kill_all(&scene);
        let recover = || {
            let mut command = scene.command("fuse", &["recover"]);
            command
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            Running(command.spawn().unwrap())
        };
        for mut one in [recover(), recover(), recover()] {
            let mut said = String::new();
            std::io::Read::read_to_string(&mut one.0.stderr.take().unwrap(), &mut said).unwrap();
            assert!(one.0.wait().unwrap().success(), "round {round}: {said}");
        }
        scene.recover(&round);
        scene.is_whole(&[], &round);
    }
}

#[test]
fn a_container_that_got_ready_since_the_plan_was_made_stays() {
    let Some(scene) = Scene::new() else { return };
    let args = ["provision", "--quiet", "--id", "new", "other:1"];
    let moment = Moment {
        call: "sendto".to_owned(),
        number: 1,
    };
    assert!(kill(&scene.command("fuse", &args), &moment));
    let store = Store::open(&scene.lab.path("store"), &scene.lab.path("cache"), 0).unwrap();
    let containers = Containers {
        store: &store,
        rootfs_dir: &scene.lab.path("containers"),
        log: None,
        keep_awake: true,
        spare: None,
        stop: &AtomicBool::new(false),
        say: &|_| (),
    };
    // Made while it is not ready, as it is while somebody provisions it.
    let plan = containers.plan(None).unwrap();
    assert!(
        matches!(
            &*plan,
            [Action::Destroy {
                why: Why::Unfinished,
                ..
            }]
        ),
        "{plan:?}"
    );
    let path = scene.provision("new", "fuse", "other:1");
    for done in containers.repair(plan) {
        assert!(matches!(done.outcome, Ok(None)), "{done:?}");
    }
    assert_eq!(fs::read(path.join("etc/says")).unwrap(), b"other");
    scene.recover(&"stays");
    scene.destroy("new");
    scene.is_whole(&[], &"stays");
}
