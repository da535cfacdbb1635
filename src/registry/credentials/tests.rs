use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::causes::chain;

/// A directory with files of logins and helpers.
struct Lab {
    dir: tempfile::TempDir,
    files: Vec<PathBuf>,
}

impl Lab {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            files: Vec::new(),
        }
    }

    /// One more file; the first one is the one that is written to.
    fn file(mut self, text: &str) -> Self {
        let path = self.dir.path().join(format!("{}.json", self.files.len()));
        fs::write(&path, text).unwrap();
        self.files.push(path);
        self
    }

    fn json(self, value: &Value) -> Self {
        self.file(&value.to_string())
    }

    /// A helper, as a script for sh; `$1` is the verb.
    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.dir.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A helper that keeps logins in files, and notes what it was asked.
    fn keeper(self, name: &str) -> Self {
        let script = r#"
            cd "${0%/*}"; in=$(cat); printf '%s %s\n' "$1" "$in" >>asked
            key() { printf %s "$1" | tr -c a-zA-Z0-9 _; }
            nothing() { echo 'credentials not found in native keychain'; exit 1; }
            case $1 in
            get) cat "kept.$(key "$in")" 2>/dev/null || nothing ;;
            store) server=${in#*'"ServerURL":"'}; printf %s "$in" >"kept.$(key "${server%%'"'*}")" ;;
            erase) rm "kept.$(key "$in")" 2>/dev/null || nothing ;;
            list) cat list 2>/dev/null || echo '{}' ;;
            esac"#;
        self.helper(name, script)
    }

    fn credentials(&self) -> Credentials {
        Credentials {
            path: Some(self.dir.path().to_owned()),
            ..Credentials::new(self.files.clone())
        }
    }

    #[track_caller]
    fn find(&self, registry: &str, repository: &str) -> Option<Login> {
        let found = self.credentials().find(registry, repository).unwrap();
        found.map(|found| found.login)
    }

    fn error(&self, registry: &str) -> CredentialsError {
        self.credentials().find(registry, "a/b").unwrap_err()
    }

    fn read(&self, number: usize) -> Value {
        serde_json::from_slice(&fs::read(&self.files[number]).unwrap()).unwrap()
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default()
    }
}

fn auth(user: &str, password: &str) -> Value {
    json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
}

fn password(user: &str, password: &str) -> Login {
    Login::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    }
}

/// Mesos' `docker_spec_tests`, T54: `config.json`.
#[test]
fn logins_are_below_auths() {
    let lab = Lab::new().json(&json!({
        "auths": {
            "https://index.docker.io/v1/": { "auth": auth("hub", "a:b")["auth"], "email": "a@b" },
            "localhost:5000": { "username": "u", "password": "p" },
            "https://tokens.example.com": { "auth": auth("x", "y")["auth"], "identitytoken": "id" },
            "raw.example.com": { "registrytoken": "raw" },
            "marked.example.com": {},
        },
        "HttpHeaders": { "User-Agent": "x" },
    }));
    // A colon may be in the password only.
    assert_eq!(
        lab.find("docker.io", "library/debian"),
        Some(password("hub", "a:b"))
    );
    assert_eq!(lab.find("localhost:5000", "x"), Some(password("u", "p")));
    let token = Login::Identity(Secret::new("id"));
    assert_eq!(lab.find("tokens.example.com", "x"), Some(token));
    let token = Login::Bearer(Secret::new("raw"));
    assert_eq!(lab.find("raw.example.com", "x"), Some(token));
    assert_eq!(lab.find("marked.example.com", "x"), None);
    assert_eq!(lab.find("localhost", "x"), None);
    assert_eq!(lab.find("localhost:5001", "x"), None);
}

/// T55: `.dockercfg`.
#[test]
fn the_older_form_has_them_at_its_top() {
    let lab = Lab::new().json(&json!({
        "https://index.docker.io/v1/": { "auth": auth("hub", "p")["auth"], "email": "a@b" },
        "quay.io": auth("q", "p"),
    }));
    assert_eq!(
        lab.find("docker.io", "library/debian"),
        Some(password("hub", "p"))
    );
    assert_eq!(lab.find("quay.io", "a/b"), Some(password("q", "p")));
    assert_eq!(lab.find("example.com", "a"), None);
}

#[test]
fn a_registry_has_many_spellings() {
    for key in [
        "host.io:5000",
        "http://host.io:5000",
        "https://host.io:5000/v1/",
        "https://host.io:5000/v2/",
        "https://host.io:5000/any/thing",
        "host.io:5000/v1/",
        "host.io:5000/",
        "Host.IO:5000",
    ] {
        let lab = Lab::new().json(&json!({ "auths": { key: auth("u", "p") } }));
        assert_eq!(
            lab.find("host.io:5000", "a"),
            Some(password("u", "p")),
            "{key}"
        );
        assert_eq!(lab.find("host.io", "a"), None, "{key}");
    }
    for key in [
        "docker.io",
        "index.docker.io",
        "https://index.docker.io/v1/",
        "https://registry-1.docker.io",
        "index.docker.io/v1/",
    ] {
        let lab = Lab::new().json(&json!({ "auths": { key: auth("u", "p") } }));
        assert_eq!(
            lab.find("docker.io", "library/a"),
            Some(password("u", "p")),
            "{key}"
        );
    }
}

#[test]
fn the_longest_name_of_a_repository_goes_first() {
    let lab = Lab::new().json(&json!({ "auths": {
        "quay.io": auth("host", "p"),
        "quay.io/team": auth("team", "p"),
        "quay.io/team/app": auth("app", "p"),
    } }));
    for (repository, user) in [
        ("team/app", "app"),
        ("team/app/deep", "app"),
        ("team/application", "team"),
        ("team", "team"),
        ("teams/app", "host"),
        ("", "host"),
    ] {
        let found = lab.find("quay.io", repository);
        assert_eq!(found, Some(password(user, "p")), "{repository}");
    }
}

#[test]
fn the_first_file_that_has_a_login_is_believed() {
    let of = |key: &str, user: &str| json!({ "auths": { key: auth(user, "p") } });
    let mut lab = Lab::new().file("").json(&of("a.io", "one"));
    lab.files
        .insert(0, lab.dir.path().join("nothing/there.json"));
    let lab = lab.json(&of("a.io", "two")).json(&of("b.io", "three"));
    assert_eq!(lab.find("a.io", "x"), Some(password("one", "p")));
    assert_eq!(lab.find("b.io", "x"), Some(password("three", "p")));
    let found = lab.credentials().find("b.io", "x").unwrap().unwrap();
    assert_eq!(found.from, lab.files[4].display().to_string());
}

#[test]
fn a_file_that_makes_no_sense_is_told_without_what_is_in_it() {
    let secret = STANDARD.encode("hunter2");
    for (text, why) in [
        (
            "{ \"auths\": hunter2 }",
            "it is not JSON (line 1, column 12)",
        ),
        ("[\"hunter2\"]", "it is no JSON object"),
        ("{ \"auths\": \"hunter2\" }", "`auths` is no object"),
        (
            "{ \"auths\": { \"a.io\": \"hunter2\" } }",
            "the entry of `a.io` is no object",
        ),
        (
            "{ \"auths\": { \"a.io\": { \"auth\": [\"hunter2\"] } } }",
            "the entry of `a.io` has a `auth` that is no text",
        ),
        (
            "{ \"auths\": { \"a.io\": { \"auth\": \"hunter2!\" } } }",
            "the entry of `a.io` has an `auth` that is not base64",
        ),
        (
            &format!("{{ \"auths\": {{ \"a.io\": {{ \"auth\": \"{secret}\" }} }} }}"),
            "the entry of `a.io` has an `auth` that is not base64 of USER:PASSWORD",
        ),
    ] {
        let error = Lab::new().file(text).error("a.io");
        let told = format!("{} {error:?}", chain(&error));
        assert!(told.contains(why), "{told}");
        assert!(told.contains("0.json"), "{told}");
        assert!(
            !told.contains("hunter2") && !told.contains(&secret),
            "{told}"
        );
    }
    // Entries of others are nobody's business.
    let lab = Lab::new().file("{ \"auths\": { \"b.io\": 7 } }");
    assert_eq!(lab.find("a.io", "x"), None);
    let long = format!("{{ \"x\": \"{}\" }}", "y".repeat(2 << 20));
    assert!(chain(&Lab::new().file(&long).error("a.io")).contains("more than"));
}

#[test]
fn a_login_does_not_show_its_secret() {
    for login in [
        password("user", "hunter2"),
        Login::Identity(Secret::new("hunter2")),
        Login::Bearer(Secret::new("hunter2")),
    ] {
        let told = format!("{login:?}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_helper_is_asked_by_its_protocol() {
    let lab = Lab::new()
        .keeper("mine")
        .json(&json!({ "credHelpers": { "a.io": "mine" }, "auths": { "c.io": auth("c", "p") } }));
    assert_eq!(lab.find("a.io", "x"), None);
    lab.credentials()
        .store("a.io", &password("u\"", "p\\ä"))
        .unwrap();
    assert_eq!(lab.find("a.io", "x"), Some(password("u\"", "p\\ä")));
    assert_eq!(lab.find("c.io", "x"), Some(password("c", "p")));
    let asked = lab.asked();
    let mut lines = asked.lines();
    assert_eq!(lines.next(), Some("get a.io"));
    let stored = lines.next().unwrap().strip_prefix("store ").unwrap();
    let stored: Value = serde_json::from_str(stored).unwrap();
    assert_eq!(
        stored,
        json!({ "ServerURL": "a.io", "Username": "u\"", "Secret": "p\\ä" })
    );
    assert_eq!(lines.collect::<Vec<_>>(), ["get a.io"], "c.io is not its");
    // Nothing of it came into the file.
    assert_eq!(lab.read(0)["auths"], json!({ "c.io": auth("c", "p") }));
}

#[test]
fn the_helper_of_all_hosts_knows_docker_hub_by_its_old_name() {
    let lab = Lab::new()
        .keeper("all")
        .json(&json!({ "credsStore": "all" }));
    let token = Login::Identity(Secret::new("t0ken"));
    lab.credentials().store("docker.io", &token).unwrap();
    assert_eq!(lab.find("docker.io", "library/debian"), Some(token));
    assert!(lab.asked().contains("get https://index.docker.io/v1/\n"));
    assert!(lab.asked().contains("\"Username\":\"<token>\""));
}

#[test]
fn a_helper_goes_before_the_file_for_the_same_name_only() {
    let lab = Lab::new().keeper("all").json(&json!({
        "credsStore": "all",
        "auths": { "a.io": auth("stale", "p"), "a.io/team": auth("team", "p") },
    }));
    assert_eq!(lab.find("a.io", "x"), Some(password("stale", "p")));
    lab.credentials()
        .store("a.io", &password("kept", "p"))
        .unwrap();
    assert_eq!(lab.find("a.io", "x"), Some(password("kept", "p")));
    let told = lab.read(0);
    assert_eq!(told["auths"], json!({ "a.io/team": auth("team", "p") }));
    assert_eq!(told["credsStore"], "all");
}

#[test]
fn a_helper_that_fails_is_named_with_what_it_said() {
    let lab = |script: &str| {
        Lab::new()
            .helper("bad", script)
            .json(&json!({ "credsStore": "bad" }))
    };
    for (script, why) in [
        ("echo no keyring here; exit 1", "failed: no keyring here"),
        ("exit 3", "failed: exit status: 3"),
        ("kill -9 $$", "failed: signal: 9"),
        ("echo nonsense", "failed: its answer is not JSON"),
        ("echo '{}'", "its answer has no `Username` and `Secret`"),
        ("head -c 2000000 /dev/zero", "its answer is too long"),
    ] {
        let told = chain(&lab(script).error("a.io"));
        assert!(told.contains("`docker-credential-bad`"), "{told}");
        assert!(told.contains(why), "{told}");
    }
    let echo = lab("cat; exit 1");
    let told = chain(
        &echo
            .credentials()
            .store("a.io", &password("u", "hunter2"))
            .unwrap_err(),
    );
    assert!(told.contains("***") && !told.contains("hunter2"), "{told}");
    let missing = Lab::new().json(&json!({ "credHelpers": { "a.io": "gone" } }));
    let error = missing.error("a.io");
    assert!(
        matches!(error, CredentialsError::NoHelper { .. }),
        "{error:?}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .starts_with("install docker-credential-gone")
    );
    assert_eq!(missing.find("b.io", "x"), None);
    let led = Lab::new().json(&json!({ "credsStore": "../../bin/sh" }));
    assert!(chain(&led.error("a.io")).contains("slash"));
    let empty = lab(r#"echo '{"Username":"","Secret":""}'"#);
    assert_eq!(empty.find("a.io", "x"), None);
}

#[test]
fn a_helper_that_hangs_is_not_waited_for() {
    for script in ["sleep 12", "sleep 12 & exit 1", "exec >&-; sleep 12"] {
        let lab = Lab::new()
            .helper("slow", script)
            .json(&json!({ "credsStore": "slow" }));
        let mut credentials = lab.credentials();
        credentials.patience = Duration::from_millis(300);
        let begun = Instant::now();
        let told = chain(&credentials.find("a.io", "x").unwrap_err());
        assert!(told.contains("no answer to `get` within 0.3 s"), "{told}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn storing_keeps_all_else_that_a_file_says() {
    let said = json!({
        "auths": { "b.io": { "auth": "eDp5", "email": "x@y", "own": [1, 2.5] }, "https://a.io/v1/": auth("old", "p") },
        "HttpHeaders": { "X": "y" },
        "psFormat": "table",
        "large": 18446744073709551615u64,
    });
    let lab = Lab::new().json(&said);
    fs::set_permissions(&lab.files[0], fs::Permissions::from_mode(0o644)).unwrap();
    let from = lab
        .credentials()
        .store("a.io", &password("new", "p"))
        .unwrap();
    assert_eq!(from, lab.files[0].display().to_string());
    let mut wanted = said;
    let auths = wanted["auths"].as_object_mut().unwrap();
    auths.remove("https://a.io/v1/");
    auths.insert("a.io".to_owned(), auth("new", "p"));
    assert_eq!(lab.read(0), wanted);
    assert_eq!(fs::metadata(&lab.files[0]).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(lab.find("a.io", "x"), Some(password("new", "p")));
    let left = fs::read_dir(lab.dir.path()).unwrap().count();
    assert_eq!(left, 1, "no temporary file stays");
}

#[test]
fn what_is_stored_is_found_again_whatever_it_is() {
    for login in [
        password("u", "p:a\"ß "),
        Login::Identity(Secret::new("id")),
        Login::Bearer(Secret::new("raw")),
    ] {
        for registry in ["docker.io", "a.io:5000"] {
            let lab = Lab::new().file("{}");
            lab.credentials().store(registry, &login).unwrap();
            assert_eq!(lab.find(registry, "x/y").as_ref(), Some(&login));
        }
    }
    let lab = Lab::new().file("{}");
    lab.credentials()
        .store("docker.io", &password("u", "p"))
        .unwrap();
    let hub = "https://index.docker.io/v1/";
    assert_eq!(lab.read(0), json!({ "auths": { hub: auth("u", "p") } }));
}

#[test]
fn the_file_and_its_directory_are_made_where_there_are_none() {
    let mut lab = Lab::new();
    lab.files.push(lab.dir.path().join("a/b/config.json"));
    lab.credentials()
        .store("a.io", &password("u", "p"))
        .unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&lab.files[0]), 0o600);
    assert_eq!(mode(&lab.dir.path().join("a/b")), 0o700);
    assert!(matches!(
        Credentials::new(Vec::new()).store("a.io", &password("u", "p")),
        Err(CredentialsError::Nowhere)
    ));
}

#[test]
fn a_symbolic_link_to_the_file_stays_one() {
    let mut lab = Lab::new().file("{}");
    let link = lab.dir.path().join("link");
    symlink("0.json", &link).unwrap();
    lab.files = vec![link.clone()];
    lab.credentials()
        .store("a.io", &password("u", "p"))
        .unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(lab.dir.path().join("0.json").metadata().unwrap().len() > 10);
    let round = lab.dir.path().join("round");
    symlink("round", &round).unwrap();
    lab.files = vec![round];
    let error = lab.credentials().store("a.io", &password("u", "p"));
    assert!(matches!(error, Err(CredentialsError::File { .. })));
}

#[test]
fn two_who_store_at_once_lose_nothing() {
    let lab = Lab::new().file("{}");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let credentials = lab.credentials();
            scope.spawn(move || {
                let host = format!("h{number}.io");
                credentials.store(&host, &password("u", "p")).unwrap();
            });
        }
    });
    assert_eq!(lab.credentials().registries().unwrap().len(), 8);
}

#[test]
fn forgetting_takes_all_of_a_host_and_nothing_else() {
    let lab = Lab::new()
        .json(&json!({ "x": 1, "auths": {
            "https://a.io/v1/": auth("u", "p"), "a.io/team": auth("t", "p"), "b.io": auth("b", "p"),
        } }))
        .json(&json!({ "auths": { "a.io": auth("other", "p") } }));
    let done = lab.credentials().forget("a.io").unwrap();
    assert_eq!(done.from, [lab.files[0].display().to_string()]);
    assert_eq!(done.left, [lab.files[1].clone()]);
    assert_eq!(
        lab.read(0),
        json!({ "x": 1, "auths": { "b.io": auth("b", "p") } })
    );
    let again = lab.credentials().forget("a.io").unwrap();
    assert_eq!(again.from, [""; 0]);
}

#[test]
fn who_has_nothing_to_forget_gets_no_file_and_no_directory() {
    let mut lab = Lab::new();
    lab.files.push(lab.dir.path().join("a/config.json"));
    assert_eq!(lab.credentials().forget("a.io").unwrap().from, [""; 0]);
    assert_eq!(fs::read_dir(lab.dir.path()).unwrap().count(), 0);
}

#[test]
fn forgetting_tells_the_helper() {
    let lab = Lab::new().keeper("all").json(&json!({
        "credsStore": "all", "credHelpers": { "b.io": "all", "c.io": "all" }, "auths": { "d.io": auth("d", "p") },
    }));
    let credentials = lab.credentials();
    for host in ["a.io", "b.io"] {
        credentials.store(host, &password("u", "p")).unwrap();
    }
    fs::write(
        lab.dir.path().join("list"),
        r#"{"a.io":"u","https://index.docker.io/v1/":"x"}"#,
    )
    .unwrap();
    let known = ["a.io", "b.io", "d.io", "docker.io"];
    assert_eq!(credentials.registries().unwrap(), known);
    let done = credentials.forget("a.io").unwrap();
    assert_eq!(done.from, ["docker-credential-all"]);
    assert_eq!(lab.find("a.io", "x"), None);
    assert_eq!(credentials.forget("a.io").unwrap().from, [""; 0]);
    assert!(lab.asked().contains("erase a.io"));
}
