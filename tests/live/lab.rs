//! A place with a store and mounts, gone at the end of its scope.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use lazyroot::mounts::{self, Mount};
use rustix::process::{Pid, Signal, kill_process};

use super::images::{Layer, Pack, Packed, layout};

/// Servers of a place that is older than this are ended.
const WATCHDOG: Duration = Duration::from_secs(150);
/// What happens by itself happens within this.
const SOON: Duration = Duration::from_secs(40);

/// Whether this machine can run these tests at all.
pub(crate) fn can_mount() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let can = rustix::process::geteuid().is_root() && device.is_ok();
    if !can {
        println!("SKIPPED: needs root and /dev/fuse");
    }
    can
}

/// Whether a program is there; says `SKIPPED` otherwise.
pub(crate) fn has(program: &str) -> bool {
    let there = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).is_file());
    if !there {
        println!("SKIPPED: needs {program}");
    }
    there
}

/// Waits until something has happened.
#[track_caller]
pub(crate) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < SOON, "{what}: not within {SOON:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

pub(crate) fn alive(pid: u32) -> bool {
    // A zombie has no open files, unless threads of it are still on their way out; its
    // directory is there until it is waited for.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let zombie = |stat: &str| stat.rsplit(')').next().unwrap_or("").starts_with(" Z");
    stat.is_ok_and(|stat| threads > 1 || !zombie(&stat))
}

fn mounts_below(dir: &Path) -> Vec<Mount> {
    let mut all = mounts::all().unwrap();
    all.retain(|mount| mount.at.starts_with(dir));
    all
}

/// The mount point in the command line of a server, which is also that of `mount` and `browse`:
/// the only path below `dir` that no option has for its value.
fn place_of(words: &[&str], dir: &Path) -> Option<PathBuf> {
    let of_option = ["--store", "--upper", "--work", "--log", "--hold"];
    let before = [""].iter().chain(words);
    let places = before
        .zip(words)
        .filter(|(before, _)| !of_option.contains(before));
    let places = places.map(|(_, word)| Path::new(word));
    places
        .filter(|place| place.starts_with(dir))
        .last()
        .map(Path::to_owned)
}

/// The processes that serve mounts below `dir`.
pub(crate) fn servers_below(dir: &Path) -> Vec<(u32, PathBuf)> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let server = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
        let at = place_of(&words, dir)?;
        // One that begins has no name yet.
        let ours = words.contains(&"serve") || name.trim_end() == "lazyroot-serve";
        ours.then_some((pid, at))
    };
    processes.filter_map(server).collect()
}

/// A directory with a store, images and mounts in it.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    _alive: Sender<()>,
}

impl Lab {
    /// Nothing when this machine cannot mount.
    pub(crate) fn new() -> Option<Self> {
        can_mount().then(|| {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let (alive, gone) = channel();
            let below = dir.path().to_owned();
            thread::spawn(move || {
                if gone.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("the mounts below {} hang", below.display());
                    for (pid, _) in servers_below(&below) {
                        signal(pid, Signal::KILL);
                    }
                }
            });
            Self { dir, _alive: alive }
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.path("store").join(name)
    }

    /// A new directory to mount at.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The program, with this store.
    pub(crate) fn lazyroot(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazyroot"));
        command
            .arg("--store")
            .arg(self.path("store"))
            .args(args)
            .stdin(Stdio::null())
            .env_remove("LAZYROOT_STORE");
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        succeeded(args, &self.lazyroot(args).output().unwrap())
    }

    /// Runs what must fail with this exit code; what it says.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.lazyroot(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    #[track_caller]
    pub(crate) fn import(&self, name: &str, layers: &[Packed]) {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        layout(dir.path(), layers);
        let path = dir.path().to_str().unwrap();
        self.run(&["import", "--quiet", "--name", name, path]);
    }

    /// Imports an image of one layer.
    #[track_caller]
    pub(crate) fn image(&self, name: &str, pack: Pack, fill: impl FnOnce(&mut Layer)) -> Packed {
        let mut layer = Layer::new();
        fill(&mut layer);
        let packed = layer.pack(pack);
        self.import(name, std::slice::from_ref(&packed));
        packed
    }

    /// Mounts at a new place, with a log of its own.
    #[track_caller]
    pub(crate) fn mount(&self, image: &str, name: &str) -> PathBuf {
        let at = self.place(name);
        let log = self.log_path(name);
        let words = [at.to_str().unwrap(), "--log", log.to_str().unwrap()];
        self.run(&["mount", "--read-only", image, words[0], words[1], words[2]]);
        at
    }

    /// Mounts at a new place for writing, with a log of its own.
    #[track_caller]
    pub(crate) fn writable(&self, image: &str, name: &str, words: &[&str]) -> PathBuf {
        let at = self.place(name);
        let log = self.log_path(name);
        let mut all = vec!["mount", image, at.to_str().unwrap()];
        all.extend(["--log", log.to_str().unwrap()]);
        all.extend(words);
        self.run(&all);
        at
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.path(&format!("{}.log", name.replace('/', "-")))
    }

    /// Lines that the server of a mount has logged.
    pub(crate) fn log(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log_path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    pub(crate) fn umount(&self, at: &Path) {
        self.run(&["umount", at.to_str().unwrap()]);
    }

    /// The process that serves the mount at a place.
    #[track_caller]
    pub(crate) fn server(&self, at: &Path) -> u32 {
        let all = servers_below(self.dir.path());
        let found = all.iter().find(|(_, served)| served == at);
        found.unwrap_or_else(|| panic!("{all:?}")).0
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Uppermost first.
        for mount in mounts_below(self.dir.path()).iter().rev() {
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(&mount.at, flags);
        }
        let begin = Instant::now();
        while let Some((pid, _)) = servers_below(self.dir.path()).first() {
            if begin.elapsed() > Duration::from_secs(10) {
                signal(*pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[track_caller]
pub(crate) fn succeeded(what: &(impl std::fmt::Debug + ?Sized), output: &Output) -> String {
    assert!(output.status.success(), "{what:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program of the system; what it prints.
#[track_caller]
pub(crate) fn system(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
        .unwrap();
    succeeded(&(program, args), &output)
}

/// Whether this process has a mount namespace of its own. The first call starts
/// the test `name` again in one, with a `/dev/fuse` that everybody may open, and
/// says no; what is mounted there is gone with it.
pub(crate) fn in_own_namespace(name: &str) -> bool {
    const INSIDE: &str = "LAZYROOT_TEST_INSIDE";
    if let Ok(dir) = std::env::var(INSIDE) {
        system("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &dir]);
        let device = format!("{dir}/fuse");
        system("mknod", &["-m", "666", &device, "c", "10", "229"]);
        system("mount", &["--bind", &device, "/dev/fuse"]);
        return true;
    }
    if !can_mount() || !has("unshare") {
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{name}"
    );
    false
}

/// A child that is ended with its scope.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
