//! Images that come from a registry: whole, what was asked for, and only what is missing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lazyroot::causes::chain;
use lazyroot::digest::Digest;
use lazyroot::http::Network;
use lazyroot::image::Want;
use lazyroot::import::{self, ImportError, Imported, Options, Pull};
use lazyroot::layer::Limits;
use lazyroot::registry::{
    Credentials, Login, Progress, Registry as Client, RegistryError, Secret, Settings,
};
use lazyroot::store::Store;
use serde_json::json;

use crate::images::{Bench, Image, Layer, Packing, Ran, Tar, archive, noise, sha256};
use crate::server::{Auth, OCI_INDEX, OCI_MANIFEST, PASSWORD, Pushed, Registry, USER};
use crate::web::{Reply, Web};

/// How an image is pulled in a test: impatiently.
struct Puller {
    settings: Settings,
    wants: Vec<Want>,
    at_once: usize,
    max_size: u64,
    stop: AtomicBool,
    told: Told,
}

/// What transfers tell: where each begins, and how often one is tried again.
#[derive(Default)]
struct Told(Mutex<(Vec<u64>, usize)>);

impl Progress for Told {
    fn begin(&self, _blob: &Digest, there: u64, _len: Option<u64>) {
        self.0.lock().unwrap().0.push(there);
    }

    fn again(&self, _server: &str, _why: &str) {
        self.0.lock().unwrap().1 += 1;
    }
}

impl import::Progress for Told {}

impl Puller {
    fn new() -> Self {
        Self {
            settings: Settings {
                network: Network {
                    stall: Duration::from_millis(500),
                    pause: Duration::from_millis(5),
                    ..Network::default()
                },
                ..Settings::default()
            },
            wants: vec![Want::host()],
            at_once: 3,
            max_size: u64::MAX,
            stop: AtomicBool::new(false),
            told: Told::default(),
        }
    }

    fn known(registry: &Registry) -> Self {
        let login = Login::Password {
            user: USER.to_owned(),
            password: Secret::new(PASSWORD),
        };
        let mut this = Self::new();
        this.settings.credentials = Credentials::only(&registry.host(), login);
        this
    }

    fn pull(&self, bench: &Bench, name: &str) -> Result<Vec<Imported>, ImportError> {
        let store = Store::create(&bench.store, 0).unwrap();
        let client = Client::new(self.settings.clone());
        let pull = Pull {
            registry: &client,
            name: &name.parse().unwrap(),
            wants: &self.wants,
            at_once: self.at_once,
            max_size: self.max_size,
            transfers: &self.told,
        };
        let options = Options {
            names: &[],
            want: &Want::host(),
            again: false,
            limits: Limits::default(),
            now: 1,
            progress: &self.told,
            stop: &self.stop,
        };
        import::pull(&store, &pull, &options)
    }

    /// Pulls what cannot be pulled; the store is as it was, to the last file.
    #[track_caller]
    fn refuses(&self, bench: &Bench, name: &str, words: &[&str]) {
        Store::create(&bench.store, 0).unwrap();
        let before = bench.files();
        let error = self.pull(bench, name).unwrap_err();
        let text = chain(&error);
        for word in words {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
        assert_eq!(bench.files(), before, "the store is as it was: {text}");
    }
}

/// An image of several layers, of which the first is long.
fn image(name: &str) -> Image {
    let long = Tar::new().file("noise", &noise(7, 900_000)).end();
    let mut image = Image::small(name, 1, Packing::Gzip);
    image.layers.insert(0, Layer::new(&long, Packing::Gzip));
    for salt in 2..5 {
        let file = Tar::new().file(&format!("file-{salt}"), &noise(salt, 3000));
        image.layers.push(Layer::new(&file.end(), Packing::Gzip));
    }
    image
}

/// A registry with that image as `team/app:1`, its long layer, and what it is called.
fn lab(auth: Auth) -> (Registry, Pushed, String) {
    let registry = Registry::with(auth, true);
    let pushed = registry.oci("team/app", "1", &image("app:1"));
    let name = format!("{}/team/app:1", registry.host());
    (registry, pushed, name)
}

/// What import makes of an archive of that image: its files by path, without times.
fn imported(image: &Image) -> Vec<(String, String)> {
    let bench = Bench::new();
    bench.pipe(&archive(&image.oci()), &[]).ok();
    content(&bench)
}

/// The store has what import makes of the image, and nothing else.
#[track_caller]
fn same(bench: &Bench, image: &Image) {
    let (got, wanted) = (content(bench), imported(image));
    let missing: Vec<_> = wanted.iter().filter(|one| !got.contains(one)).collect();
    let more: Vec<_> = got.iter().filter(|one| !wanted.contains(one)).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "missing: {missing:?}, besides: {more:?}"
    );
}

/// Files of blobs, indexes and maps.
fn content(bench: &Bench) -> Vec<(String, String)> {
    let files = bench.files().into_iter();
    let relative = |(path, digest): (std::path::PathBuf, String)| {
        let path = path.strip_prefix(&bench.store).unwrap();
        (path.display().to_string(), digest)
    };
    files
        .map(relative)
        .filter(|(path, _)| {
            !path.starts_with("images-v1")
                && !path.starts_with("leases/")
                && !path.ends_with(".lock")
        })
        .collect()
}

#[test]
fn what_is_pulled_is_what_is_imported() {
    let mut all = vec![image("app:1")];
    all.extend(
        [Packing::Plain, Packing::Zstd, Packing::Bzip2, Packing::Xz]
            .map(|packing| Image::small("app:1", 1, packing)),
    );
    for image in all {
        let registry = Registry::new();
        registry.oci("team/app", "1", &image);
        let bench = Bench::new();
        let name = format!("{}/team/app:1", registry.host());
        let got = Puller::new().pull(&bench, &name).unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].names[0].to_string(), name);
        same(&bench, &image);
        bench.run(&["verify"]).ok();
    }
}

#[test]
fn layers_that_the_store_has_are_not_asked_for() {
    let (registry, _, name) = lab(Auth::Open);
    let docker = registry.docker("team/other", "d", &image("app:1"));
    let bench = Bench::new();
    let first = Puller::new().pull(&bench, &name).unwrap();
    assert_eq!((first[0].layers, first[0].layers_kept), (6, 0));
    let again = Puller::new().pull(&bench, &at(&registry, "team/other:d"));
    let again = again.unwrap();
    assert_eq!((again[0].layers, again[0].layers_kept), (6, 6));
    for layer in &docker.layers {
        assert_eq!(registry.count("GET", layer), 1, "{layer}");
    }
}

fn at(registry: &Registry, name: &str) -> String {
    format!("{}/{name}", registry.host())
}

#[test]
fn a_registry_that_lies_changes_nothing() {
    let bench = Bench::new();
    let wrong = |part: &'static str, words: &[&str], change: fn(Reply) -> Reply| {
        let (registry, pushed, name) = lab(Auth::Open);
        let part = match part {
            "config" => pushed.config,
            "layer" => pushed.layers[0].clone(),
            other => other.to_owned(),
        };
        registry.fault("GET", &part, usize::MAX, move |_, reply| change(reply));
        Puller::new().refuses(&bench, &name, words);
    };
    wrong(
        "layer",
        &["its digest is sha256:", "but the image says"],
        |r| r.flip(700_000),
    );
    wrong(
        "layer",
        &["its digest is sha256:", "but the image says"],
        |r| r.flip(0),
    );
    wrong("layer", &["bytes", "but the image says"], |r| {
        Reply::ok(vec![0; r.len() - 1])
    });
    wrong("layer", &["bytes", "but the image says"], |r| {
        Reply::ok(vec![0; r.len() + 1])
    });
    wrong("layer", &["bytes", "but the image says"], |r| {
        Reply::ok(vec![0; r.len() + 100]).chunked()
    });
    wrong("config", &["has digest sha256:", "was asked for"], |r| {
        r.flip(9)
    });
    wrong("manifests/1", &["cannot be understood"], |_| {
        Reply::ok("<html>")
    });
    wrong("manifests/1", &["more than 8388608"], |_| {
        Reply::ok(vec![b' '; 9 << 20])
    });
    let old = r#"{"schemaVersion":1,"name":"a","fsLayers":[],"history":[],"signatures":[]}"#;
    let old: &'static str = old;
    let (registry, _, name) = lab(Auth::Open);
    registry.fault("GET", "manifests/1", 1, move |_, _| Reply::ok(old));
    Puller::new().refuses(&bench, &name, &["schema 1"]);
    // By its digest it is the manifest of that digest, whatever the headers say.
    let (registry, pushed, _) = lab(Auth::Open);
    registry.fault("GET", "manifests/sha256", 1, |_, reply| reply.flip(3));
    let name = at(&registry, &format!("team/app@{}", pushed.digest()));
    Puller::new().refuses(&bench, &name, &["has digest sha256:", &pushed.digest()]);
}

/// An image whose config is changed, put there with a manifest of its own.
fn with_config(
    registry: &Registry,
    repository: &str,
    tag: &str,
    image: &Image,
    change: impl FnOnce(&mut serde_json::Value),
) -> Pushed {
    let old = registry.oci(repository, tag, image);
    let mut config = image.config();
    change(&mut config);
    let config = config.to_string();
    let mut manifest: serde_json::Value = serde_json::from_slice(&old.manifest).unwrap();
    manifest["config"]["digest"] = json!(registry.blob(repository, config.as_bytes()));
    manifest["config"]["size"] = json!(config.len());
    let manifest = manifest.to_string();
    registry.manifest(repository, tag, OCI_MANIFEST, manifest.as_bytes())
}

#[test]
fn a_config_that_says_other_layers_is_refused() {
    let registry = Registry::new();
    with_config(&registry, "a", "1", &image("app:1"), |config| {
        config["rootfs"]["diff_ids"]
            .as_array_mut()
            .unwrap()
            .swap(1, 2);
    });
    let name = at(&registry, "a:1");
    Puller::new().refuses(&Bench::new(), &name, &["it unpacks to sha256:"]);
}

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    type Fault = fn(Reply) -> Reply;
    let faults: &[(&str, Fault)] = &[
        ("500", |_| Reply::status(500)),
        ("503", |_| Reply::status(503)),
        ("429", |_| Reply::status(429).header("Retry-After", "0")),
        ("cut", |r| r.cut(300_000)),
        ("reset", |r| r.reset(300_000)),
        ("stall", |r| r.stall(300_000)),
        ("hang up", |r| r.hang_up()),
    ];
    for (what, fault) in faults {
        let (registry, pushed, name) = lab(Auth::Open);
        let long = &pushed.layers[0];
        registry.fault("GET", long, 2, move |_, reply| fault(reply));
        registry.fault("GET", "manifests/", 1, |_, _| Reply::status(500));
        let bench = Bench::new();
        let puller = Puller::new();
        puller
            .pull(&bench, &name)
            .unwrap_or_else(|e| panic!("{what}: {}", chain(&e)));
        same(&bench, &image("app:1"));
        assert_eq!(puller.told.0.lock().unwrap().1, 3, "{what}");
        let ranges: Vec<_> = registry
            .web
            .asked()
            .into_iter()
            .filter(|asked| asked.url.contains(long.as_str()))
            .map(|asked| asked.headers.get("range").cloned())
            .collect();
        assert_eq!(ranges.len(), 3, "{what}");
        if matches!(*what, "cut" | "stall") {
            assert_eq!(ranges[1].as_deref(), Some("bytes=300000-"), "{what}");
        }
    }
}

#[test]
fn a_server_that_cannot_go_on_begins_anew() {
    let registry = Registry::with(Auth::Open, false);
    let pushed = registry.oci("team/app", "1", &image("app:1"));
    registry.fault("GET", &pushed.layers[0], 2, |_, reply| reply.cut(300_000));
    registry.fault("GET", &pushed.layers[0], 1, |_, reply| reply.cut(600_000));
    let bench = Bench::new();
    Puller::new()
        .pull(&bench, &at(&registry, "team/app:1"))
        .unwrap();
    same(&bench, &image("app:1"));
}

#[test]
fn a_registry_that_stays_broken_is_given_up_with_its_own_words() {
    let (registry, pushed, name) = lab(Auth::Open);
    let bench = Bench::new();
    registry.fault("GET", &pushed.layers[0], usize::MAX, |_, _| {
        Reply::status(502)
    });
    let error = chain(&Puller::new().pull(&bench, &name).unwrap_err());
    assert!(error.contains("was answered with 502"), "{error}");
    assert_eq!(registry.count("GET", &pushed.layers[0]), 5);
    // It says when, in seconds or by its clock, and that is too long to wait for.
    for wait in ["3600", "Sun, 06 Nov 1994 09:49:37 GMT"] {
        let (registry, _, name) = lab(Auth::Open);
        registry.fault("GET", "manifests/1", usize::MAX, move |_, _| {
            let said = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]});
            let reply = Reply::ok(said.to_string()).with_status(429);
            reply
                .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .header("Retry-After", wait)
        });
        let begun = Instant::now();
        let error = Puller::new().pull(&bench, &name).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(20));
        let hint = error.hint().unwrap();
        assert!(hint.contains("3600 s"), "{wait}: {hint}");
        let error = chain(&error);
        assert!(error.contains("slow down"), "{error}");
        assert_eq!(registry.count("GET", "manifests/1"), 1);
    }
}

#[test]
fn a_token_is_asked_for_and_again_when_it_ends() {
    for (uses, anonymous) in [
        (usize::MAX, true),
        (2, true),
        (1, false),
        (usize::MAX, false),
    ] {
        let (registry, _, name) = lab(Auth::Bearer {
            realm: None,
            anonymous,
            uses,
        });
        let bench = Bench::new();
        let puller = match anonymous {
            true => Puller::new(),
            false => Puller::known(&registry),
        };
        puller
            .pull(&bench, &name)
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
        same(&bench, &image("app:1"));
        if uses == usize::MAX {
            assert_eq!(registry.count("GET", "/token"), 1, "{:?}", registry.log());
        }
    }
}

#[test]
fn a_password_is_sent_as_it_is_where_that_is_demanded() {
    let (registry, _, name) = lab(Auth::Basic);
    let bench = Bench::new();
    Puller::known(&registry).pull(&bench, &name).unwrap();
    same(&bench, &image("app:1"));
}

#[test]
fn who_is_not_known_is_refused_and_told_so() {
    let strangers = [Auth::Basic, Auth::bearer()];
    for auth in strangers {
        let (registry, _, name) = lab(auth);
        let bench = Bench::new();
        let puller = Puller::new();
        puller.refuses(&bench, &name, &["does not let strangers have `team/app`"]);
        let mut wrong = Puller::new();
        let login = Login::Password {
            user: USER.to_owned(),
            password: Secret::new("not it"),
        };
        wrong.settings.credentials = Credentials::only(&registry.host(), login);
        wrong.refuses(&bench, &name, &["does not let you have `team/app`"]);
        let hint = wrong.pull(&bench, &name).unwrap_err().hint().unwrap();
        assert!(
            hint.contains(&format!("lazyroot login {}", registry.host())),
            "{hint}"
        );
        assert!(
            registry.count("GET", "manifests/1") < 8,
            "nobody asks for ever"
        );
    }
}

#[test]
fn no_secret_goes_where_a_redirect_leads() {
    for auth in [Auth::Basic, Auth::bearer()] {
        let (registry, pushed, name) = lab(auth);
        let blob = image("app:1").layers[0].packed.clone();
        let storage = Web::new(move |asked| Reply::file(asked, &blob, "\"x\""));
        let url = storage.url("signed?X-Amz-Signature=secret");
        registry.fault("GET", &pushed.layers[0], usize::MAX, move |_, _| {
            Reply::redirect(&url).with_status(307)
        });
        let bench = Bench::new();
        Puller::known(&registry).pull(&bench, &name).unwrap();
        let asked = storage.asked();
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].headers.contains_key("authorization"), "{asked:?}");
        // What such a place demands is its own affair.
        let (registry, pushed, name) = lab(Auth::Basic);
        let greedy = Web::new(|_| {
            Reply::status(401).header("WWW-Authenticate", "Basic realm=\"all your passwords\"")
        });
        let url = greedy.url("blob");
        registry.fault("GET", &pushed.layers[0], usize::MAX, move |_, _| {
            Reply::redirect(&url)
        });
        let error = Puller::known(&registry)
            .pull(&Bench::new(), &name)
            .unwrap_err();
        let text = chain(&error);
        assert!(text.contains("/blob` was answered with 401"), "{text}");
        let asked = greedy.asked();
        assert!(
            asked
                .iter()
                .all(|a| !a.headers.contains_key("authorization")),
            "{asked:?}"
        );
    }
}

#[test]
fn redirects_that_go_round_are_left() {
    let (registry, pushed, name) = lab(Auth::Open);
    let to = format!("/v2/team/app/blobs/{}", pushed.layers[0]);
    registry.fault("GET", &pushed.layers[0], usize::MAX, move |_, _| {
        Reply::redirect(&to)
    });
    let error = Puller::new().pull(&Bench::new(), &name).unwrap_err();
    let text = chain(&error);
    assert!(text.contains("redirected more than 10 times"), "{text}");
}

#[test]
fn what_a_killed_pull_left_is_not_fetched_again() {
    let (registry, pushed, name) = lab(Auth::Open);
    let bench = Bench::new();
    let long = image("app:1").layers[0].packed.clone();
    registry.fault("GET", &pushed.layers[0], 1, |_, reply| reply.stall(400_000));
    let mut child = bench.command(&["pull", "--quiet", &name]).spawn().unwrap();
    let part = bench.store.join("fetch");
    let part = part.join(format!("{}.part", pushed.layers[0].replace(':', "-")));
    let patience = Instant::now();
    let there = || std::fs::metadata(&part).map_or(0, |data| data.len());
    let others = || {
        pushed.layers[1..]
            .iter()
            .all(|layer| registry.count("GET", layer) == 1)
    };
    while there() < 400_000 || !others() {
        assert!(
            patience.elapsed() < Duration::from_secs(60),
            "{} bytes",
            there()
        );
        thread::sleep(Duration::from_millis(10));
    }
    // The small ones come at once.
    thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let before = registry.log().len();
    let puller = Puller::new();
    puller.pull(&bench, &name).unwrap();
    same(&bench, &image("app:1"));
    let asked = registry.web.asked().split_off(before);
    let blobs: Vec<_> = asked
        .iter()
        .filter(|asked| asked.url.contains("/blobs/"))
        .collect();
    let layers = |asked: &&&crate::web::Asked| !asked.url.contains(&pushed.config);
    let blobs: Vec<_> = blobs.iter().filter(layers).collect();
    assert_eq!(blobs.len(), 1, "{blobs:?}");
    assert_eq!(blobs[0].headers.get("range").unwrap(), "bytes=400000-");
    assert!(long.len() > 400_000);
}

#[test]
fn what_was_left_and_is_rotten_is_fetched_again() {
    let (_registry, pushed, name) = lab(Auth::Open);
    let long = image("app:1").layers[0].packed.clone();
    for rotten in [
        vec![0; 1000],
        vec![0; long.len()],
        vec![0; long.len() + 7],
        [&long[..500_000], &[0; 100]].concat(),
    ] {
        let bench = Bench::new();
        Store::create(&bench.store, 0).unwrap();
        let dir = bench.store.join("fetch");
        std::fs::create_dir_all(&dir).unwrap();
        let part = format!("{}.part", pushed.layers[0].replace(':', "-"));
        std::fs::write(dir.join(part), &rotten).unwrap();
        Puller::new().pull(&bench, &name).unwrap();
        same(&bench, &image("app:1"));
    }
}

#[test]
fn a_mirror_is_asked_first_and_what_it_cannot_give_comes_from_the_registry() {
    let (origin, pushed, name) = lab(Auth::Open);
    let mirrored = |mirror: &Registry| {
        let mut puller = Puller::new();
        let text = format!("{}={}/hub", origin.host(), mirror.host());
        puller.settings.mirrors = vec![text.parse().unwrap()];
        puller
    };
    let mirror = Registry::new();
    mirror.oci("hub/team/app", "1", &image("app:1"));
    let bench = Bench::new();
    mirrored(&mirror).pull(&bench, &name).unwrap();
    assert_eq!(origin.log().len(), 0);
    same(&bench, &image("app:1"));
    // Nobody is there, which is told once.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let bench = Bench::new();
    let mirrors = format!("{}={address}", origin.host());
    let ran = verb(&bench, &["--mirror", &mirrors, &name]).ok();
    let told = format!("note: mirror {address} is passed over: ");
    assert_eq!(ran.err.matches(&told).count(), 1, "{}", ran.err);
    same(&bench, &image("app:1"));
    // It has nothing; it breaks in the middle; it lies.
    let bench = Bench::new();
    mirrored(&Registry::new()).pull(&bench, &name).unwrap();
    same(&bench, &image("app:1"));
    for lie in [
        (|reply| reply.cut(300_000)) as fn(Reply) -> Reply,
        |reply| reply.flip(500_000),
        |_| Reply::status(403),
    ] {
        let mirror = Registry::new();
        mirror.oci("hub/team/app", "1", &image("app:1"));
        mirror.fault("GET", &pushed.layers[0], usize::MAX, move |_, reply| {
            lie(reply)
        });
        let bench = Bench::new();
        mirrored(&mirror).pull(&bench, &name).unwrap();
        same(&bench, &image("app:1"));
    }
}

/// An index of several platforms, each with an image of its own.
fn index(registry: &Registry, platforms: &[&str]) -> (String, Vec<String>) {
    let mut configs = Vec::new();
    let mut manifests = Vec::new();
    for (salt, platform) in platforms.iter().enumerate() {
        let mut image = Image::small("app:1", u8::try_from(salt).unwrap(), Packing::Gzip);
        let file = Tar::new().file("platform", platform.as_bytes());
        image.layers.push(Layer::new(&file.end(), Packing::Gzip));
        let (os, architecture) = platform.split_once('/').unwrap();
        let tag = format!("part-{salt}");
        let pushed = with_config(registry, "multi", &tag, &image, |config| {
            config["os"] = json!(os);
            config["architecture"] = json!(architecture);
        });
        manifests.push(json!({
            "mediaType": OCI_MANIFEST, "digest": pushed.digest(), "size": pushed.manifest.len(),
            "platform": { "os": os, "architecture": architecture },
        }));
        configs.push(pushed.config);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let index = index.to_string();
    registry.manifest("multi", "1", OCI_INDEX, index.as_bytes());
    (sha256(index.as_bytes()), configs)
}

#[test]
fn of_an_index_those_platforms_come_that_are_wanted() {
    let registry = Registry::new();
    let host = lazyroot::image::Platform::host().to_string();
    let (digest, configs) = index(&registry, &["linux/s390x", &host, "linux/mips64"]);
    let bench = Bench::new();
    let name = at(&registry, "multi:1");
    let own = Puller::new().pull(&bench, &name).unwrap();
    assert_eq!(own[0].id.to_string(), configs[1]);
    assert_eq!(
        registry.count("GET", &configs[0]),
        0,
        "others are not looked at"
    );
    let mut puller = Puller::new();
    let wants = ["linux/s390x", "linux/mips64", &*host].map(|p| Want::only(p.parse().unwrap()));
    puller.wants = wants.to_vec();
    let all = puller.pull(&bench, &name).unwrap();
    let ids: Vec<String> = all.iter().map(|image| image.id.to_string()).collect();
    assert_eq!(ids, [&*configs[0], &configs[2], &configs[1]]);
    let named: Vec<usize> = all.iter().map(|image| image.names.len()).collect();
    assert_eq!(named, [0, 0, 1], "the name is this machine's image's");
    // By the index's digest it is found, without having been pulled by it.
    let by_digest = at(&registry, &format!("multi@{digest}:/platform"));
    assert_eq!(bench.run(&["cat", &by_digest]).ok().text(), host);
    puller.wants = vec![Want::only("linux/riscv64".parse().unwrap())];
    puller.refuses(
        &bench,
        &name,
        &["no image for `linux/riscv64`", "`linux/s390x`"],
    );
}

/// Only `pull` could be told a platform once.
#[test]
fn a_container_may_be_of_another_platform_than_the_image_that_is_there() {
    let registry = Registry::new();
    let host = lazyroot::image::Platform::host().to_string();
    let (digest, configs) = index(&registry, &["linux/s390x", &host]);
    let name = at(&registry, "multi:1");
    let bench = Bench::new();
    let rootfs_dir = bench.path("containers");
    let provision = |args: &[&str]| {
        let words = ["--rootfs-dir", rootfs_dir.to_str().unwrap(), "provision"];
        let how = ["--id=web", "--backend=copy", "--json", "--quiet"];
        let ran = bench.run(&[&words, args, &how].concat());
        let made = serde_json::from_slice::<serde_json::Value>(&ran.out);
        (made.map(|made| made["rootfses"][0]["image"].clone()), ran)
    };
    let own = json!(configs[1]);
    let other = json!(configs[0]);
    assert_eq!(provision(&[&name]).0.unwrap(), own);
    // The image of this machine is no longer what the name means.
    for _ in 0..2 {
        let made = provision(&[&name, "--platform", "linux/s390x"]).0;
        assert_eq!(made.unwrap(), other);
    }
    assert_eq!(registry.count("GET", "manifests/1"), 2);
    let by_digest = at(&registry, &format!("multi@{digest}"));
    for (platform, image) in [(&*host, &own), ("linux/s390x", &other)] {
        let made = provision(&[&by_digest, "--platform", platform]).0;
        assert_eq!(made.unwrap(), *image, "{platform}");
    }
    for (code, args, words) in [
        (
            1,
            [&*name, "--platform=linux/mips64"],
            "no image for `linux/mips64`",
        ),
        (
            3,
            [&*configs[0], "--platform=linux/arm64"],
            "is for linux/s390x",
        ),
    ] {
        let ran = provision(&args).1;
        assert!(ran.code == code && ran.err.contains(words), "{}", ran.err);
    }
    let ran = bench.run(&["run", "--platform=linux/mips64", &name, "true"]);
    assert!(
        ran.err.contains("no image for `linux/mips64`"),
        "{}",
        ran.err
    );
}

#[test]
fn by_a_digest_it_is_that_image_and_has_that_name() {
    let (registry, pushed, _) = lab(Auth::Open);
    let bench = Bench::new();
    let name = at(&registry, &format!("team/app@{}", pushed.digest()));
    let got = Puller::new().pull(&bench, &name).unwrap();
    assert_eq!(got[0].names[0].to_string(), name);
    bench.run(&["ls", &format!("{name}:/noise")]).ok();
    bench.run(&["pull", "--policy", "never", &name]).ok();
    assert_eq!(registry.count("GET", "manifests/"), 1);
    // A tag beside it is not looked at.
    let tagged = at(&registry, &format!("team/app:none@{}", pushed.digest()));
    Puller::new().pull(&bench, &tagged).unwrap();
}

#[test]
fn an_image_that_says_it_is_too_large_is_not_fetched() {
    let (registry, _, name) = lab(Auth::Open);
    let mut puller = Puller::new();
    puller.max_size = 900_000;
    puller.refuses(&Bench::new(), &name, &["more than 900000 are not accepted"]);
    assert_eq!(registry.count("GET", "/blobs/"), 1, "its config only");
}

/// Of such layers each could have all of it once.
#[test]
fn layers_that_do_not_say_how_large_they_are_have_room_for_all_of_them_together() {
    let layer = |salt| {
        let tar = Tar::new().file("noise", &noise(salt, 300_000)).end();
        Layer::new(&tar, Packing::Gzip)
    };
    let image = Image::new("app:1", vec![layer(1), layer(2), layer(3)]);
    // The last one says how large it is.
    for chunked in [false, true] {
        let registry = Registry::new();
        let pushed = registry.oci("app", "1", &image);
        let mut manifest: serde_json::Value = serde_json::from_slice(&pushed.manifest).unwrap();
        for layer in &mut manifest["layers"].as_array_mut().unwrap()[..2] {
            layer.as_object_mut().unwrap().remove("size").unwrap();
        }
        let manifest = manifest.to_string();
        registry.manifest("app", "1", OCI_MANIFEST, manifest.as_bytes());
        if chunked {
            registry.fault("GET", "/blobs/", usize::MAX, |_, reply| reply.chunked());
        }
        let name = at(&registry, "app:1");
        let sizes = image.layers.iter().map(|layer| layer.packed.len() as u64);
        let all: u64 = sizes.sum();
        let mut puller = Puller::new();
        for at_once in [1, 3] {
            (puller.at_once, puller.max_size) = (at_once, all - 1);
            let bench = Bench::new();
            let error = chain(&puller.pull(&bench, &name).unwrap_err());
            assert!(error.contains("are not accepted"), "{chunked}: {error}");
            puller.max_size = all;
            puller.pull(&bench, &name).unwrap();
            bench.run(&["verify", &name]).ok();
        }
    }
}

#[test]
fn who_wants_to_stop_is_not_kept_waiting_and_leaves_what_came() {
    let (registry, pushed, name) = lab(Auth::Open);
    registry.fault("GET", &pushed.layers[0], usize::MAX, |_, reply| {
        reply.stall(400_000)
    });
    let bench = Bench::new();
    let mut puller = Puller::new();
    puller.settings.network.stall = Duration::from_secs(300);
    let begun = Instant::now();
    let error = thread::scope(|scope| {
        let pulling = scope.spawn(|| puller.pull(&bench, &name));
        while registry.count("GET", &pushed.layers[0]) == 0 {
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(200));
        puller.stop.store(true, Ordering::Relaxed);
        pulling.join().unwrap().unwrap_err()
    });
    assert!(
        matches!(error, ImportError::Interrupted),
        "{}",
        chain(&error)
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    let left: Vec<_> = bench.files().into_keys().collect();
    let parts = left
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "part"));
    assert!(parts.count() >= 1, "{left:?}");
    assert!(
        !left
            .iter()
            .any(|path| path.starts_with(bench.store.join("staging"))),
        "{left:?}"
    );
    Puller::new().stop.store(false, Ordering::Relaxed);
}

/// Another process has the lock of the part, and nothing comes there.
#[test]
fn who_copies_a_layer_does_not_wait_for_one_that_stands_still() {
    let (registry, pushed, name) = lab(Auth::Open);
    let long = image("app:1").layers[0].packed.clone();
    // Nor is it believed.
    for there in [long[..400_000].to_vec(), vec![0; 400_000]] {
        let bench = Bench::new();
        Store::create(&bench.store, 0).unwrap();
        let dir = bench.store.join("fetch");
        std::fs::create_dir_all(&dir).unwrap();
        let part = dir.join(format!("{}.part", pushed.layers[0].replace(':', "-")));
        std::fs::write(&part, &there).unwrap();
        let held = std::fs::File::open(&part).unwrap();
        held.lock().unwrap();
        let before = registry.web.asked().len();
        Puller::new().pull(&bench, &name).unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), there, "theirs");
        let asked = registry.web.asked().split_off(before);
        let mut asked = asked.iter().filter(|a| a.url.contains(&pushed.layers[0]));
        assert_eq!(asked.next().unwrap().headers["range"], "bytes=400000-");
        std::fs::remove_file(&part).unwrap();
        same(&bench, &image("app:1"));
    }
}

/// The image is divided into what the store has and what not before anything is fetched.
#[test]
fn a_layer_that_another_pull_brought_meanwhile_is_not_fetched() {
    let registry = Registry::new();
    let image = image("app:1");
    let pushed = registry.oci("app", "1", &image);
    let part = Image::new("part:1", image.layers[1..].to_vec());
    registry.oci("part", "1", &part);
    let (app, part) = (at(&registry, "app:1"), at(&registry, "part:1"));
    let bench = Bench::new();
    registry.fault("GET", &pushed.layers[0], 1, |_, reply| {
        reply.drip(100_000, Duration::from_millis(200))
    });
    let mut puller = Puller::new();
    (puller.at_once, puller.settings.network.stall) = (1, Duration::from_secs(10));
    let got = thread::scope(|scope| {
        let pulling = scope.spawn(|| puller.pull(&bench, &app));
        while registry.count("GET", &pushed.layers[0]) == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        Puller::new().pull(&bench, &part).unwrap();
        pulling.join().unwrap().unwrap()
    });
    assert_eq!((got[0].layers, got[0].layers_kept), (6, 5));
    for layer in &pushed.layers {
        assert_eq!(registry.count("GET", layer), 1, "{:?}", registry.log());
    }
    bench.run(&["verify", &app]).ok();
}

fn verb(bench: &Bench, args: &[&str]) -> Ran {
    bench.run(&[&["pull"], args].concat())
}

#[test]
fn the_verb_says_what_it_does_and_what_is_not_there() {
    let (registry, _, name) = lab(Auth::Open);
    let bench = Bench::new();
    let ran = verb(&bench, &[&name]).ok();
    assert!(
        ran.text()
            .contains(&format!("as {name}: 6 new layers, 0 were there")),
        "{}",
        ran.text()
    );
    assert!(
        ran.err.contains("fetches layer") && ran.err.contains("taken"),
        "{}",
        ran.err
    );
    let ran = verb(&bench, &["--json", "--quiet", &name]).ok();
    let said: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((&said[0]["layers_kept"], &*ran.err), (&json!(6), ""));
    let images = bench.run(&["images"]).ok().text();
    assert!(images.contains(&name), "{images}");
    for (name, words) in [
        (at(&registry, "team/app:2"), "manifest unknown"),
        (at(&registry, "team/other:1"), "is not at"),
    ] {
        bench.refuses(3, &[words, &name], |bench| verb(bench, &[&name]));
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let name = format!("127.0.0.1:{port}/a:1");
    bench.refuses(1, &["cannot pull", "refused"], |bench| {
        verb(bench, &[&name])
    });
}

#[test]
fn the_local_directory_goes_before_the_registry_unless_somebody_says_otherwise() {
    let (registry, _, _) = lab(Auth::Open);
    let bench = Bench::new();
    let name = at(&registry, "team/app:1");
    let dir = bench.path("images").join(at(&registry, "team"));
    std::fs::create_dir_all(&dir).unwrap();
    let other = Image::small("other:1", 9, Packing::Gzip);
    std::fs::write(dir.join("app:1.tar"), archive(&other.docker())).unwrap();
    verb(&bench, &["--quiet", &name]).ok();
    assert_eq!(registry.log().len(), 0);
    verb(&bench, &["--quiet", "--discovery", "registry", &name]).ok();
    assert!(registry.count("GET", "manifests/1") == 1);
    let empty = bench.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let ran = verb(&bench, &["--local-dir", empty.to_str().unwrap(), &name]);
    assert_eq!(
        ran.code, 3,
        "who names a directory asks nobody else: {}",
        ran.err
    );
}

#[test]
fn many_who_pull_one_image_share_its_transfer_and_one_may_leave() {
    let (registry, pushed, name) = lab(Auth::Open);
    registry.fault("GET", &pushed.layers[0], usize::MAX, |_, reply| {
        reply.drip(100_000, Duration::from_millis(200))
    });
    let bench = Bench::new();
    Store::create(&bench.store, 0).unwrap();
    let spawn = || bench.command(&["pull", "--quiet", &name]).spawn().unwrap();
    let mut all = vec![spawn()];
    while registry.count("GET", &pushed.layers[0]) == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    all.extend([spawn(), spawn()]);
    thread::sleep(Duration::from_millis(300));
    let mut leaves = all.pop().unwrap();
    let pid = rustix::process::Pid::from_child(&leaves);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!leaves.wait().unwrap().success());
    for mut child in all {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(registry.count("GET", &pushed.layers[0]), 1);
    same(&bench, &image("app:1"));
}

#[test]
fn a_registry_without_tls_is_asked_only_where_it_is_named() {
    // As a proxy it is every host; `other.org` speaks plain http there, too.
    let (registry, _, _) = lab(Auth::Open);
    registry.oci("a", "1", &Image::small("a:1", 1, Packing::Gzip));
    let bench = Bench::new();
    let proxied = |args: &[&str]| {
        let mut command = bench.command(&[&["pull", "--quiet"], args].concat());
        command.env("http_proxy", registry.web.proxy());
        command.env("https_proxy", registry.web.proxy());
        Ran::of(command.output().unwrap())
    };
    let refused = proxied(&["other.org/a:1"]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(
        refused.err.contains("--cacert FILE"),
        "nobody vouches for it: {}",
        refused.err
    );
    assert!(
        !registry
            .web
            .urls()
            .iter()
            .any(|url| url.starts_with("http://other.org"))
    );
    proxied(&["--insecure", "other.org", "other.org/a:1"]).ok();
    assert!(
        registry
            .web
            .urls()
            .iter()
            .any(|url| url.starts_with("http://other.org/v2/a/"))
    );
    let roots = bench.write("ca.pem", registry.web.certificate().as_bytes());
    proxied(&["--cacert", roots.to_str().unwrap(), "example.com/a:1"]).ok();
    assert!(
        registry
            .web
            .urls()
            .iter()
            .any(|url| url.starts_with("https://example.com/v2/a/"))
    );
    let none = bench.write("none.pem", b"nothing");
    let ran = proxied(&["--cacert", none.to_str().unwrap(), "example.com/a:1"]);
    assert!(
        ran.code == 2 && ran.err.contains("has no certificate"),
        "{}",
        ran.err
    );
}

#[test]
fn nothing_leaves_tls_by_a_redirect_and_no_token_is_made_without_it() {
    let registry = Registry::new();
    let pushed = registry.oci("a", "1", &Image::small("a:1", 1, Packing::Gzip));
    registry.fault("GET", &pushed.layers[0], usize::MAX, |_, _| {
        Reply::redirect("http://other.org/blob")
    });
    let bench = Bench::new();
    let with = |registry: &Registry| {
        let roots = bench.write("ca.pem", registry.web.certificate().as_bytes());
        let mut command = bench.command(&["pull", "--quiet", "example.com/a:1"]);
        command.arg("--cacert").arg(roots);
        command.env("http_proxy", registry.web.proxy());
        command.env("https_proxy", registry.web.proxy());
        Ran::of(command.output().unwrap())
    };
    let ran = with(&registry);
    assert!(
        ran.code == 1 && ran.err.contains("from https to `http://other.org/blob`"),
        "{}",
        ran.err
    );
    assert!(
        !registry
            .web
            .urls()
            .iter()
            .any(|url| url.contains("other.org"))
    );
    let realm = Some("http://other.org/token".to_owned());
    let registry = Registry::with(
        Auth::Bearer {
            realm,
            anonymous: true,
            uses: 9,
        },
        true,
    );
    registry.oci("a", "1", &Image::small("a:1", 1, Packing::Gzip));
    let ran = with(&registry);
    assert!(
        ran.code == 1 && ran.err.contains("without TLS"),
        "{}",
        ran.err
    );
    assert!(
        !registry
            .web
            .urls()
            .iter()
            .any(|url| url.contains("other.org"))
    );
}

#[test]
fn a_blob_that_is_not_there_is_named() {
    let (registry, pushed, name) = lab(Auth::Open);
    registry.fault("GET", &pushed.layers[2], usize::MAX, |_, _| {
        Reply::status(404)
    });
    let error = Puller::new().pull(&Bench::new(), &name).unwrap_err();
    let gone = matches!(
        &error,
        ImportError::Registry(RegistryError::NotFound { .. })
    );
    assert!(
        gone && chain(&error).contains(&pushed.layers[2]),
        "{}",
        chain(&error)
    );
}
