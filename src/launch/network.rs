//! The files that say what machines are called: generated for each container.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::spec::Volume;

/// Longest file of the machine that is copied.
const FILE_MAX: usize = 1 << 20;

/// Where the files are on the machine, and where they belong.
const FILES: [(&str, &str); 3] = [
    ("resolv.conf", "/etc/resolv.conf"),
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
];

/// `hosts` for a container.
fn hosts(machines: Option<&str>, hostname: &str) -> String {
    let mut text = match machines {
        Some(text) => text.to_owned(),
        None => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let named = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| line.split_whitespace().skip(1).any(|name| name == hostname));
    if !named {
        // 127.0.1.1 as Debian does: not `localhost` when asked for its name.
        let _ = writeln!(text, "127.0.1.1\t{hostname}");
    }
    text
}

/// Writes the files into `directory`. With a network of its own, a container does not know the
/// machine's names.
///
/// # Errors
/// They cannot be written.
pub fn generate(
    directory: &Path,
    hostname: &str,
    own_network: bool,
) -> Result<Vec<Volume>, (PathBuf, io::Error)> {
    let machines = |path: &str| {
        let text = fs::read(path).ok().filter(|_| !own_network)?;
        (text.len() <= FILE_MAX).then(|| String::from_utf8_lossy(&text).into_owned())
    };
    let mut files = Vec::new();
    for (name, target) in FILES {
        let text = match name {
            "hosts" => hosts(machines(target).as_deref(), hostname),
            "hostname" => format!("{hostname}\n"),
            _ => machines(target).unwrap_or_default(),
        };
        let source = directory.join(name);
        fs::write(&source, text).map_err(|error| (source.clone(), error))?;
        // Whoever runs in there may not be root.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&source, mode).map_err(|error| (source.clone(), error))?;
        files.push(Volume {
            source,
            target: target.to_owned(),
            read_only: false,
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_know_the_container_by_name() {
        let own = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
        assert_eq!(hosts(None, "web"), format!("{own}127.0.1.1\tweb\n"));
        for (before, after) in [
            ("10.0.0.1 web", "10.0.0.1 web\n"),
            ("10.0.0.1 x web y\n", "10.0.0.1 x web y\n"),
            ("# 1 web\n", "# 1 web\n127.0.1.1\tweb\n"),
            ("web x\n", "web x\n127.0.1.1\tweb\n"),
            ("", "127.0.1.1\tweb\n"),
        ] {
            assert_eq!(hosts(Some(before), "web"), after);
        }
    }
}
