//! What is mounted in a tree that is removed stays, and is named.
//!
//! Needs root; says `SKIPPED` without.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

use std::fs;
use std::path::{Path, PathBuf};

use lazyroot::remove::{RemoveError, Removed, discard, remove, remove_contents};
use lazyroot::store::Store;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

/// A tree with a file, beside a directory with a file; mounts in it end with it.
struct Scene {
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
}

impl Scene {
    /// Nothing when this machine cannot mount.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let scene = Self {
            dir,
            mounts: Vec::new(),
        };
        for path in ["outside", "tree/a/b/c", "trash"] {
            fs::create_dir_all(scene.path(path)).unwrap();
        }
        for path in ["outside/file", "tree/a/b/file", "tree/a/b/c/file"] {
            fs::write(scene.path(path), "x").unwrap();
        }
        Some(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Mounts one over the other; both are of the same file system.
    fn bind(&mut self, what: &str, at: &str) {
        let at = self.path(at);
        mount_bind(self.path(what), &at).unwrap();
        self.mounts.push(at);
    }

    fn outside_is_whole(&self) -> bool {
        fs::read(self.path("outside/file")).is_ok_and(|bytes| bytes == b"x")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for at in self.mounts.drain(..).rev() {
            let _ = unmount(&at, UnmountFlags::DETACH);
        }
    }
}

#[track_caller]
fn mounted(outcome: Result<Removed, RemoveError>) -> PathBuf {
    match outcome {
        Err(RemoveError::Mounted(path)) => path,
        other => panic!("{other:?}"),
    }
}

/// The tree is removed after the mount is gone.
fn removed_after_all(mut scene: Scene, tree: &Path) {
    for at in scene.mounts.drain(..).rev() {
        unmount(&at, UnmountFlags::empty()).unwrap();
    }
    remove(tree).unwrap();
    assert!(fs::symlink_metadata(tree).is_err());
    assert!(scene.outside_is_whole());
}

#[test]
fn a_directory_of_the_same_file_system_mounted_inside_is_not_entered() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.bind("outside", "tree/a/b/c");
    let tree = scene.path("tree");
    assert_eq!(mounted(remove(&tree)), scene.path("tree/a/b/c"));
    assert_eq!(mounted(remove_contents(&tree)), scene.path("tree/a/b/c"));
    assert!(scene.outside_is_whole());
    removed_after_all(scene, &tree);
}

#[test]
fn a_file_mounted_over_a_file_is_not_removed() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.bind("outside/file", "tree/a/b/file");
    let tree = scene.path("tree");
    assert_eq!(mounted(remove(&tree)), scene.path("tree/a/b/file"));
    assert!(scene.outside_is_whole());
    removed_after_all(scene, &tree);
}

#[test]
fn a_tree_that_is_a_mount_point_is_not_entered() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.bind("outside", "tree");
    let tree = scene.path("tree");
    let trash = scene.path("trash");
    assert_eq!(mounted(remove(&tree)), tree);
    assert_eq!(mounted(remove_contents(&tree)), tree);
    assert_eq!(mounted(discard(&tree, &trash)), tree);
    assert!(scene.outside_is_whole());
    removed_after_all(scene, &tree);
}

#[test]
fn a_tree_below_a_mount_point_is_removed() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.bind("tree", "tree");
    assert_eq!(remove(&scene.path("tree/a")).unwrap().files, 2);
    assert!(scene.outside_is_whole());
}

#[test]
fn trash_with_a_mount_in_it_does_not_keep_the_rest() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let store = Store::create(&scene.path("store"), 1 << 20).unwrap();
    for name in ["1", "2", "3"] {
        fs::create_dir_all(store.root().join("trash").join(name)).unwrap();
    }
    scene.bind("outside", "store/trash/2");
    let error = store.gc(false).unwrap_err();
    let place = scene.path("store/trash/2");
    let said = format!("something is mounted at `{}`", place.display());
    assert_eq!(error.to_string(), said);
    assert!(error.hint().is_some_and(|hint| hint.contains("umount")));
    let left: Vec<_> = fs::read_dir(scene.path("store/trash")).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(scene.outside_is_whole());
}
