//! Servers are killed: while they begin, while programs write, all at once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use super::lab::{alive, servers_below, signal, until};
use super::scene::Scene;
use super::strace::{Dice, Moment, Struck, is_gone, kill_any, kill_before_its_server};

/// Kills all servers, and waits until they are gone.
pub(crate) fn kill_all(scene: &Scene) {
    let all = servers_below(&scene.lab.path(""));
    for (pid, _) in &all {
        signal(*pid, Signal::KILL);
    }
    until("killed servers are gone", || {
        all.iter().all(|(pid, _)| is_gone(&pid.to_string()))
    });
}

#[test]
fn a_server_that_is_killed_while_it_begins_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    let trace = scene.lab.path("trace");
    // The command itself mounts nothing for `fuse`, and makes few threads.
    let calls = [
        ("setsid", 1),
        ("prctl", 2),
        ("flock", 4),
        ("mount", 1),
        ("clone3", 8),
        ("mkdirat", 2),
        ("write", 3),
        ("openat", 45),
        ("sendto", 1),
        ("shutdown", 1),
        ("ftruncate", 1),
    ];
    let mut dice = Dice::new(0);
    let mut others = 0;
    for turn in 0..44 {
        let (call, most) = calls[turn % calls.len()];
        let moment = Moment {
            call: call.to_owned(),
            number: 1 + dice.below(most),
        };
        let backend = ["fuse", "overlay", "bind"][turn % 3];
        let args = ["provision", "--quiet", "--id", "new", "other:1"];
        let struck = kill_any(&scene.command(backend, &args), &moment, &trace);
        println!("{turn} {backend} {moment:?}: {struck:?}");
        others += usize::from(struck == Struck::Another);
        let why = (turn, backend, moment, struck);
        scene.recover(&why);
        scene.is_whole(&["new"], &why);
        scene.can_be_used("new", backend, &why);
        scene.recover(&why);
        scene.is_whole(&[], &why);
    }
    assert!(others > 10, "{others}");
}

#[test]
fn a_server_that_is_late_for_whoever_started_it_does_not_begin_after_recover() {
    let Some(scene) = Scene::new() else { return };
    let trace = scene.lab.path("trace");
    for backend in ["fuse", "overlay", "bind"] {
        // Ever later: before it leaves the session, takes its lock, mounts, and says so.
        for call in ["execve", "setsid", "flock", "mount", "sendto"] {
            let why = (backend, call);
            println!("{why:?}");
            let args = ["provision", "--quiet", "--id", "new", "other:1"];
            let command = scene.command(backend, &args);
            kill_before_its_server(&command, call, &trace, || scene.recover(&why));
            scene.is_whole(&[], &why);
            scene.can_be_used("new", backend, &why);
        }
    }
    for call in ["execve", "flock", "mount", "sendto"] {
        kill_all(&scene);
        println!("recover {call}");
        let command = scene.command("fuse", &["recover"]);
        kill_before_its_server(&command, call, &trace, || scene.recover(&call));
        scene.is_whole(&[], &call);
    }
}

/// Appends lines, each on the disk before the next, until that fails; how many.
fn write_lines(path: &Path, done: &AtomicUsize) {
    let Ok(mut file) = File::options().create(true).append(true).open(path) else {
        return;
    };
    let mut number = done.load(Ordering::SeqCst);
    while writeln!(file, "{number}")
        .and_then(|()| file.sync_data())
        .is_ok()
    {
        number += 1;
        done.store(number, Ordering::SeqCst);
    }
}

#[test]
fn what_was_synced_is_there_after_servers_were_killed_and_recovered() {
    let Some(scene) = Scene::new() else { return };
    let mut dice = Dice::new(1);
    let at = |id: &str| scene.kept(id).join("etc/lines");
    for round in 0..8 {
        let (done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let before = fs::read_to_string(at("kept-fuse")).map_or(0, |text| text.lines().count());
        done.store(before, Ordering::SeqCst);
        thread::scope(|scope| {
            scope.spawn(|| write_lines(&at("kept-fuse"), &done));
            // Through overlayfs writes go to the disk, whoever serves what is below;
            // what is below is what fails.
            let below = scene.kept("kept-overlay").join("etc");
            scope.spawn({
                let (below, stop) = (below.clone(), &stop);
                move || {
                    let mut number = 0;
                    while stop.load(Ordering::SeqCst) == 0 {
                        let _ = fs::write(below.join(format!("{number}")), "x");
                        number = (number + 1) % 50;
                    }
                }
            });
            thread::sleep(Duration::from_micros(dice.below(60_000) as u64));
            kill_all(&scene);
            stop.store(1, Ordering::SeqCst);
        });
        scene.recover(&round);
        scene.is_whole(&[], &round);
        let lines = fs::read_to_string(at("kept-fuse")).unwrap_or_default();
        let done = done.load(Ordering::SeqCst);
        println!("round {round}: {done} lines");
        for (number, line) in lines.lines().take(done).enumerate() {
            assert_eq!(line, number.to_string(), "round {round}");
        }
        // One more may be there whose sync was not answered; it is made whole.
        assert!(
            (done..=done + 1).contains(&lines.lines().count()),
            "round {round}: {done}"
        );
        let whole: String = (0..done).map(|number| format!("{number}\n")).collect();
        fs::write(at("kept-fuse"), whole).unwrap();
    }
}

#[test]
fn after_a_reboot_recover_brings_everything_back_with_what_was_written() {
    let Some(scene) = Scene::new() else { return };
    let path = scene.provision("new/deep/inner", "overlay", "other:1");
    fs::write(path.join("etc/says"), "changed").unwrap();
    // No server, no mount: all that a reboot leaves is on the disk.
    kill_all(&scene);
    for mount in scene.mounts().iter().rev() {
        unmount(&mount.at, UnmountFlags::DETACH).unwrap();
    }
    assert_eq!(scene.mounts(), []);
    let states = scene.states();
    assert_eq!(states["kept-fuse"]["state"], "down");
    assert_eq!(states["kept-copy"]["state"], "ready");
    scene.recover(&"reboot");
    let others = ["new", "new/deep", "new/deep/inner"];
    scene.is_whole(&others, &"reboot");
    assert_eq!(fs::read(path.join("etc/says")).unwrap(), b"changed");
    scene.destroy("new");
    scene.is_whole(&[], &"reboot");
    assert!(
        servers_below(&scene.lab.path(""))
            .iter()
            .all(|(pid, _)| alive(*pid))
    );
}
