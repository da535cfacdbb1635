//! Talking to people: one file per verb.
//!
//! What it is for: the only place that reads arguments, environment, clock and
//! terminal. A verb's file has its `Args` (their comments are the help text) and
//! `run`; the work itself belongs below.

mod browse;
mod bundle;
mod cat;
mod changes;
mod commit;
mod completions;
mod config;
mod containers;
mod destroy;
mod diff;
mod discovery;
mod doctor;
mod du;
mod export;
mod fetch;
mod gc;
mod images;
mod import;
mod inspect;
mod launch;
mod launching;
mod logging;
mod login;
mod logins;
mod logout;
mod ls;
mod man;
mod message;
mod metrics;
mod mount;
mod progress;
mod provision;
mod pull;
mod push;
mod recover;
mod registry;
mod remove;
mod report;
mod run;
mod serve;
mod settings;
mod tag;
mod target;
mod tips;
mod umount;
mod validate;
mod verify;
mod wanted;

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Arg, ArgMatches, FromArgMatches as _, Subcommand};

use crate::backend::Choice;
use crate::fork;
use crate::store::{Store, StoreError};
use report::{Exit, Failure};
use settings::{Defaults, Files, Isolation, Providers, Settings, Words};
use signal_hook::SigId;

/// What was typed.
#[derive(Debug, clap::Args)]
struct Cli {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    verb: Verb,
}

/// What is typed for all verbs alike.
#[derive(Debug, clap::Args)]
struct Common {
    /// The only config file, instead of the usual ones (`lazyroot config` names them).
    #[arg(long, global = true, env = "LAZYROOT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    wishes: settings::Wishes,

    #[command(flatten)]
    agent: settings::mesos::Flags,
}

#[derive(Debug, Subcommand)]
// The arguments of a verb are made when it is the one that was typed.
#[command(defer = true)]
enum Verb {
    Import(import::Args),
    Pull(pull::Args),
    Push(push::Args),
    Login(login::Args),
    Logout(logout::Args),
    Images(images::Args),
    Inspect(inspect::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Provision(provision::Args),
    Containers(containers::Args),
    Run(run::Args),
    Bundle(bundle::Args),
    Destroy(destroy::Args),
    Recover(recover::Args),
    Browse(browse::Args),
    Diff(diff::Args),
    Commit(commit::Args),
    Export(export::Args),
    Tag(tag::Args),
    Remove(remove::Args),
    Gc(gc::Args),
    Verify(verify::Args),
    Validate(validate::Args),
    Du(du::Args),
    Metrics(metrics::Args),
    Doctor(doctor::Args),
    Config(config::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Serve(serve::Args),
    #[command(hide = true)]
    Launch(launch::Args),
}

impl Verb {
    /// Whether config files have a say. A server is told all by whoever starts it,
    /// and a wrong file must not keep anybody from unmounting.
    fn reads_config(&self) -> bool {
        !matches!(
            self,
            Self::Serve(_)
                | Self::Launch(_)
                | Self::Umount(_)
                | Self::Completions(_)
                | Self::Man(_)
        )
    }
}

/// What all verbs share, resolved once from arguments, environment and config files.
#[derive(Debug)]
pub(crate) struct Context {
    /// The store's directory.
    store: PathBuf,
    /// This user's own cache.
    cache: PathBuf,
    /// Where servers in the background log when the system has no log.
    log: PathBuf,
    /// Where they log if somebody says it.
    log_file: Option<PathBuf>,
    /// Bytes that expanded layers may take.
    cache_size: u64,
    /// Whether mounts decode what is likely to be read next.
    prefetch: bool,
    /// Whether servers keep idle processors awake in haste.
    keep_awake: bool,
    /// Where root file systems of containers are.
    rootfs_dir: PathBuf,
    /// How containers get them.
    backend: Choice,
    /// Kinds of images that may be used.
    providers: Words<Providers>,
    /// Mesos' isolators.
    isolation: Words<Isolation>,
    /// Whether containers run as the user who wants them to.
    switch_user: bool,
    /// Whether what Docker images say of how they are run is ignored.
    docker_ignore_runtime: bool,
    /// How images are looked for.
    discovery: discovery::Settings,
    /// How registries are asked.
    registry: registry::Settings,
    /// All settings, for people.
    settings: Vec<settings::Setting>,
    /// Set by SIGINT and SIGTERM.
    stop: Arc<AtomicBool>,
}

impl Context {
    fn resolve(cli: &Cli, matches: &ArgMatches) -> Result<Self, Failure> {
        let home = |variable: &str, below: &str| {
            let set = env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute());
            set.or_else(|| Some(env::home_dir()?.join(below)))
        };
        let nowhere = || {
            Failure::new(Exit::Usage, "neither HOME nor XDG_DATA_HOME is set")
                .hint("name the store with --store DIR")
        };
        let root = has_roots_places();
        let place = |of_root: &str, variable: &str, below: &str| match root {
            true => Ok(PathBuf::from(of_root)),
            false => home(variable, below)
                .map(|path| path.join("lazyroot"))
                .ok_or_else(nowhere),
        };
        let data = place("/var/lib/lazyroot", "XDG_DATA_HOME", ".local/share")?;
        let cache = place("/var/cache/lazyroot", "XDG_CACHE_HOME", ".cache")?;
        let log = match root {
            true => PathBuf::from("/var/log/lazyroot.log"),
            false => place("", "XDG_STATE_HOME", ".local/state")?.join("lazyroot.log"),
        };
        let mut files = Files::default();
        if cli.verb.reads_config() {
            files.usual.push("/etc/lazyroot/config.toml".into());
            if !root {
                let own = place("", "XDG_CONFIG_HOME", ".config")?;
                files.usual.push(own.join("config.toml"));
            }
            files.named.clone_from(&cli.common.config);
        }
        let defaults = Defaults { data };
        let agent = cli.common.agent.clone();
        let all = Settings::resolve(&cli.common.wishes, agent, matches, files, &defaults)?;
        Ok(Self {
            store: all.store,
            log,
            log_file: all.log,
            cache,
            cache_size: all.cache_size,
            prefetch: all.prefetch,
            keep_awake: all.keep_awake,
            rootfs_dir: all.rootfs_dir,
            backend: all.backend,
            providers: all.providers,
            isolation: all.isolation,
            switch_user: all.switch_user,
            docker_ignore_runtime: all.docker_ignore_runtime,
            discovery: all.discovery,
            registry: all.registry,
            settings: all.list,
            stop: Arc::default(),
        })
    }

    /// From now on, SIGINT and SIGTERM set `stop`; the second one ends the process
    /// as it would without us.
    fn stop_by_signals(&self) -> Result<(), Failure> {
        self.stop_for_now().map(|_| ())
    }

    /// The same, until what is returned is unregistered.
    fn stop_for_now(&self) -> Result<Vec<SigId>, Failure> {
        use signal_hook::flag::{register, register_conditional_default};
        let mut ids = Vec::new();
        let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
        // Who ignores them wants us to (nohup(1), `trap "" INT`).
        let signals = signals.into_iter().filter(|&one| !fork::is_ignored(one));
        for signal in signals {
            ids.push(register_conditional_default(
                signal,
                Arc::clone(&self.stop),
            )?);
            ids.push(register(signal, Arc::clone(&self.stop))?);
        }
        // A limit for the size of files makes writes fail then, which is told, instead of killing us
        // (setrlimit(2), EFBIG).
        ids.push(register(libc::SIGXFSZ, Arc::default())?);
        Ok(ids)
    }

    /// The store, to read from.
    fn open(&self) -> Result<Store, StoreError> {
        let store = Store::open(&self.store, &self.cache, self.cache_size)?;
        Ok(store.with_prefetch(self.prefetch))
    }

    /// The store, to write to; made where there is none.
    fn create(&self) -> Result<Store, StoreError> {
        let store = Store::create(&self.store, self.cache_size)?;
        Ok(store.with_prefetch(self.prefetch))
    }
}

/// Whether root's places are for this process. Root of a user namespace is mostly an ordinary user,
/// whom they are closed to; he has his own.
fn has_roots_places() -> bool {
    use rustix::fs::{Access, access};
    let first_there = ["/var/lib/lazyroot", "/var/lib"].into_iter();
    let mut opened = first_there.map(|place| access(place, Access::WRITE_OK));
    let answer = opened.find(|answer| *answer != Err(rustix::io::Errno::NOENT));
    rustix::process::geteuid().is_root() && answer != Some(Err(rustix::io::Errno::ACCESS))
}

/// Parses the command line, runs the verb, prints what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    fork::note_inherited();
    fork::close_umask();
    fork::wait_for_children();
    let typed: Vec<OsString> = env::args_os().collect();
    let matches = match parse(&typed) {
        Ok(matches) => matches,
        Err(error) => {
            // There is nobody left to tell when standard error is gone.
            let _ = error.print();
            return match error.use_stderr() && means_run() {
                true => run::OURS.into(),
                // Help is no error.
                false => u8::try_from(error.exit_code()).map_or(Exit::Usage.into(), Into::into),
            };
        }
    };
    // It was made for this very command.
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let is_run = matches!(cli.verb, Verb::Run(_));
    match Context::resolve(&cli, &matches).and_then(|context| run(cli.verb, &context)) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            match is_run {
                true => run::OURS.into(),
                false => failure.exit.into(),
            }
        }
    }
}

/// What was typed, understood.
///
/// A command line of one verb is read by a parser that knows only that one: with all of them, each
/// would get a copy of all that is common, a millisecond and a megabyte for nothing. Both read up to
/// the verb alike. What the small one does not understand is the whole one's to
/// answer, be it a mistake or a wish for help.
fn parse(typed: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let verbs = Verb::augment_subcommands(clap::Command::new("lazyroot"));
    let mut words = typed.iter().skip(1);
    let named = words.find_map(|word| verbs.find_subcommand(word));
    if let Some(verb) = named {
        let small = program()
            .disable_help_subcommand(true)
            .subcommand(verb.clone());
        if let Ok(matches) = small.try_get_matches_from(typed) {
            return Ok(matches);
        }
    }
    let whole = whole(named.map(clap::Command::get_name));
    let matches = whole.try_get_matches_from(typed);
    matches.map_err(|error| tips::explain(error, typed))
}

/// The program without its verbs.
fn program() -> clap::Command {
    let program = clap::Command::new("lazyroot").subcommand_required(true);
    let program = <Common as clap::Args>::augment_args(program);
    // An empty variable says nothing, as with most programs: it is how a unit or a script takes
    // back what was said before. A list that is to be empty is said so by its flag.
    let is_empty = |arg: &Arg| {
        let said = arg.get_env().and_then(env::var_os);
        said.is_some_and(|value| value.is_empty())
    };
    let some = program.get_arguments().any(is_empty);
    match some {
        true => program.mut_args(|arg| match is_empty(&arg) {
            true => arg.env(None),
            false => arg,
        }),
        false => program,
    }
}

/// The parser of all verbs, which says of each what it does: that comes with their arguments. Of
/// those that are for ourselves it has only the one that is `named`, so that no list, no tip and no
/// shell offers them.
fn whole(named: Option<&str>) -> clap::Command {
    let mut whole = program()
        .about("Container root file systems from unmodified images, mounted without unpacking")
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(100)
        .arg_required_else_help(true);
    let verbs = Verb::augment_subcommands(clap::Command::new("lazyroot"));
    for verb in verbs.get_subcommands() {
        let mut built = verb.clone();
        built.build();
        if built.is_hide_set() && named != Some(verb.get_name()) {
            continue;
        }
        whole = whole.subcommand(match built.get_about() {
            Some(about) => verb.clone().about(about.clone()),
            None => verb.clone(),
        });
    }
    whole
}

/// Whether a command line that cannot be understood is one of `run`, whose other exit codes
/// are the command's.
fn means_run() -> bool {
    let matches = whole(None).ignore_errors(true).try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}

fn run(verb: Verb, context: &Context) -> Result<ExitCode, Failure> {
    let done = match verb {
        // These answer what a command answered.
        Verb::Run(args) => return run::run(&args, context),
        Verb::Launch(args) => return launch::run(&args),
        Verb::Import(args) => import::run(&args, context),
        Verb::Pull(args) => pull::run(&args, context),
        Verb::Push(args) => push::run(&args, context),
        Verb::Login(args) => login::run(&args, context),
        Verb::Logout(args) => logout::run(&args, context),
        Verb::Images(args) => images::run(&args, context),
        Verb::Inspect(args) => inspect::run(&args, context),
        Verb::Ls(args) => ls::run(&args, context),
        Verb::Cat(args) => cat::run(&args, context),
        Verb::Mount(args) => mount::run(&args, context),
        Verb::Umount(args) => umount::run(&args),
        Verb::Provision(args) => provision::run(&args, context),
        Verb::Containers(args) => containers::run(&args, context),
        Verb::Bundle(args) => bundle::run(&args, context),
        Verb::Destroy(args) => destroy::run(&args, context),
        Verb::Recover(args) => recover::run(&args, context),
        Verb::Browse(args) => browse::run(&args, context),
        Verb::Diff(args) => diff::run(&args, context),
        Verb::Commit(args) => commit::run(&args, context),
        Verb::Export(args) => export::run(&args, context),
        Verb::Tag(args) => tag::run(&args, context),
        Verb::Remove(args) => remove::run(&args, context),
        Verb::Gc(args) => gc::run(&args, context),
        Verb::Verify(args) => verify::run(&args, context),
        Verb::Validate(args) => validate::run(&args, context),
        Verb::Du(args) => du::run(&args, context),
        Verb::Metrics(args) => metrics::run(&args, context),
        Verb::Doctor(args) => doctor::run(&args, context),
        Verb::Config(args) => config::run(&args, context),
        Verb::Completions(args) => completions::run(&args, whole(None)),
        Verb::Man(args) => man::run(&args, whole(None)),
        Verb::Serve(args) => serve::run(&args, context),
    };
    done.map(|()| Exit::Done.into())
}

/// A number of bytes: `4096`, `64M`, `20G`, `1T` (powers of 1024).
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        other => return Err(format!("`{other}` is not a unit (K, M, G, T)")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a number of bytes"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// A length of time: `90s`, `90m`, `24h`, `7d`, `2w`; `0` is none.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a length of time (90m, 24h, 7d)"))?;
    let unit = match &text[digits.len()..] {
        "" if number == 0 => 1,
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        other => return Err(format!("`{other}` is not a unit of time (s, m, h, d, w)")),
    };
    let seconds = number.checked_mul(unit);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// Bytes for people: `1.5 GiB`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|error| Failure::of(Exit::Failed, &error))?;
    text.push(b'\n');
    print(&text)
}

/// A date and time in UTC, `2026-01-31 23:59`.
fn date(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let minute = seconds.rem_euclid(86_400) / 60;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        minute / 60,
        minute % 60
    )
}

/// Days since 1970 as year, month, day of the proleptic Gregorian calendar, by
/// counting from 1 March of year 0 in eras of 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        whole(Some("serve")).debug_assert();
    }

    /// clap would give the one to whoever asks for the other, and panic over its type.
    #[test]
    fn no_flag_of_a_verb_is_called_as_one_of_all_verbs() {
        let mut all = whole(None);
        all.build();
        let global: Vec<_> = all
            .get_arguments()
            .filter(|arg| arg.is_global_set())
            .map(|arg| arg.get_id().clone())
            .collect();
        assert!(!global.is_empty());
        let mut verbs = Verb::augment_subcommands(clap::Command::new("lazyroot"));
        for verb in verbs.get_subcommands_mut() {
            verb.build();
            assert!(verb.get_arguments().count() > 0);
            for arg in verb.get_arguments() {
                let (verb, id) = (verb.get_name(), arg.get_id());
                assert!(!global.contains(id), "`{id}` of `{verb}`");
            }
        }
    }

    #[test]
    fn the_help_says_of_each_verb_what_it_does() {
        let typed = ["lazyroot".into(), "--help".into()];
        let help = parse(&typed).unwrap_err().to_string();
        assert!(help.contains("List the images of the store"), "{help}");
        for verb in whole(None).get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
        }
    }

    #[test]
    fn a_word_that_is_a_verb_elsewhere_is_taken_for_what_it_is() {
        let read = |line: &str| {
            let typed: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let by_whole = whole(None).try_get_matches_from(&typed);
            (parse(&typed), by_whole)
        };
        for line in [
            "lazyroot --store mount images",
            "lazyroot --store mount mount images mount",
            "lazyroot mount --store gc images at",
            "lazyroot --store=gc run mount -- gc --store x",
            "lazyroot run --rm mount --store x",
            "lazyroot --backend overlay provision gc --id run",
        ] {
            let (ours, whole) = read(line);
            let (ours, whole) = (ours.unwrap(), whole.unwrap());
            assert_eq!(ours.subcommand_name(), whole.subcommand_name(), "{line}");
            let [ours, whole] = [ours, whole].map(|m| Cli::from_arg_matches(&m).unwrap());
            assert_eq!(format!("{ours:?}"), format!("{whole:?}"), "{line}");
        }
        for line in [
            "lazyroot",
            "lazyroot --store mount",
            "lazyroot --store",
            "lazyroot mount",
            "lazyroot mount --help",
            "lazyroot help mount",
            "lazyroot help",
            "lazyroot help nothing",
            "lazyroot mount help",
            "lazyroot nothing mount",
            "lazyroot mount --nothing a b",
            "lazyroot --version mount",
        ] {
            let (ours, whole) = read(line);
            let (ours, whole) = (ours.unwrap_err(), whole.unwrap_err());
            assert_eq!(ours.kind(), whole.kind(), "{line}");
            assert_eq!(ours.to_string(), whole.to_string(), "{line}");
        }
    }

    #[test]
    fn sizes_and_dates_read_as_people_write_them() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert!(parse_size("64X").is_err() && parse_size("99999999T").is_err());
        assert_eq!(human(1536 << 20), "1.5 GiB");
        assert_eq!(parse_duration("36h"), Ok(Duration::from_secs(129_600)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "h", "-1h", "1.5h", "5y", "99999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_827_696, "2000-02-29 12:34"),
            (-1, "1969-12-31 23:59"),
            (4_102_444_800, "2100-01-01 00:00"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
