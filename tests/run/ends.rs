//! How it ends: signals, orphans, and what is left.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::images::contents;
use super::lab::{Running, alive, signal, succeeded, until};
use super::launcher::Launcher;

/// A command that has said `ready`.
fn begun(mut command: Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Running(child)
}

fn code(child: &mut Child) -> Option<i32> {
    child.wait().unwrap().code()
}

/// Processes whose command line has that word.
fn having(word: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let has = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line.split('\0').any(|other| other == word)) && alive(*pid)
    };
    processes.filter_map(pid).filter(has).collect()
}

#[test]
fn a_run_that_is_destroyed_ends_and_one_in_another_leaves_nothing_of_that() {
    let Some(here) = Launcher::new() else { return };
    let word = "27.1828";
    let script = format!("echo ready; exec sleep {word}");
    let args = ["run", "--id", "a/b", "app:1", "--", "sh", "-c", &script];
    let mut run = begun(here.command(&args));
    let destroy = here.command(&["destroy", "a/b"]).output().unwrap();
    succeeded("destroy", &destroy);
    until("the command ends", || having(word).is_empty());
    assert!(!run.0.wait().unwrap().success());
    here.is_clean();
}

#[test]
fn a_run_whose_parent_blocks_sigchld_ends() {
    let Some(here) = Launcher::new() else { return };
    let run = here.command(&["run", "app:1", "true"]);
    let mut blocking = Command::new("timeout");
    blocking.args(["20", "env", "--block-signal=CHLD"]);
    blocking.arg(run.get_program()).args(run.get_args());
    blocking.envs(
        run.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    assert_eq!(blocking.status().unwrap().code(), Some(0));
    here.is_clean();
}

#[test]
fn signals_reach_the_command_and_orphans_are_reaped() {
    let Some(here) = Launcher::new() else { return };
    for (number, wanted) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
    ] {
        let script = format!("trap 'exit 17' {wanted}; echo ready; while :; do sleep 0.05; done");
        let mut run = begun(here.command(&["run", "app:1", "--", "sh", "-c", &script]));
        signal(run.0.id(), number);
        assert_eq!(code(&mut run.0), Some(17), "{wanted}");
    }
    // Whoever does not care is ended by it.
    let mut run = begun(here.command(&[
        "run",
        "app:1",
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 100",
    ]));
    signal(run.0.id(), Signal::TERM);
    assert_eq!(code(&mut run.0), Some(128 + 15));
    let script = "for i in 1 2 3 4 5; do sh -c 'true & exec true'; done; sleep 0.3; \
        grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    assert_eq!(here.script(&[], script), "0\n");
    // What the command leaves behind ends with it.
    let word = "31.4159";
    here.script(&[], &format!("sleep {word} & true"));
    assert!(having(word).is_empty());
    here.is_clean();
}

#[test]
fn a_run_without_a_terminal_stops_and_goes_on_with_its_command() {
    let Some(here) = Launcher::new() else { return };
    let word = "16.1803";
    let script = format!("echo ready; sleep {word}; exit 8");
    let mut run = begun(here.command(&["run", "app:1", "--", "sh", "-c", &script]));
    let state = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
    };
    let sleeper = || having(word).into_iter().next().unwrap();
    let stopped = |yes: bool| {
        let (outside, inside) = (state(run.0.id()), state(sleeper()));
        (outside == Some('T')) == yes && (inside == Some('T')) == yes
    };
    until("it sleeps", || !having(word).is_empty());
    signal(run.0.id(), Signal::TSTP);
    until("both stop", || stopped(true));
    signal(run.0.id(), Signal::CONT);
    until("both go on", || stopped(false));
    signal(sleeper(), Signal::KILL);
    assert_eq!(code(&mut run.0), Some(8));
    here.is_clean();
}

/// An image that takes a while to be copied.
fn large(here: &Launcher) {
    here.image("large:1", &json!({"Env": ["PATH=/bin"]}), |layer| {
        for number in 0..64 {
            layer.file(&format!("{number}"), &contents(number, 1 << 20));
        }
    });
}

/// Whether the root file system of a container is being written.
fn is_begun(here: &Launcher) -> bool {
    let names = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let rootfses = here.containers().join("slow/backends/copy/rootfses");
    let mut roots = names(&rootfses).into_iter();
    roots.any(|root| !names(&root).is_empty())
}

#[test]
fn a_run_that_is_interrupted_while_its_root_is_made_leaves_nothing() {
    let Some(here) = Launcher::new() else { return };
    large(&here);
    let words = [
        "run",
        "--id",
        "slow",
        "--backend",
        "copy",
        "large:1",
        "--",
        "true",
    ];
    for number in [Signal::INT, Signal::TERM] {
        let mut run = Running(here.command(&words).spawn().unwrap());
        until("files are written", || is_begun(&here));
        signal(run.0.id(), Signal::STOP);
        assert_eq!(
            here.known(),
            [("slow".to_owned(), "provisioning".to_owned())]
        );
        signal(run.0.id(), number);
        signal(run.0.id(), Signal::CONT);
        assert_eq!(code(&mut run.0), Some(130));
        here.is_clean();
    }
    // At whatever moment, also when the command begins just then.
    for delay in 0..12 {
        let args = ["run", "app:1", "--", "sh", "-c", "sleep 100"];
        let mut run = Running(here.command(&args).spawn().unwrap());
        thread::sleep(Duration::from_millis(4 * delay));
        signal(run.0.id(), Signal::INT);
        let ended = run.0.wait().unwrap();
        // Before its handlers are there, the signal ends it as it ends everybody.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&ended) == Some(2);
        assert!(ended.code() == Some(130) || by_signal, "{delay}: {ended}");
        here.is_clean();
    }
}

#[test]
fn a_killed_run_takes_all_its_processes_along_and_recover_destroys_its_container() {
    let Some(here) = Launcher::new() else { return };
    let word = "27.1828";
    let script = format!("sleep {word} & echo ready; sleep {word}");
    let words = ["run", "--id", "dies", "app:1", "--", "sh", "-c", &script];
    let recover = || {
        let args = ["recover"];
        succeeded(&args, &here.command(&args).output().unwrap())
    };
    for victim in [1, 2, 3] {
        let mut run = begun(here.command(&words));
        assert_eq!(here.known(), [("dies".to_owned(), "running".to_owned())]);
        // Whoever looks after containers leaves it alone.
        assert_eq!(recover(), "", "victim {victim}");
        let args = ["recover", "--known=other"];
        let said = succeeded(&args, &here.command(&args).output().unwrap());
        assert_eq!(said, "left: something runs in dies, which is not known\n");
        let pid = run.0.id();
        let child = |of: u32| -> u32 {
            let path = format!("/proc/{of}/task/{of}/children");
            let children = fs::read_to_string(path).unwrap();
            let mut all = children
                .split_whitespace()
                .map(|pid| pid.parse::<u32>().unwrap());
            let launch = |pid: &u32| {
                fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|l| l.contains("launch"))
            };
            all.find(launch).unwrap()
        };
        let of_victim = match victim {
            1 => pid,
            2 => child(pid),
            _ => child(child(pid)),
        };
        signal(of_victim, Signal::KILL);
        let ended = code(&mut run.0);
        until("the processes end", || having(word).is_empty());
        if victim == 1 {
            assert_eq!(here.known(), [("dies".to_owned(), "ended".to_owned())]);
            assert_eq!(
                recover(),
                "destroy dies: the run that it was for has ended\n"
            );
        } else {
            assert_eq!(ended, Some(137), "victim {victim}");
        }
        here.is_clean();
    }
}

#[test]
fn a_container_that_is_kept_keeps_what_was_written() {
    let Some(here) = Launcher::new() else { return };
    let args = [
        "--keep",
        "--name",
        "stays",
        "app:1",
        "--",
        "sh",
        "-c",
        "echo x > /new; exit 3",
    ];
    let ran = here.run(&args);
    assert_eq!((ran.code, &*ran.err), (Some(3), ""), "{ran:?}");
    assert_eq!(here.known(), [("stays".to_owned(), "ready".to_owned())]);
    let json = here
        .command(&["containers", "--json"])
        .output()
        .unwrap()
        .stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let path = json[0]["rootfses"][0]["path"].as_str().unwrap();
    assert_eq!(fs::read(format!("{path}/new")).unwrap(), b"x\n");
    // Its name is taken, for whomever.
    for options in [&["--keep"][..], &[]] {
        let ran = here.run(&[options, &["--id", "stays", "app:1", "true"]].concat());
        assert!(
            ran.code == Some(125) && ran.err.contains("there is a container `stays` already"),
            "{ran:?}"
        );
    }
    let args = ["destroy", "stays"];
    succeeded(&args, &here.command(&args).output().unwrap());
    here.is_clean();
    // One that could not be started is of no use.
    let ran = here.run(&["--keep", "--id", "none", "-u", "nobody", "app:1", "true"]);
    assert_eq!(ran.code, Some(125));
    here.is_clean();
}

#[test]
fn nothing_of_a_running_container_is_in_the_machines_mount_table() {
    let Some(here) = Launcher::new() else { return };
    here.image(
        "vol:1",
        &json!({"Env": ["PATH=/bin"], "Volumes": {"/data": {}}}),
        |_| (),
    );
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script = "ls -d /data >/dev/null && echo ready; sleep 100";
    let dir = here.lab.place("shared");
    let volume = format!("{}:/v", dir.display());
    let mut run = begun(here.command(&["run", "-v", &volume, "vol:1", "--", "sh", "-c", script]));
    let place = here.containers().to_str().unwrap().to_owned();
    let there: Vec<String> = table()
        .lines()
        .filter(|line| line.contains(&place))
        .map(str::to_owned)
        .collect();
    // Only its root file system.
    assert_eq!(there.len(), 1, "{there:?}");
    signal(run.0.id(), Signal::TERM);
    assert_eq!(code(&mut run.0), Some(143));
    here.is_clean();
}
