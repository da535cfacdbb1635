//! How images are pulled in these tests: by the library, impatiently, and by the program
//! itself, in the background too; and how it is looked what came of that.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lazyroot::causes::chain;
use lazyroot::digest::Digest;
use lazyroot::http::Network;
use lazyroot::image::Want;
use lazyroot::import::{self, ImportError, Imported, Options, Pull};
use lazyroot::layer::Limits;
use lazyroot::registry::{Credentials, Login, Progress, Registry as Client, Secret, Settings};
use lazyroot::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::images::{Bench, Image, Layer, Packing, Ran, Tar, archive, noise};
use crate::server::{Auth, OCI_MANIFEST, PASSWORD, Pushed, Registry, USER};
use crate::web::Reply;

/// How an image is pulled in a test: impatiently.
pub(crate) struct Puller {
    pub(crate) settings: Settings,
    pub(crate) wants: Vec<Want>,
    pub(crate) at_once: usize,
    pub(crate) max_size: u64,
    pub(crate) stop: AtomicBool,
    pub(crate) told: Told,
}

/// What transfers tell: where each begins, and how often one is tried again.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<(Vec<u64>, usize)>);

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
    pub(crate) fn new() -> Self {
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

    pub(crate) fn known(registry: &Registry) -> Self {
        let login = Login::Password {
            user: USER.to_owned(),
            password: Secret::new(PASSWORD),
        };
        let mut this = Self::new();
        this.settings.credentials = Credentials::only(&registry.host(), login);
        this
    }

    pub(crate) fn pull(&self, bench: &Bench, name: &str) -> Result<Vec<Imported>, ImportError> {
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
    pub(crate) fn refuses(&self, bench: &Bench, name: &str, words: &[&str]) {
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
pub(crate) fn image(name: &str) -> Image {
    let long = Tar::new().file("noise", &noise(7, 900_000)).end();
    let mut image = Image::small(name, 1, Packing::Gzip);
    image.layers.insert(0, Layer::new(&long, Packing::Gzip));
    for salt in 2..5 {
        let file = Tar::new().file(&format!("file-{salt}"), &noise(salt, 3000));
        image.layers.push(Layer::new(&file.end(), Packing::Gzip));
    }
    image
}

/// Two layers of 300 KB, each with a file of its own.
pub(crate) fn two_layers(salt: u64) -> Image {
    let layer = |number: u64| {
        let file = noise(salt * 10 + number, 300_000);
        let tar = Tar::new().file(&format!("file{number}"), &file).end();
        Layer::new(&tar, Packing::Gzip)
    };
    Image::new("a:1", vec![layer(1), layer(2)])
}

/// A registry with that image as `team/app:1`, its long layer, and what it is called.
pub(crate) fn lab(auth: Auth) -> (Registry, Pushed, String) {
    let registry = Registry::with(auth, true);
    let pushed = registry.oci("team/app", "1", &image("app:1"));
    let name = format!("{}/team/app:1", registry.host());
    (registry, pushed, name)
}

pub(crate) fn at(registry: &Registry, name: &str) -> String {
    format!("{}/{name}", registry.host())
}

/// What import makes of an archive of that image: its files by path, without times.
pub(crate) fn imported(image: &Image) -> Vec<(String, String)> {
    let bench = Bench::new();
    bench.pipe(&archive(&image.oci()), &[]).ok();
    content(&bench)
}

/// The store has what import makes of the image, and nothing else.
#[track_caller]
pub(crate) fn same(bench: &Bench, image: &Image) {
    let (got, wanted) = (content(bench), imported(image));
    let missing: Vec<_> = wanted.iter().filter(|one| !got.contains(one)).collect();
    let more: Vec<_> = got.iter().filter(|one| !wanted.contains(one)).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "missing: {missing:?}, besides: {more:?}"
    );
}

/// Files of blobs, indexes and maps.
pub(crate) fn content(bench: &Bench) -> Vec<(String, String)> {
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

/// An image whose config is changed, put there with a manifest of its own.
pub(crate) fn with_config(
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

pub(crate) fn verb(bench: &Bench, args: &[&str]) -> Ran {
    bench.run(&[&["pull"], args].concat())
}

pub(crate) fn pull(bench: &Bench, registry: &Registry, name: &str) -> Ran {
    bench.run(&["pull", &format!("{}/{name}", registry.host())])
}

#[track_caller]
pub(crate) fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
    assert!(!ran.err.contains(PASSWORD), "{}", ran.err);
}

/// All of the image is there, and it is this one.
#[track_caller]
pub(crate) fn is_whole(bench: &Bench, registry: &Registry, name: &str, image: &Image) {
    let full = format!("{}/{name}", registry.host());
    is_whole_as(bench, &full, image);
}

#[track_caller]
pub(crate) fn is_whole_as(bench: &Bench, full: &str, image: &Image) {
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
pub(crate) fn is_empty(bench: &Bench) {
    let files = bench.files();
    let left: Vec<_> = (files.keys())
        .map(|path| path.strip_prefix(&bench.store).unwrap())
        .filter(|path| !path.starts_with("fetch"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let images = bench.run(&["images", "--quiet"]);
    assert_eq!(images.text(), "");
}

/// The login of these tests, where Docker would have put it.
pub(crate) fn log_in(bench: &Bench, host: &str, password: &str) {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    let said = json!({ "auths": { host: { "auth": pair } } });
    fs::create_dir_all(bench.path(".docker")).unwrap();
    bench.write(".docker/config.json", said.to_string().as_bytes());
}

/// The command with this registry as every host there is, by TLS.
pub(crate) fn as_every_host(bench: &Bench, registry: &Registry, args: &[&str]) -> Ran {
    let roots = bench.write("roots.pem", registry.web.certificate().as_bytes());
    let mut command = bench.command(args);
    command
        .env("https_proxy", registry.web.proxy())
        .env("http_proxy", registry.web.proxy())
        .env("SSL_CERT_FILE", roots);
    Ran::of(command.stdin(Stdio::null()).output().unwrap())
}

/// A pull in the background.
pub(crate) struct Pulling {
    pub(crate) child: Child,
    pub(crate) lines: BufReader<std::process::ChildStderr>,
}

impl Pulling {
    pub(crate) fn start(bench: &Bench, registry: &Registry, name: &str) -> Self {
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
    pub(crate) fn says(&mut self, words: &str) {
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

    pub(crate) fn interrupt(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).unwrap();
    }

    #[track_caller]
    pub(crate) fn ends(mut self, code: i32) {
        let mut rest = String::new();
        while self.lines.read_line(&mut rest).unwrap_or(0) > 0 {}
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{rest}");
    }
}

pub(crate) fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes of all parts in the store's `fetch`.
pub(crate) fn parts(bench: &Bench) -> Vec<u64> {
    sizes(&bench.store.join("fetch"))
}

/// Bytes of all files that pulls have for themselves.
pub(crate) fn staged(bench: &Bench) -> Vec<u64> {
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

pub(crate) type Change = fn(Reply) -> Reply;
