//! Numbers of objects in our mounts: one each, and for ever.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::images::Pack;
use super::lab::system;
use super::layers::{Dice, Entry, Links, Stack, What, random};
use super::operations::{self, Hands};
use super::scene::{Scene, Shown, Who};
use super::seeds::seeds;

/// The number of every name. Listings and `stat` agree, and all is one device.
#[track_caller]
fn numbers(top: &Path) -> BTreeMap<PathBuf, u64> {
    let root = top.symlink_metadata().unwrap();
    let mut all = BTreeMap::from([(PathBuf::new(), root.ino())]);
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(top.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            let stat = entry.path().symlink_metadata().unwrap();
            assert_eq!(entry.ino(), stat.ino(), "{path:?}: listed, and stat");
            assert_eq!(stat.dev(), root.dev(), "{path:?}: another device");
            if stat.is_dir() {
                todo.push(path.clone());
            }
            all.insert(path, stat.ino());
        }
    }
    all
}

/// Forgets what the kernel keeps of names and attributes.
fn drop_caches() {
    system("sync", &[]);
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn described() -> Stack {
    let dir = || What::Dir { opaque: false };
    vec![
        vec![
            Entry::new("", dir()),
            Entry::new("d", dir()),
            Entry::new("d/file", What::File(1, 100_000)),
            Entry::new("d/chmod", What::File(2, 10)),
            Entry::new("d/one", What::File(3, 10)),
            Entry::new("d/other", What::Link("d/one".into())),
            Entry::new("d/soft", What::Symlink("file".into())),
            Entry::new("merged", dir()),
            Entry::new("merged/below", What::File(4, 10)),
        ],
        vec![
            Entry::new("", dir()),
            Entry::new("merged", dir()),
            Entry::new("merged/above", What::File(5, 10)),
        ],
    ]
}

#[test]
fn a_number_stays_over_copy_up_rename_dropped_caches_and_remount() {
    let Some(mut scene) = Scene::new(described()) else {
        return;
    };
    scene.import(&[Pack::Gzip]);
    let changes = scene.changes();
    let shown = scene.show(Who::Ours, &changes);
    let at = shown.at.clone();
    fs::write(at.join("new"), "new").unwrap();
    fs::create_dir(at.join("made")).unwrap();
    let before = numbers(&at);
    assert_eq!(before[Path::new("d/one")], before[Path::new("d/other")]);
    fs::write(at.join("d/file"), "changed").unwrap();
    fs::set_permissions(at.join("d/chmod"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(at.join("d/other"), "both").unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        at.join("d/soft"),
        Some(rustix::fs::Uid::from_raw(7)),
        None,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    assert_eq!(numbers(&at), before, "copied up");
    fs::rename(at.join("d"), at.join("moved")).unwrap();
    fs::rename(at.join("merged"), at.join("made/merged")).unwrap();
    fs::rename(at.join("new"), at.join("made/new")).unwrap();
    let renamed = |path: &PathBuf| {
        let text = path.to_str().unwrap();
        let text = match text.split_once('/') {
            _ if text == "d" => "moved".to_owned(),
            Some(("d", rest)) => format!("moved/{rest}"),
            Some(("merged", rest)) => format!("made/merged/{rest}"),
            _ if text == "merged" => "made/merged".to_owned(),
            _ if text == "new" => "made/new".to_owned(),
            _ => text.to_owned(),
        };
        PathBuf::from(text)
    };
    let wanted: BTreeMap<PathBuf, u64> = before
        .iter()
        .map(|(path, ino)| (renamed(path), *ino))
        .collect();
    assert_eq!(numbers(&at), wanted, "renamed");
    drop_caches();
    assert_eq!(numbers(&at), wanted, "caches dropped");
    assert_eq!(fs::read(at.join("moved/one")).unwrap(), b"both");
    shown.end(&scene);
    let shown = scene.show(Who::Ours, &changes);
    assert_eq!(numbers(&shown.at), wanted, "mounted again");
    shown.end(&scene);
}

#[test]
fn numbers_are_the_same_after_random_changes_and_a_remount() {
    for seed in seeds(400..406) {
        let mut dice = Dice::new(seed);
        let stack = random(&mut dice, Links::OverLayers, "");
        let ops = operations::random(&mut dice, &stack, "", 80);
        let Some(mut scene) = Scene::new(stack) else {
            return;
        };
        scene.import(&[Pack::Zstd]);
        let changes = scene.changes();
        let shown = scene.show(Who::Ours, &changes);
        Hands::new(&shown.at).all(&ops);
        let live = numbers(&shown.at);
        drop_caches();
        assert_eq!(numbers(&shown.at), live, "seed {seed}, {ops:#?}");
        Shown::end(shown, &scene);
        let shown = scene.show(Who::Ours, &changes);
        assert_eq!(numbers(&shown.at), live, "seed {seed}, {ops:#?}");
        shown.end(&scene);
    }
}
