//! A FUSE server in the background.
//!
//! What it is for: the parent's side ([`start`], [`start_copy`], [`Spare`]) runs this program
//! again, or a copy of this process, and returns when the mount can be used, or with the reason why it cannot; the
//! child's side ([`ReadyPipe`]) says so. May assume: the program understands the
//! arguments it is given. Must not know what is mounted.
//!
//! The child's standard input is one end of a socket pair. The child writes
//! `ok` and a newline, or a text that says what went wrong, and ends the
//! connection; reading from it then gives end of file, as from /dev/null. What
//! kind of failure it is, its exit code says. So no
//! number of a descriptor is passed, none needs to be taken over unsafely, and
//! the end of a child that dies is seen as the end of the connection.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::fork::{self, Side, fork};

/// What the child says when the mount can be used.
const OK: &[u8] = b"ok\n";
/// Longest text that a parent listens to.
const TEXT_MAX: u64 = 64 << 10;
/// A child that said nothing for so long hangs: a mount takes milliseconds, and
/// the slowest machine some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs, its mount usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The server's process. It is a child of this one for as long as this one
    /// lives, in a session of its own.
    pub pid: u32,
}

/// The command line of a server: this program's own hidden verb.
#[derive(Debug, Clone, Default)]
pub struct ServeCommand {
    /// The store that it reads from.
    pub store: PathBuf,
    /// Bytes that uncompressed copies of layers may take there.
    pub cache_size: u64,
    /// What is likely to be read next is decoded before.
    pub prefetch: bool,
    /// Idle processors do not halt while it has much to do.
    pub keep_awake: bool,
    /// What is shown, in the words of the verb; nothing: all images of the store.
    pub what: Vec<OsString>,
    /// Where changes go, and the work directory beside it.
    pub upper: Option<PathBuf>,
    /// See `upper`.
    pub work: Option<PathBuf>,
    /// Nothing can be written.
    pub read_only: bool,
    /// A file that the server holds the lock of for as long as it lives, with its pid in
    /// it.
    pub hold: Option<PathBuf>,
    /// Where to log, if not to the system's log.
    pub log: Option<PathBuf>,
    /// The mount point.
    pub at: PathBuf,
}

impl ServeCommand {
    /// The arguments.
    #[must_use]
    pub fn words(self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--store".into(), self.store.into()];
        words.extend(["--cache-size".into(), self.cache_size.to_string().into()]);
        // Both words are said: its environment may have others.
        words.push(format!("--prefetch={}", self.prefetch).into());
        words.push(format!("--keep-awake={}", self.keep_awake).into());
        words.push("serve".into());
        words.extend(self.what);
        if self.read_only {
            words.push("--read-only".into());
        }
        let paths = [
            ("--upper", self.upper),
            ("--work", self.work),
            ("--hold", self.hold),
            ("--log", self.log),
        ];
        for (word, path) in paths {
            words.extend(path.into_iter().flat_map(|path| [word.into(), path.into()]));
        }
        words.extend(["--".into(), self.at.into()]);
        words
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be written.
    #[error("cannot open the log `{}`", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot start the server")]
    Spawn(#[source] io::Error),
    /// The server said what went wrong.
    #[error("{why}")]
    Refused {
        /// In the server's words.
        why: String,
        /// How it ended: its exit code is meant for whoever wanted the mount.
        status: ExitStatus,
    },
    /// The server ended and said nothing.
    #[error("the server ended before its mount was usable ({0})")]
    Died(ExitStatus),
    /// The server did nothing for too long and was ended.
    #[error("the server did not get ready within {} seconds", PATIENCE.as_secs())]
    Silent,
}

/// Runs this program again with `args`, in the background, and waits until its
/// mount can be used. What it logs is appended to `log`, if there is one.
///
/// # Errors
/// The server cannot be started, or says why it cannot serve, or ends.
pub fn start(args: &[OsString], log: Option<&Path>) -> Result<Started, StartError> {
    // Not by its path: the file may have been replaced since by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(env!("CARGO_PKG_NAME")).args(args);
    run(command, log)
}

fn run(mut command: Command, log: Option<&Path>) -> Result<Started, StartError> {
    let (ours, theirs) = UnixStream::pair().map_err(StartError::Spawn)?;
    ours.set_read_timeout(Some(PATIENCE))
        .map_err(StartError::Spawn)?;
    let (out, err) = match log {
        None => (Stdio::null(), Stdio::null()),
        Some(path) => {
            let failed = |source| StartError::Log {
                path: path.to_owned(),
                source,
            };
            let file = File::options()
                .append(true)
                .create(true)
                .open(path)
                .map_err(failed)?;
            (
                Stdio::from(file.try_clone().map_err(failed)?),
                Stdio::from(file),
            )
        }
    };
    // No directory is kept busy by a server.
    command
        .stdin(OwnedFd::from(theirs))
        .stdout(out)
        .stderr(err)
        .current_dir("/");
    let child = command.spawn().map_err(StartError::Spawn)?;
    // It holds the child's end of the pair; the end of the child must be seen.
    drop(command);
    hear(Pid::from_child(&child), ours)
}

/// What a copy that panicked answers, as any program of Rust.
const PANICKED: i32 = 101;

/// As [`start`], but what serves is a copy of this process, which calls `serve` and ends
/// with the exit code that it returns: that saves the start of a program, a millisecond. The
/// copy has all descriptors and signal handlers that the caller has, so
/// it is for one who has none that matter (a lock would be the server's, too), and one thread.
///
/// # Errors
/// See [`start`]; this process has threads.
pub fn start_copy(serve: impl FnOnce() -> u8) -> Result<Started, StartError> {
    let (ours, theirs, null) = ends().map_err(StartError::Spawn)?;
    match fork().map_err(StartError::Spawn)? {
        Side::Parent(child) => {
            // The end of the child must be seen.
            drop(theirs);
            hear(child, ours)
        }
        Side::Child => {
            drop(ours);
            // Nothing of the caller's goes on here, whatever happens.
            let served = catch_unwind(AssertUnwindSafe(|| match go_on_alone(theirs, null) {
                Ok(()) => i32::from(serve()),
                // The parent sees its end.
                Err(_) => 1,
            }));
            std::process::exit(served.unwrap_or(PANICKED))
        }
    }
}

/// Where a copy is heard, its own end of that, and where it writes otherwise.
fn ends() -> io::Result<(UnixStream, UnixStream, File)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let null = File::options().write(true).open("/dev/null")?;
    Ok((ours, theirs, null))
}

/// A copy of this process that waits to be told what it is to serve.
///
/// As [`start_copy`] it saves the start of a program, for those who hold locks by the time that
/// they know what is to be served: it is made before. Each serves once.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Option<Waiting>>);

#[derive(Debug)]
struct Waiting {
    pid: Pid,
    pipe: UnixStream,
}

/// How a copy ends that cannot serve, and has done nothing: this program is begun again then.
const UNFIT: i32 = 99;

impl Spare {
    /// `serve` is called in the copy, with the arguments that [`Self::start`] gets. The caller has
    /// one thread, and no locks nor signal handlers yet. A copy that cannot be made is none.
    pub fn make(serve: impl FnOnce(Vec<OsString>) -> u8) -> Self {
        let waiting = Waiting::make(serve);
        Self(Mutex::new(
            waiting
                .inspect_err(|error| log::info!("no copy: {error}"))
                .ok(),
        ))
    }

    /// As [`start`] without a log.
    ///
    /// # Errors
    /// See [`start`].
    pub fn start(&self, args: &[OsString]) -> Result<Started, StartError> {
        let waiting = self.0.lock().take();
        match waiting.map(|waiting| waiting.start(args)) {
            None => start(args, None),
            Some(Err(StartError::Died(status))) if status.code() == Some(UNFIT) => {
                start(args, None)
            }
            Some(started) => started,
        }
    }
}

impl Drop for Spare {
    /// One that was not needed has done nothing, and nobody else would hear of its end.
    fn drop(&mut self) {
        if let Some(waiting) = self.0.get_mut().take() {
            let _ = kill_process(waiting.pid, Signal::KILL);
            let _ = waitpid(Some(waiting.pid), WaitOptions::empty());
        }
    }
}

impl Waiting {
    fn make(serve: impl FnOnce(Vec<OsString>) -> u8) -> Result<Self, StartError> {
        let (ours, theirs, null) = ends().map_err(StartError::Spawn)?;
        match fork().map_err(StartError::Spawn)? {
            Side::Parent(pid) => Ok(Self { pid, pipe: ours }),
            Side::Child => {
                drop(ours);
                // See `start_copy`.
                let served = catch_unwind(AssertUnwindSafe(|| match told(theirs, null) {
                    Ok(words) => i32::from(serve(words)),
                    Err(_) => UNFIT,
                }));
                std::process::exit(served.unwrap_or(PANICKED))
            }
        }
    }

    fn start(self, args: &[OsString]) -> Result<Started, StartError> {
        let mut words = Vec::new();
        for word in args {
            words.extend_from_slice(word.as_bytes());
            words.push(0);
        }
        let mut message = (words.len() as u64).to_le_bytes().to_vec();
        message.extend(words);
        // One that has ended is heard of below.
        let _ = (&self.pipe).write_all(&message);
        hear(self.pid, self.pipe)
    }
}

/// Waits in a copy for the arguments, by which it is called from then on.
fn told(pipe: UnixStream, null: File) -> io::Result<Vec<OsString>> {
    // What interrupts the caller from his terminal is not meant for it.
    let _ = rustix::process::setsid();
    go_on_alone(&pipe, null)?;
    let mut pipe = File::from(OwnedFd::from(pipe));
    let mut len = [0; 8];
    pipe.read_exact(&mut len)?;
    let mut words = Vec::new();
    let len = u64::from_le_bytes(len);
    if (&mut pipe).take(len).read_to_end(&mut words)? as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let words = words.split_inclusive(|byte| *byte == 0);
    let words = words.map(|word| OsString::from_vec(word[..word.len() - 1].to_vec()));
    let words: Vec<_> = [env!("CARGO_PKG_NAME").into()]
        .into_iter()
        .chain(words)
        .collect();
    fork::be_called(&words)?;
    Ok(words)
}

/// Makes of a copy what [`run`] makes of a new process.
fn go_on_alone(stdin: impl AsFd, null: File) -> io::Result<()> {
    fork::stand_at_standard(&stdin, &null)?;
    fork::close_inherited();
    // No directory is kept busy by a server.
    rustix::process::chdir("/")?;
    // Whoever called may have been called with some held back.
    fork::hold(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP], false)
}

/// Waits for the child's word.
fn hear(child: Pid, from: UnixStream) -> Result<Started, StartError> {
    let mut said = Vec::new();
    let mut limited = from.take(TEXT_MAX);
    let mut piece = [0; 512];
    let silent = loop {
        match limited.read(&mut piece) {
            Ok(0) => break false,
            Ok(got) => said.extend_from_slice(&piece[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break error.kind() == io::ErrorKind::WouldBlock,
        }
        if said == OK {
            let pid = child.as_raw_nonzero().get().unsigned_abs();
            return Ok(Started { pid });
        }
    };
    if silent {
        // It may have gone in the meantime.
        let _ = kill_process(child, Signal::KILL);
    }
    let status = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
    let status = status.map_err(|error| StartError::Spawn(error.into()))?;
    // It is the one that was waited for.
    let status = ExitStatus::from_raw(status.map_or(0, |(_, status)| status.as_raw()));
    let text = String::from_utf8_lossy(&said).trim().to_owned();
    match (silent, text.is_empty()) {
        (_, false) => Err(StartError::Refused { why: text, status }),
        (true, true) => Err(StartError::Silent),
        (false, true) => Err(StartError::Died(status)),
    }
}

/// The child's side: how it tells the parent what became of it. Dropped without
/// a word, the parent sees it end.
#[derive(Debug)]
pub struct ReadyPipe(UnixStream);

impl ReadyPipe {
    /// The pipe of a process that [`start`] has started, which leaves its
    /// parent's session and terminal. Nothing when standard input is none of ours.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn of_stdin() -> io::Result<Option<Self>> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let stream = UnixStream::from(stdin);
        // ENOTSOCK: a terminal, a file, a pipe.
        if !stream.peer_addr().is_ok_and(|peer| peer.is_unnamed()) {
            return Ok(None);
        }
        // EPERM when it leads a session already, as under a service manager.
        let _ = rustix::process::setsid();
        Ok(Some(Self(stream)))
    }

    /// From here on until [`Self::ready`] this process ends, by SIGTERM, when the thread does
    /// that started it.
    ///
    /// # Errors
    /// It has ended already.
    pub fn end_with_parent(&self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // Whoever died before that is seen by his end of the pair: the signal comes after
        // it is closed.
        let mut end = [PollFd::new(&self.0, PollFlags::empty())];
        rustix::event::poll(&mut end, Some(&Timespec::default()))?;
        match end[0].revents().contains(PollFlags::HUP) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    /// The mount can be used.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn ready(self) -> io::Result<()> {
        // Before the word: who hears it may end.
        rustix::process::set_parent_process_death_signal(None)?;
        self.say(OK)
    }

    /// It cannot, and the parent should tell why. The process should end now, with
    /// the exit code that the parent is to have.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn failed(self, why: &str) -> io::Result<()> {
        // Longer ones would be cut by the parent.
        let room = usize::try_from(TEXT_MAX).unwrap_or(usize::MAX);
        self.say(why.as_bytes().get(..room).unwrap_or(why.as_bytes()))
    }

    fn say(mut self, what: &[u8]) -> io::Result<()> {
        self.0.write_all(what)?;
        // The copy at standard input ends with it.
        self.0.shutdown(Shutdown::Both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell as the child; its standard input is the socket.
    fn shell(script: &str) -> Result<Started, StartError> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, None)
    }

    #[test]
    fn a_child_that_says_ok_is_started() {
        let started = shell("printf 'ok\\n' >&0; sleep 0.1").unwrap();
        assert_ne!(started.pid, 0);
    }

    #[test]
    fn a_childs_error_is_passed_on() {
        let error = shell("echo 'no such image' >&0; exit 3").unwrap_err();
        assert_eq!(error.to_string(), "no such image");
        assert!(
            matches!(error, StartError::Refused { status, .. } if status.code() == Some(3)),
            "{error:?}"
        );
    }

    #[test]
    fn a_child_that_dies_is_noticed() {
        let error = shell("exit 3").unwrap_err();
        assert!(matches!(error, StartError::Died(status) if status.code() == Some(3)));
    }

    #[test]
    fn a_process_with_threads_is_not_copied() {
        // Besides this one there is the one that waits for it.
        let outcome = std::thread::scope(|scope| scope.spawn(|| start_copy(|| 0)).join());
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(error, StartError::Spawn(_)), "{error:?}");
    }

    #[test]
    fn what_a_child_prints_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "pwd; echo err >&2; printf 'ok\\n' >&0"]);
        let started = run(command, Some(&log)).unwrap();
        let gone = || {
            !Path::new(&format!("/proc/{}/fd/1", started.pid))
                .try_exists()
                .unwrap_or(false)
        };
        while !gone() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "/\nerr\n");
        let missing = run(Command::new("true"), Some(&dir.path().join("no/log")));
        assert!(matches!(missing, Err(StartError::Log { .. })));
    }

    #[test]
    fn a_server_whose_starter_has_gone_does_not_begin() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pipe = ReadyPipe(theirs);
        pipe.end_with_parent().unwrap();
        drop(ours);
        let error = pipe.end_with_parent().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        rustix::process::set_parent_process_death_signal(None).unwrap();
    }

    #[test]
    fn the_pipe_says_one_word_and_ends() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let copy = theirs.try_clone().unwrap();
        ReadyPipe(theirs).ready().unwrap();
        let mut said = String::new();
        let mut ours = ours;
        ours.read_to_string(&mut said).unwrap();
        assert_eq!(said, "ok\n");
        assert_eq!((&copy).read(&mut [0; 1]).unwrap(), 0);
    }
}
