//! One request to a registry, with whatever it takes to be let in.
//!
//! What it is for: a token is asked for when the registry demands one, once a request,
//! and kept until it ends; redirects are followed by hand, so that it is plain who gets
//! which header. Must not know manifests and blobs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use ureq::http::{HeaderMap, HeaderName, Method, header};

use super::challenge::Challenge;
use super::credentials::{Login, Secret};
use super::endpoint::{Endpoint, Plain};
use super::{Access, Registry, RegistryError};
use crate::http::{self, Answer, Ask, FetchError, REDIRECTS_MAX, Sent};

/// Most bytes of an error or a token that are read.
const WORDS_MAX: u64 = 1 << 20;
/// Most characters of a registry's words that are shown.
const SAID_MAX: usize = 200;
/// How long a token is good for that does not say it (Docker's token specification).
const TOKEN_LIFE: u64 = 60;
/// The longest life that is believed: a day.
const TOKEN_LIFE_MAX: u64 = 24 * 3600;
/// A token that ends within this, or a tenth of its life, is not sent any more.
const TOKEN_SPARE: Duration = Duration::from_secs(5);

/// What is asked for.
pub(crate) struct Call<'a> {
    pub(super) method: Method,
    pub(super) target: Target<'a>,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) payload: Payload<'a>,
    pub(super) access: Access,
    /// Another repository there that is to be read, too.
    pub(super) mount_from: Option<&'a str>,
}

/// Where something is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Below the repository: `manifests/latest`.
    Below(&'a str),
    /// Where the registry said, whole.
    Url(&'a str),
}

/// What is sent; it may have to be sent again.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    File {
        file: &'a File,
        from: u64,
        len: u64,
        /// Told of bytes that leave.
        told: &'a dyn Fn(u64),
    },
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, target: Target<'a>, access: Access) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            payload: Payload::Nothing,
            access,
            mount_from: None,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// What a token has to be for (Docker's token specification, "scope").
    fn scopes(&self, to: &Endpoint) -> Vec<String> {
        let actions = match self.access {
            Access::Nothing => return Vec::new(),
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let mut scopes = vec![format!("repository:{}:{actions}", to.path)];
        let from = self.mount_from.filter(|from| *from != to.path);
        scopes.extend(from.map(|from| format!("repository:{from}:pull")));
        scopes
    }
}

/// How a server wants to be told who asks.
#[derive(Debug, Clone)]
enum Way {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

#[derive(Debug, Clone)]
struct Token {
    value: Secret,
    until: Instant,
    /// What it was asked for.
    scopes: Vec<String>,
}

/// What is known of registries by now.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of this machine's own servers: whether they speak TLS.
    https: Mutex<HashMap<String, bool>>,
    /// By host.
    ways: Mutex<HashMap<String, Way>>,
    /// By host and scopes. Held while one is made: the others want the same.
    tokens: Mutex<HashMap<(String, Vec<String>), Token>>,
    /// Mirrors that cannot be talked to.
    pub(super) silent: Mutex<HashSet<String>>,
    /// By registry and repository.
    logins: Mutex<HashMap<(String, String), Option<Login>>>,
}

/// What is sent to tell who asks.
type Authorization = Option<Secret>;

impl Registry {
    /// One request. A demand for a token is met, once; redirects of what only reads
    /// are followed. Any other answer is the caller's to look at ([`Self::refusal`]).
    ///
    /// # Errors
    /// [`RegistryError`], where nothing was answered, or nobody is let in.
    pub(crate) fn send(&self, to: &Endpoint, call: &Call<'_>) -> Result<Answer, RegistryError> {
        let https = self.https(to)?;
        let below;
        let url = match call.target {
            Target::Below(target) => {
                below = to.url(https, target);
                &below
            }
            Target::Url(url) => url,
        };
        // An upload may go on at another server, which gets no secret of this one.
        let ours = http::host(url) == http::host(&to.root(https));
        let scopes = call.scopes(to);
        let sent = match ours {
            true => self.authorization(to, https, &scopes)?,
            false => None,
        };
        let answer = match self.ask(url, call, sent.as_ref())? {
            answer if answer.status == 401 && ours => answer,
            answer => return Ok(answer),
        };
        let Some((way, said)) = challenge(to, &answer)? else {
            return Ok(answer);
        };
        let words = self.client.whole(answer, WORDS_MAX).ok();
        self.known.ways.lock().insert(to.host.clone(), way.clone());
        let next = match way {
            Way::Basic => self.basic(to)?,
            Way::Bearer { .. } => self.token(to, https, &scopes, &said, sent.as_ref())?,
        };
        if next.is_none() || next == sent {
            return Err(RegistryError::Refused {
                registry: to.registry.clone(),
                repository: to.path.clone(),
                known: next.is_some(),
                said: words.and_then(|body| spoken(&body)),
            });
        }
        self.ask(url, call, next.as_ref())
    }

    /// Asks, and refuses what another server than the registry demands: there is no
    /// login for that.
    fn ask(
        &self,
        url: &str,
        call: &Call<'_>,
        sent: Option<&Secret>,
    ) -> Result<Answer, RegistryError> {
        let (answer, elsewhere) = self.follow(url, call, sent)?;
        match (elsewhere, answer.status) {
            (Some(url), status @ (401 | 403)) => Err(RegistryError::Status {
                url: shown(&url),
                status,
                wait: None,
                said: None,
            }),
            _ => Ok(answer),
        }
    }

    /// What is sent without being asked: what was good enough before.
    fn authorization(
        &self,
        to: &Endpoint,
        https: bool,
        scopes: &[String],
    ) -> Result<Authorization, RegistryError> {
        let way = self.known.ways.lock().get(&to.host).cloned();
        match way {
            None => Ok(None),
            Some(Way::Basic) => self.basic(to),
            Some(Way::Bearer { .. }) => self.token(to, https, scopes, &[], None),
        }
    }

    /// Asks, and follows redirects of what only reads; where the last answer came from,
    /// if that is another server than the one that was asked first.
    fn follow(
        &self,
        url: &str,
        call: &Call<'_>,
        authorization: Option<&Secret>,
    ) -> Result<(Answer, Option<String>), RegistryError> {
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let mut url = url.to_owned();
        let first = http::host(&url);
        let mut there = true;
        for _ in 0..=REDIRECTS_MAX {
            let wrong = |source| RegistryError::Fetch {
                url: shown(&url),
                source,
            };
            let mut ask = Ask::new(call.method.clone(), &url);
            ask.headers.clone_from(&call.headers);
            if let Some(secret) = authorization.filter(|_| there) {
                ask = ask.header(header::AUTHORIZATION, secret.reveal());
            }
            let mut stream;
            ask.sent = match call.payload {
                Payload::Nothing => Sent::Nothing,
                Payload::Bytes(bytes) => Sent::Bytes(bytes),
                Payload::File {
                    file,
                    from,
                    len,
                    told,
                } => {
                    stream = Piece {
                        file,
                        at: from,
                        end: from + len,
                        told,
                    };
                    Sent::Stream(&mut stream, len)
                }
            };
            let answer = self.client.send(ask).map_err(wrong)?;
            let next = match reads {
                true => http::redirect(&url, &answer).map_err(wrong)?,
                false => None,
            };
            match next {
                None => return Ok((answer, (!there).then_some(url))),
                Some(to) => {
                    // For good: who was redirected away does not come back with a secret.
                    there = there && http::host(&to) == first;
                    url = to;
                }
            }
        }
        Err(RegistryError::Fetch {
            url: shown(&url),
            source: FetchError::Redirects,
        })
    }

    /// Whether a server is asked with TLS.
    pub(super) fn https(&self, to: &Endpoint) -> Result<bool, RegistryError> {
        match to.plain {
            Plain::Never => return Ok(true),
            Plain::Always => return Ok(false),
            Plain::Loopback => {}
        }
        let mut known = self.known.https.lock();
        if let Some(https) = known.get(&to.host) {
            return Ok(*https);
        }
        // Nobody is between this machine and itself. A server of TLS says 400 to what
        // is none, or hangs up.
        let url = to.root(false);
        let https = match self.client.send(Ask::new(Method::GET, &url)) {
            Ok(answer) if answer.status == 400 => true,
            Ok(answer) => {
                if answer.status == 401
                    && let Ok(Some((way, _))) = challenge(to, &answer)
                {
                    self.known.ways.lock().insert(to.host.clone(), way);
                }
                let _ = self.client.whole(answer, WORDS_MAX);
                false
            }
            Err(error) if error.is_refused() => {
                return Err(RegistryError::Fetch { url, source: error });
            }
            Err(FetchError::Connection(_)) => true,
            Err(source) => return Err(RegistryError::Fetch { url, source }),
        };
        known.insert(to.host.clone(), https);
        Ok(https)
    }

    /// Whether a server has demanded a login by now.
    pub(super) fn was_asked_for_login(&self, to: &Endpoint) -> bool {
        self.known.ways.lock().contains_key(&to.host)
    }

    fn login(&self, to: &Endpoint) -> Result<Option<Login>, RegistryError> {
        let key = (to.registry.clone(), to.path.clone());
        let mut known = self.known.logins.lock();
        if let Some(login) = known.get(&key) {
            return Ok(login.clone());
        }
        let login = self.settings.credentials.login(&to.registry, &to.path)?;
        known.insert(key, login.clone());
        Ok(login)
    }

    fn basic(&self, to: &Endpoint) -> Result<Authorization, RegistryError> {
        Ok(match self.login(to)? {
            Some(Login::Password { user, password }) => Some(basic(&user, &password)),
            Some(Login::Identity(_) | Login::Bearer(_)) | None => None,
        })
    }

    /// A token for these scopes, and for those that the registry said; not the one that
    /// was `refused`.
    fn token(
        &self,
        to: &Endpoint,
        https: bool,
        scopes: &[String],
        said: &[String],
        refused: Option<&Secret>,
    ) -> Result<Authorization, RegistryError> {
        let login = self.login(to)?;
        if let Some(Login::Bearer(token)) = &login {
            return Ok(Some(bearer(token)));
        }
        let way = self.known.ways.lock().get(&to.host).cloned();
        let Some(Way::Bearer { realm, service }) = way else {
            return Ok(None);
        };
        let key = (to.host.clone(), scopes.to_vec());
        let mut tokens = self.known.tokens.lock();
        let mut all = scopes.to_vec();
        if let Some(token) = tokens.get(&key) {
            let sent = bearer(&token.value);
            if Instant::now() < token.until && refused != Some(&sent) {
                return Ok(Some(sent));
            }
            all.clone_from(&token.scopes);
        }
        for scope in said {
            if !all.contains(scope) {
                all.push(scope.clone());
            }
        }
        if https && !http::is_https(&realm) {
            let what = format!("tokens would be made without TLS, at `{}`", shown(&realm));
            return Err(RegistryError::Challenge {
                registry: to.registry.clone(),
                what,
            });
        }
        let asked = Instant::now();
        let made = self.make_token(to, &realm, service.as_deref(), &all, login.as_ref())?;
        let life = made.expires_in.filter(|life| *life > 0);
        let life = Duration::from_secs(life.unwrap_or(TOKEN_LIFE).min(TOKEN_LIFE_MAX));
        let value = made.token.filter(|token| !token.is_empty());
        let value = value.or(made.access_token.filter(|token| !token.is_empty()));
        let value = value.filter(|token| token.bytes().all(|b| b.is_ascii_graphic()));
        let value = value.ok_or_else(|| RegistryError::Challenge {
            registry: to.registry.clone(),
            what: format!("`{}` gave no token", shown(&realm)),
        })?;
        let token = Token {
            value: Secret::new(value),
            until: asked + life.saturating_sub(TOKEN_SPARE.min(life / 10)),
            scopes: all,
        };
        let sent = bearer(&token.value);
        tokens.insert(key, token);
        Ok(Some(sent))
    }

    /// Has a token made: by GET with name and password or nothing, by POST with an
    /// identity token (Docker's "Token authentication" and "Oauth2 token authentication").
    fn make_token(
        &self,
        to: &Endpoint,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        login: Option<&Login>,
    ) -> Result<Made, RegistryError> {
        let mut pairs = Vec::new();
        pairs.extend(service.map(|service| ("service", service)));
        let joined = scopes.join(" ");
        let form;
        let mut call = Call::new(Method::GET, Target::Url(realm), Access::Pull);
        let (mut url, mut authorization) = (realm.to_owned(), None);
        if let Some(Login::Identity(token)) = login {
            pairs.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "lazyroot"),
                ("scope", &joined),
                ("refresh_token", token.reveal()),
            ]);
            form = http::query(&pairs);
            call.method = Method::POST;
            call.payload = Payload::Bytes(form.as_bytes());
            call = call.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        } else {
            pairs.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
            if let Some(Login::Password { user, password }) = login {
                authorization = Some(basic(user, password));
                pairs.push(("account", user));
            }
            let mark = if realm.contains('?') { '&' } else { '?' };
            url = format!("{realm}{mark}{}", http::query(&pairs));
        }
        let (answer, _) = self.follow(&url, &call, authorization.as_ref())?;
        if answer.status != 200 {
            return Err(self.refusal(to, "a token", &url, answer));
        }
        let bytes = self.client.whole(answer, WORDS_MAX);
        let bytes = bytes.map_err(|source| RegistryError::Fetch {
            url: shown(&url),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|_| RegistryError::Challenge {
            registry: to.registry.clone(),
            what: format!("`{}` did not answer with a token", shown(&url)),
        })
    }

    /// What an answer means that is not the thing. `what` is the thing, for people.
    pub(crate) fn refusal(
        &self,
        to: &Endpoint,
        what: &str,
        url: &str,
        answer: Answer,
    ) -> RegistryError {
        let status = answer.status;
        let wait = retry_after(&answer.headers);
        let registry = to.registry.clone();
        let said = self.client.whole(answer, WORDS_MAX).ok();
        let said = said.and_then(|body| spoken(&body));
        match status {
            401 | 403 => RegistryError::Refused {
                registry,
                repository: to.path.clone(),
                known: matches!(self.login(to), Ok(Some(_))),
                said,
            },
            404 | 410 => RegistryError::NotFound {
                what: what.to_owned(),
                registry,
                said,
            },
            429 => RegistryError::TooMany {
                registry,
                wait,
                said,
            },
            status => RegistryError::Status {
                url: shown(url),
                status,
                wait,
                said,
            },
        }
    }
}

/// How long a server wants to be left alone (RFC 9110, section 10.2.3): so many seconds,
/// or until a moment, which is one of its own clock where it tells that.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let moment = |text| httpdate::parse_http_date(text).ok();
    let wait = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = wait.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = moment(wait)?;
    let now = text(header::DATE).and_then(moment);
    let wait = until.duration_since(now.unwrap_or_else(SystemTime::now));
    // What is over by now is nothing to wait for.
    Some(wait.unwrap_or_default())
}

/// An answer that has a token.
#[derive(serde::Deserialize)]
struct Made {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// How a server demands to be told who asks, and for what scopes; nothing where it
/// demands nothing.
fn challenge(to: &Endpoint, answer: &Answer) -> Result<Option<(Way, Vec<String>)>, RegistryError> {
    let headers = answer.headers.get_all(header::WWW_AUTHENTICATE).iter();
    let all: Vec<Challenge> = headers
        .filter_map(|value| value.to_str().ok())
        .flat_map(Challenge::parse)
        .collect();
    let of = |scheme: &str| all.iter().find(|challenge| challenge.scheme == scheme);
    let wrong = |what: String| RegistryError::Challenge {
        registry: to.registry.clone(),
        what,
    };
    if let Some(bearer) = of("bearer") {
        let realm = bearer
            .get("realm")
            .filter(|realm| http::host(realm).is_some());
        let realm =
            realm.ok_or_else(|| wrong("it does not say where tokens are made".to_owned()))?;
        let way = Way::Bearer {
            realm: realm.to_owned(),
            service: bearer.get("service").map(str::to_owned),
        };
        let scopes = bearer.get("scope").unwrap_or_default();
        let scopes = scopes.split_ascii_whitespace().map(str::to_owned);
        return Ok(Some((way, scopes.collect())));
    }
    match (of("basic"), all.first()) {
        (Some(_), _) => Ok(Some((Way::Basic, Vec::new()))),
        (None, Some(other)) => Err(wrong(format!("by `{}`", other.scheme.escape_debug()))),
        (None, None) => Ok(None),
    }
}

/// A URL without what may be secret in it.
pub(super) fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or(url).to_owned()
}

/// What a registry says in an error (distribution specification, "Error Codes").
fn spoken(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Said>,
    }
    #[derive(serde::Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors: Errors = serde_json::from_slice(body).ok()?;
    let first = errors.errors.into_iter().next()?;
    let said = match first.message.is_empty() {
        true => first.code,
        false => first.message,
    };
    let plain = said.chars().filter(|c| !c.is_control()).take(SAID_MAX);
    Some(plain.collect::<String>()).filter(|said| !said.is_empty())
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

fn basic(user: &str, password: &Secret) -> Secret {
    let pair = format!("{user}:{}", password.reveal());
    Secret::new(format!("Basic {}", STANDARD.encode(pair)))
}

/// Bytes of a file from one place to another, whoever else reads it.
struct Piece<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    told: &'a dyn Fn(u64),
}

impl io::Read for Piece<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = left.min(to.len());
        let got = self.file.read_at(&mut to[..most], self.at)?;
        if got == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        (self.told)(got as u64);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_one_short_line() {
        let said = |body: &str| spoken(body.as_bytes());
        let usual = r#"{"errors":[{"code":"DENIED","message":"not\nyours","detail":{}}]}"#;
        assert_eq!(said(usual).as_deref(), Some("notyours"));
        let code = r#"{"errors":[{"code":"DENIED"}]}"#;
        assert_eq!(said(code).as_deref(), Some("DENIED"));
        assert_eq!(said(r#"{"errors":[]}"#), None);
        assert_eq!(said("<html>"), None);
        assert_eq!(
            said(&usual.replace("not", &"x".repeat(999))).unwrap().len(),
            SAID_MAX
        );
    }

    #[test]
    fn a_url_is_shown_without_its_query() {
        assert_eq!(shown("https://h/a?X-Amz-Signature=1#x"), "https://h/a");
    }

    #[test]
    fn a_pause_is_so_many_seconds_or_lasts_until_a_moment() {
        let wait = |wait: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, wait.parse().unwrap());
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait("0", None), Some(0));
        assert_eq!(wait(" 120 ", date), Some(120));
        // By the server's own clock, wrong as it is.
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", date), Some(30));
        assert_eq!(wait("Sunday, 06-Nov-94 08:50:07 GMT", date), Some(30));
        assert_eq!(wait("Sun Nov  6 08:50:07 1994", date), Some(30));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:07 GMT", date), Some(0));
        // Else by ours.
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", None), Some(0));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
        assert!((590..=600).contains(&wait(&later, Some("yesterday")).unwrap()));
        for none in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 08:50:07 GMT"] {
            assert_eq!(wait(none, date), None, "{none}");
        }
    }

    #[test]
    fn a_token_is_for_what_is_to_be_done() {
        let to = Endpoint::origin(&"h.org/a/b".parse().unwrap(), &[]);
        let mut call = Call::new(Method::POST, Target::Below("x"), Access::Push);
        assert_eq!(call.scopes(&to), ["repository:a/b:pull,push"]);
        call.mount_from = Some("c");
        assert_eq!(call.scopes(&to)[1..], ["repository:c:pull"]);
    }
}
