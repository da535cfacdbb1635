//! What a mount remembers of those before it: the order of first reads.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::images::{Pack, contents};
use super::lab::{Lab, until};

const FILES: u64 = 16;
const SIZE: usize = 1 << 20;

fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    lab.image("app:1", Pack::Gzip, |layer| {
        for i in 0..FILES {
            layer.file(&format!("{i:02}"), &contents(i, SIZE));
        }
    });
    Some(lab)
}

/// Reads every file, in an order that is not that of the layer.
#[track_caller]
fn read_all(at: &Path) {
    for i in (0..FILES).map(|i| 7 * i % FILES) {
        let read = fs::read(at.join(format!("{i:02}"))).unwrap();
        assert!(read == contents(i, SIZE), "wrong bytes in {i}");
    }
}

/// What is there under its name; whoever writes has another one.
fn kept(lab: &Lab) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab.store("first-reads-v1")).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    let named = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
    paths.filter(named).collect()
}

fn spans(text: &[u8]) -> Vec<(u32, u32)> {
    let kept: serde_json::Value = serde_json::from_slice(text).unwrap();
    serde_json::from_value(kept["spans"].clone()).unwrap()
}

#[test]
fn what_was_read_first_is_kept_for_later_mounts_and_goes_with_the_image() {
    let Some(lab) = lab() else { return };
    let at = lab.mount("app:1", "first");
    read_all(&at);
    lab.umount(&at);
    until("the order is kept", || kept(&lab).len() == 1);
    let path = kept(&lab).remove(0);
    let text = fs::read(&path).unwrap();
    let order = spans(&text);
    // 16 MiB are 64 spans or some fewer; file 7 was read before file 1.
    assert!(order.len() > FILES as usize * 2, "{order:?}");
    assert!(!order.is_sorted(), "{order:?}");

    // Who reads what was expected, and who reads in another way, have the same bytes.
    let at = lab.mount("app:1", "again");
    read_all(&at);
    lab.umount(&at);
    let at = lab.writable("app:1", "backwards", &[]);
    for i in (0..FILES).rev() {
        let read = fs::read(at.join(format!("{i:02}"))).unwrap();
        assert!(read == contents(i, SIZE), "wrong bytes in {i}");
    }
    lab.umount(&at);
    // Nothing was new, so nothing was written.
    assert_eq!(fs::read(&path).unwrap(), text);

    lab.run(&["gc"]);
    assert_eq!(fs::read(&path).unwrap(), text);
    until("nobody uses the image", || {
        let removed = lab.lazyroot(&["remove", "app:1"]).output().unwrap();
        removed.status.success()
    });
    lab.run(&["gc"]);
    assert_eq!(kept(&lab), Vec::<PathBuf>::new());
}

#[test]
fn nobody_else_may_write_an_order() {
    let Some(lab) = lab() else { return };
    fs::remove_dir_all(lab.store("first-reads-v1")).unwrap();
    // Its server has no umask.
    let at = lab.writable("app:1", "at", &[]);
    read_all(&at);
    lab.umount(&at);
    until("the order is kept", || {
        fs::metadata(lab.store("first-reads-v1")).is_ok() && kept(&lab).len() == 1
    });
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&lab.store("first-reads-v1")), 0o755);
    assert_eq!(mode(&kept(&lab)[0]), 0o644);
}

#[test]
fn an_order_that_is_damaged_or_of_something_else_changes_nothing() {
    let Some(lab) = lab() else { return };
    let at = lab.mount("app:1", "at");
    read_all(&at);
    lab.umount(&at);
    until("the order is kept", || kept(&lab).len() == 1);
    let path = kept(&lab).remove(0);
    let mut foreign: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    foreign["spans"] = serde_json::json!([[0, 3], [0, u32::MAX], [7, 1], [0, 5], [0, 3]]);
    for text in [String::from("{\"layers\""), foreign.to_string()] {
        fs::write(&path, &text).unwrap();
        let at = lab.mount("app:1", "at");
        read_all(&at);
        lab.umount(&at);
        // A new one is made.
        until("the order is kept", || {
            let now = fs::read(&path).unwrap();
            now != text.as_bytes() && spans(&now).len() > FILES as usize * 2
        });
    }
    assert!(lab.log("at").is_empty(), "{:?}", lab.log("at"));
}

#[test]
fn who_wants_no_prefetch_leaves_nothing() {
    let Some(lab) = lab() else { return };
    let at = lab.place("at");
    lab.run(&[
        "--prefetch=false",
        "mount",
        "--read-only",
        "app:1",
        at.to_str().unwrap(),
    ]);
    let server = lab.server(&at);
    read_all(&at);
    lab.umount(&at);
    until("the server ended", || !super::lab::alive(server));
    assert_eq!(kept(&lab), Vec::<PathBuf>::new());
}
