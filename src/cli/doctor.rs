//! `lazyroot doctor`

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::images::columns;
use super::report::Failure;
use super::{Context, human, print, print_json};
use crate::fuse::haste;

/// Say what this machine can do for lazyroot, and why not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    /// What was found, or why not and what to do.
    detail: String,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let checks = [
        kernel(),
        fuse_device(),
        fusermount(),
        allow_other(),
        writable(),
        passthrough(context),
        user_namespaces(),
        overlayfs(),
        processors(context),
        descriptors(),
        store(context),
    ];
    if args.json {
        return print_json(&checks);
    }
    let line = |check: &Check| {
        [
            if check.ok { "yes" } else { "no" }.to_owned(),
            check.what.to_owned(),
            check.detail.clone(),
        ]
    };
    print(columns(&checks.iter().map(line).collect::<Vec<_>>()).as_bytes())
}

fn check(what: &'static str, found: Result<String, String>) -> Check {
    let ok = found.is_ok();
    Check {
        what,
        ok,
        detail: found.unwrap_or_else(|why| why),
    }
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn release() -> (u32, u32) {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel() -> Check {
    let (major, minor) = release();
    let found = format!("Linux {major}.{minor}");
    // FUSE_NO_OPENDIR_SUPPORT came with 5.1, the last of what mounts rely on.
    check(
        "kernel is new enough",
        match (major, minor) >= (5, 1) {
            true => Ok(found),
            false => Err(format!("{found}: 5.1 or later is needed")),
        },
    )
}

fn fuse_device() -> Check {
    let path = Path::new("/dev/fuse");
    let opened = fs::OpenOptions::new().read(true).write(true).open(path);
    check(
        "/dev/fuse can be opened",
        match opened {
            Ok(_) => Ok("mounts work".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(
                "there is none: load the kernel module fuse, or give the container the device"
                    .to_owned(),
            ),
            Err(error) => {
                let mode = fs::metadata(path).map_or(0, |meta| meta.mode() & 0o777);
                Err(format!("{error} (its mode is {mode:04o}; usual is 0666)"))
            }
        },
    )
}

fn fusermount() -> Check {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|dir| dir.join("fusermount3"))
            .find(|file| file.is_file())
    });
    let root = rustix::process::geteuid().is_root();
    check(
        "ordinary users can mount",
        match found {
            Some(path) => match fs::metadata(&path).map(|meta| meta.mode()) {
                Ok(mode) if mode & 0o4000 != 0 => Ok(path.display().to_string()),
                _ => Err(format!("{} is not setuid root", path.display())),
            },
            None if root => {
                Err("fusermount3 is missing (package fuse3); root needs it not".to_owned())
            }
            None => Err("fusermount3 is missing: install the package fuse3".to_owned()),
        },
    )
}

fn writable() -> Check {
    let root = rustix::process::geteuid().is_root();
    check(
        "this user can mount to write",
        match root {
            true => Ok("as root".to_owned()),
            false => Err(
                "needs root, or root of a user namespace (unshare --user --map-root-user --mount)"
                    .to_owned(),
            ),
        },
    )
}

fn allow_other() -> Check {
    let set = text("/etc/fuse.conf")
        .is_some_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"));
    check(
        "users' mounts can be shared",
        match set {
            true => Ok("user_allow_other is set".to_owned()),
            false => Err(
                "-o allow_other is root's alone: user_allow_other is not in /etc/fuse.conf"
                    .to_owned(),
            ),
        },
    )
}

fn passthrough(context: &Context) -> Check {
    let status = text("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    // All users are mapped to themselves in the initial user namespace alone
    // (user_namespaces(7)).
    let map = text("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let found = if release() < (6, 9) {
        Err("the kernel is older than 6.9".to_owned())
    } else if effective & CAP_SYS_ADMIN == 0 {
        Err("needs CAP_SYS_ADMIN (root)".to_owned())
    } else if !initial {
        Err("not in a user namespace".to_owned())
    } else if let Some(stacked) = stacked(&context.store) {
        Err(format!(
            "the store lies on {stacked}; not for --upper on a plain file system"
        ))
    } else {
        Ok("writable mounts hand files to the kernel".to_owned())
    };
    let slower =
        |why| format!("{why}: writable mounts work, files are read and written by the server");
    check("FUSE passthrough", found.map_err(slower))
}

/// A file system that lies upon another, which the kernel does not stack again
/// (`max_stack_depth` of FUSE is 1 here, so that overlayfs may lie upon a mount).
fn stacked(store: &Path) -> Option<&'static str> {
    // linux/magic.h
    const OVERLAYFS: u64 = 0x794c_7630;
    const ECRYPTFS: u64 = 0xf15f;
    let mut place = store;
    let found = loop {
        match rustix::fs::statfs(place) {
            Ok(found) => break found,
            // The store is not made yet.
            Err(_) => place = place.parent()?,
        }
    };
    match u64::try_from(found.f_type) {
        Ok(OVERLAYFS) => Some("overlayfs"),
        Ok(ECRYPTFS) => Some("ecryptfs"),
        _ => None,
    }
}

fn user_namespaces() -> Check {
    let limit = text("/proc/sys/user/max_user_namespaces").and_then(|n| n.parse::<u64>().ok());
    let denied = text("/proc/sys/kernel/unprivileged_userns_clone").is_some_and(|n| n == "0")
        || text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_some_and(|n| n == "1");
    check(
        "user namespaces",
        match limit {
            None => Err("the kernel has none".to_owned()),
            Some(0) => Err("user.max_user_namespaces is 0".to_owned()),
            Some(_) if denied => Err("forbidden to ordinary users by a sysctl".to_owned()),
            Some(limit) => Ok(format!("up to {limit}")),
        },
    )
}

fn overlayfs() -> Check {
    let listed = text("/proc/filesystems").is_some_and(|list| {
        list.lines()
            .any(|line| line.split_whitespace().last() == Some("overlay"))
    });
    check(
        "kernel overlayfs",
        match listed {
            true => Ok("can be put on top of a read-only mount".to_owned()),
            false => Err("not listed in /proc/filesystems (module overlay not loaded?)".to_owned()),
        },
    )
}

/// Every message of FUSE wakes two processors that may have just become idle.
fn processors(context: &Context) -> Check {
    let found = if !haste::halts() {
        Ok("idle ones wake up fast")
    } else if context.keep_awake && haste::keeps_awake() && haste::Awake::hold().is_some() {
        Ok("idle ones of this virtual machine halt; root's mounts keep them awake in haste")
    } else {
        Err(
            "idle ones of this virtual machine halt, and messages take twice as long (root's mounts \
             keep up to 8 awake; for others: guest_halt_poll_ns of the module haltpoll, 50000 or more)",
        )
    };
    let own = |text: &str| text.to_owned();
    check("processors", found.map(own).map_err(own))
}

fn descriptors() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // Three files a layer and a few more; Docker allows 127 layers.
    check(
        "enough file descriptors",
        match limit {
            Some(limit) if limit < 512 => Err(format!(
                "{limit}: an image of 127 layers needs about 400 (ulimit -n)"
            )),
            Some(limit) => Ok(format!("{limit}")),
            None => Ok("unlimited".to_owned()),
        },
    )
}

fn store(context: &Context) -> Check {
    let path = context.store.display();
    check(
        "the store",
        match context.open() {
            Ok(store) => {
                let writable =
                    rustix::fs::access(store.root(), rustix::fs::Access::WRITE_OK).is_ok();
                let space = rustix::fs::statvfs(store.root());
                let free = space.map_or(0, |space| space.f_bavail * space.f_frsize);
                match writable {
                    true => Ok(format!("{path}, {} free", human(free))),
                    false => Ok(format!("{path}, read-only for this user")),
                }
            }
            Err(error) => Err(format!("{error}; lazyroot import makes one")),
        },
    )
}
