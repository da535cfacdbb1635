//! Errors as people and scripts see them: a line, a hint, an exit code.

use std::error::Error;
use std::fmt;
use std::io::Write as _;
use std::process::{ExitCode, ExitStatus};

use crate::archive::ArchiveError;
pub(super) use crate::causes::chain;
use crate::export::ExportError;
use crate::image::appc::graph::GraphError;
use crate::import::ImportError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::union::FsError;

/// What the process answers to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed.
    Failed = 1,
    /// The command line cannot be understood (clap answers the same).
    Usage = 2,
    /// No such image, path, mount.
    NotFound = 3,
    /// It is in use.
    InUse = 4,
    /// The store is damaged.
    Damaged = 5,
    /// Ctrl-C (128 + SIGINT, as shells have it).
    Interrupted = 130,
}

impl Exit {
    /// What a process of ours that was started to do the work answered.
    pub(super) fn of_process(status: ExitStatus) -> Self {
        let known = [
            Self::Usage,
            Self::NotFound,
            Self::InUse,
            Self::Damaged,
            Self::Interrupted,
        ];
        let same = |exit: &Self| status.code() == Some(*exit as i32);
        known.into_iter().find(same).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed verb.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the process answers.
    pub(super) exit: Exit,
    /// What went wrong, with its causes.
    pub(super) message: String,
    /// What to try.
    pub(super) hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error with all its causes in one line.
    pub(super) fn of(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, chain(error))
    }

    /// Prints it to standard error.
    pub(super) fn print(&self) {
        let mut to = std::io::stderr().lock();
        // There is nobody left to tell when standard error is gone.
        let _ = writeln!(to, "error: {}", self.message);
        if let Some(hint) = &self.hint {
            let _ = writeln!(to, "try: {hint}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub(super) fn store_exit(error: &StoreError) -> Exit {
    match error {
        StoreError::NoImage(_) | StoreError::Missing(_) | StoreError::Ambiguous(..) => {
            Exit::NotFound
        }
        StoreError::Dependencies(graph) => match &**graph {
            GraphError::Lookup { source, .. } => store_exit(source),
            graph if graph.missing().is_some() => Exit::NotFound,
            _ => Exit::Failed,
        },
        StoreError::TwoKinds(..) => Exit::Usage,
        StoreError::InUse(_)
        | StoreError::Needed { .. }
        | StoreError::Tagged { .. }
        | StoreError::Remove(_) => Exit::InUse,
        StoreError::Read(error) if !error.is_damage() => Exit::Failed,
        StoreError::Damaged { .. }
        | StoreError::Read(_)
        | StoreError::NoLayer(_)
        | StoreError::Undecided { .. } => Exit::Damaged,
        StoreError::ReadOnly(..) | StoreError::Full(..) | StoreError::Io { .. } => Exit::Failed,
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self {
            exit: store_exit(&error),
            hint: error.hint(),
            message: chain(&error),
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let exit = match &error {
            ImportError::Interrupted => Exit::Interrupted,
            ImportError::Archive(ArchiveError::Open { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Exit::NotFound
            }
            ImportError::Store(error) => store_exit(error),
            ImportError::Registry(error) => registry_exit(error),
            _ => Exit::Failed,
        };
        Self {
            exit,
            hint: error.hint(),
            message: chain(&error),
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let exit = match &error {
            ExportError::Interrupted => Exit::Interrupted,
            ExportError::Store(error) => store_exit(error),
            ExportError::Write(_) | ExportError::OtherDigest { .. } => Exit::Failed,
            ExportError::Registry(error) => registry_exit(error),
            ExportError::AppcPush(_)
            | ExportError::Appc { .. }
            | ExportError::NotAppc(_)
            | ExportError::NoTag(_)
            | ExportError::Named => Exit::Usage,
        };
        Self {
            exit,
            hint: error.hint(),
            message: chain(&error),
        }
    }
}

fn registry_exit(error: &RegistryError) -> Exit {
    match error {
        RegistryError::NotFound { .. } => Exit::NotFound,
        RegistryError::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self {
            exit: registry_exit(&error),
            hint: error.hint(),
            message: chain(&error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of(Exit::Failed, &error)
    }
}

/// A failure inside an image's tree; `what` names image and path.
pub(super) fn in_image(what: &str, error: &FsError) -> Failure {
    let exit = match error {
        FsError::NotFound | FsError::NotDir => Exit::NotFound,
        FsError::Damaged(error) if error.is_damage() => Exit::Damaged,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("`{what}`: {}", chain(error)));
    match exit {
        Exit::Damaged => failure.hint("lazyroot verify names all that is damaged"),
        _ => failure,
    }
}
