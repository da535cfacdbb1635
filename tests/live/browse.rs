//! Every image by name in one mount.

use std::fs::{self, File};
use std::path::Path;

use super::images::Pack;
use super::lab::{Lab, alive, system, until};

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
