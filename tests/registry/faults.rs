//! Images that come from a registry, by the program itself: each fault is survived, or
//! refused with one error, and nothing half-made stays.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::images::{Bench, Image, Layer, Packing, Ran, Tar, noise, sha256};
use crate::server::{Auth, OCI_INDEX, OCI_MANIFEST, PASSWORD, Pushed, Registry, USER};
use crate::web::{Asked, Reply};

/// Two layers of 300 KB, each with a file of its own.
fn image(salt: u64) -> Image {
    let layer = |number: u64| {
        let file = noise(salt * 10 + number, 300_000);
        let tar = Tar::new().file(&format!("file{number}"), &file).end();
        Layer::new(&tar, Packing::Gzip)
    };
    Image::new("a:1", vec![layer(1), layer(2)])
}

/// The login of these tests, where Docker would have put it.
fn log_in(bench: &Bench, host: &str, password: &str) {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    let said = json!({ "auths": { host: { "auth": pair } } });
    fs::create_dir_all(bench.path(".docker")).unwrap();
    bench.write(".docker/config.json", said.to_string().as_bytes());
}

fn pull(bench: &Bench, registry: &Registry, name: &str) -> Ran {
    bench.run(&["pull", &format!("{}/{name}", registry.host())])
}

#[track_caller]
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
    assert!(!ran.err.contains(PASSWORD), "{}", ran.err);
}

/// All of the image is there, and it is this one.
#[track_caller]
fn is_whole(bench: &Bench, registry: &Registry, name: &str, image: &Image) {
    let full = format!("{}/{name}", registry.host());
    is_whole_as(bench, &full, image);
}

#[track_caller]
fn is_whole_as(bench: &Bench, full: &str, image: &Image) {
    bench.run(&["verify", full]).ok();
    let inspected = bench.run(&["inspect", "--json", full]).ok();
    let inspected: Value = serde_json::from_slice(&inspected.out).unwrap();
    let layers = inspected["layers"].as_array().unwrap().iter();
    let diffs: Vec<&str> = layers
        .map(|layer| layer["diff_id"].as_str().unwrap())
        .collect();
    let wanted: Vec<&str> = image.layers.iter().map(|layer| &*layer.diff).collect();
    assert_eq!(diffs, wanted);
}

/// Nothing but parts that the next pull goes on with.
#[track_caller]
fn is_empty(bench: &Bench) {
    let files = bench.files();
    let left: Vec<_> = (files.keys())
        .map(|path| path.strip_prefix(&bench.store).unwrap())
        .filter(|path| !path.starts_with("fetch"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let images = bench.run(&["images", "--quiet"]);
    assert_eq!(images.text(), "");
}

#[test]
fn images_of_both_kinds_come_by_tag_and_by_digest() {
    for by_digest in [false, true] {
        let (registry, image) = (Registry::new(), image(1));
        let all = [
            registry.oci("team/a", "1", &image),
            registry.docker("team/b", "1", &image),
        ];
        for (repository, pushed) in ["team/a", "team/b"].into_iter().zip(all) {
            let bench = Bench::new();
            let digest = pushed.digest();
            let name = match by_digest {
                true => format!("{repository}@{digest}"),
                false => format!("{repository}:1"),
            };
            pull(&bench, &registry, &name).ok();
            is_whole(&bench, &registry, &name, &image);
            // Found by the digest of its manifest, which came as it was.
            is_whole(&bench, &registry, &format!("{repository}@{digest}"), &image);
            let asked = registry.count("GET", "/blobs/");
            pull(&bench, &registry, &name).ok();
            assert_eq!(
                registry.count("GET", "/blobs/"),
                asked,
                "{:?}",
                registry.log()
            );
        }
    }
}

#[test]
fn a_layer_that_another_image_brought_is_not_asked_for() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let (one, mut two) = (image(1), image(2));
    two.layers[0] = one.layers[0].clone();
    let first = registry.oci("a", "1", &one);
    registry.oci("b", "1", &two);
    pull(&bench, &registry, "a:1").ok();
    pull(&bench, &registry, "b:1").ok();
    assert_eq!(
        registry.count("GET", &first.layers[0]),
        1,
        "{:?}",
        registry.log()
    );
    is_whole(&bench, &registry, "b:1", &two);
}

/// An index of two platforms, and what each is.
fn index(registry: &Registry) -> [(Image, Pushed); 2] {
    let platforms = ["amd64", "arm64"].into_iter().zip([3, 4]);
    let all: Vec<_> = platforms
        .map(|(architecture, salt)| {
            let image = image(salt);
            let files = image.oci_with(
                &|config| config["architecture"] = architecture.into(),
                &|_| {},
            );
            let blob = |digest: &str| {
                let name = format!("blobs/{}", digest.replace(':', "/"));
                let found = files.iter().find(|(known, _)| *known == name);
                found.unwrap().1.clone()
            };
            let top = &files
                .iter()
                .find(|(name, _)| name == "index.json")
                .unwrap()
                .1;
            let top: Value = serde_json::from_slice(top).unwrap();
            let manifest = blob(top["manifests"][0]["digest"].as_str().unwrap());
            let pushed = registry.manifest("m", architecture, OCI_MANIFEST, &manifest);
            for digest in pushed.layers.iter().chain([&pushed.config]) {
                registry.blob("m", &blob(digest));
            }
            (architecture, image, pushed)
        })
        .collect();
    let manifests: Vec<_> = (all.iter())
        .map(|(architecture, _, pushed)| {
            json!({
                "mediaType": OCI_MANIFEST, "digest": pushed.digest(), "size": pushed.manifest.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        })
        .collect();
    let said = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    registry.manifest("m", "1", OCI_INDEX, said.to_string().as_bytes());
    let all: Vec<_> = all
        .into_iter()
        .map(|(_, image, pushed)| (image, pushed))
        .collect();
    all.try_into().unwrap()
}

#[test]
fn one_platform_of_several_comes_and_nothing_of_the_others() {
    let registry = Registry::new();
    let all = index(&registry);
    let name = format!("{}/m:1", registry.host());
    for (platform, at) in [("linux/amd64", 0), ("linux/arm64", 1)] {
        let bench = Bench::new();
        bench.run(&["pull", "--platform", platform, &name]).ok();
        is_whole_as(&bench, &name, &all[at].0);
    }
    let other = &all[1].1.layers[0];
    assert_eq!(registry.count("GET", other), 1, "{:?}", registry.log());
    let bench = Bench::new();
    let ran = bench.run(&["pull", "--platform", "linux/s390x", &name]);
    says(&ran, 1, &["linux/s390x"]);
    is_empty(&bench);
}

#[test]
fn schema_1_is_refused_by_name() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let said =
        json!({ "schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": [], "history": [] });
    let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    registry.manifest("a", "1", kind, said.to_string().as_bytes());
    says(&pull(&bench, &registry, "a:1"), 1, &["schema"]);
    is_empty(&bench);
}

#[test]
fn who_has_a_login_gets_it_in_every_way() {
    let bearer = |anonymous, uses| Auth::Bearer {
        realm: None,
        anonymous,
        uses,
    };
    let image = image(1);
    // A token that is good for two requests ends in the middle.
    for auth in [Auth::Basic, bearer(false, usize::MAX), bearer(false, 2)] {
        let registry = Registry::with(auth.clone(), true);
        registry.oci("team/a", "1", &image);
        let bench = Bench::new();
        let ran = pull(&bench, &registry, "team/a:1");
        says(
            &ran,
            1,
            &["does not let strangers", "\ntry: lazyroot login"],
        );
        is_empty(&bench);
        log_in(&bench, &registry.host(), "wrong");
        let ran = pull(&bench, &registry, "team/a:1");
        says(&ran, 1, &["error: "]);
        assert!(!ran.err.contains("wrong"), "{}", ran.err);
        is_empty(&bench);
        log_in(&bench, &registry.host(), PASSWORD);
        pull(&bench, &registry, "team/a:1").ok();
        is_whole(&bench, &registry, "team/a:1", &image);
    }
    let registry = Registry::with(bearer(true, 2), true);
    registry.oci("team/a", "1", &image);
    let bench = Bench::new();
    pull(&bench, &registry, "team/a:1").ok();
    is_whole(&bench, &registry, "team/a:1", &image);
}

#[test]
fn a_login_of_another_registry_is_not_sent() {
    let (bench, registry) = (Bench::new(), Registry::with(Auth::Basic, true));
    registry.oci("a", "1", &image(1));
    log_in(&bench, "other.example.com", PASSWORD);
    says(&pull(&bench, &registry, "a:1"), 1, &["strangers"]);
    let asked = registry.web.asked();
    assert!(
        asked
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
}

type Change = fn(Reply) -> Reply;

#[test]
fn every_passing_fault_is_survived() {
    let image = image(1);
    let faults: [(&str, Change); 7] = [
        ("500", |reply| reply.with_status(500)),
        ("503", |reply| reply.with_status(503)),
        ("429", |reply| {
            reply.with_status(429).header("Retry-After", "0")
        }),
        ("cut", |reply| {
            let half = reply.len() / 2;
            reply.cut(half)
        }),
        ("reset", |reply| {
            let half = reply.len() / 2;
            reply.reset(half)
        }),
        ("no answer", Reply::hang_up),
        ("chunked", Reply::chunked),
    ];
    std::thread::scope(|scope| {
        for (name, change) in faults {
            let image = &image;
            scope.spawn(move || {
                for ranges in [true, false] {
                    let registry = Registry::with(Auth::Open, ranges);
                    let pushed = registry.oci("a", "1", image);
                    for part in [
                        "/manifests/",
                        &pushed.config,
                        &pushed.layers[0],
                        &pushed.layers[1],
                    ] {
                        registry.fault("GET", part, 1, move |_, reply| change(reply));
                    }
                    let bench = Bench::new();
                    let ran = pull(&bench, &registry, "a:1");
                    assert_eq!(ran.code, 0, "{name}: {}", ran.err);
                    is_whole(&bench, &registry, "a:1", image);
                    if ranges && matches!(name, "cut" | "reset") {
                        let asked = registry.web.asked();
                        let parts = asked
                            .iter()
                            .filter(|asked| asked.headers.contains_key("range"));
                        assert_eq!(parts.count(), 2, "{name}: goes on where it was cut");
                    }
                }
            });
        }
    });
}

/// What stays wrong, or lies.
#[test]
fn a_fault_that_stays_is_one_error_and_nothing_is_left() {
    let image = image(1);
    let lie: Change = |reply| reply.flip(100);
    let faults: [(&str, &str, Change, i32, &str); 8] = [
        (
            "manifest",
            "404",
            |reply| reply.with_status(404),
            3,
            "is not at",
        ),
        (
            "manifest",
            "403",
            |reply| reply.with_status(403),
            1,
            "does not let strangers",
        ),
        ("by digest", "other bytes", lie, 1, "has digest sha256:"),
        (
            "config",
            "404",
            |reply| reply.with_status(404),
            3,
            "is not at",
        ),
        ("config", "other bytes", lie, 1, "sha256:"),
        (
            "layer",
            "404",
            |reply| reply.with_status(404),
            3,
            "is not at",
        ),
        ("layer", "other bytes", lie, 1, "sha256:"),
        ("layer", "too long", |reply| reply.longer(), 1, "bytes"),
    ];
    std::thread::scope(|scope| {
        for (what, how, change, code, words) in faults {
            let image = &image;
            scope.spawn(move || {
                let (bench, registry) = (Bench::new(), Registry::new());
                let pushed = registry.oci("a", "1", image);
                let by_digest = format!("a@{}", pushed.digest());
                let (part, name) = match what {
                    "config" => (pushed.config.as_str(), "a:1"),
                    "layer" => (pushed.layers[1].as_str(), "a:1"),
                    "manifest" => ("/manifests/", "a:1"),
                    _ => ("/manifests/", by_digest.as_str()),
                };
                registry.fault("GET", part, usize::MAX, move |_, reply| change(reply));
                let ran = pull(&bench, &registry, name);
                assert_eq!(ran.code, code, "{what}, {how}: {}", ran.err);
                assert!(ran.err.contains(words), "{what}, {how}: {}", ran.err);
                let errors = ran.err.lines().filter(|line| line.starts_with("error: "));
                assert_eq!(errors.count(), 1, "{}", ran.err);
                is_empty(&bench);
                // And the lie is not gone on with.
                registry.heal();
                pull(&bench, &registry, "a:1").ok();
                is_whole(&bench, &registry, "a:1", image);
            });
        }
    });
}

/// A manifest whose layer is another one than it says: the digest of the blob is right.
#[test]
fn a_config_that_names_another_layer_is_refused() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let mut image = image(1);
    image.layers[1].diff = sha256(b"other");
    registry.oci("a", "1", &image);
    let ran = pull(&bench, &registry, "a:1");
    says(&ran, 1, &[&image.layers[1].diff]);
    is_empty(&bench);
}

/// What the registry says of its own bytes counts for nothing.
#[test]
fn a_header_that_lies_about_a_digest_changes_nothing() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = image(1);
    registry.oci("a", "1", &image);
    let lie = |_: &Asked, reply: Reply| reply.header("Docker-Content-Digest", &sha256(b"x"));
    registry.fault("GET", "", usize::MAX, lie);
    pull(&bench, &registry, "a:1").ok();
    is_whole(&bench, &registry, "a:1", &image);
}

/// The command with this registry as every host there is, by TLS.
fn as_every_host(bench: &Bench, registry: &Registry, args: &[&str]) -> Ran {
    let roots = bench.write("roots.pem", registry.web.certificate().as_bytes());
    let mut command = bench.command(args);
    command
        .env("https_proxy", registry.web.proxy())
        .env("http_proxy", registry.web.proxy())
        .env("SSL_CERT_FILE", roots);
    Ran::of(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn no_login_goes_along_when_a_blob_is_elsewhere() {
    for auth in [Auth::Basic, Auth::bearer()] {
        let (bench, registry) = (Bench::new(), Registry::with(auth, true));
        let image = image(1);
        registry.oci("team/a", "1", &image);
        registry.fault(
            "GET",
            "https://example.com/v2/team/a/blobs/",
            usize::MAX,
            |asked, reply| match asked.headers.contains_key("authorization") {
                true => {
                    let digest = asked.path().rsplit('/').next().unwrap();
                    Reply::redirect(&format!("https://storage.example.com/{digest}"))
                }
                false => reply,
            },
        );
        log_in(&bench, "example.com", PASSWORD);
        as_every_host(&bench, &registry, &["pull", "example.com/team/a:1"]).ok();
        is_whole_as(&bench, "example.com/team/a:1", &image);
        let asked = registry.web.asked();
        let there = asked.iter().filter(|asked| asked.url.contains("storage."));
        let there: Vec<_> = there.collect();
        assert_eq!(there.len(), 3, "{:?}", registry.web.urls());
        assert!(
            there
                .iter()
                .all(|asked| !asked.headers.contains_key("authorization"))
        );
        assert!(
            there
                .iter()
                .all(|asked| !asked.headers.values().any(|value| value.contains(USER)))
        );
    }
}

#[test]
fn nothing_leaves_tls_by_a_redirect() {
    let (bench, registry) = (Bench::new(), Registry::new());
    registry.oci("a", "1", &image(1));
    registry.fault("GET", "/blobs/", usize::MAX, |_, _| {
        Reply::redirect("http://other.org/x")
    });
    let ran = as_every_host(&bench, &registry, &["pull", "example.com/a:1"]);
    says(&ran, 1, &["from https to `http://other.org"]);
    assert!(
        registry
            .web
            .urls()
            .iter()
            .all(|url| !url.contains("other.org"))
    );
    is_empty(&bench);
}

#[test]
fn tokens_may_be_made_by_another_host_which_alone_gets_the_password() {
    let auth = Auth::Bearer {
        realm: Some("https://other.org/token".to_owned()),
        anonymous: false,
        uses: 3,
    };
    let (bench, registry) = (Bench::new(), Registry::with(auth, true));
    let image = image(1);
    registry.oci("team/a", "1", &image);
    log_in(&bench, "example.com", PASSWORD);
    as_every_host(&bench, &registry, &["pull", "example.com/team/a:1"]).ok();
    for asked in registry.web.asked() {
        let told = asked
            .headers
            .get("authorization")
            .map_or("", String::as_str);
        let basic = told.starts_with("Basic ");
        assert_eq!(
            basic,
            asked.url.starts_with("https://other.org/token"),
            "{}",
            asked.url
        );
    }
    is_whole_as(&bench, "example.com/team/a:1", &image);
}

#[test]
fn only_a_host_that_is_named_is_asked_without_tls() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = image(1);
    registry.oci("a", "1", &image);
    let plain = |args: &[&str]| {
        let mut command = bench.command(args);
        command.env("http_proxy", registry.web.proxy());
        // Nobody speaks TLS there.
        command.env("https_proxy", "http://127.0.0.1:9");
        Ran::of(command.stdin(Stdio::null()).output().unwrap())
    };
    let ran = plain(&["pull", "other.org/a:1"]);
    says(&ran, 1, &["cannot fetch `https://other.org/"]);
    assert!(registry.web.asked().is_empty());
    plain(&["pull", "--insecure", "example.com", "other.org/a:1"]);
    assert!(registry.web.asked().is_empty());
    plain(&["pull", "--insecure", "other.org", "other.org/a:1"]).ok();
    is_whole_as(&bench, "other.org/a:1", &image);
}

/// A pull in the background.
struct Pulling {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
}

impl Pulling {
    fn start(bench: &Bench, registry: &Registry, name: &str) -> Self {
        let mut child = bench
            .command(&["pull", &format!("{}/{name}", registry.host())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines }
    }

    /// Waits for a line.
    fn says(&mut self, words: &str) {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let got = self.lines.read_line(&mut line).unwrap();
            all.push_str(&line);
            assert!(got > 0, "never said `{words}`: {all}");
            if line.contains(words) {
                return;
            }
        }
    }

    fn interrupt(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).unwrap();
    }

    #[track_caller]
    fn ends(mut self, code: i32) {
        let mut rest = String::new();
        while self.lines.read_line(&mut rest).unwrap_or(0) > 0 {}
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{rest}");
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes of all parts in the store's `fetch`.
fn parts(bench: &Bench) -> Vec<u64> {
    sizes(&bench.store.join("fetch"))
}

/// Bytes of all files that pulls have for themselves.
fn staged(bench: &Bench) -> Vec<u64> {
    let all = fs::read_dir(bench.store.join("staging")).into_iter();
    let all = all.flatten().flatten().map(|entry| entry.path());
    all.flat_map(|dir| sizes(&dir)).collect()
}

/// Bytes of all files in a directory that have some.
fn sizes(dir: &Path) -> Vec<u64> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = files.filter_map(|entry| entry.metadata().ok());
    let mut all: Vec<u64> = files
        .map(|file| file.len())
        .filter(|len| *len > 0)
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn a_pull_that_was_killed_goes_on_in_the_next() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = image(1);
    let pushed = registry.oci("a", "1", &image);
    let second = &pushed.layers[1];
    registry.fault("GET", second, 1, |_, reply| reply.stall(200_000));
    let mut first = Pulling::start(&bench, &registry, "a:1");
    let whole = image.layers[0].packed.len() as u64;
    wait_for("the first part", || parts(&bench) == [200_000, whole]);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(bench.run(&["images", "--quiet"]).text(), "");
    pull(&bench, &registry, "a:1").ok();
    is_whole(&bench, &registry, "a:1", &image);
    assert_eq!(
        registry.count("GET", &pushed.layers[0]),
        1,
        "{:?}",
        registry.log()
    );
    let asked = registry.web.asked();
    let ranges: Vec<_> = (asked.iter())
        .filter(|asked| asked.url.ends_with(second.as_str()))
        .map(|asked| asked.headers.get("range").map(String::as_str))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=200000-")]);
    assert_eq!(parts(&bench), [0; 0]);
}

/// A part whose first bytes are wrong: found out when all is there, and fetched anew.
#[test]
fn a_part_that_is_damaged_is_not_believed() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = image(1);
    let pushed = registry.oci("a", "1", &image);
    registry.fault("GET", &pushed.layers[1], 1, |_, reply| reply.stall(200_000));
    let mut first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the first part", || parts(&bench).contains(&200_000));
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    for entry in fs::read_dir(bench.store.join("fetch")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if bytes.len() == 200_000 {
            bytes[1000] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    pull(&bench, &registry, "a:1").ok();
    is_whole(&bench, &registry, "a:1", &image);
}

#[test]
fn two_pulls_share_one_transfer_and_who_gives_up_stops_nobody() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = image(1);
    let pushed = registry.oci("a", "1", &image);
    let slow = |_: &Asked, reply: Reply| reply.drip(10_000, Duration::from_millis(100));
    registry.fault("GET", &pushed.layers[1], 1, slow);
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the transfer", || {
        registry.count("GET", &pushed.layers[1]) == 1
    });
    let mut others = [(); 2].map(|()| Pulling::start(&bench, &registry, "a:1"));
    for other in &mut others {
        other.says("waits for another process");
    }
    let [gives_up, waits] = others;
    gives_up.interrupt();
    gives_up.ends(130);
    first.ends(0);
    waits.ends(0);
    is_whole(&bench, &registry, "a:1", &image);
    for layer in &pushed.layers {
        assert_eq!(registry.count("GET", layer), 1, "{:?}", registry.log());
    }
}

#[test]
fn when_who_fetches_gives_up_the_next_one_goes_on() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = image(1);
    let pushed = registry.oci("a", "1", &image);
    registry.fault("GET", &pushed.layers[1], 1, |_, reply| reply.stall(200_000));
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the first part", || parts(&bench).contains(&200_000));
    let mut second = Pulling::start(&bench, &registry, "a:1");
    second.says("waits for another process");
    first.interrupt();
    first.ends(130);
    second.ends(0);
    is_whole(&bench, &registry, "a:1", &image);
    assert_eq!(
        registry.count("GET", &pushed.layers[0]),
        1,
        "{:?}",
        registry.log()
    );
}

#[test]
fn who_interrupts_does_not_wait_for_a_silent_server() {
    for part in ["/manifests/", "/blobs/"] {
        let (bench, registry) = (Bench::new(), Registry::new());
        registry.oci("a", "1", &image(1));
        registry.fault("GET", part, usize::MAX, |_, reply| reply.silence());
        let pulling = Pulling::start(&bench, &registry, "a:1");
        wait_for("a request", || registry.count("GET", part) > 0);
        let begun = Instant::now();
        pulling.interrupt();
        pulling.ends(130);
        assert!(begun.elapsed() < Duration::from_secs(5), "{part}");
        is_empty(&bench);
    }
}

/// Two images that share their second layer, and what becomes of that the first time.
fn sharing(registry: &Registry, change: Change) -> ([Image; 2], String) {
    let mut all = [image(1), image(2)];
    all[1].layers[1] = all[0].layers[1].clone();
    let pushed = registry.oci("a", "1", &all[0]);
    registry.oci("b", "1", &all[1]);
    registry.fault("GET", &pushed.layers[1], 1, move |_, reply| change(reply));
    (all, pushed.layers[1].clone())
}

const SLOWLY: Change = |reply| reply.drip(5_000, Duration::from_millis(60));

/// It was fetched twice once: each process had a file of its own.
#[test]
fn two_pulls_of_other_images_share_the_transfer_of_a_layer() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let (images, shared) = sharing(&registry, SLOWLY);
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the transfer", || registry.count("GET", &shared) == 1);
    let second = Pulling::start(&bench, &registry, "b:1");
    second.ends(0);
    first.ends(0);
    assert_eq!(registry.count("GET", &shared), 1, "{:?}", registry.log());
    is_whole(&bench, &registry, "a:1", &images[0]);
    is_whole(&bench, &registry, "b:1", &images[1]);
    assert_eq!(parts(&bench), [0; 0]);
}

#[test]
fn who_copies_a_layer_goes_on_when_the_other_pull_ends_early() {
    for signal in [Signal::INT, Signal::KILL] {
        let (bench, registry) = (Bench::new(), Registry::new());
        let (images, shared) = sharing(&registry, |reply| reply.stall(150_000));
        let mut first = Pulling::start(&bench, &registry, "a:1");
        wait_for("half of it", || parts(&bench).contains(&150_000));
        let second = Pulling::start(&bench, &registry, "b:1");
        wait_for("the copy", || staged(&bench).contains(&150_000));
        kill_process(Pid::from_child(&first.child), signal).unwrap();
        first.child.wait().unwrap();
        second.ends(0);
        is_whole(&bench, &registry, "b:1", &images[1]);
        let asked = registry.web.asked();
        let ranges: Vec<_> = (asked.iter())
            .filter(|asked| asked.url.ends_with(&shared))
            .map(|asked| asked.headers.get("range").map(String::as_str))
            .collect();
        assert_eq!(ranges, [None, Some("bytes=150000-")]);
    }
}

#[test]
fn who_copies_a_layer_may_leave_and_the_other_pull_goes_on() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let (images, shared) = sharing(&registry, SLOWLY);
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the transfer", || registry.count("GET", &shared) == 1);
    let second = Pulling::start(&bench, &registry, "b:1");
    let own = sha256(&images[1].layers[0].packed);
    wait_for("the second pull", || registry.count("GET", &own) == 1);
    second.interrupt();
    second.ends(130);
    first.ends(0);
    assert_eq!(registry.count("GET", &shared), 1, "{:?}", registry.log());
    is_whole(&bench, &registry, "a:1", &images[0]);
}
