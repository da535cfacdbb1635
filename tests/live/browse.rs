//! Every image by name in one mount.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::images::{Layer, Pack, layout};
use super::lab::{Lab, alive, servers_below, signal, succeeded, system, until};

fn put(lab: &Lab, name: &str, says: &str) {
    lab.image(name, Pack::Gzip, |layer| {
        layer.dir("etc", 0o755).file("etc/says", says.as_bytes());
    });
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn browse_shows_what_the_store_has_at_every_moment() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "app:1", "one");
    put(&lab, "app:2", "two");
    put(&lab, "example.org/team/tool:latest", "tool");
    let at = lab.place("at");
    let (dir, log) = (at.to_str().unwrap(), lab.path("at.log"));
    lab.run(&["browse", "--log", log.to_str().unwrap(), dir]);
    let says = |name: &str| fs::read_to_string(at.join(name).join("etc/says"));

    assert_eq!(names(&at), ["app:1", "app:2", "example.org"]);
    assert_eq!(names(&at.join("example.org/team")), ["tool:latest"]);
    assert_eq!(says("app:1").unwrap(), "one");
    assert_eq!(says("example.org/team/tool:latest").unwrap(), "tool");
    let found = system("find", &[dir, "-name", "says", "-size", "-4c"]);
    assert_eq!(found.lines().count(), 2, "{found}");

    // An import shows up, a tag moves, a name goes: no remount.
    put(&lab, "new:1", "new");
    assert_eq!(says("new:1").unwrap(), "new");
    assert_eq!(names(&at), ["app:1", "app:2", "example.org", "new:1"]);
    let inside = at.join("app:1/etc/says");
    let open = File::open(&inside).unwrap();
    lab.run(&["tag", "app:2", "app:1"]);
    assert_eq!(says("app:1").unwrap(), "two");
    assert_eq!(std::io::read_to_string(&open).unwrap(), "one");
    drop(open);
    // It was looked into, so the mount needs its layers; only the name goes.
    lab.fails(4, &["remove", "new:1"]);
    lab.run(&["remove", "--force", "new:1"]);
    assert!(says("new:1").is_err());
    assert_eq!(names(&at), ["app:1", "app:2", "example.org"]);
    let pid = lab.server(&at);
    assert_eq!(lab.log("at"), Vec::<String>::new());
    lab.umount(&at);
    until("the server ends", || !alive(pid));
}

/// Shows all images at a new place, with a log.
fn browse(lab: &Lab, name: &str) -> PathBuf {
    let (at, log) = (lab.place(name), lab.path(&format!("{name}.log")));
    let words = [at.to_str().unwrap(), "--log", log.to_str().unwrap()];
    lab.run(&["browse", words[0], words[1], words[2]]);
    at
}

/// A server that is stopped until the end of its scope.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

#[test]
fn a_name_that_was_looked_up_costs_no_message() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "example.org/team/app:1", "one");
    put(&lab, "app:1", "two");
    let at = browse(&lab, "at");
    let whole = at.clone();
    let look = move || {
        for name in ["example.org/team/app:1", "app:1"] {
            let path = whole.join(name);
            let says = fs::read_to_string(path.join("etc/says")).unwrap();
            let missing = fs::symlink_metadata(path.join("etc/missing")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            assert_eq!(says.len(), 3);
        }
        assert_eq!(names(&whole), ["app:1", "example.org"]);
        assert_eq!(names(&whole.join("example.org/team")), ["app:1"]);
    };
    let pid = lab.server(&at);
    for _ in 0..3 {
        look();
    }
    let in_silence = || {
        let stopped = Stopped::new(pid);
        let (done, when) = channel();
        let look = look.clone();
        let looks = thread::spawn(move || {
            look();
            done.send(()).unwrap();
        });
        let told = when.recv_timeout(Duration::from_secs(5));
        drop(stopped);
        looks.join().unwrap();
        told.is_ok()
    };
    assert!(in_silence());
    // A change elsewhere costs one look at the directories above, and no image.
    lab.run(&["tag", "app:1", "example.org/other:1"]);
    lab.run(&["remove", "example.org/other:1"]);
    let inside = at.join("app:1/etc/says");
    let stopped = Stopped::new(pid);
    let (done, when) = channel();
    let reads = thread::spawn(move || done.send(fs::read_to_string(inside).unwrap()).unwrap());
    let says = when.recv_timeout(Duration::from_secs(5));
    drop(stopped);
    reads.join().unwrap();
    assert_eq!(says.as_deref(), Ok("two"));
    look();
    assert!(in_silence());
    assert_eq!(lab.log("at"), Vec::<String>::new());
}

/// `lazyroot tag` returns when every mount shows the new name.
#[test]
fn a_change_of_names_is_seen_by_whoever_looks_after_it() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "app:1", "one");
    put(&lab, "app:2", "two");
    let places = [browse(&lab, "left"), browse(&lab, "right")];
    let says = |at: &Path, name: &str| fs::read_to_string(at.join(name).join("etc/says")).ok();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        // Others ask all the time, so that answers are under way when a name moves.
        for at in &places {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let _ = (says(at, "x:1"), says(at, "dir/x:1"), names(at));
                    let _ = fs::symlink_metadata(at.join("dir"));
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let _end = Ended(&ended);
        for round in 0..20 {
            let (app, text) = [("app:1", "one"), ("app:2", "two")][round % 2];
            lab.run(&["tag", app, "x:1"]);
            lab.run(&["tag", app, "dir/x:1"]);
            for at in &places {
                assert_eq!(says(at, "x:1").as_deref(), Some(text), "{round}");
                assert_eq!(says(at, "dir/x:1").as_deref(), Some(text), "{round}");
                assert_eq!(names(at), ["app:1", "app:2", "dir", "x:1"], "{round}");
            }
            if round % 4 == 3 {
                lab.run(&["remove", "dir/x:1"]);
                lab.run(&["remove", "x:1"]);
                for at in &places {
                    assert_eq!((says(at, "x:1"), says(at, "dir/x:1")), (None, None));
                    assert_eq!(names(at), ["app:1", "app:2"], "{round}");
                    let gone = fs::symlink_metadata(at.join("dir")).unwrap_err();
                    assert_eq!(gone.kind(), io::ErrorKind::NotFound, "{round}");
                }
            }
        }
    });
    for name in ["left", "right"] {
        assert_eq!(lab.log(name), Vec::<String>::new());
    }
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One that was killed before it waited for the mounts, or another program.
#[test]
fn a_change_by_somebody_who_does_not_wait_is_seen_soon() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "app:1", "one");
    put(&lab, "app:2", "two");
    let at = browse(&lab, "at");
    let table = lab.store("images-v1/names.json");
    let mut tables = ["app:1", "app:2"].map(|app| {
        lab.run(&["tag", app, "x:1"]);
        fs::read(&table).unwrap()
    });
    let says = || fs::read_to_string(at.join("x:1/etc/says")).unwrap();
    for text in ["one", "two", "one", "two"] {
        let new = lab.path("names");
        fs::write(&new, &tables[0]).unwrap();
        fs::rename(&new, &table).unwrap();
        until("the name moves", || says() == text);
        until("it stays", || says() == text);
        tables.reverse();
    }
}

#[test]
fn nobody_waits_long_for_a_server_that_hangs() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "app:1", "one");
    put(&lab, "app:2", "two");
    lab.run(&["tag", "app:1", "x:1"]);
    let at = browse(&lab, "at");
    let says = || fs::read_to_string(at.join("x:1/etc/says")).unwrap();
    assert_eq!((says(), says()), ("one".to_owned(), "one".to_owned()));
    let stopped = Stopped::new(lab.server(&at));
    let begin = Instant::now();
    lab.run(&["tag", "app:2", "x:1"]);
    let waited = begin.elapsed();
    drop(stopped);
    assert!(waited > Duration::from_secs(2), "{waited:?}");
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    until("the name moves", || says() == "two");
}

/// The store is moved away and comes back changed: nobody tells of that.
#[test]
fn without_a_watch_every_use_of_a_name_asks() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "app:1", "one");
    put(&lab, "app:2", "two");
    lab.run(&["tag", "app:1", "x:1"]);
    let at = browse(&lab, "at");
    let says = || fs::read_to_string(at.join("x:1/etc/says")).ok();
    assert_eq!(says().as_deref(), Some("one"));
    let (store, aside) = (lab.path("store"), lab.path("aside"));
    fs::rename(&store, &aside).unwrap();
    until("it is told", || !lab.log("at").is_empty());
    until("there is no store", || says().is_none());
    fs::rename(&aside, &store).unwrap();
    for (app, text) in [("app:1", "one"), ("app:2", "two"), ("app:1", "one")] {
        lab.run(&["tag", app, "x:1"]);
        assert_eq!(says().as_deref(), Some(text));
    }
    let lines = lab.log("at");
    assert!(
        lines[0].contains("every use of a name asks for it from now on"),
        "{lines:?}"
    );
}

/// Another machine may change what lies on a file system that is not local: FUSE
/// may be one of a network.
#[test]
fn a_store_on_a_file_system_that_is_not_local_is_not_watched() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "host:1", "host");
    let store = lab.writable("host:1", "host", &[]).join("store");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazyroot"));
        command.arg("--store").arg(&store).args(args);
        succeeded(args, &command.stdin(Stdio::null()).output().unwrap());
    };
    for (name, text) in [("app:1", "one"), ("app:2", "two")] {
        let mut layer = Layer::new();
        layer.dir("etc", 0o755).file("etc/says", text.as_bytes());
        let dir = lab.place(name);
        layout(&dir, &[layer.pack(Pack::Gzip)]);
        run(&["import", "--quiet", "--name", name, dir.to_str().unwrap()]);
    }
    let (at, log) = (lab.place("at"), lab.path("at.log"));
    let (dir, log) = (at.to_str().unwrap(), log.to_str().unwrap());
    run(&["browse", "--log", log, dir]);
    for (app, text) in [("app:1", "one"), ("app:2", "two"), ("app:1", "one")] {
        run(&["tag", app, "x:1"]);
        let says = fs::read_to_string(at.join("x:1/etc/says")).unwrap();
        assert_eq!(says, text);
    }
    let lines = lab.log("at");
    assert!(
        lines.len() == 1 && lines[0].contains("every use of a name asks for it: cannot watch"),
        "{lines:?}"
    );
    lab.umount(&at);
    until("its server ends", || servers_below(&at).is_empty());
}

#[test]
fn a_damaged_image_is_an_error_when_it_is_looked_into_and_not_before() {
    let Some(lab) = Lab::new() else { return };
    put(&lab, "broken:1", "never");
    let index = fs::read_dir(lab.store("layers-v1")).unwrap().flatten();
    for path in index.map(|entry| entry.path()) {
        if path.extension() == Some("idx".as_ref()) {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(50)
                .unwrap();
        }
    }
    put(&lab, "fine:1", "fine");
    let at = lab.place("at");
    let (dir, log) = (at.to_str().unwrap(), lab.path("at.log"));
    lab.run(&["browse", "--log", log.to_str().unwrap(), dir]);
    assert_eq!(names(&at), ["broken:1", "fine:1"]);
    assert_eq!(system("ls", &[dir]), "broken:1\nfine:1\n");
    assert_eq!(lab.log("at"), Vec::<String>::new());
    for _ in 0..2 {
        let error = fs::metadata(at.join("broken:1/etc")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    let lines = lab.log("at");
    assert!(
        lines.len() == 1 && lines[0].contains("image `broken:1") && lines[0].contains(".idx`"),
        "{lines:?}"
    );
    let fine = fs::read_to_string(at.join("fine:1/etc/says")).unwrap();
    assert_eq!(fine, "fine");
    assert!(alive(lab.server(&at)));
}
