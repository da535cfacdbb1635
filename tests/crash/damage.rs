//! Layers are damaged under a writable mount: EIO for their files, and only theirs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::images::{Pack, contents};
use super::lab::alive;
use super::layers::{Entry, What};
use super::scene::{Changes, Scene, Shown, Who};

const FILES: u64 = 12;
const SIZE: usize = 1 << 20;

struct Damaged {
    scene: Scene,
    shown: Shown,
    changes: Changes,
}

/// A mount with files of two layers; `damage` gets the blob of the upper one.
fn damaged(damage: impl FnOnce(&Path)) -> Option<Damaged> {
    let dir = |path: &str| Entry::new(path, What::Dir { opaque: false });
    let sound = vec![dir(""), Entry::new("sound", What::File(99, SIZE))];
    let mut layer = vec![dir(""), dir("d")];
    let file = |i| Entry::new(&format!("d/{i}"), What::File(i, SIZE));
    layer.extend((0..FILES).map(file));
    let mut scene = Scene::new(vec![sound, layer])?;
    let packed = scene.import(&[Pack::Gzip]);
    let changes = scene.changes();
    let shown = scene.show(Who::Ours, &changes);
    // One is copied up before.
    append(&shown.at.join("d/0")).unwrap();
    damage(&scene.lab.store("blobs/sha256").join(packed[1].hex()));
    Some(Damaged {
        scene,
        shown,
        changes,
    })
}

fn append(path: &Path) -> io::Result<()> {
    io::Write::write_all(&mut File::options().append(true).open(path)?, b"+")
}

impl Damaged {
    fn path(&self, i: u64) -> PathBuf {
        self.shown.at.join(format!("d/{i}"))
    }

    /// Reading and opening for writing are EIO for these; nothing of them has changed.
    #[track_caller]
    fn lost(&self) -> Vec<u64> {
        let lost = |&i: &u64| match fs::read(self.path(i)) {
            Ok(bytes) => {
                assert!(bytes == contents(i, SIZE), "wrong bytes in {i}");
                append(&self.path(i)).unwrap();
                false
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{i}");
                let error = append(&self.path(i)).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{i}");
                true
            }
        };
        (1..FILES).filter(lost).collect()
    }

    /// Everything but the contents of `lost` goes on.
    #[track_caller]
    fn goes_on(&self, lost: &[u64]) {
        let at = &self.shown.at;
        let with_more = |i, more: &[u8]| [&contents(i, SIZE)[..], more].concat();
        assert!(fs::read(at.join("sound")).unwrap() == contents(99, SIZE));
        append(&at.join("sound")).unwrap();
        assert!(fs::read(self.path(0)).unwrap() == with_more(0, b"+"));
        fs::write(at.join("d/new"), "new").unwrap();
        for &i in lost {
            let stat = self.path(i).symlink_metadata().unwrap();
            assert_eq!(stat.len(), SIZE as u64);
        }
        if let [one, other, ..] = *lost {
            fs::set_permissions(self.path(one), fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(self.path(one), at.join("renamed")).unwrap();
            // What nobody wants to read needs no copy.
            fs::write(self.path(other), "fresh").unwrap();
            assert_eq!(fs::read(self.path(other)).unwrap(), b"fresh");
            let error = fs::read(at.join("renamed")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            fs::remove_file(at.join("renamed")).unwrap();
        }
        assert!(alive(self.shown.server.unwrap()));
    }

    /// What was copied up and made is all there without the damaged blob's contents.
    #[track_caller]
    fn ends(self) {
        let Self {
            scene,
            shown,
            changes,
        } = self;
        shown.end(&scene);
        let upper = &changes.upper;
        assert_eq!(fs::read(upper.join("d/new")).unwrap(), b"new");
        assert_eq!(
            fs::metadata(upper.join("d/0")).unwrap().len(),
            SIZE as u64 + 1
        );
        assert!(fs::read_dir(&changes.work).is_err() || no_files(&changes.work) <= 2);
    }
}

fn no_files(dir: &Path) -> usize {
    let count = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => no_files(&entry.path()),
        false => 1,
    };
    fs::read_dir(dir).unwrap().flatten().map(count).sum()
}

#[test]
fn a_damaged_layer_is_an_error_for_its_files_and_nothing_else() {
    let flip = |blob: &Path| {
        let file = File::options().read(true).write(true).open(blob).unwrap();
        let at = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
    };
    let Some(damaged) = damaged(flip) else { return };
    let lost = damaged.lost();
    assert!((1..FILES as usize - 1).contains(&lost.len()), "{lost:?}");
    damaged.goes_on(&lost);
    damaged.ends();
}

#[test]
fn a_layer_that_was_cut_short_is_an_error_for_its_files_and_nothing_else() {
    let cut = |blob: &Path| {
        let file = File::options().write(true).open(blob).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len / 3).unwrap();
    };
    let Some(damaged) = damaged(cut) else { return };
    let lost = damaged.lost();
    assert!((4..FILES as usize).contains(&lost.len()), "{lost:?}");
    damaged.goes_on(&lost);
    damaged.ends();
}

#[test]
fn a_layer_that_vanished_goes_on_for_who_has_it_open() {
    let Some(damaged) = damaged(|blob| fs::remove_file(blob).unwrap()) else {
        return;
    };
    assert_eq!(damaged.lost(), [0; 0]);
    damaged.goes_on(&[]);
    damaged.ends();
}
