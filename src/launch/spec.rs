//! All that is decided of a launch: from the process that decides to the one that does it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::image::identity::Identity;

/// A launch.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// The process that keeps the container; with it, all ends.
    pub keeper: u32,
    /// The root file system, on the machine.
    pub rootfs: PathBuf,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// All variables.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it is run; made if it is not there.
    pub directory: String,
    /// As whom.
    pub identity: Identity,
    /// Bits that modes of what it makes do not have.
    pub umask: u32,
    /// What the machine is called in there.
    pub hostname: String,
    /// Files and directories of the machine, in the order in which they are mounted.
    pub volumes: Vec<Volume>,
    /// Generated files of the machine that an image may have no place for.
    pub files: Vec<Volume>,
    /// Directories that are in memory.
    pub tmpfs: Vec<Memory>,
    /// Directories that are made if they are not there.
    pub directories: Vec<String>,
    /// No network but the one inside.
    pub own_network: bool,
    /// Root in there is an ordinary user out here.
    pub user_namespace: bool,
    /// Root may do in there all that root may.
    pub privileged: bool,
    /// No program that is executed in there gives it more than it has (setuid programs, capabilities of files).
    pub no_new_privileges: bool,
    /// The command has the caller's terminal.
    pub terminal: bool,
    /// It has it for itself, in a process group of its own; else it is in the caller's.
    pub job: bool,
    /// The control group to be in.
    pub control_group: Option<PathBuf>,
    /// What is to be said in the end.
    pub usage: Usage,
}

/// A file or directory of the machine that is seen in there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Volume {
    /// On the machine; absolute.
    pub source: PathBuf,
    /// In there; absolute.
    pub target: String,
    /// It cannot be written to.
    pub read_only: bool,
}

/// A directory in memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// In there; absolute.
    pub path: String,
    /// Options of tmpfs alone (tmpfs(5)).
    pub options: Vec<String>,
    /// No program in it can be run.
    pub no_exec: bool,
    /// It cannot be written to.
    pub read_only: bool,
}

impl Memory {
    /// All options of tmpfs: who does not say a mode wants one for everybody, as `/tmp` has it.
    #[must_use]
    pub fn data(&self) -> String {
        let mut all = vec!["mode=1777"];
        all.extend(self.options.iter().map(String::as_str));
        all.join(",")
    }
}

/// What is to be said of the command when it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// How long it computed.
    pub cpu: bool,
    /// How much memory it had.
    pub memory: bool,
}
