//! `login`, `logout` and `push`, as somebody types them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::images::{Bench, Image, Packing, Ran, Tar, archive, sha256};
use crate::server::{Auth, PASSWORD, Registry, USER};

/// A command with something on its standard input.
fn told(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Ran::of(child.wait_with_output().unwrap())
}

fn login(bench: &Bench, host: &str, password: &str) -> Ran {
    let args = ["login", host, "--username", USER, "--password-stdin"];
    told(bench.command(&args), password)
}

#[track_caller]
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
    let all = format!("{}{}", ran.err, ran.text());
    assert!(!all.contains(PASSWORD), "{all}");
}

fn config(bench: &Bench) -> PathBuf {
    bench.path(".docker/config.json")
}

fn said(bench: &Bench) -> Value {
    serde_json::from_slice(&fs::read(config(bench)).unwrap()).unwrap()
}

fn bench() -> (Bench, Image) {
    let (bench, image) = (Bench::new(), Image::small("a:1", 1, Packing::Gzip));
    bench.pipe(&archive(&image.oci()), &[]).ok();
    (bench, image)
}

#[test]
fn a_login_is_stored_when_the_registry_takes_it() {
    for auth in [Auth::Basic, Auth::bearer()] {
        let (bench, registry) = (Bench::new(), Registry::with(auth, true));
        let host = registry.host();
        let wrong = login(&bench, &host, "wrong\n");
        says(
            &wrong,
            1,
            &[
                "does not take this login",
                "\ntry: another user or password",
            ],
        );
        assert!(!config(&bench).is_file());
        let right = login(&bench, &host, &format!("{PASSWORD}\n"));
        says(&right, 0, &[]);
        assert!(right.text().contains(": logged in ("), "{}", right.text());
        assert_eq!(fs::metadata(config(&bench)).unwrap().mode() & 0o777, 0o600);
        // A new one that is none changes nothing.
        let before = fs::read(config(&bench)).unwrap();
        says(&login(&bench, &host, "wrong"), 1, &["does not take"]);
        assert_eq!(fs::read(config(&bench)).unwrap(), before);
        let out = bench.run(&["logout", &host]).ok();
        assert!(out.text().contains("logged out"), "{}", out.text());
        says(
            &bench.run(&["logout", &host]),
            3,
            &["there is no login of 127.0.0.1"],
        );
        assert_eq!(said(&bench), json!({ "auths": {} }));
    }
}

#[test]
fn a_registry_that_asks_nobody_is_told() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let ran = login(&bench, &registry.host(), PASSWORD);
    says(&ran, 0, &["asks nobody for a login"]);
    assert!(config(&bench).is_file());
}

#[test]
fn a_login_goes_where_the_environment_says_and_to_the_helper_that_is_named_there() {
    let (bench, registry) = (Bench::new(), Registry::with(Auth::Basic, true));
    let helper = bench.write("docker-credential-lab", b"#!/bin/sh\ncat >\"$0.$1\"\n");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let file = bench.write("auth.json", br#"{ "credsStore": "lab", "other": 1 }"#);
    let with = |args: &[&str]| {
        let mut command = bench.command(args);
        let path = format!("{}:/usr/bin:/bin", helper.parent().unwrap().display());
        command.env("REGISTRY_AUTH_FILE", &file).env("PATH", path);
        command
    };
    let host = registry.host();
    let command = with(&["login", &host, "--username", USER, "--password-stdin"]);
    let ran = told(command, PASSWORD);
    says(&ran, 0, &[]);
    assert!(
        ran.text().contains("docker-credential-lab"),
        "{}",
        ran.text()
    );
    let stored = fs::read_to_string(bench.path("docker-credential-lab.store")).unwrap();
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(
        stored,
        json!({ "ServerURL": host, "Username": USER, "Secret": PASSWORD })
    );
    let said = fs::read_to_string(&file).unwrap();
    assert_eq!(said, r#"{ "credsStore": "lab", "other": 1 }"#);
    assert!(!config(&bench).is_file());
    // It answers nothing that makes sense.
    let mut command = with(&["pull", &format!("{host}/a:1")]);
    let ran = Ran::of(command.output().unwrap());
    says(
        &ran,
        1,
        &[
            "`docker-credential-lab` failed: its answer is not JSON",
            "\ntry: ",
        ],
    );
}

#[test]
fn logout_takes_all_or_one_and_names_what_is_others() {
    let bench = Bench::new();
    let auths = json!({ "a.io": { "auth": "dTpw" }, "b.io": { "auth": "dTpw" }, "c.io": { "auth": "dTpw" } });
    fs::create_dir_all(bench.path(".docker")).unwrap();
    fs::create_dir_all(bench.path(".config/containers")).unwrap();
    let other = json!({ "auths": { "a.io": { "auth": "dTpw" } } }).to_string();
    bench.write(".config/containers/auth.json", other.as_bytes());
    let all = json!({ "auths": auths, "psFormat": "x" }).to_string();
    bench.write(".docker/config.json", all.as_bytes());
    let ran = bench.run(&["logout", "a.io"]);
    says(
        &ran,
        0,
        &["containers/auth.json`, which is another program's, has a login of a.io still"],
    );
    let ran = bench.run(&["logout", "--all"]).ok();
    assert_eq!(ran.text().lines().count(), 2, "{}", ran.text());
    assert_eq!(said(&bench), json!({ "auths": {}, "psFormat": "x" }));
    says(
        &bench.run(&["logout", "--all"]),
        3,
        &["no login of any registry"],
    );
}

#[test]
fn what_is_typed_wrong_is_told() {
    let bench = Bench::new();
    for (args, input, words) in [
        (&["login", "a.io"][..], "", "there is no user"),
        (
            &["login", "a.io", "-u", "x"],
            "",
            "there is no terminal to ask for the password",
        ),
        (
            &["login", "a.io", "--password-stdin"],
            "p",
            "there is no user",
        ),
        (
            &["login", "a.io", "-u", "x", "--password-stdin"],
            "\n",
            "the password is empty",
        ),
        (
            &["login", "a.io", "-u", "x:y", "--password-stdin"],
            "p",
            "not the name of a user",
        ),
        (
            &["login", "host", "-u", "x", "--password-stdin"],
            "p",
            "a host has a dot or a port",
        ),
        (
            &["login", "a.io/team", "-u", "x", "--password-stdin"],
            "p",
            "only HOST or HOST:PORT",
        ),
        (&["logout", "a.io", "--all"], "", "cannot be used with"),
    ] {
        let ran = told(bench.command(args), input);
        says(&ran, 2, &[words]);
    }
    assert!(!config(&bench).is_file());
}

#[test]
fn an_image_is_pushed_and_pulled_by_somebody_else() {
    let registry = Registry::with(Auth::bearer(), true);
    let (bench, image) = bench();
    let name = format!("{}/team/a:1", registry.host());
    let nobody = bench.run(&["push", "a:1", &name]);
    let words = [
        "cannot push `127.0.0.1:",
        "does not let strangers",
        "\ntry: lazyroot login",
    ];
    says(&nobody, 1, &words);
    says(&login(&bench, &registry.host(), PASSWORD), 0, &[]);
    let ran = bench.run(&["push", "a:1", &name]).ok();
    assert_eq!(ran.err.matches(" sent\n").count(), 3, "{}", ran.err);
    assert!(ran.text().contains("3 blobs sent"), "{}", ran.text());
    let (_, manifest) = registry.stored("team/a", "1").unwrap();
    let again = bench.run(&["push", "--json", "--quiet", "a:1", &name]).ok();
    let json: Value = serde_json::from_slice(&again.out).unwrap();
    assert_eq!(json["digest"], sha256(&manifest));
    assert_eq!(json["name"], name.as_str());
    let blobs = json["blobs"].as_array().unwrap();
    assert!(
        blobs.iter().all(|blob| blob["arrival"] == "there"),
        "{json}"
    );
    assert_eq!(again.err, "");
    let other = Bench::new();
    fs::create_dir(other.path(".docker")).unwrap();
    other.write(".docker/config.json", &fs::read(config(&bench)).unwrap());
    other.run(&["pull", &name]).ok();
    other.run(&["verify", &name]).ok();
    // Under the name it has, and mounted from where it came from.
    let copy = format!("{}/team/b:1", registry.host());
    other.run(&["tag", &name, &copy]).ok();
    let ran = other.run(&["push", &copy]).ok();
    assert!(ran.text().contains("3 mounted"), "{}", ran.text());
    assert_eq!(registry.stored("team/b", "1").unwrap().1, manifest);
    assert_eq!(image.layers.len(), 2);
}

#[test]
fn who_interrupts_a_push_does_not_wait_and_leaves_no_name() {
    let registry = Registry::new();
    let (bench, _) = bench();
    registry.fault("PUT", "/uploads/", usize::MAX, |_, reply| reply.silence());
    let child = bench
        .command(&["push", "a:1", &format!("{}/a:1", registry.host())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while registry.count("PUT", "") == 0 {
        assert!(Instant::now() < until, "nothing is sent");
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    says(&ran, 130, &["error: interrupted"]);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(registry.stored("a", "1").is_none());
}

#[test]
fn what_cannot_be_pushed_is_told_with_what_to_try() {
    let registry = Registry::new();
    let (bench, _) = bench();
    let to = format!("{}/a:1", registry.host());
    says(
        &bench.run(&["push", "nothing:1", &to]),
        3,
        &["`nothing:1` is not in the store"],
    );
    let id = bench.run(&["images", "--quiet"]).ok().text();
    let id = id.lines().next().unwrap();
    says(
        &bench.run(&["push", id]),
        2,
        &["is not a name", "HOST/NAME:TAG"],
    );
    let manifest =
        json!({ "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app" });
    let aci = Tar::new().file("manifest", manifest.to_string().as_bytes());
    let aci = aci.dir("rootfs").end();
    let path = bench.write("app.aci", &aci);
    bench.import(&path, &[]).ok();
    let ran = bench.run(&["push", "appc:example.com/app", &to]);
    says(
        &ran,
        2,
        &["is an AppC image, which registries do not take", "\ntry: "],
    );
    // Nobody is there.
    let gone = "127.0.0.1:9/a:1";
    says(&bench.run(&["push", "a:1", gone]), 1, &["127.0.0.1:9"]);
    assert!(registry.stored("a", "1").is_none());
}
