//! Requests over HTTP.
//!
//! What it is for: one request at a time, with everything that a hostile or broken
//! server may do bounded: redirects, silence, headers, sizes of pages. Used by
//! `discovery` and `registry`. Must not know what is fetched, nor from whom; who waits
//! between repetitions, and how often, is theirs.
//!
//! TLS is rustls with the roots of the system, and those of a file where one is named.
//! Bytes come without any coding of the transfer's content: what is fetched is what was
//! signed, or has a digest.
//!
//! * `part`: files that are being fetched, and who has them. `proxy`: who asks for us.

pub mod part;
mod proxy;
mod tls;
mod url;

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, HeaderName, Method, Request, Uri, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, AsSendBody, Body, SendBody};

pub use proxy::{Proxies, ProxyError};
pub use tls::{Roots, RootsError};
pub(crate) use url::{escaped, host, is_https, join, query};

/// Most redirects that are followed, as in most clients.
pub(crate) const REDIRECTS_MAX: u32 = 10;
/// Longest name resolution and connecting, per address.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether somebody wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Fewer bytes than this within the time of a stall are one: a server that drips.
pub(crate) const DRIP: u64 = 1024;

/// How requests are made.
#[derive(Debug, Clone)]
pub struct Network {
    /// Whether anything may be asked for without TLS.
    pub allow_http: bool,
    /// Who asks for us.
    pub proxies: Proxies,
    /// Who vouches for servers.
    pub roots: Roots,
    /// How long a server may be silent before it counts as gone.
    pub stall: Duration,
    /// The pause before the first repetition; it doubles with each.
    pub pause: Duration,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            allow_http: false,
            proxies: Proxies::default(),
            roots: Roots::default(),
            stall: Duration::from_secs(60),
            pause: Duration::from_millis(500),
        }
    }
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Without TLS, and that was not allowed.
    #[error("plain http is not allowed")]
    Plain,
    /// Not a URL that can be asked for.
    #[error("it is not a http or https URL")]
    NotHttp,
    /// The server has another answer than the thing.
    #[error("the server answered {0}")]
    Status(u16),
    /// One redirect after the other.
    #[error("it was redirected more than {REDIRECTS_MAX} times")]
    Redirects,
    /// From https to http.
    #[error("it was redirected from https to `{0}`")]
    Downgrade(String),
    /// Nothing came for this long, or hardly anything.
    #[error("the server was silent for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// The connection ended early.
    #[error("the connection ended after {got} of {len} bytes")]
    Cut {
        /// Bytes that came.
        got: u64,
        /// Bytes that should have come.
        len: u64,
    },
    /// An end that cannot be told from a cut.
    #[error("the server does not say how long it is")]
    NoLength,
    /// More than is accepted.
    #[error("it has {} bytes, and more than {limit} are not accepted", .size.map_or_else(|| "too many".to_owned(), |size| size.to_string()))]
    TooLarge {
        /// Its size in bytes, if the server told it.
        size: Option<u64>,
        /// The limit in bytes.
        limit: u64,
    },
    /// Not what who wants it says that it has.
    #[error("it has {} bytes, and {declared} are declared", .size.map_or_else(|| "more".to_owned(), |size| size.to_string()))]
    OtherSize {
        /// Its size in bytes, as far as it is known.
        size: Option<u64>,
        /// The size that it must have, in bytes.
        declared: u64,
    },
    /// A page in a coding that was not asked for.
    #[error("the page is encoded (`{0}`), which was not asked for")]
    Encoded(String),
    /// A part that is not the part that was asked for.
    #[error("the server sent another part than the one that was asked for")]
    WrongPart,
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[source] Box<ureq::Error>),
    /// A file cannot be written or read.
    #[error("cannot use the file `{path}`")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl FetchError {
    /// Whether the server says that there is no such thing. Stores of objects
    /// answer 403 for what is not there to those who may not list.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Status(403 | 404 | 410))
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status(code) => matches!(code, 408 | 429 | 500 | 502..=504),
            Self::Stalled(_) | Self::Cut { .. } | Self::WrongPart => true,
            Self::Connection(error) => match &**error {
                // Nobody is there, or rustls does not trust who is: so it stays.
                ureq::Error::Io(error) => {
                    let kind = error.kind();
                    !matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::InvalidData)
                        && !is_unknown_host(error)
                }
                // A network that is down for a while.
                ureq::Error::Protocol(_) | ureq::Error::Timeout(_) => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether nobody is there.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Connection(error)
            if matches!(&**error, ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused))
    }

    /// Whether there is no room for what comes.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::File { source, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    }

    /// Whether no TLS could be agreed on: the server speaks none, or nobody vouches for it.
    pub(crate) fn is_about_tls(&self) -> bool {
        matches!(self, Self::Connection(error) if match &**error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
            // What rustls says of a connection comes so.
            ureq::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
            _ => false,
        })
    }

    /// What to try.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Plain => Some("--allow-http, if the network can be trusted"),
            Self::TooLarge { .. } => Some("--max-size raises the limit"),
            Self::Stalled(_) | Self::Cut { .. } => {
                Some("the same again: what was fetched is kept where the server allows to go on")
            }
            _ => None,
        }
    }
}

/// What is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) sent: Sent<'a>,
}

/// What is sent with it.
pub(crate) enum Sent<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// So many bytes of a stream.
    Stream(&'a mut dyn Read, u64),
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, url: &'a str) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            sent: Sent::Nothing,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What a server answered, and a body to read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl Answer {
    /// A header's value, where it is text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Makes requests.
#[derive(Debug)]
pub(crate) struct Client {
    https: Agent,
    /// For URLs that begin with http; absent where that is not allowed.
    http: Option<Agent>,
    network: Network,
}

impl Client {
    pub(crate) fn new(network: Network) -> Self {
        let agent = |https_only, proxy| {
            // A provider of our own: rustls has none until somebody installs it.
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(network.roots.certs())
                .unversioned_rustls_crypto_provider(provider)
                .build();
            Agent::config_builder()
                .https_only(https_only)
                .proxy(proxy)
                .tls_config(tls)
                .user_agent(concat!("lazyroot/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .timeout_resolve(Some(CONNECT_MAX))
                .timeout_connect(Some(CONNECT_MAX))
                .timeout_recv_response(Some(network.stall))
                .timeout_per_read(Some(network.stall))
                .timeout_per_write(Some(network.stall))
                .build()
                .new_agent()
        };
        Self {
            https: agent(true, network.proxies.https.clone()),
            http: (network.allow_http).then(|| agent(false, network.proxies.http.clone())),
            network,
        }
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Ends all connections; requests that wait end at once, later ones fail.
    pub(crate) fn shutdown(&self) {
        for agent in [Some(&self.https), self.http.as_ref()]
            .into_iter()
            .flatten()
        {
            agent.clone().shutdown();
        }
    }

    /// Runs something that may wait for a server; when somebody wants to stop, all
    /// connections are closed.
    pub(crate) fn guarded<T>(&self, stop: &AtomicBool, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (done, wait) = mpsc::channel::<()>();
            let look = move || {
                while let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(LOOK) {
                    if stop.load(Ordering::Relaxed) {
                        self.shutdown();
                        return;
                    }
                }
            };
            // Without a thread who wants to stop waits for the server.
            let _ = std::thread::Builder::new().spawn_scoped(scope, look);
            let result = work();
            drop(done);
            result
        })
    }

    fn agent(&self, url: &str) -> Result<&Agent, FetchError> {
        match scheme(url)? {
            Scheme::Https => Ok(&self.https),
            Scheme::Http => self.http.as_ref().ok_or(FetchError::Plain),
        }
    }

    /// One request and its answer, whatever that is; no redirect is followed, so
    /// that who has a secret to send says to whom.
    ///
    /// # Errors
    /// [`FetchError`], where nothing was answered.
    pub(crate) fn send(&self, ask: Ask<'_>) -> Result<Answer, FetchError> {
        let agent = self.agent(ask.url)?;
        let mut request = Request::builder().method(ask.method).uri(ask.url);
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let response = match ask.sent {
            Sent::Nothing => run(agent, request, None, ()),
            Sent::Bytes(bytes) => run(agent, request, Some(bytes.len() as u64), bytes),
            Sent::Stream(from, len) => run(agent, request, Some(len), SendBody::from_reader(from)),
        };
        let (head, body) = response.map_err(|error| self.failed(error))?.into_parts();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    /// Asks for `url`, and for what it is redirected to; `part` is where to begin and
    /// the mark that the thing had.
    ///
    /// # Errors
    /// [`FetchError`]; a status that is neither 200 nor 206 too.
    pub(crate) fn get(&self, url: &str, part: Option<(u64, &str)>) -> Result<Answer, FetchError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let mut ask = Ask::new(Method::GET, &url);
            if let Some((from, mark)) = part {
                ask = ask
                    .header(header::RANGE, format!("bytes={from}-"))
                    .header(header::IF_RANGE, mark);
            }
            let answer = self.send(ask)?;
            match redirect(&url, &answer)? {
                Some(to) => url = to,
                None if matches!(answer.status, 200 | 206) => return Ok(answer),
                None => return Err(FetchError::Status(answer.status)),
            }
        }
        Err(FetchError::Redirects)
    }

    /// All of something small.
    ///
    /// # Errors
    /// [`FetchError`]; more than `limit` bytes.
    pub(crate) fn page(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        self.whole(self.get(url, None)?, limit)
    }

    /// All of an answer's body.
    ///
    /// # Errors
    /// [`FetchError`]; more than `limit` bytes.
    pub(crate) fn whole(&self, answer: Answer, limit: u64) -> Result<Vec<u8>, FetchError> {
        if let Some(coding) = answer.header(header::CONTENT_ENCODING)
            && coding != "identity"
        {
            return Err(FetchError::Encoded(coding.to_owned()));
        }
        let mut page = Vec::new();
        let mut body = answer.body.into_reader().take(limit + 1);
        let begun = Instant::now();
        let mut piece = [0; 4096];
        loop {
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(got) => page.extend_from_slice(&piece[..got]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error.into())),
            }
            // Who drips keeps within the time for each read, for years.
            if begun.elapsed() > 2 * self.network.stall {
                return Err(FetchError::Stalled(self.network.stall));
            }
        }
        match page.len() as u64 > limit {
            true => Err(FetchError::TooLarge { size: None, limit }),
            false => Ok(page),
        }
    }

    /// What a failed read of a body means.
    pub(crate) fn broken(&self, error: io::Error) -> FetchError {
        self.failed(error.into())
    }

    /// What a failed request or read means.
    fn failed(&self, error: ureq::Error) -> FetchError {
        match error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                FetchError::Connection(Box::new(error))
            }
            ureq::Error::Timeout(_) => FetchError::Stalled(self.network.stall),
            ureq::Error::RequireHttpsOnly(to) => FetchError::Downgrade(to),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => FetchError::NotHttp,
            error => FetchError::Connection(Box::new(error)),
        }
    }
}

fn run(
    agent: &Agent,
    mut request: ureq::http::request::Builder,
    len: Option<u64>,
    body: impl AsSendBody,
) -> Result<ureq::http::Response<Body>, ureq::Error> {
    if let Some(len) = len {
        request = request.header(header::CONTENT_LENGTH, len);
    }
    agent.run(request.body(body)?)
}

/// Where an answer leads to that is a redirect; nothing where it is none.
///
/// # Errors
/// One from https to http, or to nowhere.
pub(crate) fn redirect(from: &str, answer: &Answer) -> Result<Option<String>, FetchError> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let to = answer.header(header::LOCATION);
    let to = to
        .and_then(|to| join(from, to))
        .ok_or(FetchError::NotHttp)?;
    match (scheme(from)?, scheme(&to)?) {
        (Scheme::Https, Scheme::Http) => {
            // What is behind may be a signature that is good for something.
            let end = to.find(['?', '#']).unwrap_or(to.len());
            Err(FetchError::Downgrade(to[..end].to_owned()))
        }
        _ => Ok(Some(to)),
    }
}

/// Whether a host's name is not known, and not only for now. The library has no kind for
/// it, only words.
fn is_unknown_host(error: &io::Error) -> bool {
    let words = error.to_string();
    words.starts_with("failed to lookup address information") && !words.contains("Temporary")
}

#[derive(Debug, PartialEq, Eq)]
enum Scheme {
    Https,
    Http,
}

fn scheme(url: &str) -> Result<Scheme, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::NotHttp)?;
    match uri.scheme_str() {
        Some("https") => Ok(Scheme::Https),
        Some("http") => Ok(Scheme::Http),
        _ => Err(FetchError::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_https_are_asked_for() {
        assert_eq!(scheme("https://h/x").unwrap(), Scheme::Https);
        assert_eq!(scheme("HTTP://h/x").unwrap(), Scheme::Http);
        for url in [
            "ftp://h/x",
            "hdfs://h/x",
            "h/x",
            "",
            "https://a b/",
            "file:///etc/passwd",
        ] {
            assert!(matches!(scheme(url), Err(FetchError::NotHttp)), "{url}");
        }
    }

    #[test]
    fn plain_http_is_refused_before_anything_is_sent() {
        let client = Client::new(Network::default());
        let error = client.get("http://127.0.0.1:1/", None).unwrap_err();
        assert!(matches!(error, FetchError::Plain));
    }
}
