//! The killer: strace, which sends a signal before the n-th system call of a kind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::lab::{Running, has};

/// Calls that change something, or begin or end something.
const CALLS: &str = "openat,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,fsync,\
fdatasync,syncfs,flock,mount,umount2,vfork,clone,clone3,write,ftruncate,socketpair,recvfrom,\
sendto,shutdown,setsid,prctl,fchmod,fchown,fchmodat,fchownat,chown,chmod,setxattr,fsetxattr,\
fremovexattr,utimensat,linkat,symlinkat,mknodat,copy_file_range,exit_group";

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

    fn words(&self) -> [String; 2] {
        let Self { call, number } = self;
        [
            "-e".into(),
            format!("inject={call}:signal=KILL:when={number}"),
        ]
    }
}

pub(crate) fn is_there() -> bool {
    has("strace")
}

/// `strace WORDS -o TRACE PROGRAM ARGS` for a command that was made without it.
fn traced(command: &Command, trace: &Path, words: &[String]) -> Command {
    let mut strace = Command::new("strace");
    strace.arg("-qq").args(words).arg("-o").arg(trace);
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

fn trace_of() -> [String; 2] {
    ["-e".into(), format!("trace={CALLS}")]
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
    words.extend(["-e".into(), "signal=none".into()]);
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

/// The same for whoever comes to that moment first: the process, or a server that it starts.
/// Calls are counted for each thread by itself.
pub(crate) fn kill_any(command: &Command, moment: &Moment, trace: &Path) -> Struck {
    let _ = fs::remove_file(trace);
    let mut words = moment.words().to_vec();
    words.extend(["-f".into(), "-e".into(), "signal=none".into()]);
    let mut strace = Running(traced(command, trace, &words).spawn().unwrap());
    // strace goes on for as long as the server does; the process is the first in the trace.
    let begin = Instant::now();
    let (first, text) = loop {
        let text = fs::read_to_string(trace).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default().to_owned();
        let ended = |line: &str| line.starts_with(&format!("{first} ")) && line.contains("+++ ");
        if !first.is_empty() && text.lines().any(ended) {
            break (first, text);
        }
        if strace.0.try_wait().unwrap().is_some() {
            break (first, text);
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{moment:?}: {text}"
        );
        std::thread::sleep(Duration::from_millis(1));
    };
    let killed: Vec<_> = text
        .lines()
        .filter(|line| line.contains("+++ killed by SIGKILL"))
        .collect();
    let pid = rustix::process::Pid::from_raw(strace.0.id().cast_signed()).unwrap();
    // It lets go of whom it follows.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let _ = strace.0.wait();
    match killed.first() {
        None => Struck::Nobody,
        Some(line) if line.starts_with(&format!("{first} ")) => Struck::Itself,
        Some(_) => Struck::Another,
    }
}
