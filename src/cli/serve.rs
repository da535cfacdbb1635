//! `lazyroot serve` (hidden): the background process that holds one mount.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::report::{Exit, Failure, chain};
use super::{Context, logging};
use crate::backend::catalogue::StoreCatalogue;
use crate::backend::fuse::{ReadyPipe, StartError, start};
use crate::fuse::{self, MountOptions, ServeError, Served, Tree};
use crate::memory;
use crate::mounts::MountError;
use crate::reference::Reference;
use crate::store::{Caches, Store};
use crate::view;

/// Serve one mount; started by `mount` and `browse`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image; without one, all images of the store by name.
    #[arg(long)]
    image: Option<String>,
    #[command(flatten)]
    mount: MountArgs,
}

/// What `mount` and `browse` have in common.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct MountArgs {
    /// Where to mount: an existing directory.
    #[arg(value_name = "DIR")]
    pub(super) at: PathBuf,
    /// Mount options, with commas between them: nosuid, nodev, noexec, allow_other, ...
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground and log to standard error.
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Log what the mount does, not only what goes wrong.
    #[arg(short, long)]
    verbose: bool,
    /// Append the log to this file. Else it goes to the system's log, or without
    /// one to /var/log/lazyroot.log (not root: lazyroot/lazyroot.log in
    /// $XDG_STATE_HOME, ~/.local/state).
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl MountArgs {
    /// Whether `-o ro` is among the options, as mount(8) passes it.
    pub(super) fn asks_read_only(&self) -> bool {
        self.options
            .iter()
            .flat_map(|list| list.split(','))
            .any(|option| option == "ro")
    }

    fn parse_options(&self, of_image: bool) -> Result<MountOptions, Failure> {
        // As mount(8) has it for root: a rootfs whose `su` works. What many images
        // are shown in is for looking.
        let mut options = MountOptions {
            suid: of_image,
            dev: of_image,
            ..MountOptions::default()
        };
        for list in &self.options {
            let added = options.add(list);
            added.map_err(|error| Failure::of(Exit::Usage, &error))?;
        }
        Ok(options)
    }

    /// Serves in this process, or starts another that does; returns when the
    /// mount can be used (in the foreground: when it is gone).
    pub(super) fn mount(self, image: Option<String>, context: &Context) -> Result<(), Failure> {
        self.parse_options(image.is_some())?;
        let store = context.open()?;
        // The server would find the same; here the error comes at once and with its code.
        let image = match image {
            Some(name) => Some((store.find(&name)?, name)),
            None => None,
        };
        if self.foreground {
            let args = Args {
                image: image.map(|(_, name)| name),
                mount: self,
            };
            return run(&args, context);
        }
        let mut command: Vec<OsString> = vec!["--store".into(), context.store.clone().into()];
        command.extend(["--cache-size".into(), context.cache_size.to_string().into()]);
        command.push("serve".into());
        if let Some((_, name)) = image {
            command.push(format!("--image={name}").into());
        }
        for list in &self.options {
            command.push(format!("--options={list}").into());
        }
        if self.verbose {
            command.push("--verbose".into());
        }
        let log = self.log.map(std::path::absolute).transpose()?;
        if let Some(log) = &log {
            command.extend(["--log".into(), log.into()]);
        }
        command.extend(["--".into(), std::path::absolute(&self.at)?.into()]);
        start(&command, None).map_err(|error| {
            let exit = match &error {
                StartError::Refused { status, .. } => Exit::of_process(*status),
                _ => Exit::Failed,
            };
            Failure::of(exit, &error)
        })?;
        Ok(())
    }
}

/// Descriptors that a server has room for from the beginning: those of an image of
/// 300 layers, in 8 KiB.
const DESCRIPTORS: i32 = 1023;

/// Makes the table of descriptors large while there is one thread. Later it grows
/// by doubling, and each time the kernel waits until no processor can still be looking at
/// the old one (`synchronize_rcu` in `fs/file.c`, `expand_fdtable`): 10 ms, once for
/// an image of 20 layers, twice for one of 40.
fn make_room_for_descriptors() {
    // Where the limit is lower it grows as it always did.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), DESCRIPTORS);
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    make_room_for_descriptors();
    let pipe = match args.mount.foreground {
        true => None,
        false => ReadyPipe::of_stdin()?,
    };
    let background = pipe.is_some();
    let logging = logging::begin(
        args.mount.log.as_deref(),
        background,
        args.mount.verbose,
        &context.log,
    );
    let mut pipe = pipe;
    let ready = || {
        if let Some(pipe) = pipe.take() {
            // A parent that went away changes nothing for those who use the mount.
            let _ = pipe.ready();
        }
    };
    let outcome = logging.and_then(|()| serve(args, context, ready));
    match (outcome, pipe) {
        (Err(failure), Some(pipe)) => {
            let hint = failure.hint.as_deref();
            let hint = hint.map(|hint| format!("\ntry: {hint}"));
            let text = format!("{}{}", failure.message, hint.unwrap_or_default());
            // The parent prints it; when it is gone, nobody reads. Our own
            // standard error leads nowhere; the exit code is the parent's too.
            let _ = pipe.failed(&text);
            Err(failure)
        }
        (Err(failure), None) => {
            if background {
                log::error!("{failure}");
            }
            Err(failure)
        }
        (Ok(()), _) => Ok(()),
    }
}

fn serve(args: &Args, context: &Context, ready: impl FnOnce()) -> Result<(), Failure> {
    let options = args.mount.parse_options(args.image.is_some())?;
    let store = context.open()?;
    let caches = Caches::default();
    let idle = caches.clone();
    let lease = store.lease()?;
    let (name, tree, _lease) = match &args.image {
        Some(image) => {
            let (name, tree) = image_tree(&store, image, &caches, lease.as_ref())?;
            (name, tree, lease)
        }
        None => {
            let catalogue = StoreCatalogue::new(store, caches, lease);
            (
                "lazyroot".to_owned(),
                Tree::Images(Arc::new(catalogue)),
                None,
            )
        }
    };
    log::info!("`{name}` at `{}`", args.mount.at.display());
    let idle: Box<dyn Fn() + Send> = Box::new(move || memory::give_back(|| idle.clear()));
    let served = Served {
        name,
        tree,
        idle: Some(idle),
    };
    fuse::serve(served, &args.mount.at, &options, ready).map_err(|error| failure(&error))
}

fn image_tree(
    store: &Store,
    image: &str,
    caches: &Caches,
    lease: Option<&crate::store::leases::Lease>,
) -> Result<(String, Tree), Failure> {
    let id = store.find(image)?;
    let view = view::open(store, id, caches, lease)?;
    store.touch(id);
    let name = image
        .parse()
        .map_or_else(|_| image.to_owned(), |name: Reference| name.familiar());
    Ok((name, Tree::Image(view.union)))
}

fn failure(error: &ServeError) -> Failure {
    let missing = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
    let exit = match error {
        ServeError::MountPoint { .. } | ServeError::Table(MountError::Path { .. }) => {
            Exit::NotFound
        }
        ServeError::Occupied { .. } => Exit::InUse,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, chain(error));
    match error {
        ServeError::MountPoint { source, .. }
        | ServeError::Table(MountError::Path { source, .. })
            if missing(source) =>
        {
            failure.hint("mkdir -p it first")
        }
        ServeError::Occupied { .. } => failure.hint("lazyroot umount it first"),
        ServeError::Device(_) => failure.hint("lazyroot doctor says what this machine lacks"),
        _ => failure,
    }
}
