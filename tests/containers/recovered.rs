//! What `recover` does about containers that nobody knows, and about those that lack
//! something.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use serde_json::Value;

use super::host::{Host, KINDS, WRITABLE, is_there, names};

/// What is to be done, or was.
fn actions(lines: &Value) -> Vec<Value> {
    let lines = lines.as_array().unwrap().iter().cloned();
    lines
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("outcome").unwrap();
            line
        })
        .collect()
}

#[test]
fn without_a_list_every_container_stays_and_with_one_all_others_go() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for (number, id) in ["a", "b", "p/c/d", "p/e"].iter().enumerate() {
        host.provision(KINDS[number], "app:1", id);
    }
    assert_eq!(host.run(&["recover"]), "");
    assert_eq!(host.states().len(), 6);
    // Those that hold a known one stay; names that nobody has do not matter.
    let known = ["recover", "--known", "b,p/c/d", "--known", "nobody"];
    let planned = host.json(&[&known[..], &["--dry-run"]].concat());
    assert_eq!(host.states().len(), 6, "a plan changes nothing");
    let done = host.json(&known);
    assert_eq!(actions(&planned), actions(&done));
    let orphans: Vec<_> = actions(&done)
        .into_iter()
        .map(|line| line["id"].clone())
        .collect();
    assert_eq!(orphans, ["p/e", "a"]);
    let ids: Vec<String> = host.states().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["b", "p", "p/c", "p/c/d"]);
    assert_eq!(host.json(&known), Value::Array(Vec::new()));
    let said = host.fails(2, &["recover", "--known", "b,../x"]);
    assert!(said.contains("`../x`") || said.contains("`..`"), "{said}");
    assert_eq!(host.states().len(), 4);
    host.run(&["recover", "--known="]);
    host.nothing_is_left();
}

/// The bug: the kernel found the layer's file by the handle that overlayfs had noted, and called it stale from the
/// second look on; the file could be neither read nor removed.
#[test]
fn what_was_changed_in_place_before_a_reboot_can_be_used_after_it() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in WRITABLE {
        let path = host.provision(kind, "app:1", "web");
        let says = path.join("etc/says");
        let append = || {
            let file = OpenOptions::new().append(true).open(&says);
            file.and_then(|mut file| file.write_all(b"!"))
        };
        append().unwrap();
        host.loses_its_mounts();
        host.run(&["recover"]);
        for _ in 0..3 {
            assert_eq!(fs::read_to_string(&says).unwrap(), "one!", "{kind}");
        }
        append().unwrap();
        assert_eq!(fs::read_to_string(&says).unwrap(), "one!!", "{kind}");
        fs::remove_file(&says).unwrap();
        assert!(!is_there(&says));
        host.destroy("web");
    }
}

/// They were never named, and what was said of them led nowhere.
#[test]
fn a_directory_that_belongs_to_no_container_is_told_and_left() {
    let Some(host) = Host::with_image() else {
        return;
    };
    host.provision("copy", "app:1", "known");
    host.provision("copy", "app:1", "stray");
    // What is left when a store is lost.
    fs::remove_file(host.record("stray")).unwrap();
    let place = host.rootfs_dir().join("stray");
    let shown = place.display();
    for args in [&["recover"][..], &["recover", "--known=known"]] {
        let said = host.run(args);
        let wanted = format!("left: `{shown}` belongs to no container of this store\n");
        assert_eq!(said, wanted);
    }
    let lines = host.json(&["recover", "--dry-run"]);
    assert_eq!(
        lines,
        serde_json::json!([{"action": "strange", "place": place, "outcome": "told"}])
    );
    let said = host.fails(4, &["provision", "-q", "app:1", "--id", "stray"]);
    assert!(
        said.contains("is no container of this store") && !said.contains("destroy"),
        "{said}"
    );
    let said = host.fails(3, &["destroy", "stray"]);
    let wanted = format!("there is no container `stray`; `{shown}` belongs to none of this store");
    assert!(
        said.contains(&wanted) && said.contains("try: --store"),
        "{said}"
    );
    assert!(is_there(&place));
    fs::remove_dir_all(&place).unwrap();
    // A mere holder was said to be half made.
    host.provision("copy", "app:1", "holder/in");
    let said = host.run(&["recover", "--known=known"]);
    assert_eq!(
        said,
        "destroy holder/in: nobody knows it\ndestroy holder: it only held others, of which none stays\n"
    );
    host.destroy("known");
    host.nothing_is_left();
}

/// After a reboot a parent that has no rootfs was destroyed before its child (MESOS-7152).
#[test]
fn after_a_reboot_with_nothing_known_also_parents_without_a_rootfs_go() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in KINDS {
        host.provision(kind, "app:1", "p/c");
        host.loses_its_mounts();
        let expected = if kind == "copy" { "ready" } else { "down" };
        assert_eq!(host.state("p/c"), expected);
        host.run(&["recover", "--known="]);
        assert!(!is_there(&host.rootfs_dir().join("p")));
        host.nothing_is_left();
    }
}

#[test]
fn after_a_reboot_all_is_mounted_again_with_what_was_written() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let made = KINDS.map(|kind| (kind, host.provision(kind, "app:1", kind)));
    for (kind, path) in &made {
        if *kind != "bind" {
            fs::write(path.join("etc/says"), kind).unwrap();
        }
    }
    host.loses_its_mounts();
    let planned = host.json(&["recover", "--dry-run"]);
    let done = host.json(&["recover"]);
    assert_eq!(actions(&planned), actions(&done));
    assert!(
        done.as_array()
            .unwrap()
            .iter()
            .all(|line| line["outcome"] == "done"),
        "{done}"
    );
    for (kind, path) in &made {
        let says = fs::read_to_string(path.join("etc/says")).unwrap();
        assert_eq!(says, if *kind == "bind" { "one" } else { kind });
        assert_eq!(host.state(kind), "ready");
    }
    assert_eq!(host.run(&["recover"]), "");
    host.run(&["recover", "--known="]);
    host.nothing_is_left();
}

#[test]
fn changes_that_are_gone_are_told_as_lost_and_never_replaced_by_none() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in ["fuse", "overlay", "copy"] {
        let path = host.provision(kind, "app:1", "web");
        fs::write(path.join("own"), "own").unwrap();
        host.loses_its_mounts();
        let scratch = host
            .rootfs_dir()
            .join("web/backends")
            .join(kind)
            .join("scratch");
        let upper = scratch.join(path.file_name().unwrap()).join("upper");
        let gone = if kind == "copy" { &path } else { &upper };
        fs::rename(gone, host.lab.path("elsewhere")).unwrap();
        assert_eq!(host.state("web"), "lost");
        for _ in 0..2 {
            let said = host.run(&["recover"]);
            assert!(
                said.contains("lost: ") && said.contains("of web"),
                "{kind}: {said}"
            );
            assert!(!is_there(gone), "{kind}");
        }
        assert_eq!(host.state("web"), "lost");
        // What comes back is there again.
        fs::rename(host.lab.path("elsewhere"), gone).unwrap();
        host.run(&["recover"]);
        assert_eq!(host.state("web"), "ready");
        assert_eq!(fs::read_to_string(path.join("own")).unwrap(), "own");
        host.destroy("web");
        host.nothing_is_left();
    }
}

#[test]
fn what_killed_processes_leave_is_cleaned() {
    let Some(host) = Host::with_image() else {
        return;
    };
    host.provision("copy", "app:1", "web");
    let trash = host.rootfs_dir().join(".trash/left");
    fs::create_dir_all(trash.join("deep/er")).unwrap();
    fs::write(trash.join("deep/file"), "x").unwrap();
    let records = host.lab.store("containers-v1");
    fs::write(records.join("other.new"), "{").unwrap();
    fs::write(records.join("other.lock"), "").unwrap();
    let staging = host.lab.store("staging/left");
    fs::create_dir_all(&staging).unwrap();
    let said = host.run(&["recover"]);
    assert!(said.contains(".trash/left"), "{said}");
    assert_eq!(names(&host.rootfs_dir().join(".trash")), [""; 0]);
    assert_eq!(names(&records), ["web.json", "web.lock"]);
    assert!(!is_there(&staging));
    host.destroy("web");
    host.nothing_is_left();
}
