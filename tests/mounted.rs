//! A real mount in front of a tree in memory: proves the wiring, not the rules.
//!
//! Needs `/dev/fuse` and root; says `SKIPPED` without. A server that hangs takes
//! its users with it, so every mount has a watchdog that ends the connection.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lazyroot::backend::fuse::{ReadyPipe, StartError, start};
use lazyroot::fuse::{Catalogue, Changes, MountOptions, ServeError, Served, Tree, serve};
use lazyroot::layer::tar::MemberKind;
use lazyroot::mounts::{self, MountError};
use lazyroot::node::Time;
use lazyroot::union::Union;
use rustix::fs::SeekFrom;
use rustix::process::{Pid, Signal, kill_process};

#[path = "mounted/objects.rs"]
mod objects;
use objects::{Object, union_of};

/// A mount that hangs is cut off after so long.
const WATCHDOG: Duration = Duration::from_secs(60);

fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok();
    if !root || !device {
        println!("SKIPPED: needs root and /dev/fuse");
    }
    root && device
}

/// A mount that is gone at the end of its scope.
struct Mounted {
    dir: tempfile::TempDir,
    server: Option<JoinHandle<Result<(), ServeError>>>,
    _alive: Sender<()>,
}

impl Mounted {
    fn new(tree: Tree) -> Self {
        Self::with(
            tree,
            MountOptions {
                suid: true,
                dev: true,
                ..MountOptions::default()
            },
            None,
        )
    }

    fn with(tree: Tree, options: MountOptions, idle: Option<Box<dyn Fn() + Send>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        let (ready, is_ready) = channel();
        let served = Served {
            name: "test:1".to_owned(),
            tree,
            idle,
            keep_awake: true,
        };
        let server =
            thread::spawn(move || serve(served, &at, &options, || ready.send(()).unwrap()));
        is_ready
            .recv_timeout(WATCHDOG)
            .expect("the server got ready");
        let (alive, gone) = channel();
        thread::spawn(move || {
            if gone.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                // Ends the server and those who wait for it at once.
                eprintln!("the mount hangs");
                std::process::abort();
            }
        });
        Self {
            dir,
            server: Some(server),
            _alive: alive,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn end(mut self) -> Result<(), ServeError> {
        mounts::unmount(self.dir.path(), false).unwrap();
        self.server.take().unwrap().join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = mounts::unmount(self.dir.path(), true);
            let _ = server.join();
        }
    }
}

/// An access control list that lets one more user read
/// (include/uapi/linux/posix_acl_xattr.h: version, then tag, permissions, id).
fn acl(user: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries = [
        (1u16, 6u16, none),
        (2, 4, user),
        (4, 0, none),
        (0x10, 4, none),
        (0x20, 0, none),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&may.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn objects() -> Vec<Object> {
    let time = Time {
        seconds: -1_000_000_000,
        nanos: 5,
    };
    let mut objects = vec![
        Object::dir("etc"),
        Object::file("etc/hosts", b"127.0.0.1 localhost\n"),
        Object::file("etc/old", b"x").at(time),
        Object::symlink("etc/link", "hosts"),
        Object::dir("bin"),
        Object::file("bin/true", &fs::read("/bin/true").unwrap()).mode(0o4755),
        Object::special("null", MemberKind::Char, 1, 3),
        Object::special("far", MemberKind::Char, 10, 4096),
        Object::special("disk", MemberKind::Block, 259, 0xf_ffff),
        Object::special("pipe", MemberKind::Fifo, 0, 0),
        Object::file("secret", b"s").mode(0o600).owner(1000, 1001),
        Object::file(
            "large",
            &(0..3_000_000u32).map(|i| (i / 7) as u8).collect::<Vec<_>>(),
        ),
        Object::file("tagged", b"t")
            .xattr("user.one", b"1")
            .xattr("user.empty", b"")
            .xattr("trusted.raw", &[0, 255]),
        Object::file("shared", b"s")
            .mode(0o640)
            .xattr("system.posix_acl_access", &acl(4321)),
        Object::dir("many"),
    ];
    objects.extend((0..3000).map(|i| Object::file(&format!("many/file-{i:05}"), b"")));
    objects
}

fn image() -> Tree {
    Tree::Image(Arc::new(union_of(objects())))
}

fn errno<T>(result: rustix::io::Result<T>) -> Option<rustix::io::Errno> {
    result.err()
}

#[test]
fn stat_shows_what_the_layer_says() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    let meta = |name: &str| fs::symlink_metadata(mounted.path(name)).unwrap();
    assert_eq!(meta("").ino(), 1);
    assert!(meta("etc").is_dir());
    let secret = meta("secret");
    assert_eq!(
        (secret.mode() & 0o7777, secret.uid(), secret.gid()),
        (0o600, 1000, 1001)
    );
    assert_eq!((secret.size(), secret.blocks(), secret.nlink()), (1, 1, 1));
    let old = meta("etc/old");
    assert_eq!((old.mtime(), old.mtime_nsec()), (-1_000_000_000, 5));
    assert_eq!(meta("bin/true").mode() & 0o7777, 0o4755);
    assert!(meta("null").file_type().is_char_device());
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(meta("far").rdev(), rustix::fs::makedev(10, 4096));
    assert_eq!(meta("disk").rdev(), rustix::fs::makedev(259, 0xf_ffff));
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(
        fs::read_link(mounted.path("etc/link")).unwrap(),
        Path::new("hosts")
    );
    let missing = || {
        fs::symlink_metadata(mounted.path("etc/none"))
            .unwrap_err()
            .kind()
    };
    assert_eq!(
        (missing(), missing()),
        (ErrorKind::NotFound, ErrorKind::NotFound)
    );
    let statfs = rustix::fs::statvfs(mounted.dir.path()).unwrap();
    assert_eq!(
        (statfs.f_bfree, statfs.f_namemax, statfs.f_bsize),
        (0, 255, 4096)
    );
    assert!(statfs.f_blocks > 0 && statfs.f_files > 3000);
    mounted.end().unwrap();
}

#[test]
fn a_listing_has_every_name_once_and_the_numbers_of_stat() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    // Twice: from the server, then from the kernel's cache.
    for _ in 0..2 {
        let listed = fs::read_dir(mounted.path("many"))
            .unwrap()
            .map(Result::unwrap);
        let mut seen = BTreeMap::new();
        for entry in listed {
            use std::os::unix::fs::DirEntryExt;
            assert_eq!(entry.metadata().unwrap().ino(), entry.ino());
            assert!(seen.insert(entry.file_name(), entry.ino()).is_none());
        }
        assert_eq!(seen.len(), 3000);
    }
    mounted.end().unwrap();
}

#[test]
fn files_read_the_same_whole_at_random_and_as_programs() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    assert_eq!(
        fs::read(mounted.path("etc/link")).unwrap(),
        b"127.0.0.1 localhost\n"
    );
    let whole = fs::read(mounted.path("large")).unwrap();
    let byte = |at: usize| (at as u32 / 7) as u8;
    assert_eq!(whole.len(), 3_000_000);
    assert!(whole.iter().enumerate().all(|(at, &got)| got == byte(at)));
    let file = File::open(mounted.path("large")).unwrap();
    let mut piece = [0; 100];
    assert_eq!(file.read_at(&mut piece, 2_999_990).unwrap(), 10);
    assert_eq!(file.read_at(&mut piece, 3_000_000).unwrap(), 0);
    assert_eq!(file.read_at(&mut piece, 1_234_567).unwrap(), 100);
    assert_eq!(piece[99], byte(1_234_666));
    // Maps the file: a program is not read.
    assert!(
        Command::new(mounted.path("bin/true"))
            .status()
            .unwrap()
            .success()
    );
    drop(file);
    mounted.end().unwrap();
}

#[test]
fn holes_are_found_and_the_end_is_an_error() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    let file = File::open(mounted.path("large")).unwrap();
    let seek = |to| rustix::fs::seek(&file, to);
    assert_eq!(seek(SeekFrom::Data(5)).unwrap(), 5);
    assert_eq!(seek(SeekFrom::Hole(5)).unwrap(), 3_000_000);
    assert_eq!(
        errno(seek(SeekFrom::Data(3_000_000))),
        Some(rustix::io::Errno::NXIO)
    );
    assert_eq!(
        errno(seek(SeekFrom::Hole(3_000_001))),
        Some(rustix::io::Errno::NXIO)
    );
    assert_eq!(seek(SeekFrom::End(-1)).unwrap(), 2_999_999);
    drop(file);
    mounted.end().unwrap();
}

#[test]
fn extended_attributes_are_raw_and_privileged_ones_are_hidden() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    let tagged = mounted.path("tagged");
    let get = |name: &str, room: usize| {
        let mut value = vec![0; room];
        let got = rustix::fs::getxattr(&tagged, name, &mut value[..])?;
        value.truncate(got);
        Ok((got, value))
    };
    assert_eq!(get("user.one", 10), Ok((1, b"1".to_vec())));
    assert_eq!(get("user.empty", 10), Ok((0, vec![])));
    assert_eq!(get("trusted.raw", 1), Err(rustix::io::Errno::RANGE));
    assert_eq!(get("trusted.raw", 2), Ok((2, vec![0, 255])));
    assert_eq!(get("user.none", 10), Err(rustix::io::Errno::NODATA));
    let mut names = [0; 100];
    let len = rustix::fs::listxattr(&tagged, &mut names[..]).unwrap();
    assert_eq!(&names[..len], b"trusted.raw\0user.empty\0user.one\0");
    let python = "import os,sys; os.setuid(1000); print(os.listxattr(sys.argv[1]))";
    fs::set_permissions(
        mounted.dir.path().parent().unwrap(),
        fs::Permissions::from_mode(0o1777),
    )
    .unwrap();
    if let Ok(output) = Command::new("python3")
        .args(["-c", python])
        .arg(&tagged)
        .output()
    {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.trim(), "['user.empty', 'user.one']", "{output:?}");
    }
    mounted.end().unwrap();
}

#[test]
fn a_tree_without_extended_attributes_says_so_once() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Tree::Image(Arc::new(union_of(vec![Object::file(
        "f", b"",
    )]))));
    for _ in 0..2 {
        let got = rustix::fs::getxattr(mounted.path("f"), "user.x", &mut [0; 1][..]);
        assert_eq!(errno(got), Some(rustix::io::Errno::OPNOTSUPP));
    }
    mounted.end().unwrap();
}

#[test]
fn nothing_can_be_changed() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    let at = |name: &str| mounted.path(name);
    let kinds = [
        fs::write(at("etc/hosts"), "x"),
        fs::write(at("new"), "x"),
        fs::create_dir(at("new")),
        fs::remove_file(at("etc/hosts")),
        fs::remove_dir(at("bin")),
        fs::rename(at("bin"), at("sbin")),
        fs::hard_link(at("etc/hosts"), at("new")),
        std::os::unix::fs::symlink("x", at("new")),
        fs::set_permissions(at("etc/hosts"), fs::Permissions::from_mode(0o777)),
        std::os::unix::fs::chown(at("etc/hosts"), Some(1), None),
    ];
    for result in kinds {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    mounted.end().unwrap();
}

#[test]
fn the_kernel_checks_permissions() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(image());
    fs::set_permissions(
        mounted.dir.path().parent().unwrap(),
        fs::Permissions::from_mode(0o1777),
    )
    .unwrap();
    let cat = |uid: u32, name: &str| {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("cat");
        command
            .arg(mounted.path(name))
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(cat(1234, "etc/hosts"));
    assert!(!cat(1234, "secret"));
    assert!(cat(1000, "secret"));
    assert!(!cat(1234, "shared"));
    assert!(cat(4321, "shared"));
    mounted.end().unwrap();
}

#[test]
fn damage_is_an_input_output_error_for_that_file_alone() {
    if !can_mount() {
        return;
    }
    let objects = vec![
        Object::file("bad", &[7; 10_000]).damaged(),
        Object::file("good", b"fine"),
    ];
    let mounted = Mounted::new(Tree::Image(Arc::new(union_of(objects))));
    for _ in 0..2 {
        let error = fs::read(mounted.path("bad")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert_eq!(fs::read(mounted.path("good")).unwrap(), b"fine");
    mounted.end().unwrap();
}

#[test]
fn slow_reads_do_not_hold_up_lookups() {
    if !can_mount() {
        return;
    }
    let mut objects: Vec<Object> = (0..32)
        .map(|i| Object::file(&format!("slow-{i}"), b"s").slow())
        .collect();
    objects.extend(self::objects());
    let mounted = Mounted::new(Tree::Image(Arc::new(union_of(objects))));
    let readers: Vec<_> = (0..32)
        .map(|i| mounted.path(&format!("slow-{i}")))
        .map(|path| thread::spawn(move || fs::read(path).unwrap()))
        .collect();
    thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    for i in 0..100 {
        fs::symlink_metadata(mounted.path(&format!("many/file-{i:05}"))).unwrap();
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(300), "{took:?}");
    for reader in readers {
        assert_eq!(reader.join().unwrap(), b"s");
    }
    mounted.end().unwrap();
}

#[test]
fn the_mount_table_says_whose_and_what() {
    if !can_mount() {
        return;
    }
    let options = MountOptions {
        noexec: true,
        ..MountOptions::default()
    };
    let mounted = Mounted::with(image(), options, None);
    let mount = mounts::mount_at(mounted.dir.path()).unwrap().unwrap();
    assert_eq!(
        (mount.source.to_str(), mount.is_ours()),
        (Some("test:1"), true)
    );
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.options.split(',').any(|o| o == option), "{mount:?}");
    }
    for option in ["default_permissions", "allow_other", "max_read=262144"] {
        assert!(
            mount.fs_options.split(',').any(|o| o == option),
            "{mount:?}"
        );
    }
    // Several of those pieces are read ahead, where /sys can be written.
    let (major, minor) = mount.device;
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if File::options().write(true).open(&file).is_ok() {
        assert_eq!(fs::read_to_string(&file).unwrap(), "1024\n");
    }
    // In use, it stays, unless it is taken away lazily.
    let file = File::open(mounted.path("large")).unwrap();
    match mounts::unmount(mounted.dir.path(), false) {
        Err(MountError::Busy { pids, .. }) => assert_eq!(pids, [std::process::id()]),
        other => panic!("{other:?}"),
    }
    mounts::unmount(mounted.dir.path(), true).unwrap();
    assert!(mounts::mount_at(mounted.dir.path()).unwrap().is_none());
    assert_eq!(file.read_at(&mut [0; 10], 2_000_000).unwrap(), 10);
    drop(file);
}

/// Images by name; counts how often one is opened.
#[derive(Default)]
struct Shelf {
    images: Mutex<BTreeMap<String, (String, &'static str)>>,
    opened: AtomicU32,
    broken: Mutex<bool>,
}

impl Shelf {
    fn put(&self, name: &str, id: &str, says: &'static str) {
        self.images
            .lock()
            .unwrap()
            .insert(name.to_owned(), (id.to_owned(), says));
    }
}

impl Catalogue for Shelf {
    fn names(&self) -> Result<Vec<String>, String> {
        Ok(self.images.lock().unwrap().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> Result<Option<(String, Arc<Union>)>, String> {
        if *self.broken.lock().unwrap() {
            return Err("the index is damaged".to_owned());
        }
        let Some((id, says)) = self.images.lock().unwrap().get(name).cloned() else {
            return Ok(None);
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        let objects = vec![
            Object::dir("dir"),
            Object::file("dir/says", says.as_bytes()),
        ];
        Ok(Some((id, Arc::new(union_of(objects)))))
    }

    /// So the kernel asks at every use of a name; `live` has mounts that are told.
    fn watch(&self) -> Result<Changes, String> {
        Err("nobody tells".to_owned())
    }

    fn id(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self
            .images
            .lock()
            .unwrap()
            .get(name)
            .map(|(id, _)| id.clone()))
    }
}

fn listed(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn many_images_are_shown_by_name_and_opened_when_looked_up() {
    if !can_mount() {
        return;
    }
    let shelf = Arc::new(Shelf::default());
    shelf.put("debian:12", "id-1", "twelve");
    shelf.put("example.org/team/app:latest", "id-2", "app");
    shelf.put("example.org/team/app:1", "id-2", "app");
    shelf.put("example.org/other", "id-3", "other");
    let mounted = Mounted::new(Tree::Images(shelf.clone()));
    assert_eq!(listed(&mounted.path("")), ["debian:12", "example.org"]);
    assert_eq!(
        listed(&mounted.path("example.org/team")),
        ["app:1", "app:latest"]
    );
    let opened = || shelf.opened.load(Ordering::Relaxed);
    assert_eq!(opened(), 0);
    let says = |name: &str| fs::read_to_string(mounted.path(&format!("{name}/dir/says"))).unwrap();
    assert_eq!(says("debian:12"), "twelve");
    assert_eq!(
        (says("example.org/team/app:latest"), opened()),
        ("app".to_owned(), 2)
    );
    // Another name of an image that is open shares its tree.
    assert_eq!(
        (says("example.org/team/app:1"), opened()),
        ("app".to_owned(), 2)
    );
    let ino = |name: &str| fs::metadata(mounted.path(name)).unwrap().ino();
    let (a, b) = ("example.org/team/app:latest", "example.org/team/app:1");
    assert_ne!(ino(a), ino(b));
    assert_eq!(
        ino("example.org/team/app:latest/dir/../.."),
        ino("example.org/team")
    );
    let absent = fs::metadata(mounted.path("example.org/none")).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);

    // Names that come are seen at once, in a listing and by lookup.
    shelf.put("new:1", "id-4", "new");
    assert_eq!(
        listed(&mounted.path("")),
        ["debian:12", "example.org", "new:1"]
    );
    assert_eq!(says("new:1"), "new");
    // A name that moves shows the new image; who is inside the old one stays.
    let inside = File::open(mounted.path("debian:12/dir/says")).unwrap();
    let before = ino("debian:12");
    assert_eq!(
        listed(&mounted.path("")),
        ["debian:12", "example.org", "new:1"]
    );
    assert_eq!(ino("debian:12"), before);
    shelf.put("debian:12", "id-5", "twelve and a half");
    assert_eq!(says("debian:12"), "twelve and a half");
    let mut old = String::new();
    (&inside).read_to_string(&mut old).unwrap();
    assert_eq!(old, "twelve");
    drop(inside);
    // One that goes is gone.
    shelf.images.lock().unwrap().remove("new:1");
    assert!(fs::metadata(mounted.path("new:1/dir")).is_err());
    assert_eq!(listed(&mounted.path("")), ["debian:12", "example.org"]);
    mounted.end().unwrap();
}

#[test]
fn an_image_that_cannot_be_opened_is_an_input_output_error() {
    if !can_mount() {
        return;
    }
    let shelf = Arc::new(Shelf::default());
    shelf.put("a", "id", "a");
    *shelf.broken.lock().unwrap() = true;
    let mounted = Mounted::new(Tree::Images(shelf.clone()));
    let error = fs::metadata(mounted.path("a/dir")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    *shelf.broken.lock().unwrap() = false;
    assert!(fs::metadata(mounted.path("a/dir")).is_ok());
    // A name that another goes on below cannot happen with Docker, but may not crash.
    shelf.put("a/b", "id-2", "b");
    assert_eq!(listed(&mounted.path("a")), ["dir"]);
    assert!(fs::metadata(mounted.path("a/b")).is_err());
    mounted.end().unwrap();
}

/// Not a test: what the next one runs in the background.
#[test]
#[ignore = "the body of a background server"]
fn background_server() {
    let Some(pipe) = ReadyPipe::of_stdin().unwrap() else {
        return;
    };
    let at = PathBuf::from(std::env::args_os().next_back().unwrap());
    let served = Served {
        name: "background".to_owned(),
        tree: image(),
        idle: None,
        keep_awake: false,
    };
    let mut pipe = Some(pipe);
    let ready = || pipe.take().unwrap().ready().unwrap();
    if let Err(error) = serve(served, &at, &MountOptions::default(), ready) {
        pipe.take().unwrap().failed(&error.to_string()).unwrap();
    }
}

fn started(at: &Path) -> Result<u32, StartError> {
    let fixed = ["--ignored", "--exact", "background_server", "--nocapture"];
    let args: Vec<OsString> = fixed
        .iter()
        .map(OsString::from)
        .chain([at.as_os_str().to_owned()])
        .collect();
    start(&args, None).map(|started| started.pid)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

#[test]
fn a_server_in_the_background_is_usable_when_start_returns() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let pid = started(dir.path()).unwrap();
    assert!(fs::metadata(dir.path().join("etc/hosts")).is_ok());
    println!("start to first stat: {:?}", begin.elapsed());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(stat.split(' ').nth(5), Some(pid.to_string().as_str()));
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    signal(pid, Signal::TERM);
    let begin = Instant::now();
    while mounts::mount_at(dir.path()).unwrap().is_some() {
        assert!(begin.elapsed() < WATCHDOG);
        thread::sleep(Duration::from_millis(1));
    }
    let error = started(&dir.path().join("none")).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot mount at `"),
        "{error}"
    );
}

#[test]
fn a_mount_whose_server_died_is_found_and_unmounted() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    signal(started(dir.path()).unwrap(), Signal::KILL);
    let begin = Instant::now();
    while fs::metadata(dir.path()).is_ok() {
        assert!(begin.elapsed() < WATCHDOG);
        thread::sleep(Duration::from_millis(1));
    }
    let error = fs::metadata(dir.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    assert!(mounts::mount_at(dir.path()).unwrap().unwrap().is_ours());
    mounts::unmount(dir.path(), false).unwrap();
    assert!(mounts::mount_at(dir.path()).unwrap().is_none());
}
