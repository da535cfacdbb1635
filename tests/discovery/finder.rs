//! A discovery with short times, and a directory for its parts.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lazyroot::discovery::{
    Discovery, DiscoveryError, Fetched, Keyring, Method, Progress, Settings, Wanted,
};
use lazyroot::http::{Network, Proxies};

use crate::web::Web;

/// How an image is fetched in a test.
pub(crate) struct Finder {
    dir: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) seen: Seen,
    pub(crate) stop: AtomicBool,
}

/// The transfers that began: where, and from which byte on.
#[derive(Debug, Default)]
pub(crate) struct Seen(pub(crate) Mutex<Vec<(String, u64)>>);

impl Progress for Seen {
    fn begin(&self, url: &str, there: u64, _len: Option<u64>) {
        self.0.lock().unwrap().push((url.to_owned(), there));
    }
}

impl Finder {
    pub(crate) fn new(method: Method) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            settings: Settings {
                method,
                network: Network {
                    allow_http: true,
                    proxies: Proxies::default(),
                    roots: lazyroot::http::Roots::default(),
                    stall: Duration::from_millis(400),
                    pause: Duration::from_millis(1),
                },
                keyring: None,
                require_signature: false,
                max_size: 1 << 30,
            },
            seen: Seen::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Simple discovery from this server.
    pub(crate) fn simple(web: &Web) -> Self {
        Self::new(Method::Simple(web.url("").parse().unwrap()))
    }

    /// Meta discovery where every host is this server.
    pub(crate) fn meta(web: &Web) -> Self {
        let mut finder = Self::new(Method::Meta);
        let proxies = Proxies::from_variables(|name| (name == "all_proxy").then(|| web.proxy()));
        finder.settings.network.proxies = proxies.unwrap();
        finder
    }

    pub(crate) fn trusting(mut self, keyring: &Path, require: bool) -> Self {
        self.settings.keyring = Some(Keyring::read(keyring).unwrap());
        self.settings.require_signature = require;
        self
    }

    /// Where parts are.
    pub(crate) fn parts(&self) -> PathBuf {
        self.dir.path().join("parts")
    }

    pub(crate) fn fetched(&self, wanted: &str) -> Result<Fetched, DiscoveryError> {
        let discovery = Discovery::new(self.settings.clone())?;
        let mut found = discovery.find(&wanted_as(wanted), &self.stop)?;
        discovery.fetch(&mut found, &self.parts(), &self.seen, &self.stop)
    }

    /// All bytes of what is fetched; nothing may be left in the directory of parts.
    #[track_caller]
    pub(crate) fn bytes(&self, wanted: &str) -> Vec<u8> {
        let mut fetched = self
            .fetched(wanted)
            .unwrap_or_else(|error| panic!("{error}"));
        let mut bytes = Vec::new();
        fetched.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            self.left(),
            [""; 0],
            "parts are gone when the whole is there"
        );
        bytes
    }

    /// The error and all that caused it.
    #[track_caller]
    pub(crate) fn refused(&self, wanted: &str) -> DiscoveryError {
        self.fetched(wanted).expect_err("it must be refused")
    }

    /// Names in the directory of parts.
    pub(crate) fn left(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.parts()).into_iter().flatten();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// What is wanted, without the scheme.
pub(crate) fn wanted_as(text: &str) -> Wanted {
    Wanted::new(format!("appc:{text}").parse().unwrap())
}

/// An error with its causes, in one line.
pub(crate) fn text(error: &DiscoveryError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[track_caller]
pub(crate) fn says(error: &DiscoveryError, words: &[&str]) {
    let text = text(error);
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}
