//! A terminal: Ctrl-C, Ctrl-Z and job control, as for any other command.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::lab::has;
use super::launcher::Launcher;

const PATIENCE: Duration = Duration::from_secs(30);

/// A shell of the machine at a terminal of its own.
struct Terminal {
    shell: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
    /// What was shown before the last thing that was waited for.
    seen_before: String,
}

impl Terminal {
    fn new(here: &Launcher) -> Option<Self> {
        // It makes the terminal, and gives it to a shell.
        if !has("script") || !has("bash") {
            return None;
        }
        let program = env!("CARGO_BIN_EXE_lazyroot");
        let mut command = Command::new("script");
        let shell = "bash --norc --noprofile -i";
        command
            .args([
                "--quiet",
                "--flush",
                "--return",
                "--command",
                shell,
                "/dev/null",
            ])
            .env("LAZYROOT_STORE", here.lab.path("store"))
            .env("LAZYROOT_ROOTFS_DIR", here.containers())
            .env("LAZYROOT_LOG", here.lab.path("log"))
            .env("L", program)
            .env("PS1", "")
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let (to, screen) = channel();
        let mut from = shell.stdout.take().unwrap();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(got) = from.read(&mut piece) {
                if got == 0 || to.send(piece[..got].to_vec()).is_err() {
                    break;
                }
            }
        });
        let keys = shell.stdin.take().unwrap();
        Some(Self {
            shell,
            keys,
            screen,
            seen: String::new(),
            seen_before: String::new(),
        })
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the screen shows something, and forgets all up to it.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen_before = self.seen.drain(..at + text.len()).collect();
                return;
            }
            let left = PATIENCE.saturating_sub(begin.elapsed());
            match self.screen.recv_timeout(left) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("no `{text}` in: {}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn ctrl_c_ends_the_command_and_the_shell_goes_on() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run app:1 -- sh -c 'trap \"echo int''errupted; exit 5\" INT; echo be''gun; while :; do sleep 0.05; done'; echo code=$?\n");
    at.shows("begun");
    at.press("\x03");
    at.shows("interrupted");
    // A shell stops a list at Ctrl-C only when the command died of it.
    at.shows("code=5");
    at.press("$L run app:1 -- sh -c 'echo be''gun; exec sleep 100'\n");
    at.shows("begun");
    at.press("\x03");
    at.press("echo co''de=$?\n");
    at.shows("code=130");
    here.is_clean();
}

#[test]
fn ctrl_z_stops_the_command_and_fg_goes_on_with_it() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run app:1 -- sh -c 'echo be''gun; read x; echo got=$x; exit 6'\n");
    at.shows("begun");
    at.press("\x1a");
    at.shows("Stopped");
    at.press("jo''bs\n");
    at.shows("Stopped");
    at.press("fg\n");
    at.shows("run app:1");
    at.press("more\n");
    at.shows("got=more");
    at.press("echo co''de=$?\n");
    at.shows("code=6");
    here.is_clean();
}

#[test]
fn a_command_in_the_background_leaves_the_terminal_to_the_shell() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run app:1 -- sh -c 'echo be''gun; sleep 2; echo en''ded'\n");
    at.shows("begun");
    at.press("\x1a");
    at.shows("Stopped");
    at.press("bg\n");
    at.shows("ended");
    at.press("wait; echo sti''ll\n");
    at.shows("still");
    // Whoever reads in the background is stopped, and takes no keys from the shell.
    at.press("$L run app:1 cat &\n");
    // However long it takes until it reads.
    at.press("until [ -n \"$(jobs -s)\" ]; do sleep 0.1; done; jo''bs\n");
    at.shows("Stopped");
    at.press("echo mi''ne; kill -KILL %%\n");
    at.shows("mine");
    // `wait` does not wait for a job that was stopped, so it may not be dead yet.
    at.press("until $L recover 2>&1 | grep 'for has en''ded'; do sleep 0.1; done\n");
    at.shows("the run that it was for has ended");
    here.is_clean();
}

#[test]
fn a_shell_in_the_container_has_the_terminal_and_job_control() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run -e PS1= app:1; echo co''de=$?\n");
    at.press("tty; test -c /dev/console && echo con''sole; echo TERM=$TERM\n");
    at.shows("console");
    at.shows("TERM=xterm");
    at.press("sleep 100\n");
    thread::sleep(Duration::from_millis(500));
    at.press("\x1a");
    at.shows("Stopped");
    at.press("kill -KILL %1; sleep 0.3; echo in''side=$?\n");
    at.shows("inside=0");
    at.press("exit 9\n");
    at.shows("code=9");
    // The terminal is the machine's shell's again.
    at.press("echo ba''ck; exit\n");
    at.shows("back");
    here.is_clean();
}

#[test]
fn a_shell_in_the_container_finds_its_own_group_and_none_of_ours() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    // Which group it is in, and which one has the terminal (proc_pid_stat(5)).
    let asks = "sh -c 'set -- $(cat /proc/$$/stat); echo own=$$ group=$5 front=$8'";
    at.press(&format!("$L run app:1 -- {asks}\n"));
    at.shows("own=2 group=2 front=2");
    // Others of ours may be there to read from it.
    at.press(&format!("$L run app:1 -- {asks} | cat\n"));
    at.shows("own=2 group=0 front=0");
    // In the background it leaves the keys to whoever has them, and has them in the foreground.
    at.press("$L run -e PS1= app:1 &\n");
    at.press("until [ -n \"$(jobs -s)\" ]; do sleep 0.1; done; echo mi''ne\n");
    at.shows("mine");
    at.press("fg\n");
    at.shows("run -e PS1= app:1");
    at.press("echo in''side; exit 4\n");
    at.shows("inside");
    at.press("echo co''de=$?\n");
    at.shows("code=4");
    here.is_clean();
}

#[test]
fn ctrl_c_reaches_what_was_brought_to_the_foreground_while_it_ran() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run app:1 -- sh -c 'echo be''gun; sleep 100; true' &\n");
    at.shows("begun");
    at.press("fg\n");
    at.shows("sleep 100; true'");
    // The shell names the job before it gives it the terminal.
    thread::sleep(Duration::from_millis(500));
    at.press("\x03");
    at.press("echo co''de=$?\n");
    at.shows("code=130");
    here.is_clean();
}

#[test]
fn ctrl_z_stops_what_was_brought_to_the_foreground_while_it_ran() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run app:1 -- sh -c 'echo be''gun; while :; do echo tick >>/ticks; sleep 0.05; done' &\n");
    at.shows("begun");
    at.press("fg\n");
    at.shows("done'");
    thread::sleep(Duration::from_millis(500));
    at.press("\x1a");
    at.shows("Stopped");
    at.press("cd $LAZYROOT_ROOTFS_DIR/*/backends/*/rootfses/*; wc -l <ticks; sleep 0.5; echo $(wc -l <ticks) la''ter; cd /\n");
    at.shows("later");
    let ticks: Vec<u32> = (at.seen_before.split_whitespace())
        .filter_map(|word| word.parse().ok())
        .collect();
    let [.., before, after] = ticks[..] else {
        panic!("{ticks:?}")
    };
    assert_eq!(before, after);
    at.press("fg\n");
    at.shows("done'");
    at.press("\x03");
    at.press("echo co''de=$?\n");
    at.shows("code=130");
    here.is_clean();
}

#[test]
fn what_the_caller_ignores_is_ignored() {
    let Some(here) = Launcher::new() else { return };
    let script = "trap '' HUP INT; exec \"$0\" run app:1 -- sh -c \
        'kill -HUP $PPID; kill -INT $PPID; kill -HUP $$; kill -INT $$; exit 3'";
    let run = here.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_lazyroot")]);
    shell.args(run.get_args());
    shell.envs(
        run.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    shell.env("LAZYROOT_STORE", here.lab.path("store"));
    assert_eq!(shell.status().unwrap().code(), Some(3));
    here.is_clean();
}

#[test]
fn what_nobody_would_continue_does_not_stop() {
    let Some(here) = Launcher::new() else { return };
    if !has("script") {
        return;
    }
    // Below `script` there is no shell that waits for a job.
    let run = format!(
        "exec {} run app:1 -- sh -c 'kill -TSTP $$; echo on; exit 3'",
        env!("CARGO_BIN_EXE_lazyroot")
    );
    let ran = Command::new("timeout")
        .args([
            "30",
            "script",
            "--quiet",
            "--return",
            "--command",
            &run,
            "/dev/null",
        ])
        .env("LAZYROOT_STORE", here.lab.path("store"))
        .env("LAZYROOT_ROOTFS_DIR", here.containers())
        .env("LAZYROOT_LOG", here.lab.path("log"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!((ran.status.code(), said.trim()), (Some(3), "on"));
    here.is_clean();
}

#[test]
fn a_signal_to_the_whole_job_reaches_the_command_once_and_so_does_one_to_run_alone() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    // A loop of builtins: two signals would be two, however near.
    let script = "n=0; trap \"n=\\$((n+1))\" TERM; trap \"echo have=\\$n\" USR1; trap \"exit 4\" HUP; \
        echo be''gun; while :; do :; done";
    at.press(&format!("$L run app:1 -- sh -c '{script}' &\n"));
    at.shows("begun");
    for (who, have) in [("%1", 1), ("$!", 2), ("%1", 3)] {
        at.press(&format!(
            "kill {who}; sleep 1.2; kill -USR1 $!; sleep 0.3\n"
        ));
        at.shows(&format!("have={have}\r"));
    }
    at.press("kill -HUP $!; wait $!; echo co''de=$?\n");
    at.shows("code=4");
    here.is_clean();
}

#[test]
fn interactive_and_terminal_are_taken_as_people_type_them() {
    let Some(here) = Launcher::new() else { return };
    let ran = here.run(&["-i", "app:1", "cat"]);
    assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{ran:?}");
    let ran = here.run(&["-it", "app:1", "true"]);
    assert_eq!(ran.code, Some(125));
    assert!(ran.err.contains("no terminal at standard input"), "{ran:?}");
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("$L run -it --name x app:1 sh -c 'tty; echo yes''yes'; echo co''de=$?\n");
    at.shows("yesyes");
    at.shows("code=0");
    here.is_clean();
}

#[test]
fn a_window_that_changes_its_size_is_told_to_the_command() {
    let Some(here) = Launcher::new() else { return };
    let Some(mut at) = Terminal::new(&here) else {
        return;
    };
    at.press("stty rows 11 cols 77; $L run app:1 -- stty size\n");
    at.shows("11 77");
}
