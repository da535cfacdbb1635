//! Images that the store has, has in part, or has not; and many who want the same one.
//!
//! Restated from Mesos' `provisioner_docker_tests` (each with its name there), for
//! Docker and AppC images alike.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lazyroot::digest::{AciId, ImageId};
use lazyroot::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::appc::aci;
use crate::images::{Bench, Image, Layer, Packing, Ran, Tar, archive};
use crate::web::{Reply, Web};

const APP: &str = "appc:x.org/app:1,os=linux,arch=amd64";
const FILE: &str = "x.org/app-1-linux-amd64.aci";
const LABELS: [(&str, &str); 3] = [("version", "1"), ("os", "linux"), ("arch", "amd64")];

/// `abc:latest`: two layers that have `/x`, which says `text` in the upper one.
fn abc(text: &str) -> Image {
    let layer = |own: &str, text: &str| {
        let tar = Tar::new().file("x", text.as_bytes()).file(own, b"");
        Layer::new(&tar.end(), Packing::Gzip)
    };
    Image::new(
        "abc:latest",
        vec![layer("123", "lower"), layer("456", text)],
    )
}

fn app(text: &str) -> Vec<u8> {
    aci("x.org/app", &LABELS, json!([]), text)
}

/// A store, and a directory with `abc.tar` and the ACI.
fn bench() -> (Bench, PathBuf) {
    let bench = Bench::new();
    let dir = bench.path("images");
    fs::create_dir_all(dir.join("x.org")).unwrap();
    put(&dir, "one");
    (bench, dir)
}

fn put(dir: &Path, text: &str) {
    fs::write(dir.join("abc.tar"), archive(&abc(text).legacy())).unwrap();
    fs::write(dir.join(FILE), app(text)).unwrap();
}

fn pull(bench: &Bench, dir: &Path, policy: &str, image: &str) -> Ran {
    let dir = dir.to_str().unwrap();
    bench.run(&[
        "pull",
        "--quiet",
        "--policy",
        policy,
        "--local-dir",
        dir,
        image,
    ])
}

fn cat(bench: &Bench, what: &str) -> String {
    bench.run(&["cat", what]).ok().text()
}

/// The file of both images that tells them apart.
const BOTH: [(&str, &str); 2] = [("abc", "abc:/x"), (APP, "appc:x.org/app:/etc/x.org-app")];

#[track_caller]
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
}

/// T18, `LocalStoreTestWithTar`.
#[test]
fn layers_of_an_archive_come_in_their_order() {
    let (bench, dir) = bench();
    pull(&bench, &dir, "missing", "abc").ok();
    assert_eq!(bench.run(&["ls", "abc:/"]).ok().text(), "123\n456\nx\n");
    assert_eq!(cat(&bench, "abc:/x"), "one");
    let inspected = bench.run(&["inspect", "--json", "abc"]).ok();
    let inspected: Value = serde_json::from_slice(&inspected.out).unwrap();
    let layers = abc("one").layers;
    let text = inspected.to_string();
    let place = |layer: &Layer| text.find(&layer.diff).unwrap();
    assert!(place(&layers[0]) < place(&layers[1]), "{text}");
}

/// T19, `MetadataManagerInitialization`.
#[test]
fn what_was_fetched_is_there_for_later_processes() {
    let (bench, dir) = bench();
    for (image, file) in BOTH {
        let nothing = pull(&bench, &dir, "never", image);
        says(&nothing, 3, &["is not in the store", "\ntry: "]);
        pull(&bench, &dir, "missing", image).ok();
        let there = pull(&bench, Path::new("/nothing"), "never", image).ok();
        let again = pull(&bench, Path::new("/nothing"), "missing", image).ok();
        assert_eq!(there.text(), again.text());
        assert_eq!(there.text().lines().count(), 1, "{}", there.text());
        assert_eq!(cat(&bench, file), "one");
    }
}

/// T20, `MetadataManagerRecoverEmptyImages`: a machine that lost power.
#[test]
fn an_empty_table_of_names_is_put_aside_and_the_image_fetched_again() {
    let (bench, dir) = bench();
    pull(&bench, &dir, "missing", "abc").ok();
    let names = bench.store.join("images-v1/names.json");
    fs::write(&names, "").unwrap();
    let never = pull(&bench, &dir, "never", "abc");
    says(&never, 5, &["names.json` is damaged", "\ntry: "]);
    let dir = dir.to_str().unwrap();
    let args = ["pull", "--policy", "missing", "--local-dir", dir, "abc"];
    let ran = bench.run(&args).ok();
    assert!(
        ran.err.contains("note: it is fetched again, as `"),
        "{}",
        ran.err
    );
    assert_eq!(cat(&bench, "abc:/x"), "one");
    assert!(names.with_extension("damaged").is_file());
}

/// T21, `LocalStoreMissingLayer`: files that somebody took away.
#[test]
fn an_image_that_is_not_whole_is_fetched_again() {
    let (bench, dir) = bench();
    for (image, file) in BOTH {
        pull(&bench, &dir, "missing", image).ok();
        let store = Store::open(&bench.store, &bench.path("cache"), 0).unwrap();
        let id: ImageId = store.find(image).unwrap();
        let record = store.image(id).unwrap();
        let mut files = vec![store.image_path(id)];
        if AciId::of_image(id).is_none() {
            files.push(store.blob_path(lazyroot::digest::BlobId(id.0)));
        }
        for layer in &record.layers {
            let kept = store.layer(layer.diff).unwrap().unwrap();
            files.extend([
                store.layer_path(layer.diff),
                store.index_path(layer.diff),
                store.map_path(kept.blob),
                store.blob_path(kept.blob),
            ]);
        }
        for path in files {
            fs::remove_file(&path).unwrap();
            let never = pull(&bench, &dir, "never", image);
            assert!(
                matches!(never.code, 3 | 5),
                "{}: {}",
                path.display(),
                never.err
            );
            pull(&bench, &dir, "missing", image).ok();
            assert_eq!(cat(&bench, file), "one", "{}", path.display());
            assert!(path.is_file(), "{}", path.display());
            pull(&bench, Path::new("/nothing"), "never", image).ok();
        }
    }
}

/// T21 for what an image is built on.
#[test]
fn a_dependency_that_is_not_whole_is_fetched_again() {
    let (bench, dir) = bench();
    let on = json!([{ "imageName": "x.org/app" }]);
    let top = aci("x.org/top", &LABELS, on, "top");
    fs::write(dir.join("x.org/top-1-linux-amd64.aci"), top).unwrap();
    const TOP: &str = "appc:x.org/top:1,os=linux,arch=amd64";
    // Its dependency has no version: the latest one is looked for.
    let latest = format!("x.org/app-latest-linux-{}.aci", crate::appc::host());
    fs::copy(dir.join(FILE), dir.join(latest)).unwrap();
    let ran = pull(&bench, &dir, "missing", TOP).ok();
    assert_eq!(ran.text().lines().count(), 2, "{}", ran.text());
    let store = Store::open(&bench.store, &bench.path("cache"), 0).unwrap();
    let id = store.find(APP).unwrap();
    let layer = store.image(id).unwrap().layers[0];
    let blob = store.layer(layer.diff).unwrap().unwrap().blob;
    fs::remove_file(store.blob_path(blob)).unwrap();
    says(&pull(&bench, &dir, "never", TOP), 5, &["not all of it"]);
    let ran = pull(&bench, &dir, "missing", TOP).ok();
    assert!(ran.text().contains("x.org/app"), "{}", ran.text());
    assert_eq!(cat(&bench, &format!("{TOP}:/etc/x.org-app")), "one");
    pull(&bench, Path::new("/nothing"), "never", TOP).ok();
}

/// T27, `ROOT_DOCKER_ImageForceFetch`.
#[test]
fn an_image_that_is_to_be_new_is_fetched_though_it_is_there() {
    let (bench, dir) = bench();
    for (image, file) in BOTH {
        put(&dir, "one");
        pull(&bench, &dir, "missing", image).ok();
        put(&dir, "two");
        pull(&bench, &dir, "missing", image).ok();
        assert_eq!(cat(&bench, file), "one");
        pull(&bench, &dir, "always", image).ok();
        // Of AppC images that fit, the one imported last is meant; they may be of one
        // second, when the greater ID is.
        if image == "abc" {
            assert_eq!(cat(&bench, file), "two");
        }
        fs::remove_file(dir.join(if image == "abc" { "abc.tar" } else { FILE })).unwrap();
        let gone = pull(&bench, &dir, "always", image);
        says(&gone, 3, &["was not found"]);
    }
}

#[test]
fn kinds_of_images_that_are_not_enabled_are_refused() {
    let (bench, dir) = bench();
    for (image, providers, words) in [
        (
            "abc",
            "appc",
            [
                "Docker images are not enabled (providers: appc)",
                "--providers appc,docker",
            ],
        ),
        (
            APP,
            "DOCKER",
            [
                "AppC images are not enabled (providers: docker)",
                "--providers docker,appc",
            ],
        ),
    ] {
        pull(&bench, &dir, "missing", image).ok();
        for policy in ["missing", "always", "never"] {
            let args = [
                "pull",
                "--provisioners",
                providers,
                "--policy",
                policy,
                image,
            ];
            says(&bench.run(&args), 2, &words);
        }
    }
}

#[test]
fn docker_images_are_in_the_named_directory_however_others_are_found() {
    let (bench, dir) = bench();
    let dir = dir.to_str().unwrap();
    let args = [
        "pull",
        "--provisioner_discovery",
        "simple",
        "--provisioner_local_dir",
        dir,
        "abc",
    ];
    bench.run(&args).ok();
    let args = ["pull", "--appc_simple_discovery_uri_prefix", dir, APP];
    bench.run(&args).ok();
    let args = ["pull", "--docker_registry", dir, "abc"];
    bench.run(&args).ok();
}

/// A process that pulls from a server; what it says is read line by line.
struct Puller {
    child: Child,
    err: BufReader<std::process::ChildStderr>,
}

impl Puller {
    fn start(bench: &Bench, web: &Web, policy: &str) -> Self {
        let prefix = web.url("");
        let args = [
            "pull",
            "--policy",
            policy,
            "--discovery",
            "simple",
            "--discovery-prefix",
            &prefix,
            "--allow-http",
            APP,
        ];
        let mut child = bench
            .command(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, err }
    }

    /// Waits for a line with this in it.
    #[track_caller]
    fn says(&mut self, word: &str) {
        let mut all = String::new();
        loop {
            let begin = all.len();
            let got = self.err.read_line(&mut all).unwrap();
            assert!(got > 0, "it ended without `{word}`: {all}");
            if all[begin..].contains(word) {
                return;
            }
        }
    }

    fn interrupt(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }

    #[track_caller]
    fn ends(mut self, code: i32) {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.err, &mut rest).unwrap();
        assert_eq!(status.code(), Some(code), "{rest}");
    }
}

/// A server whose image comes when it is let go.
struct Slow {
    web: Web,
    go: Arc<AtomicBool>,
}

impl Slow {
    /// Of the answers only the first `waits` have to wait.
    fn new(waits: usize) -> Self {
        let (image, go) = (app("one"), Arc::new(AtomicBool::new(false)));
        let gate = Arc::clone(&go);
        let web = Web::new(move |asked| {
            while asked.before < waits && !gate.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Reply::ok(image.as_slice())
        });
        Self { web, go }
    }

    fn start(&self, bench: &Bench, policy: &str) -> Puller {
        Puller::start(bench, &self.web, policy)
    }

    /// Waits until it was asked so often.
    #[track_caller]
    fn asked(&self, times: usize) {
        let begin = Instant::now();
        while self.web.asked().len() < times {
            assert!(begin.elapsed() < Duration::from_secs(60), "it is not asked");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.go.store(true, Ordering::Relaxed);
    }
}

fn left(bench: &Bench) -> Vec<String> {
    let names = fs::read_dir(bench.store.join("fetch"))
        .into_iter()
        .flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// T22, `PullingSameImageSimutanuously` and its discards.
#[test]
fn many_who_want_one_image_share_its_transfer() {
    for policy in ["missing", "always"] {
        let (bench, slow) = (Bench::new(), Slow::new(1));
        let first = slow.start(&bench, policy);
        slow.asked(1);
        let mut others = [(); 3].map(|()| slow.start(&bench, policy));
        for other in &mut others {
            other.says("waits for another process that fetches `appc:x.org/app:1");
        }
        // One who gives up stops no other.
        let [gives_up, second, third] = others;
        gives_up.interrupt();
        gives_up.ends(130);
        slow.go.store(true, Ordering::Relaxed);
        first.ends(0);
        second.ends(0);
        third.ends(0);
        assert_eq!(slow.web.asked().len(), 1, "{policy}: {:?}", slow.web.urls());
        assert_eq!(left(&bench), [""; 0]);
        assert_eq!(cat(&bench, BOTH[1].1), "one");
    }
}

/// T22: the one that fetches is the one that is stopped.
#[test]
fn when_who_fetches_gives_up_the_next_one_fetches() {
    let (bench, slow) = (Bench::new(), Slow::new(1));
    let first = slow.start(&bench, "missing");
    slow.asked(1);
    let mut second = slow.start(&bench, "missing");
    second.says("waits for");
    first.interrupt();
    first.ends(130);
    second.says("fetches http://");
    second.ends(0);
    assert_eq!(slow.web.asked().len(), 2);
    assert_eq!(cat(&bench, BOTH[1].1), "one");
}

/// T23, all of them are.
#[test]
fn when_all_give_up_the_transfer_ends_and_nothing_is_left() {
    let (bench, slow) = (Bench::new(), Slow::new(9));
    let first = slow.start(&bench, "missing");
    slow.asked(1);
    let mut others = [(); 2].map(|()| slow.start(&bench, "missing"));
    for other in &mut others {
        other.says("waits for");
    }
    // Who waits is stopped first: else it would be its turn.
    for other in others {
        other.interrupt();
        other.ends(130);
    }
    first.interrupt();
    first.ends(130);
    assert_eq!(slow.web.asked().len(), 1);
    says(&bench.run(&["cat", BOTH[1].1]), 3, &["is not in the store"]);
    assert_eq!(locks(&bench), 0);
}

#[test]
fn who_wants_a_signature_does_not_take_what_comes_without_one() {
    let bench = Bench::new();
    let go = Arc::new(AtomicBool::new(false));
    let (image, gate) = (app("one"), Arc::clone(&go));
    let web = Web::new(move |asked| {
        if asked.url.ends_with(".asc") {
            return Reply::status(404);
        }
        while asked.before == 0 && !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Reply::ok(image.as_slice())
    });
    let slow = Slow { web, go };
    let first = slow.start(&bench, "always");
    slow.asked(1);
    let keys = crate::signatures::keyring(&[&crate::signatures::alice()]);
    let prefix = slow.web.url("");
    let args = [
        "pull",
        "--discovery=simple",
        "--discovery-prefix",
        &prefix,
        "--allow-http",
        "--require-signature",
        "--keyring",
        keys.path().to_str().unwrap(),
        APP,
    ];
    says(&bench.run(&args), 1, &["signature"]);
    slow.go.store(true, Ordering::Relaxed);
    first.ends(0);
}

fn locks(bench: &Bench) -> usize {
    let left = left(bench).into_iter();
    left.filter(|name| name.ends_with(".lock")).count()
}

#[test]
fn a_lock_that_a_crash_left_is_swept_and_keeps_nobody_waiting() {
    let (bench, slow) = (Bench::new(), Slow::new(2));
    for round in 1..3 {
        let mut first = slow.start(&bench, "missing");
        slow.asked(round);
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        assert_eq!(locks(&bench), 1);
        if round == 1 {
            bench.run(&["gc"]).ok();
            assert_eq!(locks(&bench), 0);
        }
    }
    slow.start(&bench, "missing").ends(0);
    assert_eq!(locks(&bench), 0);
}
