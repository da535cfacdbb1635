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
    /// `sync` or `dirsync`: what is written is to be on the disk at once. The kernel passes over both for
    /// FUSE where it matters (writes that it hands to another file system, and all changes of directories),
    /// so they can be had of a read-only mount alone.
    pub sync: Option<&'static str>,
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
    /// What is mounted cannot be changed.
    #[error("a mount of an image cannot be remounted")]
    Remount,
}

impl OptionError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => None,
            Self::Remount => Some("umount it, then mount it with the other options".to_owned()),
        }
    }
}

impl MountOptions {
    /// Takes one `-o` argument: options with commas between them; a later one
    /// beats an earlier one.
    ///
    /// # Errors
    /// An option that is not known, or that wants something of a mount that there is.
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
                "sync" => self.sync = Some("sync"),
                "dirsync" => self.sync = Some("dirsync"),
                "async" => self.sync = None,
                "remount" => return Err(OptionError::Remount),
                // What every mount of ours is anyway, what the kernel has for other file systems and
                // passes over for FUSE's (`fs/fuse/inode.c`), and what mount(8) and
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
                | "strictatime"
                | "nostrictatime"
                | "lazytime"
                | "nolazytime"
                | "iversion"
                | "noiversion"
                | "nomand"
                | "symfollow"
                | "silent"
                | "loud"
                | "auto"
                | "noauto"
                | "nofail"
                | "_netdev"
                | "user"
                | "nouser"
                | "users"
                | "owner"
                | "group" => {}
                _ if ["x-", "X-", "comment=", "user=", "helper=", "uhelper="]
                    .iter()
                    .any(|word| option.starts_with(word)) => {}
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
        for option in ["frobnicate", "mand", "nosymfollow"] {
            let refused = Err(OptionError::Unknown(option.into()));
            assert_eq!(options.add(option), refused);
        }
    }

    /// As mount(8) of util-linux 2.38 has them after `-o` of a helper.
    #[test]
    fn what_mount_8_passes_on_for_every_file_system_is_taken() {
        let mut options = MountOptions::default();
        let passed = "rw,sync,noatime,nodiratime,relatime,strictatime,lazytime,silent,iversion,\
            nofail,_netdev,user,users,user=joe,helper=z,uhelper=u,x-systemd.automount";
        options.add(passed).unwrap();
        let wanted = MountOptions {
            read_only: Some(false),
            sync: Some("sync"),
            ..MountOptions::default()
        };
        assert_eq!(options, wanted);
        options.add("async").unwrap();
        assert_eq!(options.sync, None);
        assert_eq!(options.add("ro,remount"), Err(OptionError::Remount));
    }
}
