//! Proxies, as the environment names them.

use ureq::{Proxy, ProxyProtocol};

/// Which proxy is asked for what.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    pub(super) https: Option<Proxy>,
    pub(super) http: Option<Proxy>,
}

/// A variable of the environment that names no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{variable}` is not the URL of a proxy")]
pub struct ProxyError {
    /// The variable.
    pub variable: String,
}

impl Proxies {
    /// Reads `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in lower case
    /// first, as curl does. `HTTP_PROXY` does not count where `REQUEST_METHOD` is
    /// set: there it is a header that a client of a web server sent.
    ///
    /// # Errors
    /// A value that is not the URL of an http or https proxy. Nothing is asked for
    /// without the proxy that somebody wanted.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        Self::read(get, "")
    }

    /// The same, but this machine is always asked without a proxy, as Docker does.
    ///
    /// # Errors
    /// Those of [`Self::from_variables`].
    pub fn but_loopback(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        Self::read(get, "localhost,127.*,[::1],::1")
    }

    fn read(get: impl Fn(&str) -> Option<String>, also: &str) -> Result<Self, ProxyError> {
        let set = |name: &str| {
            let upper = name.to_ascii_uppercase();
            let forged = name == "http_proxy" && get("REQUEST_METHOD").is_some();
            let found = get(name).map(|value| (name.to_owned(), value));
            let found = match forged {
                true => found,
                false => found.or_else(|| get(&upper).map(|value| (upper, value))),
            };
            found.filter(|(_, value)| !value.is_empty())
        };
        let except = set("no_proxy").map(|(_, list)| list).unwrap_or_default();
        let except = format!("{except},{also}");
        let proxy = |name: &str| match set(name).or_else(|| set("all_proxy")) {
            None => Ok(None),
            Some((variable, url)) => match proxy(&url, &except) {
                Some(proxy) => Ok(Some(proxy)),
                None => Err(ProxyError { variable }),
            },
        };
        Ok(Self {
            https: proxy("https_proxy")?,
            http: proxy("http_proxy")?,
        })
    }
}

fn proxy(url: &str, except: &str) -> Option<Proxy> {
    let parsed = Proxy::new(url).ok()?;
    if !matches!(
        parsed.protocol(),
        ProxyProtocol::Http | ProxyProtocol::Https
    ) {
        return None;
    }
    let mut proxy = Proxy::builder(parsed.protocol())
        .host(parsed.host())
        .port(parsed.port());
    if let Some(name) = parsed.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = parsed.password() {
        proxy = proxy.password(password);
    }
    for host in except
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
    {
        // `example.com` is for its subdomains too (as in curl), which ureq has
        // as a pattern of its own.
        let bare = host.trim_start_matches("*.").trim_start_matches('.');
        if host == "*" {
            proxy = proxy.no_proxy(host);
        } else {
            proxy = proxy.no_proxy(bare).no_proxy(&format!(".{bare}"));
        }
    }
    proxy.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::from_variables(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = read(&[("https_proxy", "http://a:1"), ("HTTP_PROXY", "b:2")]).unwrap();
        assert_eq!(both.https.unwrap().host(), "a");
        assert_eq!(both.http.as_ref().unwrap().port(), 2);
        let all = read(&[("ALL_PROXY", "http://u:p%40@c"), ("https_proxy", "")]).unwrap();
        let https = all.https.unwrap();
        assert_eq!((https.host(), https.password()), ("c", Some("p@")));
        assert!(read(&[]).unwrap().http.is_none());
    }

    #[test]
    fn hosts_are_left_out_with_their_subdomains() {
        let proxies = read(&[("https_proxy", "a:1"), ("no_proxy", "example.com, .b.org")]).unwrap();
        let proxy = proxies.https.unwrap();
        for (url, direct) in [
            ("https://example.com/", true),
            ("https://x.example.com/", true),
            ("https://notexample.com/", false),
            ("https://x.b.org/", true),
            ("https://c.org/", false),
        ] {
            assert_eq!(proxy.is_no_proxy(&url.parse().unwrap()), direct, "{url}");
        }
    }

    #[test]
    fn this_machine_is_asked_without_a_proxy_where_that_is_wanted() {
        let get = |name: &str| match name {
            "http_proxy" => Some("http://a:1".to_owned()),
            "no_proxy" => Some("b.org".to_owned()),
            _ => None,
        };
        let proxy = Proxies::but_loopback(get).unwrap().http.unwrap();
        for (url, direct) in [
            ("http://localhost:5000/v2/", true),
            ("http://127.0.0.1:5000/v2/", true),
            ("http://127.0.1.1:5000/v2/", true),
            ("http://[::1]:5000/v2/", true),
            ("http://b.org/", true),
            ("http://c.org/", false),
        ] {
            assert_eq!(proxy.is_no_proxy(&url.parse().unwrap()), direct, "{url}");
        }
        let all = Proxies::from_variables(get).unwrap().http.unwrap();
        assert!(!all.is_no_proxy(&"http://localhost/".parse().unwrap()));
    }

    #[test]
    fn a_proxy_that_is_none_is_an_error_and_not_left_out() {
        for url in ["socks5://a:1", "http://", "a b"] {
            let error = read(&[("https_proxy", url)]).unwrap_err();
            assert_eq!(error.variable, "https_proxy", "{url}");
        }
    }

    #[test]
    fn a_header_of_a_web_client_is_no_proxy() {
        let forged = [("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")];
        assert!(read(&forged).unwrap().http.is_none());
    }
}
