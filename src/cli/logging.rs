//! Where a mount's server says what happens to it: standard error, a file, or
//! the system's log.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use super::date;
use super::report::{Exit, Failure};

const SYSLOG: &str = "/dev/log";
const NOWHERE: &str = "/dev/null";

/// Where lines go.
enum To {
    Stderr,
    File(File),
    Syslog(UnixDatagram),
}

struct Logger(Mutex<To>);

/// Begins to log: to `file`; in the background else to the system's log, or where
/// there is none, to `fallback`; in the foreground to standard error.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn begin(
    file: Option<&Path>,
    background: bool,
    verbose: bool,
    fallback: &Path,
) -> Result<(), Failure> {
    let to = match (file, background) {
        (Some(path), _) => To::File(open(path)?),
        (None, true) => match syslog() {
            Some(socket) => To::Syslog(socket),
            None => To::File(open_default(fallback)?),
        },
        (None, false) => To::Stderr,
    };
    let level = if verbose {
        LevelFilter::Debug
    } else {
        LevelFilter::Warn
    };
    // A second logger would only be refused: there is one call per process.
    if log::set_boxed_logger(Box::new(Logger(Mutex::new(to)))).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// Where a server in the background is told to log: what somebody said, or nothing where the system
/// has a log, or else `fallback`, if it can be written.
pub(super) fn of_server<'a>(said: Option<&'a Path>, fallback: &'a Path) -> Option<&'a Path> {
    match said.is_some() || syslog().is_some() {
        true => said,
        false => Some(or_nowhere(fallback)),
    }
}

/// The file that nobody named, or none, which is told. That somebody's home cannot be written is no
/// reason to do without the mount.
pub(super) fn or_nowhere(fallback: &Path) -> &Path {
    let Err(failure) = open_default(fallback) else {
        return fallback;
    };
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(
        std::io::stderr(),
        "note: {failure}; nothing is logged (--log FILE says where else)"
    );
    Path::new(NOWHERE)
}

/// The file that nobody named; its directory is made, too.
fn open_default(path: &Path) -> Result<File, Failure> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.map_err(|error| cannot_write(path, &error))?;
    open(path)
}

fn open(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let what = format!("cannot write the log `{}`: {error}", path.display());
    Failure::new(Exit::Failed, what).hint("another file with --log FILE")
}

fn syslog() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(PathBuf::from(SYSLOG)).ok()?;
    Some(socket)
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // fuser tells of every request at debug level; ours is what is wanted.
        metadata.target().starts_with("lazyroot") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string().replace('\n', " ");
        // There is nowhere to tell that the log cannot be written.
        let _ = match &mut *self.0.lock() {
            To::Stderr => writeln!(std::io::stderr(), "lazyroot: {text}"),
            To::File(file) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |since| since.as_secs().cast_signed());
                writeln!(file, "{} {} {text}", date(now), std::process::id())
            }
            // RFC 3164: facility daemon (3) and severity in the leading number.
            To::Syslog(socket) => {
                let severity = match record.level() {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                let line = format!(
                    "<{}>lazyroot[{}]: {text}",
                    24 + severity,
                    std::process::id()
                );
                socket.send(line.as_bytes()).map(|_| ())
            }
        };
    }

    fn flush(&self) {}
}
