//! What runs: the image's wishes, and what was typed instead.

use serde_json::{Value, json};

use super::images::{Layer, Pack};
use super::lab::succeeded;
use super::launcher::Launcher;

#[test]
fn all_behind_the_image_is_the_commands() {
    let Some(here) = Launcher::new() else { return };
    for (args, out) in [
        (&["app:1", "echo", "-n", "--rm"][..], "--rm"),
        (&["--entrypoint", "echo", "app:1", "-n", "x"], "x"),
        (&["--entrypoint", "echo", "app:1", "--", "-n", "x"], "x"),
        (&["--", "app:1", "echo", "--"], "--\n"),
        (
            &["--entrypoint", "echo", "app:1", "--keep", "--help"],
            "--keep --help\n",
        ),
    ] {
        let ran = here.run(args);
        assert_eq!((ran.code, &*ran.out), (Some(0), out), "{args:?}: {ran:?}");
    }
    let ran = here.run(&["--no-such-thing", "app:1"]);
    assert_eq!(ran.code, Some(125));
    assert!(
        ran.err.contains("`--no-such-thing` is no option"),
        "{ran:?}"
    );
    here.is_clean();
}

#[test]
fn the_command_has_the_umask_of_whoever_runs_it() {
    let Some(here) = Launcher::new() else { return };
    for umask in ["0000", "0027"] {
        let run = here.command(&["run", "app:1", "sh", "-c", "umask"]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", r#"umask "$1"; shift; "$@""#, "sh", umask]);
        shell.arg(run.get_program()).args(run.get_args());
        for (name, value) in run.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let said = succeeded("run", &shell.output().unwrap());
        assert_eq!(said, format!("{umask}\n"));
    }
    here.is_clean();
}

#[test]
fn an_image_runs_as_it_wants_and_as_one_says() {
    let Some(here) = Launcher::new() else { return };
    let script = "echo $0 $@; pwd; id -u; id -g; id -G; echo $A $HOME";
    let run = json!({
        "Entrypoint": ["sh", "-c", script, "zero"], "Cmd": ["one", "two"], "WorkingDir": "/made/here",
        "User": "www", "Env": ["PATH=/bin", "A=image"],
    });
    here.image("own:1", &run, |_| ());
    let whole = |args: &[&str]| {
        let ran = here.run(args);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{args:?}");
        ran.out.lines().collect::<Vec<_>>().join("|")
    };
    for (args, said) in [
        (
            &["own:1"][..],
            "zero one two|/made/here|33|33|33 29|image /var/www",
        ),
        (
            &["own:1", "three"],
            "zero three|/made/here|33|33|33 29|image /var/www",
        ),
        (
            &["own:1", "--", "-x"],
            "zero -x|/made/here|33|33|33 29|image /var/www",
        ),
        (
            &["--user", "0", "own:1"],
            "zero one two|/made/here|0|0|0|image /root",
        ),
        (
            &["-u", "7:audio", "own:1"],
            "zero one two|/made/here|7|29|29|image /",
        ),
        (
            &["-w", "/tmp", "-e", "A=typed", "own:1"],
            "zero one two|/tmp|33|33|33 29|typed /var/www",
        ),
        (
            &["-e", "HOME=/x", "own:1"],
            "zero one two|/made/here|33|33|33 29|image /x",
        ),
        (&["--entrypoint", "pwd", "own:1"], "/made/here"),
        (&["--entrypoint", "echo", "own:1", "a", "b"], "a b"),
        (&["--entrypoint", "", "own:1", "echo", "c"], "c"),
        (
            &["--shell", "own:1", "--", "echo $A | cat; id -u"],
            "image|33",
        ),
        (
            &["--switch-user=false", "own:1"],
            "zero one two|/made/here|0|0|0|image /root",
        ),
    ] {
        assert_eq!(whole(args), said, "{args:?}");
    }
    here.is_clean();
}

#[test]
fn variables_come_from_the_caller_and_from_files() {
    let Some(here) = Launcher::new() else { return };
    let file = here.lab.path("variables");
    std::fs::write(&file, "# none\nB=file\nOWN\nC=file\n").unwrap();
    let args = [
        "run",
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "C=typed",
        "-e",
        "TYPED",
        "-e",
        "NONE",
    ];
    let args = [&args[..], &["--hostname", "box", "app:1", "env"]].concat();
    let mut command = here.command(&args);
    command
        .env("OWN", "mine")
        .env("TYPED", "too")
        .env("SECRET", "no");
    let output = command.env_remove("NONE").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let wanted = [
        "A=image",
        "B=file",
        "C=typed",
        "HOME=/root",
        "HOSTNAME=box",
        "OWN=mine",
        "PATH=/bin",
        "TYPED=too",
    ];
    assert_eq!(lines, wanted);
}

/// Imports the AppC image `example.com/app:1`.
fn aci(here: &Launcher, app: &Value) {
    let manifest = json!({
        "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app",
        "labels": [{"name": "version", "value": "1"}, {"name": "os", "value": "linux"},
            {"name": "arch", "value": "amd64"}],
        "app": app,
    });
    let mut aci = Layer::new();
    aci.file("manifest", manifest.to_string().as_bytes())
        .dir("rootfs", 0o755);
    aci.dir("rootfs/bin", 0o755).dir("rootfs/etc", 0o755);
    aci.program("rootfs/bin/busybox", 0o755, "/bin/busybox");
    for name in ["sh", "id", "echo", "grep", "ls", "touch"] {
        aci.symlink(&format!("rootfs/bin/{name}"), "busybox");
    }
    aci.file("rootfs/etc/passwd", b"www:x:33:33::/var/www:/bin/sh\n");
    aci.file("rootfs/etc/group", b"audio:x:29:\n");
    let file = here.lab.path("app.aci");
    std::fs::write(&file, aci.pack(Pack::Plain).bytes).unwrap();
    let args = ["import", "--quiet", file.to_str().unwrap()];
    succeeded(&args, &here.command(&args).output().unwrap());
}

/// Its mount points were nothing, and nobody was told what it does not get.
#[test]
fn of_an_appc_image_mount_points_and_privileges_count_and_the_rest_is_named() {
    let Some(here) = Launcher::new() else { return };
    let script = "grep NoNewPrivs /proc/self/status; ls -d /data /fixed/deep; touch /data/x && echo open; \
        touch /fixed/deep/x 2>/dev/null || echo closed";
    let app = json!({
        "exec": ["/bin/sh", "-c", script], "user": "0", "group": "0",
        "isolators": [
            {"name": "os/linux/no-new-privileges", "value": true},
            {"name": "resource/memory", "value": {"limit": "1G"}},
        ],
        "eventHandlers": [{"name": "pre-start", "exec": ["/bin/touch", "/started"]}],
        "mountPoints": [
            {"name": "data", "path": "/data"},
            // A file of the image, and what nobody can make.
            {"name": "file", "path": "/bin/sh"}, {"name": "none", "path": "/proc/none"},
            {"name": "fixed", "path": "/fixed/deep", "readOnly": true},
        ],
        "environment": [{"name": "PATH", "value": "/bin"}],
    });
    aci(&here, &app);
    let name = "appc:example.com/app:1";
    let note = "note: of what the image wants, not done here: isolator `resource/memory`, handler `pre-start`\n";
    let seen = "NoNewPrivs:\t1\n/data\n/fixed/deep\nopen\n";
    let ran = here.run(&[name]);
    assert_eq!((&*ran.out, &*ran.err), (seen, note));
    let shared = here.lab.place("shared");
    let volume = format!("{}:/fixed/deep/", shared.display());
    let ran = here.run(&["--quiet", "-v", &volume, name]);
    assert_eq!((&*ran.out, &*ran.err), (&*format!("{seen}closed\n"), ""));
    assert_eq!(std::fs::read_dir(&shared).unwrap().count(), 0);

    let args = ["provision", "--quiet", "--id", "box", name];
    succeeded(&args, &here.command(&args).output().unwrap());
    let dir = here.lab.path("bundle");
    let args = ["bundle", "-v", &volume, "box", dir.to_str().unwrap()];
    let output = here.command(&args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), note);
    let config = std::fs::read(dir.join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["process"]["noNewPrivileges"], true);
    let mounts = config["mounts"].as_array().unwrap();
    let fixed = mounts
        .iter()
        .find(|mount| mount["source"] == shared.to_str().unwrap());
    assert_eq!(
        fixed.unwrap()["options"],
        json!(["rbind", "rprivate", "ro"])
    );
    let args = ["destroy", "box"];
    succeeded(&args, &here.command(&args).output().unwrap());
    here.is_clean();
}

#[test]
fn an_appc_image_runs_as_its_manifest_says() {
    let Some(here) = Launcher::new() else { return };
    let script = "echo $0 $@; pwd; id -u; id -G; echo $A $HOME $USER $AC_APP_NAME $container";
    let app = json!({
        "exec": ["/bin/sh", "-c", script, "zero", "one"], "user": "www", "group": "audio",
        "supplementaryGIDs": [7], "workingDirectory": "/srv",
        "environment": [{"name": "A", "value": "image"}, {"name": "PATH", "value": "/bin"}],
    });
    aci(&here, &app);
    let ran = here.run(&["appc:example.com/app:1"]);
    let wanted = "zero one\n/srv\n33\n29 7\nimage /var/www www app lazyroot\n";
    assert_eq!((ran.code, &*ran.out), (Some(0), wanted), "{ran:?}");
    // Its program stays, and what follows is replaced (Mesos).
    let ran = here.run(&[
        "appc:example.com/app:1",
        "--",
        "-c",
        "echo $1",
        "x",
        "typed",
    ]);
    assert_eq!((ran.code, &*ran.out), (Some(0), "typed\n"), "{ran:?}");
    here.is_clean();
}

#[test]
fn exit_codes_are_those_that_users_of_docker_know() {
    let Some(here) = Launcher::new() else { return };
    here.image("codes:1", &json!({"Env": ["PATH=/bin"]}), |layer| {
        layer
            .file("data", b"no program")
            .program("closed", 0o600, "/bin/busybox");
        layer
            .file("etc/x", b"")
            .program("other", 0o755, "/dev/null");
        layer
            .dir("shut", 0o700)
            .program("script", 0o755, "/dev/null");
        layer.symlink("loose", "/none");
    });
    for (args, code, says) in [
        (&["--", "true"][..], 0, ""),
        (&["--", "false"], 1, ""),
        (&["--", "sh", "-c", "exit 42"], 42, ""),
        (&["--", "sh", "-c", "kill -9 $$"], 137, ""),
        (&["--", "sh", "-c", "kill -TERM $$"], 143, ""),
        (&["--", "none"], 127, "there is no `none` in the container"),
        (&["--", "/none"], 127, "there is no `/none`"),
        (&["--", "/loose"], 127, "there is no `/loose`"),
        (
            &["--", "/data"],
            126,
            "cannot run `/data`: Permission denied",
        ),
        (&["--", "/tmp"], 126, "cannot run `/tmp`"),
        (
            &["--", "/other"],
            126,
            "cannot run `/other`: Exec format error",
        ),
        (
            &[],
            125,
            "neither the image nor the command line says what to run",
        ),
    ] {
        let ran = here.run(&[&["codes:1"], args].concat());
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.err.contains(says), "{args:?}: {ran:?}");
    }
    for (options, code, says) in [
        (&["-u", "nobody"][..], 125, "no user `nobody`"),
        (&["-u", "0:none"], 125, "no group `none`"),
        (
            &["-u", "7", "-w", "/shut"],
            126,
            "cannot enter the working directory `/shut`",
        ),
        (&["-w", "tmp"], 125, "`tmp` is not an absolute path"),
        (&["-v", "/none:/x"], 125, "`/none` cannot be mounted"),
        (&["--hostname", "a b"], 125, "`a b` is no name of a machine"),
        (
            &["--switch-user=false", "-u", "7"],
            125,
            "--switch-user=false forbids it",
        ),
        (&["-v", "/tmp"], 125, "HOST:PATH"),
        (&["--memory", "4M"], 125, "the least is 6M"),
        (&["--none"], 125, "`--none` is no option of run"),
        (&["--backend", "aufs"], 125, "aufs"),
    ] {
        let ran = here.run(&[options, &["codes:1", "true"]].concat());
        assert_eq!(ran.code, Some(code), "{options:?}: {ran:?}");
        assert!(ran.err.contains(says), "{options:?}: {ran:?}");
    }
    let none = here.run(&[]);
    assert!(
        none.code == Some(125) && none.err.contains("IMAGE"),
        "{none:?}"
    );
    let help = here.run(&["--help"]);
    assert!(help.code == Some(0) && help.err.is_empty(), "{help:?}");
    // What is wrong before the verb is so, too; of other verbs it is as ever.
    for (args, code) in [
        (&["--store", "", "run", "app:1"][..], 125),
        (&["--none", "images"], 2),
        (&["images", "run", "--none"], 2),
    ] {
        let output = here.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
    let ran = here.run(&["missing:1"]);
    assert!(
        ran.code == Some(125) && ran.err.contains("`missing:1` is not in the store"),
        "{ran:?}"
    );
    here.is_clean();
}

#[test]
fn what_a_docker_image_says_of_its_runtime_can_be_ignored() {
    let Some(here) = Launcher::new() else { return };
    let run = json!({
        "Entrypoint": ["false"], "Cmd": ["x"], "WorkingDir": "/tmp", "User": "www",
        "Env": ["PATH=/bin", "A=image"],
    });
    here.image("own:1", &run, |_| ());
    let script = "pwd; id -u; echo A=$A B=$B";
    for flag in ["--docker_ignore_runtime", "--docker-ignore-runtime=true"] {
        let ran = here.run(&[
            flag, "-e", "B=typed", "own:1", "--", "/bin/sh", "-c", script,
        ]);
        assert_eq!(
            (ran.code, &*ran.out),
            (Some(0), "/\n0\nA= B=typed\n"),
            "{ran:?}"
        );
        let ran = here.run(&[flag, "own:1"]);
        assert!(
            ran.code == Some(125) && ran.err.contains("says what to run"),
            "{ran:?}"
        );
    }
    assert_eq!(
        here.run(&["own:1"]).code,
        Some(1),
        "else it runs as it wants"
    );
}

#[test]
fn output_and_input_pass_through() {
    use std::io::Write as _;
    use std::process::Stdio;
    let Some(here) = Launcher::new() else { return };
    let args = ["run", "app:1", "--", "sh", "-c", "cat; echo err >&2"];
    let mut command = here.command(&args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    let text = "x".repeat(200_000);
    let fed = text.clone();
    let feeder = std::thread::spawn(move || to.write_all(fed.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.stdout == text.as_bytes() && output.stderr == b"err\n");
}
