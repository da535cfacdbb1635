//! Settings: flag, environment, config file, default; and Mesos' names for them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use images::{Bench, Ran};
use serde_json::Value;

/// The program without a store, with this environment.
fn run(bench: &Bench, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazyroot"));
    command.env_clear().env("HOME", bench.path(""));
    command.args(args).envs(env.iter().copied());
    command.current_dir(bench.path("")).stdin(Stdio::null());
    Ran::of(command.output().unwrap())
}

/// One setting: its value and where it is from.
#[track_caller]
fn setting(bench: &Bench, name: &str, args: &[&str], env: &[(&str, &str)]) -> (Value, String) {
    let ran = run(bench, &[args, &["config", "--json"]].concat(), env).ok();
    let all: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    let found = all.iter().find(|setting| setting["name"] == name).unwrap();
    let from = found["from"].as_str().unwrap().to_owned();
    (found["value"].clone(), from)
}

#[track_caller]
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
}

/// Name, flag, variable, config file, and what is in force by each.
const SETTINGS: &[(&str, [&str; 3], [&str; 3])] = &[
    ("store", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    ("rootfs-dir", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    ("cache-size", ["1K", "2K", "'3K'"], ["1024", "2048", "3072"]),
    (
        "prefetch",
        ["false", "0", "false"],
        ["false", "false", "false"],
    ),
    (
        "keep-awake",
        ["false", "0", "false"],
        ["false", "false", "false"],
    ),
    (
        "backend",
        ["copy", "bind", "'auto'"],
        ["copy", "bind", "auto"],
    ),
    (
        "providers",
        ["APPC", "Docker", "['docker', 'appc']"],
        ["appc", "docker", "docker,appc"],
    ),
    (
        "containerizers",
        ["mesos", "docker,mesos", "'mesos'"],
        ["mesos", "docker,mesos", "mesos"],
    ),
    (
        "isolation",
        ["cgroups", "posix", "['filesystem/linux']"],
        ["cgroups", "posix", "filesystem/linux"],
    ),
    (
        "switch-user",
        ["false", "0", "false"],
        ["false", "false", "false"],
    ),
    (
        "docker-ignore-runtime",
        ["true", "1", "true"],
        ["true", "true", "true"],
    ),
    ("log", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    (
        "discovery",
        ["local", "registry", "'meta'"],
        ["local", "registry", "meta"],
    ),
    ("local-dir", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    (
        "discovery-prefix",
        ["/f", "https://e", "'https://c/'"],
        ["/f", "https://e/", "https://c/"],
    ),
    (
        "allow-http",
        ["true", "1", "true"],
        ["true", "true", "true"],
    ),
    ("keyring", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    (
        "require-signature",
        ["true", "true", "true"],
        ["true", "true", "true"],
    ),
    ("max-size", ["1", "2", "3"], ["1", "2", "3"]),
    (
        "mirror",
        [
            "m.lan",
            "m.lan,quay.io=http://n:5000/x",
            "['m.lan', 'n.lan']",
        ],
        ["m.lan", "m.lan,quay.io=http://n:5000/x", "m.lan,n.lan"],
    ),
    (
        "insecure",
        ["a:1", "a.b,c:2", "['a.b', 'c:2']"],
        ["a:1", "a.b,c:2", "a.b,c:2"],
    ),
    ("cacert", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    ("auth-file", ["/f", "/e", "'/c'"], ["/f", "/e", "/c"]),
    ("transfers", ["1", "2", "16"], ["1", "2", "16"]),
];

#[test]
fn a_flag_goes_before_the_environment_and_that_before_a_file() {
    let bench = Bench::new();
    for (name, [flag, env, file], expected) in SETTINGS {
        let path = bench.write("c.toml", format!("{name} = {file}\n").as_bytes());
        let config = format!("--config={}", path.display());
        let typed = format!("--{name}={flag}");
        let variable = format!("LAZYROOT_{}", name.replace('-', "_").to_uppercase());
        let env = [(&*variable, *env)];
        for (args, env, value, from) in [
            (
                &[&*config, &typed][..],
                &env[..],
                expected[0],
                format!("--{name}"),
            ),
            (&[&*config], &env, expected[1], variable.clone()),
            (&[&*config], &[], expected[2], path.display().to_string()),
        ] {
            let (got, origin) = setting(&bench, name, args, env);
            let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
            assert_eq!((&*got, origin), (value, from), "{name}");
        }
        let (_, origin) = setting(&bench, name, &[], &[]);
        assert_eq!(origin, "default", "{name}");
    }
}

#[test]
fn every_setting_is_in_the_table_above_and_in_the_documents() {
    let bench = Bench::new();
    let ran = run(&bench, &["config", "--json"], &[]).ok();
    let all: Vec<Value> = serde_json::from_slice(&ran.out).unwrap();
    let mut names: Vec<&str> = all
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let mut tested: Vec<&str> = SETTINGS.iter().map(|one| one.0).collect();
    names.sort_unstable();
    tested.sort_unstable();
    assert_eq!(names, tested);
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let documents = fs::read_to_string(documents).unwrap();
    for name in names {
        assert!(documents.contains(&format!("\n| `{name}` | ")), "{name}");
    }
    let table = run(&bench, &["config"], &[]).ok().text();
    assert!(
        table.contains("keyring") && table.contains("default"),
        "{table}"
    );
}

#[test]
fn paths_of_a_file_begin_at_its_directory_and_others_here() {
    let bench = Bench::new();
    fs::create_dir(bench.path("etc")).unwrap();
    let file = bench.write("etc/c.toml", b"store = 'images'\n");
    let dir = bench.path("");
    let dir = dir.to_str().unwrap().trim_end_matches('/');
    let (store, _) = setting(&bench, "store", &["--config", file.to_str().unwrap()], &[]);
    assert_eq!(store, format!("{dir}/etc/images"));
    let (store, _) = setting(&bench, "store", &["--config", "etc/c.toml"], &[]);
    assert_eq!(store, format!("{dir}/etc/images"));
    let (store, from) = setting(&bench, "store", &[], &[("LAZYROOT_CONFIG", "etc/c.toml")]);
    assert_eq!(
        (store, from),
        (format!("{dir}/etc/images").into(), "etc/c.toml".into())
    );
    let (store, _) = setting(&bench, "store", &["--store", "s"], &[]);
    assert_eq!(store, format!("{dir}/s"));
    // The images of local discovery lie beside the store, wherever that is.
    let (local, _) = setting(&bench, "local-dir", &["--store", "a/s"], &[]);
    assert_eq!(local, format!("{dir}/a/images"));
}

#[test]
fn a_file_that_is_wrong_is_told_with_key_file_and_line() {
    let bench = Bench::new();
    for (text, code, words) in [
        (
            "store = '/a'\nstoer = '/b'\n",
            2,
            &["c.toml`: line 2: unknown field `stoer`"][..],
        ),
        ("store = 3\n", 2, &["line 1: ", "expected path string"]),
        (
            "backend = 'aufs'\n",
            2,
            &["line 1: ", "`aufs` is no backend"],
        ),
        (
            "providers = ['oci']\n",
            2,
            &["`oci` is no kind of image (appc, docker)"],
        ),
        (
            "containerizers = 'docker'\n",
            2,
            &["the containerizer `mesos` must be among them"],
        ),
        ("cache-size = '3X'\n", 2, &["`X` is not a unit"]),
        ("cache-size = -1\n", 2, &["a number of bytes"]),
        ("max-size = [1]\n", 2, &["a number of bytes"]),
        (
            "discovery-prefix = 'hdfs://x'\n",
            2,
            &["`hdfs://x` is neither"],
        ),
        ("[store\n", 2, &["c.toml`: line 1: "]),
        ("\0", 2, &["c.toml`: "]),
    ] {
        let path = bench.write("c.toml", text.as_bytes());
        let ran = run(&bench, &["--config", path.to_str().unwrap(), "images"], &[]);
        says(&ran, code, words);
    }
    bench.write("c.toml", b"\xff\xfe");
    says(
        &run(&bench, &["--config", "c.toml", "images"], &[]),
        2,
        &["c.toml`: "],
    );
    let large = format!("#{}", "x".repeat(1 << 20));
    bench.write("c.toml", large.as_bytes());
    says(
        &run(&bench, &["--config", "c.toml", "images"], &[]),
        2,
        &["more than 1048576 bytes"],
    );
    says(
        &run(&bench, &["--config", "none.toml", "images"], &[]),
        3,
        &["there is no config file `none.toml`"],
    );
    // Nobody is kept from unmounting by it.
    bench.write("c.toml", b"nonsense");
    let ran = run(&bench, &["--config", "c.toml", "umount", "."], &[]);
    says(&ran, 3, &["is not a mount point"]);
    run(&bench, &["--config", "c.toml", "completions", "bash"], &[]).ok();
    // And a server in the background sees none.
    let serve = [
        "--config", "c.toml", "--store", "s", "serve", "--image", "a:1", ".",
    ];
    says(&run(&bench, &serve, &[]), 3, &["there is no store at"]);
}

#[test]
fn values_that_are_wrong_are_refused_at_once() {
    let bench = Bench::new();
    for (args, words) in [
        (
            &["--backend", "aufs", "images"][..],
            "possible values: auto, fuse, overlay, bind, copy",
        ),
        (
            &["--providers", "oci", "images"],
            "`oci` is no kind of image (appc, docker)",
        ),
        (
            &["--containerizers", "docker", "images"],
            "the containerizer `mesos` must be among them",
        ),
        (
            &["--containerizers", "mesos,rkt", "images"],
            "`rkt` is no containerizer (mesos, docker)",
        ),
        (
            &["--isolation", "posix/gpu", "images"],
            "`posix/gpu` is no isolator",
        ),
        (
            &["--switch_user=maybe", "images"],
            "it is neither true nor false",
        ),
        (
            &["--provisioner_store_dir", "/a", "--store", "/b", "images"],
            "--store and --provisioner_store_dir are the same setting",
        ),
        (
            &[
                "--provisioners",
                "appc",
                "--image_providers",
                "appc",
                "images",
            ],
            "--provisioners and --image_providers are the same setting",
        ),
        (
            &["--docker_registry", "hdfs://registry.example.com", "images"],
            "--docker_registry=hdfs://registry.example.com: it is neither a URL of a registry nor",
        ),
        (
            &["--docker_config", r#"{"auths":{}}"#, "images"],
            "--docker_config: logins on the command line can be read by everybody",
        ),
    ] {
        says(&run(&bench, args, &[]), 2, &[words]);
    }
}

#[test]
fn a_wrong_value_of_the_environment_is_told_by_the_variable() {
    let bench = Bench::new();
    for name in ["LAZYROOT_BACKEND", "LAZYROOT_CACHE_SIZE"] {
        let ran = run(&bench, &["images"], &[(name, "3X")]);
        says(&ran, 2, &[&format!("invalid value '3X' for '{name}'")]);
    }
    let env = [("LAZYROOT_CACHE_SIZE", "4X")];
    let ran = run(&bench, &["images", "--cache-size", "3X"], &env);
    says(&ran, 2, &["invalid value '3X' for '--cache-size <BYTES>'"]);
}

/// It was "invalid UTF-8 was detected in one or more arguments", where none was typed.
#[test]
fn a_variable_that_is_no_text_is_told_by_its_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let bench = Bench::new();
    let ran = |args: &[&str], variables: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazyroot"));
        command.env_clear().env("HOME", bench.path("")).args(args);
        let value = std::ffi::OsStr::from_bytes(b"3\xff");
        command.envs(variables.iter().map(|name| (name, value)));
        command.current_dir(bench.path("")).stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    };
    // A path may be anything.
    ran(&["images"], &["LAZYROOT_STORE"]).ok();
    for name in ["LAZYROOT_CACHE_SIZE", "LAZYROOT_BACKEND", "LAZYROOT_MIRROR"] {
        let words = format!("error: invalid value '3\u{fffd}' for '{name}': it is not UTF-8");
        says(&ran(&["images"], &["LAZYROOT_STORE", name]), 2, &[&words]);
    }
    // What was typed is nobody's variable.
    let typed = std::ffi::OsStr::from_bytes(b"--cache-size=\xff");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazyroot"));
    command.env_clear().arg("images").arg(typed);
    let ran = Ran::of(command.output().unwrap());
    says(
        &ran,
        2,
        &["invalid UTF-8 was detected in one or more arguments"],
    );
}

#[test]
fn an_empty_variable_says_nothing() {
    let bench = Bench::new();
    bench.write("c.toml", b"mirror = ['m.example']\n");
    let config = ["--config", "c.toml"];
    for (name, variable, config) in [
        ("store", "LAZYROOT_STORE", &[][..]),
        ("backend", "LAZYROOT_BACKEND", &[]),
        ("prefetch", "LAZYROOT_PREFETCH", &[]),
        ("mirror", "LAZYROOT_MIRROR", &config),
    ] {
        let said = setting(&bench, name, config, &[(variable, "")]);
        assert_eq!(said, setting(&bench, name, config, &[]), "{variable}");
    }
}

#[test]
fn a_store_that_is_a_file_is_an_error() {
    let bench = Bench::new();
    bench.write("file", b"no store");
    for verb in ["images", "du"] {
        let ran = run(&bench, &["--store", "file", verb], &[]);
        says(&ran, 1, &["file`: Not a directory"]);
    }
}

/// Whoever removes the directory that his shell stands in can still use what he names from the root.
#[test]
fn a_directory_that_is_gone_is_missed_only_by_relative_paths() {
    let bench = Bench::new();
    let store = bench.path("store");
    let there = |store: &str| {
        fs::create_dir(bench.path("gone")).unwrap();
        let script = "cd \"$1/gone\" && rmdir \"$1/gone\" && exec \"$2\" --store \"$3\" images";
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(bench.path(""));
        shell.arg(env!("CARGO_BIN_EXE_lazyroot")).arg(store);
        shell
            .env_remove("LAZYROOT_STORE")
            .env("HOME", bench.path(""));
        Ran::of(shell.output().unwrap())
    };
    there(store.to_str().unwrap()).ok();
    let words = [
        "`s` begins at the current directory, which is not there",
        "try: ",
    ];
    says(&there("s"), 1, &words);
}

#[test]
fn the_flags_of_mesos_agent_say_the_same() {
    let bench = Bench::new();
    for (flag, value, name, expected) in [
        ("provisioners", "appc,DOCKER", "providers", "appc,docker"),
        ("image_providers", "DOCKER", "providers", "docker"),
        ("provisioner_rootfs_dir", "/a/b", "rootfs-dir", "/a/b"),
        (
            "provisioner_store_dir",
            "tmp/mesos/store",
            "store",
            "/tmp/mesos/store",
        ),
        (
            "provisioner_local_dir",
            "tmp/mesos/images",
            "local-dir",
            "/tmp/mesos/images",
        ),
        ("provisioner_discovery", "simple", "discovery", "simple"),
        ("provisioner_discovery", "local", "discovery", "local"),
        ("provisioner_backend", "copy", "backend", "copy"),
        ("image_provisioner_backend", "overlay", "backend", "overlay"),
        ("docker_registry", "/srv", "local-dir", "/srv"),
        (
            "docker_registry",
            "https://h.example/",
            "mirror",
            "h.example",
        ),
        ("docker_local_archives_dir", "/srv", "local-dir", "/srv"),
        (
            "docker_config",
            "/a/config.json",
            "auth-file",
            "/a/config.json",
        ),
        (
            "docker_config",
            "file:///a/.dockercfg",
            "auth-file",
            "/a/.dockercfg",
        ),
        (
            "appc_simple_discovery_uri_prefix",
            "/srv/",
            "discovery-prefix",
            "/srv/",
        ),
        (
            "appc_simple_discovery_uri_prefix",
            "http://a/b/",
            "discovery-prefix",
            "http://a/b/",
        ),
    ] {
        let typed = [format!("--{flag}"), value.to_owned()];
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        // It goes before the environment, as every flag does.
        let env = [("LAZYROOT_STORE", "/e"), ("LAZYROOT_BACKEND", "bind")];
        let (got, from) = setting(&bench, name, &typed, &env);
        assert_eq!((got, from), (expected.into(), format!("--{flag}")));
    }
    let by_prefix = ["--appc_simple_discovery_uri_prefix=/srv/"];
    let (how, from) = setting(&bench, "discovery", &by_prefix, &[]);
    assert_eq!(
        (how, from),
        ("simple".into(), "--appc_simple_discovery_uri_prefix".into())
    );
    for typed in ["--switch_user=false", "--switch-user=false"] {
        let (got, _) = setting(&bench, "switch-user", &[typed], &[]);
        assert_eq!(got, false);
    }
    let (got, _) = setting(
        &bench,
        "switch-user",
        &["--switch_user"],
        &[("LAZYROOT_SWITCH_USER", "0")],
    );
    assert_eq!(got, true);
    let (got, _) = setting(
        &bench,
        "docker-ignore-runtime",
        &["--docker_ignore_runtime"],
        &[],
    );
    assert_eq!(got, true);
}

#[test]
fn the_ready_config_file_has_the_defaults_of_mesos() {
    let bench = Bench::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesos.toml");
    for (name, expected) in [
        ("store", "/tmp/mesos/store"),
        ("rootfs-dir", "/tmp/mesos/containers"),
        ("local-dir", "/tmp/mesos/images"),
        ("discovery", "simple"),
        ("backend", "copy"),
        ("containerizers", "mesos"),
        ("isolation", "posix/cpu,posix/mem"),
    ] {
        let (got, from) = setting(&bench, name, &["--config", path.to_str().unwrap()], &[]);
        assert_eq!((got, from), (expected.into(), path.display().to_string()));
    }
}

#[test]
fn without_a_word_the_defaults_are_those_of_the_documents() {
    let bench = Bench::new();
    let data = match rustix::process::geteuid().is_root() {
        true => "/var/lib/lazyroot".to_owned(),
        false => bench.path(".local/share/lazyroot").display().to_string(),
    };
    for (name, expected) in [
        ("store", Value::from(format!("{data}/store"))),
        ("rootfs-dir", format!("{data}/containers").into()),
        ("local-dir", format!("{data}/images").into()),
        ("backend", "fuse".into()),
        ("providers", "appc,docker".into()),
        ("containerizers", "mesos".into()),
        ("isolation", "posix/cpu,posix/mem".into()),
        ("switch-user", true.into()),
        ("docker-ignore-runtime", false.into()),
        ("discovery", "meta".into()),
        ("discovery-prefix", "https://".into()),
        ("keyring", Value::Null),
        ("log", Value::Null),
        ("cache-size", (20_u64 << 30).into()),
        ("max-size", (64_u64 << 30).into()),
        ("mirror", "".into()),
        ("insecure", "".into()),
        ("cacert", Value::Null),
        ("auth-file", Value::Null),
        ("transfers", 3.into()),
        ("prefetch", true.into()),
        ("keep-awake", true.into()),
    ] {
        assert_eq!(setting(&bench, name, &[], &[]).0, expected, "{name}");
    }
    // Who names a directory does not expect the network to be asked.
    let (how, _) = setting(&bench, "discovery", &["--local-dir", "/srv"], &[]);
    assert_eq!(how, "local");
}
