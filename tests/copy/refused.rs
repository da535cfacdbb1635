//! There is no copy that lacks things: what cannot be made is an error that names it.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lazyroot::backend::copy::{CopyError, copy};
use lazyroot::layer::{Layer, ReadError, Source};
use lazyroot::union::Union;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::support::both;
use super::support::layers::{Data, Entry, Maker, What};
use super::{copied, is_root};

fn file(path: &str, size: u64) -> Entry {
    let data = Data {
        size,
        salt: 1,
        stored: None,
    };
    Entry::new(path, What::File(data))
}

fn many(count: u32, size: u64) -> Vec<Entry> {
    (0..count)
        .map(|number| file(&format!("dir/{number}"), size))
        .collect()
}

/// Contents of which nothing behind a place can be read.
#[derive(Debug)]
struct Damaged(Box<dyn Source>, u64);

impl Source for Damaged {
    fn name(&self) -> String {
        "the blob".to_owned()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError> {
        if offset + to.len() as u64 > self.1 {
            return Err(ReadError::Corrupt {
                file: self.name(),
                offset,
                what: "it is not what it was".to_owned(),
            });
        }
        self.0.read_at(offset, to)
    }
}

#[test]
fn a_damaged_layer_is_named_with_the_path() {
    if !is_root() {
        return;
    }
    let mut maker = Maker::new();
    let low = maker.layer(&many(5, 5));
    let layer = maker.layer(&[file("sound", 1000), file("d/broken", 200_000)]);
    let diff = layer.diff_id().to_string();
    let Ok(Layer { index, contents }) = Arc::try_unwrap(layer) else {
        panic!("nobody else has it")
    };
    let contents = Box::new(Damaged(contents, 100_000));
    let union = Union::new(vec![low, Arc::new(Layer { index, contents })]);
    let dir = tempfile::tempdir().unwrap();
    let error = copied(&union, dir.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot read `/d/broken` of layer {diff}")
    );
    let cause = error.source().unwrap().source().unwrap().to_string();
    assert!(cause.contains("it is not what it was"), "{cause}");
    assert!(error.hint().unwrap().contains("verify"));
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let (union, _) = both(&[many(1, 1)]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    let before = fs::metadata(dir.path()).unwrap();
    let error = copied(&union, dir.path()).unwrap_err();
    assert!(matches!(error, CopyError::NotEmpty(_)), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let after = fs::metadata(dir.path()).unwrap();
    assert_eq!(before.permissions(), after.permissions());
    let missing = copied(&union, &dir.path().join("no")).unwrap_err();
    let cause = missing
        .source()
        .and_then(|error| error.downcast_ref::<io::Error>());
    assert_eq!(cause.unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn who_wants_no_more_is_obeyed_at_any_moment() {
    if !is_root() {
        return;
    }
    let (union, _) = both(&[many(2000, 100_000)]);
    let whole = 2001;
    // From the beginning; in the walk; while files are written.
    for after in [0, 1, 100] {
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(after == 0);
        let mut last = (0, 0);
        let error = copy(&union, dir.path(), &stop, &mut |bytes, objects| {
            assert!(bytes >= last.0 && objects >= last.1, "it only grows");
            last = (bytes, objects);
            if objects >= after {
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert!(
            matches!(error, Err(CopyError::Interrupted)),
            "{after}: {error:?}"
        );
        assert!(last.1 < whole);
    }
}

/// A file system with this much room, gone at the end of its scope.
struct Small(tempfile::TempDir);

impl Small {
    fn new(options: &std::ffi::CStr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount("none", dir.path(), "tmpfs", MountFlags::empty(), options).unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_said_with_the_file_that_did_not_fit() {
    if !is_root() {
        return;
    }
    let full = |options, layer: Vec<Entry>| -> PathBuf {
        let (union, _) = both(&[layer]);
        let small = Small::new(options);
        let error = copied(&union, small.0.path()).unwrap_err();
        assert!(error.hint().unwrap().contains("free some space"));
        match error {
            CopyError::Full { path, .. } => path.strip_prefix(small.0.path()).unwrap().into(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        full(c"size=1m", vec![file("large", 3 << 20)]),
        PathBuf::from("large")
    );
    assert!(full(c"nr_inodes=50", many(100, 1)).starts_with("dir"));
    let dirs = (0..100).map(|number| Entry::new(&format!("{number}"), What::Dir));
    full(c"nr_inodes=50", dirs.collect());
}

#[test]
fn an_attribute_that_the_system_does_not_take_is_named() {
    if !is_root() {
        return;
    }
    let mut entry = file("dir/ping", 1);
    // No capability has one byte.
    entry.xattrs = vec![(b"security.capability".to_vec(), vec![1])];
    let (union, _) = both(&[vec![entry]]);
    let dir = tempfile::tempdir().unwrap();
    let error = copied(&union, dir.path()).unwrap_err();
    let path = dir.path().join("dir/ping");
    let said = format!(
        "cannot set the attribute `security.capability` of `{}`",
        path.display()
    );
    assert_eq!(error.to_string(), said);
}
