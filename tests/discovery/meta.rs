//! Meta discovery, asked by plain http where TLS is not the point: the server is every
//! host by being the proxy, and nobody vouches for its https.

use lazyroot::discovery::{DiscoveryError, Method, Prefix};

use crate::finder::{Finder, says, wanted_as};
use crate::web::{Asked, Reply, Web};

const APP: &str = "example.com/sub/app:1,os=linux,arch=amd64";
const IMAGE: &str = "http://storage.example.com/example.com/sub/app-1.aci";
const TEMPLATE: &str = r#"<meta name="ac-discovery" content="example.com http://storage.example.com/{name}-{version}.{ext}">"#;
const KEYS: &str =
    r#"<meta name="ac-discovery-pubkeys" content="example.com http://example.com/keys">"#;

/// A server where some URLs have answers, and the others nothing.
fn serving(pages: &'static [(&'static str, &'static str)]) -> Web {
    Web::new(move |asked: &Asked| {
        let page = pages.iter().find(|(url, _)| *url == asked.url);
        page.map_or_else(|| Reply::status(404), |(_, text)| Reply::ok(*text))
    })
}

fn find(finder: &Finder) -> Result<lazyroot::discovery::Found, DiscoveryError> {
    let discovery = lazyroot::discovery::Discovery::new(finder.settings.clone())?;
    discovery.find(&wanted_as(APP), &finder.stop)
}

#[test]
fn a_page_of_the_name_itself_leads_to_the_image() {
    const PAGE: &str = "http://example.com/sub/app?ac-discovery=1";
    let web = Web::new(|asked| match &*asked.url {
        PAGE => Reply::ok(format!("<html><head>{TEMPLATE}{KEYS}</head>")),
        IMAGE => Reply::ok("the image"),
        _ => Reply::status(404),
    });
    let finder = Finder::meta(&web);
    assert_eq!(finder.bytes(APP), b"the image");
    assert_eq!(
        web.urls(),
        [PAGE, IMAGE],
        "TLS failed before anything was asked there"
    );
    assert_eq!(find(&finder).unwrap().keys, ["http://example.com/keys"]);
}

#[test]
fn templates_and_keys_are_looked_for_up_to_the_host_each_for_itself() {
    for (sub, root) in [(TEMPLATE, KEYS), (KEYS, TEMPLATE), ("", "BOTH")] {
        let web = Web::new(move |asked| match &*asked.url {
            "http://example.com/sub?ac-discovery=1" => Reply::ok(sub),
            "http://example.com?ac-discovery=1" | "http://example.com/?ac-discovery=1" => {
                Reply::ok(root.replace("BOTH", &format!("{TEMPLATE}{KEYS}")))
            }
            _ => Reply::status(404),
        });
        let found = find(&Finder::meta(&web)).unwrap();
        assert_eq!(found.candidates.len(), 1);
        assert_eq!(found.candidates[0].image.to_string(), IMAGE);
        assert_eq!(found.keys, ["http://example.com/keys"]);
        assert_eq!(web.urls().len(), 3);
    }
}

#[test]
fn the_lowest_templates_win() {
    let web = Web::new(|asked| match &*asked.url {
        "http://example.com/sub/app?ac-discovery=1" => Reply::ok(TEMPLATE),
        _ => Reply::ok(format!("{}{KEYS}", TEMPLATE.replace("storage", "other"))),
    });
    let found = find(&Finder::meta(&web)).unwrap();
    assert_eq!(found.candidates.len(), 1);
    assert_eq!(found.candidates[0].image.to_string(), IMAGE);
    assert_eq!(found.keys.len(), 1);
}

#[test]
fn several_templates_are_tried_and_those_without_a_value_left_out() {
    let web = Web::new(|asked| {
        match &*asked.url {
        "http://example.com/sub/app?ac-discovery=1" => Reply::ok(
            "<meta name=ac-discovery content='example.com hdfs://storage.example.com/{name}.{ext}'>
             <meta name=ac-discovery content='example.com http://other.org/{flavour}/{name}.{ext}'>
             <meta name=ac-discovery content='example.com http://other.org/{name}.{ext}'>
             <meta name=ac-discovery content='example.com http://other.org/{os}/{arch}/{version}.{ext}'>",
        ),
        "http://other.org/linux/amd64/1.aci" => Reply::ok("the image"),
        _ => Reply::status(404),
    }
    });
    let finder = Finder::meta(&web);
    assert_eq!(finder.bytes(APP), b"the image");
    let found = find(&finder).unwrap();
    assert_eq!(
        found.candidates.len(),
        3,
        "a template without a value is left out"
    );
    assert!(
        found
            .tried
            .iter()
            .any(|tried| tried.why == "the label `flavour` is missing")
    );
}

#[test]
fn an_image_that_is_nowhere_is_told_with_all_places() {
    let web = serving(&[("http://example.com/sub?ac-discovery=1", "<p>hello</p>")]);
    let error = find(&Finder::meta(&web)).unwrap_err();
    says(
        &error,
        &[
            "`appc:example.com/sub/app:1,arch=amd64,os=linux`",
            "`http://example.com/sub/app?ac-discovery=1`: the server answered 404",
            "`http://example.com/sub?ac-discovery=1`: no `ac-discovery` tag for this image",
            "`https://example.com?ac-discovery=1`: ",
        ],
    );
    assert!(
        error.hint().is_none(),
        "TLS failed, so nobody knows whether it exists"
    );
}

#[test]
fn a_page_that_is_too_large_or_encoded_or_silent_is_passed_by() {
    type Fault = fn() -> Reply;
    let faults: [(Fault, &str); 4] = [
        (
            || Reply::ok(" ".repeat(2 << 20)),
            "more than 1048576 are not accepted",
        ),
        (
            || Reply::ok("\u{1f}").header("Content-Encoding", "gzip"),
            "the page is encoded",
        ),
        (|| Reply::ok(TEMPLATE).stall(10), "was silent"),
        (
            || Reply::redirect("http://example.com/sub/app?ac-discovery=1"),
            "redirected more than",
        ),
    ];
    for (fault, words) in faults {
        let web = Web::new(move |asked| match &*asked.url {
            "http://example.com/sub/app?ac-discovery=1" => fault(),
            "http://example.com/sub?ac-discovery=1" => Reply::ok(format!("{TEMPLATE}{KEYS}")),
            _ => Reply::status(404),
        });
        let found = find(&Finder::meta(&web)).unwrap();
        assert_eq!(found.candidates[0].image.to_string(), IMAGE, "{words}");
        let told = found.tried.iter().any(|tried| tried.why.contains(words));
        assert!(told, "{words}: {:?}", found.tried);
    }
}

#[test]
fn http_is_not_asked_where_it_is_not_allowed() {
    let web = Web::new(|_| Reply::ok(TEMPLATE));
    let mut finder = Finder::meta(&web);
    finder.settings.network.allow_http = false;
    let error = find(&finder).unwrap_err();
    says(&error, &["`https://example.com/sub/app?ac-discovery=1`: "]);
    assert!(web.asked().is_empty(), "{:?}", web.urls());
}

#[test]
fn labels_that_nobody_gave_have_their_defaults() {
    let web = Web::new(|asked| match &*asked.url {
        "http://example.com/app?ac-discovery=1" => Reply::ok(TEMPLATE),
        "http://storage.example.com/example.com/app-latest.aci" => Reply::ok("the latest"),
        _ => Reply::status(404),
    });
    assert_eq!(Finder::meta(&web).bytes("example.com/app"), b"the latest");
    // Simple discovery needs os and arch, and has no default for them.
    let simple = Finder::new(Method::Simple("http://example.com/".parse().unwrap()));
    let error = simple.refused("example.com/app");
    says(
        &error,
        &["cannot be looked for", "the label `os` is missing"],
    );
}

/// A slash came between them, whatever the prefix ended with.
#[test]
fn a_prefix_is_followed_by_the_name_as_it_stands() {
    const NAME: &str = "app-1-linux-amd64.aci";
    let web = Web::new(|_| Reply::ok("the image"));
    for (prefix, asked) in [
        ("", "/"),
        ("/", "/"),
        ("/pre-", "/pre-"),
        ("/dir/", "/dir/"),
    ] {
        let base = web.url("");
        let prefix = format!("{}{prefix}", base.trim_end_matches('/'));
        let finder = Finder::new(Method::Simple(prefix.parse().unwrap()));
        assert_eq!(finder.bytes("app:1,os=linux,arch=amd64"), b"the image");
        let last = web.asked().pop().unwrap();
        assert_eq!(last.path(), format!("{asked}{NAME}"));
    }
    let host: Prefix = "https://".parse().unwrap();
    assert_eq!(host, Prefix::Url("https://".to_owned()));
    let file = "file:///srv/images/".parse::<Prefix>().unwrap_err();
    assert!(
        file.to_string().ends_with("; write `/srv/images/`"),
        "{file}"
    );
}

/// The page's order was taken, which the specification gives no meaning.
#[test]
fn the_template_with_the_most_labels_goes_first() {
    const STORE: &str = "http://storage.example.com";
    const TEMPLATES: [&str; 4] = [
        "/{name}-latest.{ext}",
        "/{os}/{name}-{version}.{ext}",
        "/mirror/{os}/{name}-{version}-{version}.{ext}",
        "/{os}/{arch}/{name}-latest.{ext}",
    ];
    let web = Web::new(|_| {
        let tag =
            |rest: &str| format!("<meta name=ac-discovery content='example.com {STORE}{rest}'>");
        Reply::ok(TEMPLATES.map(tag).concat())
    });
    let finder = Finder::meta(&web);
    let images = |wanted: &str| {
        let discovery = lazyroot::discovery::Discovery::new(finder.settings.clone()).unwrap();
        let found = discovery.find(&wanted_as(wanted), &finder.stop).unwrap();
        let places = found.candidates.iter().map(|one| one.image.to_string());
        let paths = places.map(|place| place.replace(STORE, "").replace("example.com/", ""));
        paths.collect::<Vec<_>>()
    };
    assert_eq!(
        images("example.com/app:1,os=linux,arch=amd64"),
        [
            "/linux/app-1.aci",
            "/mirror/linux/app-1-1.aci",
            "/linux/amd64/app-latest.aci",
            "/app-latest.aci",
        ]
    );
    // What `{version}` stands for was not asked for.
    assert_eq!(
        images("example.com/app,os=linux,arch=amd64"),
        [
            "/linux/amd64/app-latest.aci",
            "/app-latest.aci",
            "/linux/app-latest.aci",
            "/mirror/linux/app-latest-latest.aci",
        ]
    );
}
