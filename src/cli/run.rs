//! `lazyroot run`

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Pid;

use super::containers::{backend_failure, failure, keeper};
use super::launch::launch_failure;
use super::launching::{Given, Typing, is_machines_root};
use super::provision::now;
use super::report::{Exit, Failure};
use super::wanted::Wanted;
use super::{Context, logging, parse_size, progress, serve};
use crate::backend::Kind;
use crate::container::{ContainerError, Containers, Provisioned, Request, unique_name};
use crate::container_id::ContainerId;
use crate::launch;
use crate::launch::limits::Limits;
use crate::launch::relay::{Place, Relay, hold_back};
use crate::launch::spec::{Spec, Usage};
use crate::launch::terminal::{has_terminal, has_whole_terminal, take_terminal_back};
use crate::store::Store;

/// Run a command in a new container, and destroy that when it has ended.
///
/// It runs as its image wants it (command, variables, directory, user), in namespaces of
/// its own but for the network. Arguments replace the image's own, and --entrypoint its
/// program, too. Exit code: the command's, or 128 + N if signal N ended it; 127 if there is no such
/// command, 126 if it cannot be run, 125 if something else went wrong.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "lazyroot run [OPTIONS] IMAGE [ARG]...\n       lazyroot run [OPTIONS] --container-info FILE [ARG]..."
)]
pub(super) struct Args {
    /// Name or ID of the image, and arguments instead of the image's own: all behind the image is theirs, options
    /// too. With --container-info there is no image.
    #[arg(
        required_unless_present = "container_info",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_names = ["IMAGE", "ARG"],
        num_args = 1..
    )]
    words: Vec<OsString>,
    /// Name of the container. Default: a random one.
    #[arg(long, visible_alias = "name", value_name = "ID")]
    id: Option<ContainerId>,
    /// Keep the container, with all that was written in it.
    #[arg(long)]
    keep: bool,
    /// Destroy it in the end, as is done without.
    #[arg(long, conflicts_with = "keep")]
    rm: bool,
    /// Keep standard input open, as is done without.
    #[arg(short, long)]
    interactive: bool,
    /// Refuse to run without a terminal at standard input. If one is there, the command has it in any
    /// case.
    #[arg(short, long)]
    tty: bool,
    /// Nothing can be written to its root file system.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    typing: Typing,
    /// Make root in there an ordinary user out here: the one who runs this. It has no other
    /// users then. Default for all but root of the machine.
    #[arg(long)]
    user_namespace: bool,
    /// CPUs that it may use at most: 0.5 is half of one.
    #[arg(long, value_name = "NUMBER", value_parser = positive)]
    cpus: Option<f64>,
    /// Memory that it may have at most.
    #[arg(short, long, value_name = "BYTES", value_parser = memory)]
    memory: Option<u64>,
    /// In the end, say what it used, as far as --isolation has posix/cpu and posix/mem.
    #[arg(long)]
    usage: bool,
    #[command(flatten)]
    wanted: Wanted,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) && number > 0.0 => Ok(number),
        _ => Err("it is no number of CPUs".to_owned()),
    }
}

/// Less memory starts nothing (Docker's minimum).
const MEMORY_MIN: u64 = 6 << 20;

fn memory(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < MEMORY_MIN => Err("the least is 6M".to_owned()),
        bytes => Ok(bytes),
    }
}

/// What `docker run` answers when it was not the command that failed.
pub(super) const OURS: u8 = 125;

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode, Failure> {
    match args.outcome(context) {
        Ok(code) => Ok(code.into()),
        Err(failure) => {
            failure.print();
            Ok(match failure.exit {
                Exit::Interrupted => failure.exit.into(),
                _ => OURS.into(),
            })
        }
    }
}

impl Args {
    fn outcome(&self, context: &Context) -> Result<u8, Failure> {
        if self.tty && !has_terminal() {
            let what = "there is no terminal at standard input, and -t wants one";
            return Err(Failure::new(Exit::Usage, what).hint("without -t"));
        }
        let ordinary = !rustix::process::geteuid().is_root();
        let settled = || {
            let backend = context.backend.settle();
            backend.map_err(|error| backend_failure(&error))
        };
        // What an ordinary user can do is known when he is root of a namespace.
        let (backend, spare) = match ordinary {
            true => (Kind::Fuse, None),
            false => settled().map(|backend| (backend, serve::spare(backend)))?,
        };
        let caught = context.stop_for_now()?;
        let mut request = Request {
            id: self.id()?,
            backend,
            images: Vec::new(),
            hostname: None,
            volumes: Vec::new(),
            now: now(),
            new: true,
            transient: !self.keep,
        };
        let args = self.ask(&mut request, context)?;
        let store = context.open()?;
        let said = context.log_file.as_deref();
        let mut keeper = Containers {
            spare: spare.as_ref(),
            ..keeper(context, &store)
        };
        if ordinary {
            if self.keep {
                let what =
                    "a container that is kept needs root: an ordinary user's goes with its mounts";
                return Err(Failure::new(Exit::Usage, what));
            }
            launch::enter_user_namespace().map_err(|error| launch_failure(&error))?;
            // The user is root from here on, and root's log is closed to him.
            keeper.log = Some(said.unwrap_or_else(|| logging::or_nowhere(&context.log)));
            request.backend = settled()?;
        } else {
            keeper.log = logging::of_server(said, &context.log);
        }
        let shown = progress::Written::new(self.wanted.quiet);
        let made = keeper.provision(&request, &mut |bytes, objects| shown.tell(bytes, objects));
        shown.end();
        let made = made.map_err(|error| failure(&error))?;
        let code = self.launch(&made, args, &store, context, caught);
        // What interrupted the run must not interrupt its end.
        context.stop.store(false, Ordering::Relaxed);
        self.finish(&keeper, &made, code)
    }

    fn id(&self) -> Result<ContainerId, Failure> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let name = unique_name().map_err(|error| failure(&error))?;
        let short = name.get(..12).unwrap_or(&name);
        short
            .parse()
            .map_err(|error| Failure::of(Exit::Failed, &error))
    }

    /// What is to be provisioned; the arguments.
    fn ask(&self, request: &mut Request, context: &Context) -> Result<Vec<OsString>, Failure> {
        let mut words = self.words.iter();
        if let Some(info) = &self.wanted.container_info {
            self.wanted.as_told(info, request, context)?;
        } else if let Some(image) = words.next() {
            let name = image.to_string_lossy();
            if name.starts_with('-') {
                let what = format!("`{name}` is no option of run, nor an image");
                return Err(Failure::new(Exit::Usage, what).hint("lazyroot run --help"));
            }
            request
                .images
                .push(self.wanted.image(&name, false, context)?);
        }
        // People put it between options and arguments, on either side of the image.
        let args = words.as_slice();
        let args = args.strip_prefix(&["--".into()]).unwrap_or(args);
        Ok(args.to_vec())
    }

    fn launch(
        &self,
        made: &Provisioned,
        args: Vec<OsString>,
        store: &Store,
        context: &Context,
        caught: Vec<signal_hook::SigId>,
    ) -> Result<u8, Failure> {
        let (root, others): (Vec<_>, Vec<_>) = made
            .rootfses
            .iter()
            .cloned()
            .partition(|rootfs| rootfs.container_path.is_none());
        let Some(root) = root.first() else {
            let what = "ContainerInfo names no image to run";
            return Err(Failure::new(Exit::Usage, what).hint("`mesos.image` is where it does"));
        };
        let given = Given {
            store,
            id: &made.id,
            root,
            others: &others,
            hostname: made.hostname.as_deref(),
            volumes: &made.volumes,
            directory: &made.directory,
            args,
            read_only: self.read_only,
            user_namespace: self.user_namespace || !is_machines_root(),
            terminal: has_terminal(),
            quiet: self.wanted.quiet,
        };
        let mut spec = self.typing.spec(&given, context)?;
        spec.job = has_whole_terminal();
        let isolation = &context.isolation;
        spec.usage = Usage {
            cpu: self.usage && isolation.wants("posix/cpu"),
            memory: self.usage && isolation.wants("posix/mem"),
        };
        let limits = Limits {
            cpu: isolation.wants("cgroups/cpu"),
            memory: isolation.wants("cgroups/mem"),
            if_there: isolation.has("cgroups/all"),
            cpus: self.cpus,
            bytes: self.memory,
        };
        let group = limits.apply(spec.keeper, &made.id.to_string());
        let group = group.map_err(|error| launch_failure(&error))?;
        spec.control_group = group.as_ref().map(|group| group.path().to_owned());
        start(&spec, caught, context)
    }

    /// Whatever has become of the command.
    fn finish(
        &self,
        keeper: &Containers<'_>,
        made: &Provisioned,
        code: Result<u8, Failure>,
    ) -> Result<u8, Failure> {
        if self.keep && code.is_ok() {
            if self.id.is_none() && !self.wanted.quiet {
                // Standard output is the command's.
                let _ = writeln!(io::stderr(), "kept {}", made.id);
            }
            return code;
        }
        let gone = keeper.destroy(&made.id).map_err(|error| failure(&error));
        match (code, gone) {
            (Ok(code), Err(left)) => {
                // What the command answered is what the caller wants to know.
                left.print();
                Ok(code)
            }
            (Err(failed), Err(left)) => {
                left.print();
                Err(failed)
            }
            (code, Ok(())) => code,
        }
    }
}

/// Starts the process that leaves the namespaces, and waits for it.
fn start(spec: &Spec, caught: Vec<signal_hook::SigId>, context: &Context) -> Result<u8, Failure> {
    let text = serde_json::to_vec(spec).map_err(|error| Failure::of(Exit::Failed, &error))?;
    // Without CLOEXEC: it is how the child gets it. Nobody else sees what variables are set to.
    let file = memfd_create("spec", MemfdFlags::empty()).map_err(io::Error::from)?;
    let mut file = std::fs::File::from(file);
    file.write_all(&text)?;
    let mut relay = Relay::new(Place::Keeper, spec, None)?;
    // From here on the child is to have them, which is not there yet.
    hold_back()?;
    for id in caught {
        signal_hook::low_level::unregister(id);
    }
    if context.stop.load(Ordering::Relaxed) {
        return Err(failure(&ContainerError::Interrupted));
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(env!("CARGO_PKG_NAME"))
        .args(["launch", "--spec"])
        .arg(file.as_fd().as_raw_fd().to_string());
    if spec.job {
        // What is sent to our group comes from us alone.
        command.process_group(0);
    }
    let child = command.spawn()?;
    drop(file);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new(Exit::Failed, "the child has no number"))?;
    relay.catch_up(pid)?;
    let code = relay.until_end(pid)?;
    if spec.terminal {
        take_terminal_back();
    }
    Ok(code)
}
