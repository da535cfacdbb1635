//! A web server on loopback whose faults are scripted; also a proxy, so that it can
//! be every host there is, with TLS and without.
//!
//! What it is for: a test gives a function from what was asked to what is answered,
//! bytes, lies and silence included, and looks at what was asked afterwards. A
//! client that has it as its proxy asks it to connect to `example.com:443`; it then
//! is `example.com`, with a certificate that only [`Web::certificate`] vouches for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The names that its certificate is for.
const HOSTS: [&str; 3] = ["example.com", "storage.example.com", "other.org"];

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// `GET`, `HEAD` ...
    pub(crate) method: String,
    /// All of the URL, the default port left out.
    pub(crate) url: String,
    /// Its headers, with names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// What came with it; less than its length says if the client went away.
    pub(crate) body: Vec<u8>,
    /// How often the same was asked for before.
    pub(crate) before: usize,
}

impl Asked {
    /// The URL behind the host.
    pub(crate) fn path(&self) -> &str {
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        rest.find('/').map_or("/", |at| &rest[at..])
    }

    /// Where a range begins that is asked for.
    fn from(&self) -> Option<usize> {
        let range = self.headers.get("range")?;
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What comes after the bytes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection ends.
    Close,
    /// Nothing, for as long as the server lives.
    Silence,
    /// The connection is broken: the client gets an error and no end.
    Reset,
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What the length is said to be.
    claim: Option<usize>,
    chunked: bool,
    end: End,
    /// Not even a status comes.
    mute: bool,
    /// Bytes that come at once, and the time between.
    drip: Option<(usize, Duration)>,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status: 200,
            headers: Vec::new(),
            claim: Some(body.len()),
            body,
            chunked: false,
            end: End::Close,
            mute: false,
            drip: None,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::ok("an error in words")
        }
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(302).header("Location", to)
    }

    /// A file as good servers give it: with an ETag, and from where it is asked for.
    pub(crate) fn file(asked: &Asked, body: &[u8], etag: &str) -> Self {
        let same = asked
            .headers
            .get("if-range")
            .is_none_or(|mark| mark == etag);
        let whole = Self::ok(body).header("ETag", etag);
        match asked.from().filter(|_| same) {
            Some(from) if from >= body.len() => {
                Self::status(416).header("Content-Range", &format!("bytes */{}", body.len()))
            }
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                let rest = Self::ok(&body[from..]).header("ETag", etag);
                Self {
                    status: 206,
                    ..rest.header("Content-Range", &range)
                }
            }
            None => whole,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The length is said to be another one.
    pub(crate) fn claiming(self, len: usize) -> Self {
        Self {
            claim: Some(len),
            ..self
        }
    }

    /// Its end is told by the end of the connection.
    pub(crate) fn without_length(self) -> Self {
        Self {
            claim: None,
            ..self
        }
    }

    pub(crate) fn chunked(self) -> Self {
        Self {
            chunked: true,
            claim: None,
            ..self
        }
    }

    /// The connection ends after so many bytes of the body.
    pub(crate) fn cut(mut self, after: usize) -> Self {
        self.body.truncate(after);
        self
    }

    /// Nothing comes any more after so many bytes of the body.
    pub(crate) fn stall(self, after: usize) -> Self {
        Self {
            end: End::Silence,
            ..self.cut(after)
        }
    }

    /// The connection breaks after so many bytes of the body.
    pub(crate) fn reset(self, after: usize) -> Self {
        Self {
            end: End::Reset,
            ..self.cut(after)
        }
    }

    /// The connection breaks before anything is answered.
    pub(crate) fn hang_up(self) -> Self {
        Self {
            mute: true,
            end: End::Reset,
            ..self
        }
    }

    /// Nothing is ever answered.
    pub(crate) fn silence(self) -> Self {
        Self {
            mute: true,
            end: End::Silence,
            ..self
        }
    }

    /// The length of the body that is to be.
    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    /// The body has more bytes than it should.
    pub(crate) fn longer(mut self) -> Self {
        self.body.extend([0; 1000]);
        self.claim = self.claim.map(|len| len + 1000);
        self
    }

    /// A byte of the body is another one.
    pub(crate) fn flip(mut self, at: usize) -> Self {
        self.body[at] ^= 1;
        self
    }

    /// A few bytes at a time.
    pub(crate) fn drip(self, bytes: usize, pause: Duration) -> Self {
        Self {
            drip: Some((bytes, pause)),
            ..self
        }
    }

    /// The answer to HEAD: what there would be.
    fn head(self) -> Self {
        Self {
            body: Vec::new(),
            chunked: false,
            ..self
        }
    }

    fn send(&self, to: &mut dyn Write, stop: &AtomicBool) -> std::io::Result<()> {
        if self.mute {
            if self.end == End::Silence {
                sleep(Duration::from_secs(60), stop);
            }
            return Ok(());
        }
        write!(to, "HTTP/1.1 {} Word\r\nConnection: close\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(to, "{name}: {value}\r\n")?;
        }
        match (self.chunked, self.claim) {
            (true, _) => write!(to, "Transfer-Encoding: chunked\r\n\r\n")?,
            (false, Some(len)) => write!(to, "Content-Length: {len}\r\n\r\n")?,
            (false, None) => write!(to, "\r\n")?,
        }
        match (self.chunked, self.drip) {
            (true, _) => {
                for chunk in self.body.chunks(1000) {
                    write!(to, "{:x}\r\n", chunk.len())?;
                    to.write_all(chunk)?;
                    write!(to, "\r\n")?;
                }
                if self.end == End::Close {
                    write!(to, "0\r\n\r\n")?;
                }
            }
            (false, None) => to.write_all(&self.body)?,
            (false, Some((bytes, pause))) => {
                for piece in self.body.chunks(bytes) {
                    to.write_all(piece)?;
                    to.flush()?;
                    if !sleep(pause, stop) {
                        return Ok(());
                    }
                }
            }
        }
        to.flush()?;
        if self.end == End::Silence {
            sleep(Duration::from_secs(60), stop);
        }
        Ok(())
    }
}

/// Whether all of the time has passed.
fn sleep(time: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        thread::sleep(Duration::from_millis(5).min(time));
    }
    true
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server; gone when dropped.
pub(crate) struct Web {
    address: SocketAddr,
    certificate: String,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    stop: AtomicBool,
    tls: Arc<rustls::ServerConfig>,
}

impl Web {
    pub(crate) fn new(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
            tls: Arc::new(tls),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // Clients that hang up in the middle are what these tests are about.
                thread::spawn(move || _ = shared.serve(stream, address));
            }
        });
        Self {
            address,
            certificate: made.cert.pem(),
            shared,
        }
    }

    /// `http://127.0.0.1:PORT/` and a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Itself as a proxy.
    pub(crate) fn proxy(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Who vouches for it, in PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// All that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The URLs of it.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.url).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for somebody.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream, address: SocketAddr) -> std::io::Result<()> {
        // A client that never speaks must not keep a thread for ever.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let (line, headers) = head(&mut (&stream))?;
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if method != "CONNECT" {
            let url = format!("http://{address}{target}");
            let end = self.answer(method, &url, headers, &mut (&stream))?;
            return finish(&stream, end);
        }
        (&stream).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        if let Some(host) = target.strip_suffix(":443") {
            let tls = rustls::ServerConnection::new(Arc::clone(&self.tls));
            let mut secured = rustls::StreamOwned::new(tls.map_err(std::io::Error::other)?, stream);
            let (line, headers) = head(&mut secured)?;
            let (method, path) = method_and_path(&line);
            let url = format!("https://{host}{path}");
            let end = self.answer(method, &url, headers, &mut secured)?;
            if end != End::Reset {
                secured.conn.send_close_notify();
                secured.flush()?;
            }
            return finish(&secured.sock, end);
        }
        let host = target.strip_suffix(":80").unwrap_or(target);
        let (line, headers) = head(&mut (&stream))?;
        let (method, path) = method_and_path(&line);
        let url = format!("http://{host}{path}");
        let end = self.answer(method, &url, headers, &mut (&stream))?;
        finish(&stream, end)
    }

    fn answer(
        &self,
        method: &str,
        url: &str,
        headers: BTreeMap<String, String>,
        connection: &mut (impl Read + Write),
    ) -> std::io::Result<End> {
        let body = body(&headers, connection)?;
        let asked = {
            let mut all = self.asked.lock().unwrap();
            let same = |asked: &&Asked| asked.url == url && asked.method == method;
            let asked = Asked {
                method: method.to_owned(),
                url: url.to_owned(),
                headers,
                body,
                before: all.iter().filter(same).count(),
            };
            all.push(asked.clone());
            asked
        };
        let reply = (self.script)(&asked);
        let reply = match method {
            "HEAD" => reply.head(),
            _ => reply,
        };
        reply.send(connection, &self.stop)?;
        Ok(reply.end)
    }
}

fn method_and_path(line: &str) -> (&str, &str) {
    let mut words = line.split(' ');
    (words.next().unwrap_or(""), words.next().unwrap_or(""))
}

/// Ends a connection as an answer demands.
fn finish(stream: &TcpStream, end: End) -> std::io::Result<()> {
    if end == End::Reset {
        // What was sent has time to arrive, then closing sends RST and no FIN.
        thread::sleep(Duration::from_millis(20));
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    }
    Ok(())
}

/// What comes with a request: by its length, or in chunks.
fn body(headers: &BTreeMap<String, String>, from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.contains_key("transfer-encoding") {
        let mut from = BufReader::with_capacity(1, from);
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let len = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            from.by_ref().take(len).read_to_end(&mut body)?;
            from.read_line(&mut line)?;
            if len == 0 {
                return Ok(body);
            }
        }
    }
    let len = headers
        .get("content-length")
        .and_then(|len| len.parse().ok());
    // Who goes away in the middle has sent what he has sent.
    let _ = from.take(len.unwrap_or(0)).read_to_end(&mut body);
    Ok(body)
}

/// The first line of a request, and its headers.
fn head(from: &mut impl Read) -> std::io::Result<(String, BTreeMap<String, String>)> {
    // One byte at a time: what follows belongs to TLS.
    let mut from = BufReader::with_capacity(1, from);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        from.read_line(&mut header)?;
        match header.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => return Ok((line.trim_end().to_owned(), headers)),
        }
    }
}
