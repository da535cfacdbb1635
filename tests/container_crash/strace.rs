//! The killer: strace, which sends a signal before the n-th system call of a kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::lab::{Running, alive, has, until};

/// Calls that change something, or begin or end something.
const CALLS: &str = "openat,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,fsync,\
fdatasync,syncfs,flock,mount,umount2,vfork,clone,clone3,write,ftruncate,socketpair,recvfrom,\
sendto,shutdown,setsid,prctl,fchmod,fchown,fchmodat,fchownat,chown,chmod,setxattr,fsetxattr,\
fremovexattr,utimensat,linkat,symlinkat,mknodat,copy_file_range,exit_group";

/// Microseconds that a late server needs for one call.
const LATE: u32 = 150_000;

/// Numbers that look random and come again with their seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// How often a process made which call.
pub(crate) type Counts = BTreeMap<String, usize>;

/// A system call before which somebody is killed.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) call: String,
    pub(crate) number: usize,
}

impl Moment {
    /// Any kind of call, and then any one of it.
    pub(crate) fn any(dice: &mut Dice, counts: &Counts) -> Self {
        let all: Vec<_> = counts.iter().collect();
        let (call, count) = dice.of(&all);
        Self {
            call: (*call).clone(),
            number: 1 + dice.below(**count),
        }
    }

    fn words(&self) -> [String; 4] {
        let Self { call, number } = self;
        let what = [
            format!("trace=execve,{call}"),
            format!("inject={call}:signal=KILL:when={number}"),
        ];
        let [trace, inject] = what;
        ["-e".into(), trace, "-e".into(), inject]
    }
}

pub(crate) fn is_there() -> bool {
    has("strace")
}

/// `strace WORDS -o TRACE PROGRAM ARGS` for a command that was made without it.
fn traced(command: &Command, trace: &Path, words: &[String]) -> Command {
    let mut strace = Command::new("strace");
    strace.args(words).arg("-o").arg(trace);
    strace.arg(command.get_program()).args(command.get_args());
    strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

fn trace_of() -> [String; 3] {
    ["-qq".into(), "-e".into(), format!("trace={CALLS}")]
}

/// Runs it to its end; the calls of its first thread. Servers that it starts are not followed.
#[track_caller]
pub(crate) fn count(command: &Command, trace: &Path) -> Counts {
    let status = traced(command, trace, &trace_of()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    let mut counts = Counts::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        if let Some((call, _)) = line.split_once('(') {
            *counts.entry(call.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// Runs it and kills it at that moment; whether there was one.
#[track_caller]
pub(crate) fn kill(command: &Command, moment: &Moment) -> bool {
    let mut words = moment.words().to_vec();
    words.extend(["-qq".into(), "-e".into(), "signal=none".into()]);
    let status = traced(command, Path::new("/dev/null"), &words)
        .status()
        .unwrap();
    // A signal has no exit code: else it failed by itself.
    assert!(
        status.success() || status.code().is_none(),
        "{command:?} {moment:?}: {status}"
    );
    !status.success()
}

/// What happened to a process and to those that it started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Struck {
    Itself,
    /// One that it started.
    Another,
    Nobody,
}

/// A process and all that it started, as strace follows them, until the first has ended. Then
/// strace is killed, which lets go of those that go on.
struct Followed {
    _strace: Running,
    first: String,
    text: String,
}

/// Calls are counted for each thread by itself.
#[track_caller]
fn follow(command: &Command, words: &[String], trace: &Path) -> Followed {
    let _ = fs::remove_file(trace);
    let mut all = ["-f", "-q"].map(str::to_owned).to_vec();
    all.extend_from_slice(words);
    let mut strace = Running(traced(command, trace, &all).spawn().unwrap());
    let begin = Instant::now();
    loop {
        let over = strace.0.try_wait().unwrap();
        let text = fs::read_to_string(trace).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default().to_owned();
        let ended = |line: &str| line.starts_with(&format!("{first} ")) && line.contains("+++ ");
        if !first.is_empty() && text.lines().any(ended) {
            return Followed {
                _strace: strace,
                first,
                text,
            };
        }
        let waits = over.is_none() && begin.elapsed() < Duration::from_secs(60);
        assert!(waits, "{words:?}: {over:?} {text}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs it and kills whoever comes to that moment first: the process, or a server that it
/// starts.
#[track_caller]
pub(crate) fn kill_any(command: &Command, moment: &Moment, trace: &Path) -> Struck {
    let first = follow(command, &moment.words(), trace).first;
    // A server may have come to that moment just now: it is dying or goes on.
    let text = fs::read_to_string(trace).unwrap();
    let pids: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    until("it is known who lives", || {
        pids.iter().all(|pid| is_settled(pid))
    });
    let mut lines = text.lines();
    let killed = lines.find(|line| line.contains("+++ killed by SIGKILL"));
    match killed {
        None => Struck::Nobody,
        Some(line) if line.starts_with(&format!("{first} ")) => Struck::Itself,
        Some(_) => Struck::Another,
    }
}

/// Whether a process has ended with all of its threads: until then its locks are held.
pub(crate) fn is_gone(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads <= 1 && !alive(pid.parse().unwrap())
}

/// Whether a thread has ended, or waits for requests and nobody has killed it.
fn is_settled(pid: &str) -> bool {
    // SIGKILL is the ninth.
    const KILL: u64 = 1 << 8;
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_default().trim().to_owned()
    };
    let pending = |name| u64::from_str_radix(&field(name), 16).unwrap_or(0) & KILL != 0;
    let state = field("State:");
    match state.as_bytes().first() {
        Some(b'Z' | b'X') => is_gone(pid),
        Some(b'S') => field("TracerPid:") == "0" && !pending("SigPnd:") && !pending("ShdPnd:"),
        _ => false,
    }
}

/// Runs it and kills it when it waits for its server, which is late: it comes from `call` only
/// after a while. Meanwhile, `then` is run.
#[track_caller]
pub(crate) fn kill_before_its_server(
    command: &Command,
    call: &str,
    trace: &Path,
    then: impl FnOnce(),
) {
    let words = [
        "-e".to_owned(),
        format!("trace=execve,recvfrom,{call}"),
        "-e".to_owned(),
        "inject=recvfrom:signal=KILL:when=1".to_owned(),
        "-e".to_owned(),
        format!("inject={call}:delay_enter={LATE}"),
    ];
    let followed = follow(command, &words, trace);
    assert!(followed.text.contains("+++ killed by SIGKILL"));
    then();
}
