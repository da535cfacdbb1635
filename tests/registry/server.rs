//! A registry on loopback: the distribution API over [`Web`], with faults on order.
//!
//! What it is for: a test fills it with images, says who may log in and what goes wrong
//! how often, and looks afterwards at what was asked and what was uploaded. As a proxy
//! it is `example.com`, `storage.example.com` and `other.org` with TLS. Of the API (distribution
//! spec 1.1) it has what clients use: blobs, manifests, tags, uploads in one piece and
//! in many, mounts from another repository, both ways to log in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::images::{Image, sha256};
use crate::web::{Asked, Reply, Web};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The one who may log in.
pub(crate) const USER: &str = "user";
/// His password.
pub(crate) const PASSWORD: &str = "p:ass wörd";

/// How one logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Everybody may do everything.
    Open,
    /// With the password at each request.
    Basic,
    /// With a token from `/token` of this host (or of another one, `https://...`).
    Bearer {
        /// Where tokens are, if not here.
        realm: Option<String>,
        /// Whether everybody gets a token to pull with.
        anonymous: bool,
        /// Requests that the first token is good for; then another one is needed.
        uses: usize,
    },
}

impl Auth {
    pub(crate) fn bearer() -> Self {
        Self::Bearer {
            realm: None,
            anonymous: false,
            uses: usize::MAX,
        }
    }
}

type Change = dyn Fn(&Asked, Reply) -> Reply + Send + Sync;

/// What goes wrong with some requests.
struct Fault {
    method: &'static str,
    part: String,
    /// How often still.
    times: usize,
    change: Box<Change>,
}

/// A token that was given out.
#[derive(Debug, Clone)]
struct Token {
    scopes: String,
    uses: usize,
}

/// What the registry has.
#[derive(Default)]
struct Content {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    tokens: BTreeMap<String, Token>,
    faults: Vec<Fault>,
    counter: usize,
}

struct State {
    auth: Auth,
    ranges: bool,
    content: Mutex<Content>,
}

/// The registry; gone when dropped.
pub(crate) struct Registry {
    pub(crate) web: Web,
    state: Arc<State>,
}

/// An image as a registry has it.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: String,
    pub(crate) layers: Vec<String>,
}

impl Pushed {
    pub(crate) fn digest(&self) -> String {
        sha256(&self.manifest)
    }
}

impl Registry {
    /// One that everybody may use.
    pub(crate) fn new() -> Self {
        Self::with(Auth::Open, true)
    }

    pub(crate) fn with(auth: Auth, ranges: bool) -> Self {
        let state = Arc::new(State {
            auth,
            ranges,
            content: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        let web = Web::new(move |asked| serving.answer(asked));
        Self { web, state }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        let proxy = self.web.proxy();
        proxy.trim_start_matches("http://").to_owned()
    }

    /// Whether somebody has to log in.
    pub(crate) fn has_login(&self) -> bool {
        self.state.auth != Auth::Open
    }

    /// Puts an image there as an OCI image.
    pub(crate) fn oci(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let files = image.oci();
        let index = &files
            .iter()
            .find(|(name, _)| name == "index.json")
            .unwrap()
            .1;
        let index: Value = serde_json::from_slice(index).unwrap();
        let wanted = index["manifests"][0]["digest"].as_str().unwrap();
        let blobs = files.iter().filter(|(name, _)| name.starts_with("blobs/"));
        let (manifest, others): (Vec<_>, Vec<_>) = blobs
            .map(|(_, bytes)| bytes.clone())
            .partition(|bytes| sha256(bytes) == wanted);
        let manifest = manifest[0].clone();
        others
            .iter()
            .for_each(|blob| _ = self.blob(repository, blob));
        self.manifest(repository, tag, OCI_MANIFEST, &manifest)
    }

    /// Puts an image there as Docker does (manifest schema 2).
    pub(crate) fn docker(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let config = serde_json::to_vec(&image.config()).unwrap();
        let describe = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": self.blob(repository, bytes), "size": bytes.len() });
        let layers = image.layers.iter();
        let layers: Vec<Value> = layers
            .map(|layer| describe(DOCKER_LAYER, &layer.packed))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": describe(DOCKER_CONFIG, &config), "layers": layers,
        });
        let manifest = serde_json::to_vec_pretty(&manifest).unwrap();
        self.manifest(repository, tag, DOCKER_MANIFEST, &manifest)
    }

    /// Puts a blob there; its digest.
    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let key = (repository.to_owned(), digest.clone());
        self.content().blobs.insert(key, bytes.to_vec());
        digest
    }

    /// Puts a manifest there, by its digest and under a tag.
    pub(crate) fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Pushed {
        let said: Value = serde_json::from_slice(bytes).unwrap();
        let digest = |value: &Value| value["digest"].as_str().unwrap_or_default().to_owned();
        for name in [tag.to_owned(), sha256(bytes)] {
            let entry = (kind.to_owned(), bytes.to_vec());
            self.content()
                .manifests
                .insert((repository.to_owned(), name), entry);
        }
        Pushed {
            manifest: bytes.to_vec(),
            config: digest(&said["config"]),
            layers: said["layers"]
                .as_array()
                .into_iter()
                .flatten()
                .map(digest)
                .collect(),
        }
    }

    /// Changes the answers to the next `times` requests of a method whose URL has `part`.
    pub(crate) fn fault(
        &self,
        method: &'static str,
        part: &str,
        times: usize,
        change: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static,
    ) {
        self.content().faults.push(Fault {
            method,
            part: part.to_owned(),
            times,
            change: Box::new(change),
        });
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        self.content().faults.clear();
    }

    /// A manifest that is there: its media type and bytes.
    pub(crate) fn stored(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        let key = (repository.to_owned(), name.to_owned());
        self.content().manifests.get(&key).cloned()
    }

    pub(crate) fn has_blob(&self, repository: &str, digest: &str) -> bool {
        let key = (repository.to_owned(), digest.to_owned());
        self.content().blobs.contains_key(&key)
    }

    /// `METHOD path` of all that was asked, without the names of uploads.
    pub(crate) fn log(&self) -> Vec<String> {
        let asked = self.web.asked().into_iter();
        asked
            .map(|asked| format!("{} {}", asked.method, asked.path()))
            .collect()
    }

    /// How often something was asked for.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let begins = format!("{method} ");
        let log = self.log().into_iter();
        log.filter(|line| line.starts_with(&begins) && line.contains(part))
            .count()
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.state.content.lock().unwrap()
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    Reply::ok(body.to_string())
        .with_status(status)
        .header("Content-Type", "application/json")
}

/// The value of a query's key, decoded.
fn query(path: &str, key: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| decoded(value));
    values.next()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

impl State {
    fn answer(&self, asked: &Asked) -> Reply {
        let mut content = self.content.lock().unwrap();
        let reply = self.usual(asked, &mut content);
        let fault = content.faults.iter_mut().find(|fault| {
            fault.times > 0 && fault.method == asked.method && asked.url.contains(&fault.part)
        });
        match fault {
            Some(fault) => {
                fault.times -= 1;
                (fault.change)(asked, reply)
            }
            None => reply,
        }
    }

    fn usual(&self, asked: &Asked, content: &mut Content) -> Reply {
        let path = asked.path();
        let bare = path.split('?').next().unwrap();
        if bare == "/token" {
            return self.token(asked, path, content);
        }
        let Some(rest) = bare.strip_prefix("/v2/") else {
            // Where a redirect leads: a place that knows neither logins nor repositories.
            let digest = bare.trim_start_matches('/');
            let blob = content.blobs.iter().find(|((_, known), _)| known == digest);
            return match blob {
                Some((_, bytes)) => self.file(asked, bytes, digest),
                None => Reply::status(404),
            };
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let at = parts
            .iter()
            .position(|part| matches!(*part, "blobs" | "manifests" | "tags"));
        let repository = parts[..at.unwrap_or(0)].join("/");
        if let Some(refusal) = self.refusal(asked, &repository, content) {
            return refusal;
        }
        let Some(at) = at else {
            return Reply::ok("{}");
        };
        match (parts[at], &parts[at + 1..]) {
            ("tags", ["list"]) => Reply::ok(json!({ "name": repository, "tags": [] }).to_string()),
            ("manifests", [name]) => manifest(asked, &repository, name, content),
            ("blobs", ["uploads", rest @ ..]) => upload(asked, &repository, rest, content),
            ("blobs", [digest]) => {
                match content
                    .blobs
                    .get(&(repository.clone(), (*digest).to_owned()))
                {
                    Some(bytes) => self.file(asked, bytes, digest),
                    None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
                }
            }
            _ => error(404, "UNSUPPORTED", "no such place"),
        }
    }

    fn file(&self, asked: &Asked, bytes: &[u8], digest: &str) -> Reply {
        let reply = match self.ranges {
            true => {
                Reply::file(asked, bytes, &format!("\"{digest}\"")).header("Accept-Ranges", "bytes")
            }
            false => Reply::ok(bytes),
        };
        reply
            .header("Docker-Content-Digest", digest)
            .header("Content-Type", "application/octet-stream")
    }

    /// Why it is not answered to whoever asks.
    fn refusal(&self, asked: &Asked, repository: &str, content: &mut Content) -> Option<Reply> {
        let told = asked.headers.get("authorization").map(String::as_str);
        match &self.auth {
            Auth::Open => None,
            Auth::Basic => (told != Some(&basic())).then(|| {
                error(401, "UNAUTHORIZED", "authentication required")
                    .header("WWW-Authenticate", "Basic realm=\"lab\"")
            }),
            Auth::Bearer { realm, .. } => {
                let action = match &*asked.method {
                    "GET" | "HEAD" => "pull",
                    _ => "push",
                };
                let token = told.and_then(|told| told.strip_prefix("Bearer "));
                let token = token.and_then(|token| content.tokens.get_mut(token));
                let wanted = match repository {
                    "" => String::new(),
                    repository => format!("repository:{repository}:{action}"),
                };
                if let Some(token) = token
                    && token.uses > 0
                    && allows(&token.scopes, repository, action)
                {
                    token.uses -= 1;
                    return None;
                }
                let here = || format!("{}/token", asked.url.trim_end_matches(asked.path()));
                let realm = realm.clone().unwrap_or_else(here);
                let scope = match action {
                    _ if wanted.is_empty() => String::new(),
                    "pull" => format!(",scope=\"{wanted}\""),
                    _ => format!(",scope=\"repository:{repository}:pull,push\""),
                };
                let challenge = format!("Bearer realm=\"{realm}\",service=\"lab\"{scope}");
                Some(
                    error(401, "UNAUTHORIZED", "authentication required")
                        .header("WWW-Authenticate", &challenge),
                )
            }
        }
    }

    fn token(&self, asked: &Asked, path: &str, content: &mut Content) -> Reply {
        let Auth::Bearer {
            anonymous, uses, ..
        } = &self.auth
        else {
            return Reply::status(404);
        };
        let known = match asked.headers.get("authorization") {
            Some(told) if *told == basic() => true,
            Some(_) => return error(401, "UNAUTHORIZED", "incorrect username or password"),
            None => false,
        };
        let wanted = path.split_once('?').map_or("", |(_, query)| query);
        let scopes = wanted
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope=").map(decoded));
        let scopes = scopes.map(|scope| match (known, anonymous) {
            (true, _) => scope,
            // Nobody in particular may pull at most.
            (false, true) => scope.replace("pull,push", "pull").replace(":push", ":"),
            (false, false) => String::new(),
        });
        let scopes = scopes.collect::<Vec<_>>().join(" ");
        let first = content.tokens.is_empty();
        let token = format!("token-{}", content.tokens.len());
        let uses = if first { *uses } else { usize::MAX };
        content.tokens.insert(token.clone(), Token { scopes, uses });
        Reply::ok(json!({ "token": token, "expires_in": 300 }).to_string())
    }
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

/// Whether scopes (`repository:NAME:ACTION,ACTION ...`) allow something.
fn allows(scopes: &str, repository: &str, action: &str) -> bool {
    repository.is_empty()
        || scopes.split(' ').any(|scope| {
            let parts: Vec<&str> = scope.split(':').collect();
            matches!(parts[..], ["repository", name, actions]
                if name == repository && actions.split(',').any(|one| one == action))
        })
}

fn manifest(asked: &Asked, repository: &str, name: &str, content: &mut Content) -> Reply {
    if asked.method == "PUT" {
        let bytes = &asked.body;
        let Ok(said) = serde_json::from_slice::<Value>(bytes) else {
            return error(400, "MANIFEST_INVALID", "manifest invalid");
        };
        let config = std::iter::once(&said["config"]);
        let needed = config.chain(said["layers"].as_array().into_iter().flatten());
        for digest in needed.filter_map(|descriptor| descriptor["digest"].as_str()) {
            if !content
                .blobs
                .contains_key(&(repository.to_owned(), digest.to_owned()))
            {
                return error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
            }
        }
        if name.contains(':') && name != sha256(bytes) {
            return error(400, "DIGEST_INVALID", "provided digest did not match");
        }
        let kind = asked
            .headers
            .get("content-type")
            .cloned()
            .unwrap_or_default();
        for name in [name.to_owned(), sha256(bytes)] {
            let entry = (kind.clone(), bytes.clone());
            content
                .manifests
                .insert((repository.to_owned(), name), entry);
        }
        return Reply::ok("")
            .with_status(201)
            .header("Docker-Content-Digest", &sha256(bytes));
    }
    match content
        .manifests
        .get(&(repository.to_owned(), name.to_owned()))
    {
        Some((kind, bytes)) => Reply::ok(bytes.as_slice())
            .header("Content-Type", kind)
            .header("Docker-Content-Digest", &sha256(bytes)),
        None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

fn upload(asked: &Asked, repository: &str, rest: &[&str], content: &mut Content) -> Reply {
    let path = asked.path();
    let created = |digest: &str| {
        Reply::ok("")
            .with_status(201)
            .header("Location", &format!("/v2/{repository}/blobs/{digest}"))
            .header("Docker-Content-Digest", digest)
    };
    let going_on = |id: &str, len: usize, status: u16| {
        Reply::ok("")
            .with_status(status)
            .header(
                "Location",
                &format!("/v2/{repository}/blobs/uploads/{id}?_state=st%3D{len}"),
            )
            .header("Range", &format!("0-{}", len.saturating_sub(1)))
    };
    let id = rest.first().copied().unwrap_or_default().to_owned();
    match &*asked.method {
        "POST" => {
            if let (Some(digest), Some(from)) = (query(path, "mount"), query(path, "from"))
                && let Some(bytes) = content.blobs.get(&(from, digest.clone())).cloned()
            {
                content
                    .blobs
                    .insert((repository.to_owned(), digest.clone()), bytes);
                return created(&digest);
            }
            content.counter += 1;
            let id = format!("upload-{}", content.counter);
            content.uploads.insert(id.clone(), Vec::new());
            going_on(&id, 0, 202)
        }
        "GET" => match content.uploads.get(&id) {
            Some(bytes) => going_on(&id, bytes.len(), 204),
            None => error(
                404,
                "BLOB_UPLOAD_UNKNOWN",
                "blob upload unknown to registry",
            ),
        },
        "PATCH" => match content.uploads.get_mut(&id) {
            Some(bytes) => {
                let from = asked.headers.get("content-range");
                let from = from.and_then(|range| range.split('-').next()?.parse().ok());
                if from.is_some_and(|from: usize| from != bytes.len()) {
                    return going_on(&id, bytes.len(), 416);
                }
                bytes.extend_from_slice(&asked.body);
                going_on(&id, bytes.len(), 202)
            }
            None => error(
                404,
                "BLOB_UPLOAD_UNKNOWN",
                "blob upload unknown to registry",
            ),
        },
        "PUT" => {
            let Some(mut bytes) = content.uploads.remove(&id) else {
                return error(
                    404,
                    "BLOB_UPLOAD_UNKNOWN",
                    "blob upload unknown to registry",
                );
            };
            bytes.extend_from_slice(&asked.body);
            let digest = query(path, "digest").unwrap_or_default();
            if sha256(&bytes) != digest {
                return error(
                    400,
                    "DIGEST_INVALID",
                    "provided digest did not match uploaded content",
                );
            }
            content
                .blobs
                .insert((repository.to_owned(), digest.clone()), bytes);
            created(&digest)
        }
        "DELETE" => match content.uploads.remove(&id) {
            Some(_) => Reply::ok("").with_status(204),
            None => error(
                404,
                "BLOB_UPLOAD_UNKNOWN",
                "blob upload unknown to registry",
            ),
        },
        _ => error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}
