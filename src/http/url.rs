//! The little that must be known of URLs: whom one asks, and where a redirect leads
//! (RFC 3986, section 5.2).

use ureq::http::Uri;

/// Scheme, host and port: who is asked. Two URLs with the same are of one server.
pub(crate) fn host(url: &str) -> Option<(bool, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let https = is_https(url);
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    Some((https, uri.host()?.to_ascii_lowercase(), port))
}

/// Whether it is asked for with TLS.
pub(crate) fn is_https(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    uri.is_some_and(|uri| uri.scheme_str() == Some("https"))
}

/// Where `to` leads that was found at `base`; nothing where that cannot be told.
pub(crate) fn join(base: &str, to: &str) -> Option<String> {
    let to = to.split('#').next()?;
    if let Some((scheme, _)) = to.split_once("://")
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        return Some(to.to_owned());
    }
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    if let Some(rest) = to.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if to.starts_with('/') {
        return Some(format!("{scheme}://{authority}{to}"));
    }
    let path = uri.path();
    if to.starts_with('?') {
        return Some(format!("{scheme}://{authority}{path}{to}"));
    }
    // Nobody sends `..`; who does gets what the server makes of it.
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    Some(format!("{scheme}://{authority}{dir}/{to}"))
}

/// Names and values as a query or a form has them.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{}={}", escaped(name), escaped(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Everything but the unreserved characters of RFC 3986 (section 2.3) in percent.
pub(crate) fn escaped(value: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            // Writing to a string does not fail.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_its_base_says() {
        let base = "https://u.example:8443/v2/a/blobs/x?q=1";
        for (to, leads) in [
            ("https://b.org/x", "https://b.org/x"),
            ("//b.org/x", "https://b.org/x"),
            (
                "/other?a=http://c",
                "https://u.example:8443/other?a=http://c",
            ),
            ("y", "https://u.example:8443/v2/a/blobs/y"),
            ("?s=2#f", "https://u.example:8443/v2/a/blobs/x?s=2"),
        ] {
            assert_eq!(join(base, to).as_deref(), Some(leads), "{to}");
        }
        assert_eq!(join("nothing", "/x"), None);
    }

    #[test]
    fn a_query_has_nothing_that_ends_a_value() {
        let pairs = [("scope", "repository:a/b:pull,push x"), ("account", "ü&=%")];
        let text = "scope=repository%3Aa%2Fb%3Apull%2Cpush%20x&account=%C3%BC%26%3D%25";
        assert_eq!(query(&pairs), text);
    }

    #[test]
    fn a_server_is_its_scheme_host_and_port() {
        assert_eq!(host("https://A.org/x"), host("https://a.org:443/y"));
        for other in ["http://a.org/", "https://a.org:444/", "https://b.a.org/"] {
            assert_ne!(host("https://a.org/"), host(other), "{other}");
        }
        assert_eq!(host("/x"), None);
    }
}
