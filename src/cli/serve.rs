//! `lazyroot serve` (hidden): the background process that holds one mount.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::FromArgMatches as _;
use rustix::process::Signal;

use super::report::{Exit, Failure, chain};
use super::{Cli, Context, Verb, logging, parse};
use crate::backend::Kind;
use crate::backend::catalogue::StoreCatalogue;
use crate::backend::fuse::{ReadyPipe, Spare, StartError, start_copy};
use crate::backend::hold::Hold;
use crate::digest::{DiffId, ImageId};
use crate::fuse::haste;
use crate::fuse::{self, MountOptions, ServeError, Served, Tree};
use crate::memory;
use crate::mounts::{self, MountError};
use crate::reference::Reference;
use crate::store::leases::Lease;
use crate::store::metrics::Counter;
use crate::store::uppers::FreshUpper;
use crate::store::{Caches, Store, StoreError};
use crate::union::Union;
use crate::union::writable::Writable;
use crate::upper::{Directory, UpperError};
use crate::view::{Stack, StackLayer};

/// Serve one mount; started for containers. `mount` and `browse` do the same in a copy of themselves.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image; without one, all images of the store by name.
    #[arg(long)]
    image: Option<String>,
    /// A layer of what is shown, lowest first, instead of an image.
    #[arg(long, value_name = "LAYER", requires_all = ["stack", "title"])]
    layer: Vec<StackLayer>,
    /// An image that they are of.
    #[arg(long, value_name = "ID", requires_all = ["stack", "title"])]
    of: Vec<ImageId>,
    /// What stands for these layers.
    #[arg(long)]
    stack: Option<String>,
    /// What the mount table calls them.
    #[arg(long)]
    title: Option<String>,
    /// A file to hold the lock of.
    #[arg(long, value_name = "FILE")]
    hold: Option<PathBuf>,
    #[command(flatten)]
    writes: WriteArgs,
    #[command(flatten)]
    mount: MountArgs,
}

/// Where writes go; for the server all is said.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct WriteArgs {
    /// Nothing can be written.
    #[arg(long)]
    pub(super) read_only: bool,
    /// Where changes are kept; without it in the store.
    #[arg(long, value_name = "DIR")]
    pub(super) upper: Option<PathBuf>,
    /// The work directory beside it.
    #[arg(long, value_name = "DIR")]
    pub(super) work: Option<PathBuf>,
}

impl WriteArgs {
    /// The same with what `-o` says, with absolute paths, and checked.
    fn resolve(self, options: &MountOptions, of_image: bool) -> Result<Self, Failure> {
        let usage = |what: &str| Err(Failure::new(Exit::Usage, what));
        if !of_image && options.read_only == Some(false) {
            return usage("what shows many images is read-only");
        }
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        let all = Self {
            read_only: self.read_only || options.read_only == Some(true) || !of_image,
            upper: absolute(self.upper.or_else(|| options.upper.clone()))?,
            work: absolute(self.work.or_else(|| options.work.clone()))?,
        };
        if all.read_only && (all.upper.is_some() || all.work.is_some()) {
            return usage("nothing is written to a read-only mount: it has no upper directory");
        }
        if let (false, Some(option)) = (all.read_only, options.sync) {
            let what = format!("a writable mount does not keep what `{option}` promises");
            return Err(Failure::new(Exit::Usage, what).hint("without it: fsync(2) is kept"));
        }
        if all.work.is_some() && all.upper.is_none() {
            return usage("a work directory belongs to an upper directory");
        }
        if !all.read_only && !rustix::process::geteuid().is_root() {
            return Err(for_users());
        }
        Ok(all)
    }

    /// Changes must lie outside of what is mounted: they would be reached through
    /// themselves.
    fn lie_outside_of(&self, at: &Path) -> Result<(), Failure> {
        let Some(upper) = &self.upper else {
            return Ok(());
        };
        let real = |path: &Path| {
            mounts::resolve(path).map_err(|error| {
                Failure::of(Exit::NotFound, &error).hint("mkdir -p the directory above it first")
            })
        };
        // A mount point that is missing is told of later.
        let Ok(at) = mounts::resolve(at) else {
            return Ok(());
        };
        for path in [Some(upper), self.work.as_ref()].into_iter().flatten() {
            let path = real(path)?;
            if path.starts_with(&at) || at.starts_with(&path) {
                let what = format!(
                    "`{}` and `{}` lie in one another",
                    path.display(),
                    at.display()
                );
                return Err(
                    Failure::new(Exit::Usage, what).hint("an upper directory that lies elsewhere")
                );
            }
        }
        Ok(())
    }
}

fn for_users() -> Failure {
    Failure::of(Exit::Failed, &ServeError::NotForUsers)
        .hint("lazyroot mount --read-only, or unshare --user --map-root-user --mount first")
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
}

impl MountArgs {
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
            added.map_err(|error| {
                let failure = Failure::of(Exit::Usage, &error);
                match error.hint() {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            })?;
        }
        Ok(options)
    }

    /// Serves in this process, or in another; returns when the
    /// mount can be used (in the foreground: when it is gone).
    pub(super) fn mount(
        mut self,
        image: Option<String>,
        writes: WriteArgs,
        context: &Context,
    ) -> Result<(), Failure> {
        let options = self.parse_options(image.is_some())?;
        let writes = writes.resolve(&options, image.is_some())?;
        writes.lie_outside_of(&self.at)?;
        let store = context.open()?;
        // The server would find the same; here the error comes before a log or a lease is made.
        if let Some(name) = &image {
            store.find(name)?;
        }
        self.at = std::path::absolute(&self.at)?;
        let foreground = self.foreground;
        let args = Args {
            image,
            layer: Vec::new(),
            of: Vec::new(),
            stack: None,
            title: None,
            hold: None,
            writes,
            mount: self,
        };
        if foreground {
            return run(&args, context);
        }
        // The copy has no standard error to say it on.
        let log = logging::of_server(context.log_file.as_deref(), &context.log);
        let serve = || {
            let served = begin(&args, context, log);
            let exit = served.map_or_else(|failure| failure.exit, |()| Exit::Done);
            exit as u8
        };
        start_copy(serve).map_err(|error| {
            let exit = match &error {
                StartError::Refused { status, .. } => Exit::of_process(*status),
                _ => Exit::Failed,
            };
            Failure::of(exit, &error)
        })?;
        Ok(())
    }
}

/// A copy of this process for a container's rootfs, if the backend has a server for each. To be made
/// while this process has neither locks nor signal handlers.
pub(super) fn spare(backend: Kind) -> Option<Spare> {
    (backend == Kind::Fuse).then(|| {
        Spare::make(|typed| {
            let exit = run_as_typed(&typed).map_or_else(|failure| failure.exit, |()| Exit::Done);
            exit as u8
        })
    })
}

/// What this program does when it is begun with these words, those of a server.
fn run_as_typed(typed: &[OsString]) -> Result<(), Failure> {
    let usage = |error: clap::Error| Failure::new(Exit::Usage, error.to_string());
    let matches = parse(typed).map_err(usage)?;
    let cli = Cli::from_arg_matches(&matches).map_err(usage)?;
    let context = Context::resolve(&cli, &matches)?;
    match &cli.verb {
        Verb::Serve(args) => run(args, &context),
        _ => Err(Failure::new(Exit::Usage, "a copy does nothing but serve")),
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
    begin(args, context, context.log_file.as_deref())
}

fn begin(args: &Args, context: &Context, log: Option<&Path>) -> Result<(), Failure> {
    make_room_for_descriptors();
    memory::begin();
    // What `ps` and `top` call it, however it was started. It is a name only.
    let _ = rustix::thread::set_name(c"lazyroot-serve");
    // Who started it may have a limit for the size of files: then a write fails, and the mount goes
    // on (setrlimit(2), EFBIG).
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
    let pipe = match args.mount.foreground {
        true => None,
        false => ReadyPipe::of_stdin()?,
    };
    let background = pipe.is_some();
    if let Some(pipe) = &pipe {
        // Whoever has interrupted `mount` wants none, and nobody else would ever undo that of a container.
        pipe.end_with_parent()?;
    }
    let logging = logging::begin(log, background, args.mount.verbose, &context.log);
    let mut pipe = pipe;
    let ready = || {
        let told = pipe.take().map_or(Ok(()), ReadyPipe::ready);
        if told.is_err() {
            let own = rustix::process::getpid();
            if let Err(error) = rustix::process::kill_process(own, Signal::TERM) {
                log::error!("cannot end: {error}");
            }
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

/// As many descriptors as this process may have: a writable mount needs one for
/// each file that is open in it. Usual limits are low for the sake of select(2),
/// which is not used here. And files as large as it may make them: what limits whoever has mounted does not
/// limit others who write, whose own limits the kernel looks at.
fn leave_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    // EPERM for ordinary users.
    if setrlimit(Resource::Fsize, none).is_err() {
        let mut limit = getrlimit(Resource::Fsize);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Fsize, limit) {
            log::info!("cannot raise the limit of file sizes: {error}");
        }
    }
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer some opens fail, with the errno that says so.
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::info!("cannot raise the limit of descriptors: {error}");
    }
}

fn serve(args: &Args, context: &Context, ready: impl FnOnce()) -> Result<(), Failure> {
    leave_limits();
    let _hold = match &args.hold {
        Some(path) => Some(Hold::take(path)?),
        None => None,
    };
    let of_image = args.image.is_some() || !args.layer.is_empty();
    let options = args.mount.parse_options(of_image)?;
    let store = context.open()?;
    let metrics = store.metrics();
    // Somebody has to decode while a reader goes on.
    let ahead = store.prefetch() && haste::processors() > 1;
    let caches = store.caches(ahead);
    let idle = caches.clone();
    let mut reads = FirstReadsOf {
        store: store.clone(),
        caches: caches.clone(),
        top: None,
    };
    // What is made for a container is pinned by its record, from before it is begun until it is gone; who
    // is still inside then needs files that are open.
    let lease = match &args.hold {
        Some(_) => None,
        None => store.lease()?,
    };
    let (name, tree, changes, _lease) = match Wanted::of(args, &store, lease.as_ref())? {
        Some(wanted) => {
            reads.top = wanted.stack.layers.last().map(|layer| layer.diff);
            let shown = Shown::open(&store, wanted, &caches, lease.as_ref(), args);
            let shown = shown.inspect_err(|_| metrics.tally(&[(Counter::MountErrors, 1)]))?;
            (shown.name, shown.tree, shown.changes, lease)
        }
        None => {
            let catalogue = Arc::new(StoreCatalogue::new(store, caches, lease));
            let name = "lazyroot".to_owned();
            (name, Tree::Images(catalogue), Changes::None, None)
        }
    };
    log::info!("`{name}` at `{}`, {changes}", args.mount.at.display());
    reads.expect();
    let reads = Arc::new(reads);
    let noted = Arc::clone(&reads);
    let idle: Box<dyn Fn() + Send> = Box::new(move || {
        noted.keep();
        memory::give_back(|| idle.clear());
    });
    let served = Served {
        name,
        tree,
        idle: Some(idle),
        keep_awake: context.keep_awake,
    };
    let mut was_ready = false;
    let served = fuse::serve(served, &args.mount.at, &options, || {
        was_ready = true;
        ready();
        metrics.tally(&[(Counter::Mounts, 1)]);
    });
    if !was_ready {
        metrics.tally(&[(Counter::MountErrors, 1)]);
    }
    reads.keep();
    // After a failure of the connection somebody may want what was written.
    if served.is_ok() || !was_ready {
        changes.end();
    }
    served.map_err(|error| failure(&error))
}

/// What is read first in this mount, and was in earlier ones.
struct FirstReadsOf {
    store: Store,
    caches: Caches,
    /// The uppermost layer; nothing where many images are shown.
    top: Option<DiffId>,
}

impl FirstReadsOf {
    /// Readers are expected to read what they read then.
    fn expect(&self) {
        if self.store.prefetch()
            && let Some(top) = self.top
            && let Some(reads) = self.store.first_reads(top)
        {
            self.caches.spans.expect(&reads);
        }
    }

    /// Keeps it for later mounts, once there is something worth it.
    fn keep(&self) {
        if let Some(top) = self.top
            && let Some(reads) = self.caches.spans.first_reads()
            && let Err(error) = self.store.keep_first_reads(top, &reads)
        {
            // The disk may be full, or the image be gone: it only was to be faster.
            log::info!("what was read first is not kept: {}", chain(&error));
        }
    }
}

/// Where writes of a running mount go.
enum Changes {
    /// Nowhere.
    None,
    /// To a directory that goes with the mount.
    Fresh(FreshUpper),
    /// To a directory that stays.
    Kept(PathBuf),
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("read-only"),
            Self::Fresh(fresh) => {
                let upper = fresh.upper();
                write!(
                    f,
                    "writes go to `{}` until it is unmounted",
                    upper.display()
                )
            }
            Self::Kept(upper) => write!(f, "writes go to `{}`", upper.display()),
        }
    }
}

impl Changes {
    /// The mount is gone.
    fn end(self) {
        if let Self::Kept(upper) = &self {
            // As umount of any file system: what was written is on the disk.
            let synced = std::fs::File::open(upper).map(rustix::fs::syncfs);
            match synced.map(|done| done.map_err(io::Error::from)) {
                Ok(Ok(())) => {}
                // Moved away: nobody wants the changes any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) | Ok(Err(error)) => {
                    log::warn!("cannot sync `{}`: {error}", upper.display());
                }
            }
        }
        if let Self::Fresh(fresh) = self
            && let Err(error) = fresh.remove()
        {
            log::warn!("{}", chain(&error));
        }
    }
}

/// What a server of one tree is to show.
struct Wanted {
    name: String,
    stack: Stack,
    /// Whose changes they are, in a directory that nobody has named.
    image: Option<ImageId>,
}

impl Wanted {
    /// Nothing: all images.
    fn of(args: &Args, store: &Store, lease: Option<&Lease>) -> Result<Option<Self>, Failure> {
        if let (Some(identity), Some(title)) = (&args.stack, &args.title) {
            return Ok(Some(Self {
                name: title.clone(),
                stack: Stack {
                    identity: identity.clone(),
                    layers: args.layer.clone(),
                    images: args.of.iter().copied().collect(),
                },
                image: None,
            }));
        }
        let Some(image) = &args.image else {
            return Ok(None);
        };
        let id = store.find(image)?;
        let stack = Stack::pinned(store, id, lease)?;
        store.touch(id);
        Ok(Some(Self {
            name: image
                .parse()
                .map_or_else(|_| image.to_owned(), |name: Reference| name.familiar()),
            stack,
            image: Some(id),
        }))
    }
}

/// A tree, opened to be shown.
struct Shown {
    name: String,
    tree: Tree,
    changes: Changes,
}

impl Shown {
    fn open(
        store: &Store,
        wanted: Wanted,
        caches: &Caches,
        lease: Option<&Lease>,
        args: &Args,
    ) -> Result<Self, Failure> {
        let writes = &args.writes;
        // What is held and read-only is the mount that containers share.
        let below = args.hold.is_some();
        let Wanted { name, stack, image } = wanted;
        let union = stack.open(store, caches, lease)?;
        if writes.read_only {
            let tree = match below {
                true => Tree::Lower(union),
                false => Tree::Image(union),
            };
            return Ok(Self {
                name,
                tree,
                changes: Changes::None,
            });
        }
        let changes = Changes::open(store, image, writes)?;
        match changes.tree(&union, &stack.identity, writes) {
            Ok(tree) => Ok(Self {
                name,
                tree: Tree::Writable(Arc::new(tree)),
                changes,
            }),
            Err(failure) => {
                changes.end();
                Err(failure)
            }
        }
    }
}

impl Changes {
    fn open(store: &Store, id: Option<ImageId>, writes: &WriteArgs) -> Result<Self, Failure> {
        let Some(upper) = &writes.upper else {
            let id = id.ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    "changes of bare layers need an upper directory",
                )
            })?;
            let fresh = store.fresh_upper(id).map_err(|error| {
                let hint = "keep changes elsewhere with --upper DIR, or mount --read-only";
                match &error {
                    StoreError::ReadOnly(..) => Failure::from(error).hint(hint),
                    _ => error.into(),
                }
            })?;
            return Ok(Self::Fresh(fresh));
        };
        Ok(Self::Kept(upper.clone()))
    }

    /// The layers' tree with these changes.
    fn tree(
        &self,
        lower: &Arc<Union>,
        identity: &str,
        writes: &WriteArgs,
    ) -> Result<Writable, Failure> {
        // A work directory that nobody has named goes with the mount.
        let (upper, work, own) = match self {
            Self::None => return Err(Failure::new(Exit::Usage, "nothing is to be written")),
            Self::Fresh(fresh) => (fresh.upper(), fresh.work(), false),
            Self::Kept(upper) => match &writes.work {
                Some(work) => (upper.clone(), work.clone(), false),
                None => (upper.clone(), beside(upper), true),
            },
        };
        let mut directory =
            Directory::open(&upper, &work, identity).map_err(|error| unusable(&error))?;
        if own {
            directory = directory.with_own_work(work);
        }
        let tree = Writable::new(Arc::clone(lower), Arc::new(directory));
        tree.map_err(|error| {
            let what = format!("`{}`: {}", upper.display(), chain(&error));
            Failure::new(Exit::Failed, what)
        })
    }
}

/// The work directory of an upper directory, if nobody names one: `DIR.work`.
fn beside(upper: &Path) -> PathBuf {
    let mut name = upper.file_name().unwrap_or_default().to_owned();
    name.push(".work");
    upper.with_file_name(name)
}

pub(super) fn unusable(error: &UpperError) -> Failure {
    let exit = match error {
        UpperError::InUse(_) => Exit::InUse,
        UpperError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    };
    let failure = Failure::of(exit, error);
    match error {
        UpperError::InUse(_) => failure.hint("lazyroot umount the other mount, or another --upper"),
        UpperError::OtherImage(_) => {
            failure.hint("mount the image that it was begun with, or another --upper")
        }
        UpperError::Apart { .. } => failure.hint("--work on the file system of --upper"),
        UpperError::Unfit { .. } => {
            failure.hint("--upper (or --rootfs-dir) on ext4, xfs, btrfs or tmpfs, or --read-only")
        }
        UpperError::Io { .. } if exit == Exit::NotFound => {
            failure.hint("mkdir -p the directory above it first")
        }
        _ => failure,
    }
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
        ServeError::NotForUsers => for_users(),
        ServeError::Device(_) => failure.hint("lazyroot doctor says what this machine lacks"),
        _ => failure,
    }
}
