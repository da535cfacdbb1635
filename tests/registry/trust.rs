//! Who is asked, in which way, and who gets which secret.

use lazyroot::causes::chain;
use lazyroot::registry::{Credentials, Login, Secret};

use crate::images::{Bench, Image, Packing, Ran};
use crate::puller::{
    Puller, as_every_host, image, is_empty, is_whole, is_whole_as, lab, log_in, pull, same, says,
    two_layers,
};
use crate::server::{Auth, PASSWORD, Registry, USER};
use crate::web::{Reply, Web};

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
fn who_has_a_login_gets_it_in_every_way() {
    let bearer = |anonymous, uses| Auth::Bearer {
        realm: None,
        anonymous,
        uses,
    };
    let image = two_layers(1);
    // A token that is good for two requests ends in the middle.
    for auth in [Auth::Basic, bearer(false, usize::MAX), bearer(false, 2)] {
        let registry = Registry::with(auth.clone(), true);
        registry.oci("team/a", "1", &image);
        let bench = Bench::new();
        let ran = pull(&bench, &registry, "team/a:1");
        says(
            &ran,
            1,
            &["does not let strangers", "\ntry: lazyroot login"],
        );
        is_empty(&bench);
        log_in(&bench, &registry.host(), "wrong");
        let ran = pull(&bench, &registry, "team/a:1");
        says(&ran, 1, &["error: "]);
        assert!(!ran.err.contains("wrong"), "{}", ran.err);
        is_empty(&bench);
        log_in(&bench, &registry.host(), PASSWORD);
        pull(&bench, &registry, "team/a:1").ok();
        is_whole(&bench, &registry, "team/a:1", &image);
    }
    let registry = Registry::with(bearer(true, 2), true);
    registry.oci("team/a", "1", &image);
    let bench = Bench::new();
    pull(&bench, &registry, "team/a:1").ok();
    is_whole(&bench, &registry, "team/a:1", &image);
}

#[test]
fn a_login_of_another_registry_is_not_sent() {
    let (bench, registry) = (Bench::new(), Registry::with(Auth::Basic, true));
    registry.oci("a", "1", &two_layers(1));
    log_in(&bench, "other.example.com", PASSWORD);
    says(&pull(&bench, &registry, "a:1"), 1, &["strangers"]);
    let asked = registry.web.asked();
    assert!(
        asked
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
}

#[test]
fn tokens_may_be_made_by_another_host_which_alone_gets_the_password() {
    let auth = Auth::Bearer {
        realm: Some("https://other.org/token".to_owned()),
        anonymous: false,
        uses: 3,
    };
    let (bench, registry) = (Bench::new(), Registry::with(auth, true));
    let image = two_layers(1);
    registry.oci("team/a", "1", &image);
    log_in(&bench, "example.com", PASSWORD);
    as_every_host(&bench, &registry, &["pull", "example.com/team/a:1"]).ok();
    for asked in registry.web.asked() {
        let told = asked
            .headers
            .get("authorization")
            .map_or("", String::as_str);
        let basic = told.starts_with("Basic ");
        assert_eq!(
            basic,
            asked.url.starts_with("https://other.org/token"),
            "{}",
            asked.url
        );
    }
    is_whole_as(&bench, "example.com/team/a:1", &image);
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
        let told = asked[0].headers.values();
        let told: Vec<_> = told.filter(|value| value.contains(USER)).collect();
        assert!(
            !asked[0].headers.contains_key("authorization") && told.is_empty(),
            "{asked:?}"
        );
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

/// Whether somebody asked for such a URL.
fn was_asked(registry: &Registry, part: &str) -> bool {
    registry.web.urls().iter().any(|url| url.contains(part))
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
    // Another one that is named makes no difference.
    proxied(&["--insecure", "example.com", "other.org/a:1"]);
    assert!(!was_asked(&registry, "http://other.org"));
    proxied(&["--insecure", "other.org", "other.org/a:1"]).ok();
    assert!(was_asked(&registry, "http://other.org/v2/a/"));
    let roots = bench.write("ca.pem", registry.web.certificate().as_bytes());
    proxied(&["--cacert", roots.to_str().unwrap(), "example.com/a:1"]).ok();
    assert!(was_asked(&registry, "https://example.com/v2/a/"));
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
    assert!(!was_asked(&registry, "other.org"));
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
    assert!(!was_asked(&registry, "other.org"));
}
