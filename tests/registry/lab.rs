//! The registry of these tests is one: asked by hand, it answers as the distribution
//! specification has it. What the client is held against is held against that first.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::images::{Image, Packing, sha256};
use crate::server::{Auth, OCI_MANIFEST, PASSWORD, Registry, USER};

/// Status, headers and body that a request by hand gets.
fn ask(registry: &Registry, line: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut to = TcpStream::connect(registry.host()).unwrap();
    let len = body.len();
    write!(
        to,
        "{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n{headers}\r\n"
    )
    .unwrap();
    to.write_all(body).unwrap();
    let mut answer = Vec::new();
    // A connection that is reset in the middle is one of the answers.
    let _ = to.read_to_end(&mut answer);
    let at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..at].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[at + 4..].to_vec())
}

fn get(registry: &Registry, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    ask(registry, &format!("GET {path}"), headers, b"")
}

fn location(head: &str) -> String {
    let line = head.lines().find(|line| line.starts_with("Location: "));
    line.unwrap()["Location: ".len()..].to_owned()
}

#[test]
fn manifests_and_blobs_are_where_they_belong() {
    let registry = Registry::new();
    let image = Image::small("a:1", 1, Packing::Gzip);
    for pushed in [
        registry.oci("team/a", "1", &image),
        registry.docker("team/a", "d", &image),
    ] {
        let (status, head, body) = get(
            &registry,
            &format!("/v2/team/a/manifests/{}", pushed.digest()),
            "",
        );
        assert_eq!((status, sha256(&body)), (200, pushed.digest()), "{head}");
        for digest in pushed.layers.iter().chain([&pushed.config]) {
            let (status, _, body) = get(&registry, &format!("/v2/team/a/blobs/{digest}"), "");
            assert_eq!((status, &sha256(&body)), (200, digest));
        }
    }
    let (status, head, _) = ask(&registry, "HEAD /v2/team/a/manifests/1", "", b"");
    assert!(status == 200 && head.contains(OCI_MANIFEST), "{head}");
    for path in [
        "/v2/team/a/manifests/2",
        "/v2/team/b/manifests/1",
        "/v2/a/blobs/sha256:0",
    ] {
        assert_eq!(get(&registry, path, "").0, 404, "{path}");
    }
    let layer = registry.oci("a", "1", &image).layers[0].clone();
    let path = format!("/v2/a/blobs/{layer}");
    let (status, head, body) = get(&registry, &path, "Range: bytes=100-\r\n");
    assert!(
        status == 206 && head.contains("Content-Range: bytes 100-"),
        "{head}"
    );
    assert_eq!(body, image.layers[0].packed[100..]);
    let without = Registry::with(Auth::Open, false);
    without.oci("a", "1", &image);
    assert_eq!(get(&without, &path, "Range: bytes=100-\r\n").0, 200);
}

#[test]
fn faults_happen_as_often_as_they_were_ordered() {
    let registry = Registry::new();
    let image = Image::small("a:1", 1, Packing::Gzip);
    let layer = registry.oci("a", "1", &image).layers[0].clone();
    let path = format!("/v2/a/blobs/{layer}");
    let len = image.layers[0].packed.len();
    registry.fault("GET", &layer, 1, |_, reply| reply.with_status(500));
    registry.fault("GET", &layer, 1, |_, reply| reply.reset(1000));
    registry.fault("GET", &layer, 1, |_, reply| reply.cut(10));
    registry.fault("GET", &layer, 1, |_, reply| reply.flip(7));
    assert_eq!(get(&registry, &path, "").0, 500);
    assert!(get(&registry, &path, "").2.len() <= 1000);
    assert_eq!(get(&registry, &path, "").2.len(), 10);
    assert_ne!(sha256(&get(&registry, &path, "").2), layer);
    assert_eq!(get(&registry, &path, "").2.len(), len);
    assert_eq!(registry.count("GET", &layer), 5);
}

#[test]
fn who_has_no_login_is_told_how_to_log_in() {
    use base64::Engine as _;
    let pair = format!("{USER}:{PASSWORD}");
    let basic = base64::engine::general_purpose::STANDARD.encode(pair);
    let basic = format!("Authorization: Basic {basic}\r\n");
    let registry = Registry::with(Auth::Basic, true);
    let (status, head, _) = get(&registry, "/v2/", "");
    assert!(
        status == 401 && head.contains("WWW-Authenticate: Basic"),
        "{head}"
    );
    assert_eq!(get(&registry, "/v2/", &basic).0, 200);

    let registry = Registry::with(
        Auth::Bearer {
            realm: None,
            anonymous: true,
            uses: 2,
        },
        true,
    );
    registry.oci("team/a", "1", &Image::small("a:1", 1, Packing::Gzip));
    let path = "/v2/team/a/manifests/1";
    let (status, head, _) = get(&registry, path, "");
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"lab\"",
        registry.host()
    );
    assert!(status == 401 && head.contains(&realm), "{head}");
    assert!(head.contains("scope=\"repository:team/a:pull\""), "{head}");
    let token = |scope: &str, headers: &str| {
        let path = format!("/token?service=lab&scope={scope}");
        let (status, _, body) = get(&registry, &path, headers);
        let said: Value = serde_json::from_slice(&body).unwrap();
        (status == 200).then(|| {
            format!(
                "Authorization: Bearer {}\r\n",
                said["token"].as_str().unwrap()
            )
        })
    };
    let pull = token("repository%3Ateam%2Fa%3Apull%2Cpush", "").unwrap();
    assert_eq!(get(&registry, path, &pull).0, 200);
    // Nobody in particular may not push.
    assert_eq!(
        ask(&registry, "POST /v2/team/a/blobs/uploads/", &pull, b"").0,
        401
    );
    assert_eq!(get(&registry, path, &pull).0, 200);
    assert_eq!(
        get(&registry, path, &pull).0,
        401,
        "the first one was good for two requests"
    );
    let other = token("repository:team/b:pull", "").unwrap();
    assert_eq!(get(&registry, path, &other).0, 401);
    let push = token("repository:team/a:pull,push", &basic).unwrap();
    assert_eq!(
        ask(&registry, "POST /v2/team/a/blobs/uploads/", &push, b"").0,
        202
    );
    assert_eq!(token("x", "Authorization: Basic xxxx\r\n"), None);
}

#[test]
fn what_is_uploaded_is_there() {
    let registry = Registry::new();
    let bytes = b"some bytes".as_slice();
    let digest = sha256(bytes);
    let start = || {
        let (status, head, _) = ask(&registry, "POST /v2/a/blobs/uploads/", "", b"");
        assert_eq!(status, 202);
        location(&head)
    };
    let at = start();
    let (status, _, _) = ask(&registry, &format!("PUT {at}&digest={digest}"), "", bytes);
    assert_eq!((status, registry.has_blob("a", &digest)), (201, true));
    // In pieces, each where the one before ended.
    let at = start();
    let range = "Content-Range: 0-3\r\n";
    let (status, head, _) = ask(&registry, &format!("PATCH {at}"), range, &bytes[..4]);
    assert!(status == 202 && head.contains("Range: 0-3"), "{head}");
    let at = location(&head);
    assert_eq!(
        ask(&registry, &format!("PATCH {at}"), range, &bytes[4..]).0,
        416
    );
    let wrong = format!("PUT {at}&digest={}", sha256(b"other"));
    assert_eq!(ask(&registry, &wrong, "", &bytes[4..]).0, 400);
    // From another repository, or not.
    let mount = format!("POST /v2/b/blobs/uploads/?mount={digest}&from=a");
    assert_eq!(ask(&registry, &mount, "", b"").0, 201);
    assert!(registry.has_blob("b", &digest));
    let mount = format!("POST /v2/c/blobs/uploads/?mount={digest}&from=nobody");
    assert_eq!(ask(&registry, &mount, "", b"").0, 202);
    let manifest = |config: &str| {
        let said = json!({ "config": { "digest": config }, "layers": [] });
        let kind = format!("Content-Type: {OCI_MANIFEST}\r\n");
        ask(
            &registry,
            "PUT /v2/b/manifests/1",
            &kind,
            said.to_string().as_bytes(),
        )
        .0
    };
    assert_eq!(manifest(&sha256(b"nothing")), 400);
    assert_eq!(manifest(&digest), 201);
    assert_eq!(registry.stored("b", "1").unwrap().0, OCI_MANIFEST);
}
