//! Damage under a running mount: EIO for what is touched and one line in the log,
//! never wrong bytes, everything else as before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::images::{PACKS, Pack, Packed, contents};
use super::lab::{Lab, alive, until};

const FILES: u64 = 40;
const SIZE: usize = 1 << 20;

/// An image that is larger than all that a server keeps in memory, and a mount
/// of it that nobody has touched.
struct Scene {
    lab: Lab,
    layer: Packed,
    at: PathBuf,
}

impl Scene {
    fn new(pack: Pack) -> Option<Self> {
        let lab = Lab::new()?;
        let layer = lab.image("app:1", pack, |layer| {
            layer.dir("data", 0o755);
            for i in 0..FILES {
                layer.file(&format!("data/{i:02}"), &contents(i, SIZE));
            }
        });
        let at = lab.mount("app:1", "at");
        Some(Self { lab, layer, at })
    }

    fn blob(&self) -> PathBuf {
        self.lab.store("blobs/sha256").join(self.layer.hex())
    }

    fn only(&self, directory: &str, suffix: &str) -> PathBuf {
        let entries = fs::read_dir(self.lab.store(directory)).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        let mut paths = paths.filter(|path| path.to_str().unwrap().ends_with(suffix));
        let path = paths.next().unwrap();
        assert!(paths.next().is_none(), "{directory}");
        path
    }

    /// Reads everything; the numbers of the files that gave EIO. What can be read
    /// is right.
    #[track_caller]
    fn bad(&self) -> BTreeSet<u64> {
        let bad = (0..FILES).filter(|&i| {
            match fs::read(self.at.join(format!("data/{i:02}"))) {
                Ok(got) => assert!(got == contents(i, SIZE), "wrong bytes in {i}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{i}");
                    return true;
                }
            }
            false
        });
        bad.collect()
    }

    /// One line for each of these, which names image, layer and path.
    #[track_caller]
    fn told(&self, bad: &BTreeSet<u64>) {
        let lines = self.lab.log("at");
        assert_eq!(lines.len(), bad.len(), "{lines:#?}");
        for i in bad {
            let path = format!("`/data/{i:02}` cannot be read");
            let line = lines.iter().find(|line| line.contains(&path));
            let line = line.unwrap_or_else(|| panic!("{i}: {lines:#?}"));
            for word in ["image `app:1`", &self.layer.diff] {
                assert!(line.contains(word), "{line}");
            }
        }
    }

    /// The server lives, and what is not contents is as it was.
    #[track_caller]
    fn lives(&self) {
        assert!(alive(self.lab.server(&self.at)));
        assert_eq!(names(&self.at.join("data")).unwrap().len() as u64, FILES);
    }

    fn again(&self) {
        self.lab.umount(&self.at);
        fs::remove_file(self.lab.path("at.log")).unwrap();
        self.lab.mount("app:1", "at");
    }
}

fn names(dir: &Path) -> std::io::Result<Vec<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().unwrap());
    fs::read_dir(dir)?.map(name).collect()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn cut(path: &Path, len: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

#[test]
fn a_flipped_byte_of_a_blob_is_an_error_where_it_is_used() {
    for pack in PACKS {
        let Some(scene) = Scene::new(pack) else {
            return;
        };
        flip(&scene.blob(), len(&scene.blob()) / 2);
        let bad = scene.bad();
        println!("{pack:?}: {bad:?}");
        assert!(!bad.is_empty() && !bad.contains(&0), "{pack:?}: {bad:?}");
        // Nothing behind it in a frame can be decoded; else a span is lost.
        if pack != Pack::Zstd {
            assert!(
                bad.len() <= 4 && !bad.contains(&(FILES - 1)),
                "{pack:?}: {bad:?}"
            );
        }
        assert_eq!(scene.bad(), bad);
        scene.told(&bad);
        scene.lives();
        // Mended under the mount, it can be read.
        flip(&scene.blob(), len(&scene.blob()) / 2);
        assert_eq!(scene.bad(), BTreeSet::new());
    }
}

#[test]
fn what_a_truncated_blob_has_lost_is_an_error() {
    for pack in PACKS {
        let Some(scene) = Scene::new(pack) else {
            return;
        };
        cut(&scene.blob(), len(&scene.blob()) / 2);
        let bad = scene.bad();
        assert!(
            bad.contains(&(FILES - 1)) && !bad.contains(&0),
            "{pack:?}: {bad:?}"
        );
        assert!((15..=25).contains(&bad.len()), "{pack:?}: {bad:?}");
        scene.told(&bad);
        scene.lives();
    }
}

#[test]
fn a_deleted_blob_serves_the_mount_that_has_it_open_and_no_other() {
    for pack in PACKS {
        let Some(scene) = Scene::new(pack) else {
            return;
        };
        fs::remove_file(scene.blob()).unwrap();
        assert_eq!(scene.bad(), BTreeSet::new());
        scene.told(&BTreeSet::new());
        scene.lives();
        let other = scene.lab.place("other");
        let said = scene
            .lab
            .fails(5, &["mount", "-r", "app:1", other.to_str().unwrap()]);
        assert!(said.contains(&scene.layer.hex()), "{said}");
        assert!(said.contains("try: lazyroot verify"), "{said}");
    }
}

#[test]
fn a_damaged_seek_map_makes_no_wrong_byte() {
    for pack in PACKS {
        let Some(scene) = Scene::new(pack) else {
            return;
        };
        let map = scene.only("seek-v1", ".map");
        // Every other block, so that some is hit that is used.
        let blocks = len(&map).div_ceil(16 << 10);
        (0..blocks)
            .step_by(2)
            .for_each(|i| flip(&map, (i << 14) + 100));
        let bad = scene.bad();
        println!("{pack:?}: {} of {FILES}, {blocks} blocks", bad.len());
        // The first block was read by the mount.
        assert!(!bad.is_empty() || blocks == 1, "{pack:?}");
        assert_eq!(scene.bad(), bad);
        scene.told(&bad);
        scene.lives();
        cut(&map, 10);
        assert!(scene.bad().is_superset(&bad));
        scene.lives();
    }
}

#[test]
fn a_damaged_index_hides_what_it_has_lost_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    let mut wanted = BTreeMap::new();
    let layer = lab.image("app:1", Pack::Gzip, |layer| {
        for dir in 0..100 {
            layer.dir(&format!("d{dir:02}"), 0o755);
            for file in 0..100 {
                let (path, says) = (format!("d{dir:02}/f{file:02}"), format!("{dir} {file}"));
                layer.file(&path, says.as_bytes());
                wanted.insert(path, says);
            }
        }
    });
    let at = lab.mount("app:1", "at");
    let entries = fs::read_dir(lab.store("layers-v1")).unwrap().flatten();
    let mut paths = entries.map(|entry| entry.path());
    let index = paths
        .find(|path| path.extension() == Some("idx".as_ref()))
        .unwrap();
    let blocks = len(&index).div_ceil(16 << 10);
    flip(&index, ((blocks / 2) << 14) + 100);
    flip(&index, ((blocks / 4) << 14) + 100);
    let mut bad = 0;
    let mut check = || {
        bad = 0;
        for (path, says) in &wanted {
            match fs::read_to_string(at.join(path)) {
                Ok(got) => assert_eq!(got, *says, "{path}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{path}");
                    bad += 1;
                }
            }
        }
        bad
    };
    let first = check();
    println!("{first} of {} in {blocks} blocks", wanted.len());
    assert!(first > 0 && first < wanted.len() / 2, "{first}");
    assert_eq!(check(), first);
    let lines = lab.log("at");
    let distinct: BTreeSet<&str> = lines
        .iter()
        .map(|line| line.split('`').nth(1).unwrap())
        .collect();
    assert_eq!(distinct.len(), lines.len(), "{lines:#?}");
    assert!(
        lines
            .iter()
            .all(|l| l.contains("image `app:1`") && l.contains(&layer.diff))
    );
    // A listing has a name or an error, never a wrong one.
    for dir in 0..100 {
        match names(&at.join(format!("d{dir:02}"))) {
            Ok(names) => assert_eq!(names.len(), 100, "d{dir:02}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "d{dir:02}"),
        }
    }
    assert!(alive(lab.server(&at)));
}

/// Each `cat` once left what it had decoded behind, under a name of its own.
#[test]
fn who_needs_the_beginning_of_an_uncompressed_layer_leaves_no_half_of_it() {
    let Some(scene) = Scene::new(Pack::Zstd) else {
        return;
    };
    for file in ["00", "39"] {
        let got = scene.lab.run(&["cat", &format!("app:1:/data/{file}")]);
        assert!(got.into_bytes() == contents(file.parse().unwrap(), SIZE));
        for entry in fs::read_dir(scene.lab.store("expanded-v1")).unwrap() {
            let path = entry.unwrap().path();
            assert!(path.extension() == Some("tar".as_ref()), "{path:?}");
        }
    }
}

#[test]
fn a_damaged_copy_of_an_uncompressed_layer_is_made_again() {
    let Some(scene) = Scene::new(Pack::Zstd) else {
        return;
    };
    assert_eq!(scene.bad(), BTreeSet::new());
    until("the copy is made", || {
        fs::read_dir(scene.lab.store("expanded-v1"))
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_str().unwrap().ends_with(".tar"))
    });
    let damages: [fn(&Path); 3] = [
        |copy| flip(copy, len(copy) / 2),
        |copy| cut(copy, len(copy) / 2),
        |copy| fs::remove_file(copy).unwrap(),
    ];
    for damage in damages {
        // Before it is open, and while it is.
        for open in [false, true] {
            scene.again();
            if open {
                let first = fs::read(scene.at.join("data/00")).unwrap();
                assert!(first == contents(0, SIZE));
            }
            damage(&scene.only("expanded-v1", ".tar"));
            // Who meets the damage may get an error, the next one may not.
            let bad = scene.bad();
            assert!(bad.len() <= 2, "open: {open}: {bad:?}");
            assert_eq!(scene.bad(), BTreeSet::new(), "open: {open}");
            // What was read ahead is read again: told, and not seen.
            assert!(scene.lab.log("at").len() <= 2, "{:?}", scene.lab.log("at"));
            scene.lives();
            if open && bad.is_empty() {
                // It was deleted, and is still what is read.
                scene.again();
                assert_eq!(scene.bad(), BTreeSet::new());
            }
        }
    }
}

#[test]
fn a_damaged_copy_of_what_is_read_first_makes_no_wrong_byte_and_no_error() {
    let Some(scene) = Scene::new(Pack::Gzip) else {
        return;
    };
    let copies = || {
        let entries = fs::read_dir(scene.lab.store("expanded-v1")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_str().unwrap().ends_with(".spans"))
            .count()
    };
    // The first mount finds out what that is, and tells it when it ends; a later one keeps it.
    assert_eq!(scene.bad(), BTreeSet::new());
    assert_eq!(copies(), 0);
    until("it is kept", || {
        scene.again();
        assert_eq!(scene.bad(), BTreeSet::new());
        copies() == 1
    });
    let damages: [fn(&Path); 5] = [
        flip_blocks,
        flip_blocks,
        |copy| cut(copy, len(copy) / 2),
        |copy| cut(copy, 0),
        |copy| fs::remove_file(copy).unwrap(),
    ];
    // Before it is open, and while it is.
    for (damage, open) in damages.into_iter().zip([false, true].into_iter().cycle()) {
        scene.again();
        if open {
            let first = fs::read(scene.at.join("data/00")).unwrap();
            assert!(first == contents(0, SIZE));
        }
        damage(&scene.only("expanded-v1", ".spans"));
        assert_eq!(scene.bad(), BTreeSet::new(), "open: {open}");
        scene.lives();
    }
}

/// Also where there were holes.
fn flip_blocks(copy: &Path) {
    (0..len(copy) / 4096).for_each(|block| flip(copy, 4096 * block + 7));
}
