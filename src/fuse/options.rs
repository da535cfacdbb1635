//! What a user may ask of a mount.
//!
//! What it is for: `-o` options as mount(8) has them, parsed once. Must not know
//! how a mount is made.

use std::path::PathBuf;

/// Options of a mount. All mounts check permissions in the kernel. Setuid bits
/// and device nodes of an image mean nothing unless asked for: who can name a
/// mount point would else decide who becomes root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Setuid and setgid bits and file capabilities have their effect.
    pub suid: bool,
    /// Device nodes can be opened.
    pub dev: bool,
    /// Programs cannot be executed.
    pub noexec: bool,
    /// Other users may look into the mount. Root's mounts always allow it; the
    /// mounts of others when `/etc/fuse.conf` says `user_allow_other`.
    pub allow_other: bool,
    /// Whether it is to be read-only; nothing: not said. Whether it is, the tree
    /// that is shown says.
    pub read_only: Option<bool>,
    /// Where changes are to be kept, and the work directory beside it, as
    /// overlayfs spells it (`upperdir=`, `workdir=`); no commas in them.
    pub upper: Option<PathBuf>,
    /// See `upper`.
    pub work: Option<PathBuf>,
}

/// Why an option is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nobody knows it.
    #[error("mount option `{0}` is not known")]
    Unknown(String),
}

impl MountOptions {
    /// Takes one `-o` argument: options with commas between them; a later one
    /// beats an earlier one.
    ///
    /// # Errors
    /// An option that is not known.
    pub fn add(&mut self, list: &str) -> Result<(), OptionError> {
        for option in list.split(',') {
            match option {
                "suid" => self.suid = true,
                "nosuid" => self.suid = false,
                "dev" => self.dev = true,
                "nodev" => self.dev = false,
                "exec" => self.noexec = false,
                "noexec" => self.noexec = true,
                "allow_other" => self.allow_other = true,
                "ro" => self.read_only = Some(true),
                "rw" => self.read_only = Some(false),
                // What every mount of ours is anyway, and what mount(8) and
                // systemd pass on from fstab without being asked to.
                ""
                | "defaults"
                | "default_permissions"
                | "atime"
                | "noatime"
                | "relatime"
                | "norelatime"
                | "nodiratime"
                | "diratime"
                | "lazytime"
                | "auto"
                | "noauto"
                | "nofail"
                | "_netdev"
                | "user"
                | "nouser"
                | "users"
                | "async" => {}
                _ if option.starts_with("x-") || option.starts_with("comment=") => {}
                _ => match option.split_once('=') {
                    Some(("upperdir", path)) => self.upper = Some(path.into()),
                    Some(("workdir", path)) => self.work = Some(path.into()),
                    _ => return Err(OptionError::Unknown(option.to_owned())),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_option_beats_an_earlier_one() {
        let mut options = MountOptions::default();
        options
            .add("ro,suid,dev,noexec,x-systemd.automount")
            .unwrap();
        options.add("nodev,exec,allow_other").unwrap();
        let wanted = MountOptions {
            suid: true,
            allow_other: true,
            read_only: Some(true),
            ..MountOptions::default()
        };
        assert_eq!(options, wanted);
    }

    #[test]
    fn where_changes_go_is_spelled_as_overlayfs_does() {
        let mut options = MountOptions::default();
        options.add("ro,rw,upperdir=/a=b,workdir=w").unwrap();
        let wanted = MountOptions {
            read_only: Some(false),
            upper: Some("/a=b".into()),
            work: Some("w".into()),
            ..MountOptions::default()
        };
        assert_eq!(options, wanted);
    }

    #[test]
    fn what_nobody_knows_is_refused_by_name() {
        let mut options = MountOptions::default();
        assert_eq!(
            options.add("frobnicate"),
            Err(OptionError::Unknown("frobnicate".into()))
        );
    }
}
