//! Disks that are full or cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::images::*;

/// A small file system of its own, gone at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("SKIPPED: needs root, to mount a tmpfs");
        None
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", options])
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// An image whose blobs take some megabytes.
fn large(salt: u64) -> Vec<u8> {
    let layers = [0, 1].map(|n| {
        let tar = Tar::new()
            .file("large", &noise(10 * salt + n, 3 << 20))
            .end();
        Layer::new(&tar, Packing::Gzip)
    });
    archive(&Image::new("large:1", layers.to_vec()).docker())
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let mut bench = Bench::new();
    let path = bench.write("large.tar", &large(1));
    let Some(tmpfs) = Tmpfs::new(&bench.path("disk"), "size=8M") else {
        return;
    };
    bench.store = bench.path("disk").join("store");
    let small = archive(&Image::small("small:1", 1, Packing::Gzip).docker());
    bench.pipe(&small, &[]).ok();
    // From hardly too small to hopeless: each step fails somewhere else.
    let words = ["No space left", "lazyroot gc", "try: "];
    for free in ["6M", "4M", "1M", "300k"] {
        tmpfs.remount(&format!("remount,size={free}"));
        bench.refuses(1, &words, |bench| bench.import(&path, &[]));
    }
    // Not even a directory can be made: every inode is taken.
    tmpfs.remount("remount,size=8M");
    let mut filler = 0;
    while fs::write(bench.path("disk").join(format!("filler{filler}")), b"").is_ok() {
        filler += 1;
        if filler == 100 {
            let inodes = filler + bench.files().len() + 30;
            tmpfs.remount(&format!("remount,nr_inodes={inodes}"));
        }
    }
    bench.refuses(1, &words, |bench| bench.import(&path, &[]));
    for number in 0..filler {
        fs::remove_file(bench.path("disk").join(format!("filler{number}"))).unwrap();
        if [2, 4, 6, 9].contains(&number) {
            bench.refuses(1, &words, |bench| bench.import(&path, &[]));
        }
    }
    tmpfs.remount("remount,size=20M,nr_inodes=1000");
    bench.import(&path, &[]).ok();
    bench.run(&["verify"]).ok();
}

#[test]
fn a_store_on_a_read_only_disk_can_be_read_and_not_written() {
    let mut bench = Bench::new();
    let path = bench.write("large.tar", &large(1));
    let Some(tmpfs) = Tmpfs::new(&bench.path("disk"), "size=8M") else {
        return;
    };
    bench.store = bench.path("disk").join("store");
    let small = archive(&Image::small("small:1", 1, Packing::Gzip).docker());
    bench.pipe(&small, &[]).ok();
    tmpfs.remount("remount,ro");
    let words = ["cannot be written", "store", "try: "];
    bench.refuses(1, &words, |bench| bench.import(&path, &[]));
    bench.refuses(1, &words, |bench| bench.run(&["gc"]));
    bench.refuses(1, &words, |bench| bench.run(&["remove", "small:1"]));
    bench.refuses(1, &words, |bench| bench.run(&["tag", "small:1", "other:1"]));
    bench.run(&["verify"]).ok();
    bench.run(&["cat", "small:1:/etc/hosts-1"]).ok();
    bench.run(&["ls", "-l", "small:1:/etc"]).ok();
}

#[test]
fn a_store_of_another_user_can_be_read_and_not_written() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root, to be somebody else");
        return;
    }
    let bench = Bench::new();
    let top = bench.path("");
    fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
    let zstd = archive(&Image::small("small:1", 1, Packing::Zstd).docker());
    bench.pipe(&zstd, &[]).ok();
    let path = bench.write("large.tar", &large(1));
    let home = bench.path("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    // The program itself may lie where nobody else can reach it.
    let program = bench.path("lazyroot");
    fs::copy(env!("CARGO_BIN_EXE_lazyroot"), &program).unwrap();
    let nobody = |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("HOME", &home)
            .uid(65_534)
            .gid(65_534);
        command.arg("--store").arg(&bench.store).args(args);
        Ran::of(command.output().unwrap())
    };
    let words = ["cannot be written", "store", "try: "];
    bench.refuses(1, &words, |_| nobody(&["import", path.to_str().unwrap()]));
    bench.refuses(1, &words, |_| nobody(&["gc"]));
    bench.refuses(1, &words, |_| nobody(&["remove", "small:1"]));
    bench.refuses(1, &words, |_| nobody(&["tag", "small:1", "other:1"]));
    nobody(&["verify"]).ok();
    // This one is decoded into the reader's own cache.
    let theirs = nobody(&["cat", "small:1:/etc/big-1"]).ok();
    assert_eq!(theirs.out, noise(3, 40_000));
}
