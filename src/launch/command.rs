//! What is run: the image's wishes and what was typed become one command.
//!
//! Docker's rules for its images (`daemon/commit.go`, `merge`): arguments replace the
//! image's `Cmd`, an entrypoint replaces both. An AppC image's `exec` is its entrypoint
//! and the rest of it its `Cmd`, so that arguments replace the rest, as in Mesos
//! (`isolators/appc/runtime.cpp`). And Mesos' CommandInfo with `shell`: one text for a shell, the
//! image's own command is not looked at.

use std::ffi::{OsStr, OsString};

use crate::image::RunConfig;
use crate::image::appc::{App, Isolator, MountPoint, NO_NEW_PRIVILEGES};
use crate::image::identity::UserWish;

/// The search path of an image that says none (Docker's; AppC has the same).
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// The program, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that a caller may replace.
    pub cmd: Vec<String>,
    /// Variables in the order in which they are set.
    pub environment: Vec<(String, String)>,
    /// Where it is run; empty: the root.
    pub directory: String,
    /// As whom.
    pub user: UserWish,
    /// Directories that want to be volumes.
    pub volumes: Vec<String>,
    /// Those of them that nothing may be written to.
    pub read_only: Vec<String>,
    /// It is to be executed without ever getting more privileges.
    pub no_new_privileges: bool,
    /// What it wants and does not get, in words.
    pub left_out: Vec<String>,
    /// Variables say who runs it (`USER`, `LOGNAME`, `SHELL`; `spec/ace.md`).
    pub names_user: bool,
}

impl From<RunConfig> for Wants {
    fn from(config: RunConfig) -> Self {
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text, String::new()),
        };
        Self {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            environment: config.env.into_iter().map(pair).collect(),
            directory: config.working_dir,
            user: UserWish::Docker(config.user),
            volumes: config.volumes,
            read_only: Vec::new(),
            no_new_privileges: false,
            left_out: Vec::new(),
            names_user: false,
        }
    }
}

impl Wants {
    /// What an AppC image wants; `name` is the image's. Programs before and after it are not
    /// run (no provisioner does), and of isolators there is one.
    #[must_use]
    pub fn of_app(name: &str, app: App) -> Self {
        let mut exec = app.exec.into_iter();
        let short = name.rsplit('/').next().unwrap_or(name);
        let own = [
            ("AC_APP_NAME", short),
            ("container", env!("CARGO_PKG_NAME")),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut environment = Vec::from(own);
        environment.extend(app.environment);
        let done = |isolator: &&Isolator| isolator.name.as_str() == NO_NEW_PRIVILEGES;
        let privileges = app.isolators.iter().find(done);
        let isolators = app.isolators.iter().filter(|isolator| !done(isolator));
        let isolators = isolators.map(|isolator| format!("isolator `{}`", isolator.name));
        let handlers = app.event_handlers.iter();
        let handlers = handlers.map(|handler| format!("handler `{}`", handler.name));
        let left_out = isolators.chain(handlers).collect();
        let points = app.mount_points.iter();
        let path = |point: &MountPoint| point.path.clone();
        let closed = points.clone().filter(|point| point.read_only);
        Self {
            entrypoint: exec.next().into_iter().collect(),
            cmd: exec.collect(),
            environment,
            directory: app.working_directory,
            user: UserWish::Appc {
                user: app.user,
                group: app.group,
                groups: app.supplementary_gids,
            },
            volumes: points.map(path).collect(),
            read_only: closed.map(path).collect(),
            no_new_privileges: privileges.is_some_and(|isolator| isolator.value == true),
            left_out,
            names_user: true,
        }
    }
}

/// What somebody wants instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed {
    /// The only argument is for a shell.
    pub shell: bool,
    /// Instead of the image's entrypoint and command; empty: none.
    pub entrypoint: Option<OsString>,
    /// Instead of the image's command.
    pub args: Vec<OsString>,
    /// Variables, set or taken away; what is said last counts.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Instead of the image's working directory.
    pub directory: Option<String>,
    /// Instead of the image's user.
    pub user: Option<String>,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; at least the program.
    pub argv: Vec<OsString>,
    /// Variables that somebody has set, each once.
    pub environment: Vec<(OsString, OsString)>,
    /// Absolute.
    pub directory: String,
    /// As whom.
    pub user: UserWish,
}

/// Why nothing can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Neither the image nor anybody says what.
    #[error("neither the image nor the command line says what to run")]
    Nothing,
    /// A shell takes one text.
    #[error("a shell is given one text, not {0}")]
    Shell(usize),
    /// It would be relative to nothing.
    #[error("the working directory `{0}` is not an absolute path")]
    Relative(String),
    /// No variable can be called so.
    #[error("`{}` is no name of a variable", .0.display())]
    Variable(OsString),
}

impl CommandError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Nothing => Some("lazyroot run IMAGE -- COMMAND, as sh if the image has one"),
            Self::Shell(_) => Some("quotes around all of it: --shell IMAGE -- 'a | b'"),
            Self::Relative(_) | Self::Variable(_) => None,
        }
    }
}

impl Command {
    /// Joins both.
    ///
    /// # Errors
    /// There is nothing to run, or what is typed contradicts itself.
    pub fn merge(wants: &Wants, typed: &Typed) -> Result<Self, CommandError> {
        let directory = match &typed.directory {
            Some(directory) if !directory.starts_with('/') => {
                return Err(CommandError::Relative(directory.clone()));
            }
            Some(directory) => directory.clone(),
            // Builders write relative ones, and mean the root.
            None => format!("/{}", wants.directory.trim_start_matches('/')),
        };
        let user = match &typed.user {
            Some(user) => UserWish::Docker(user.clone()),
            None => wants.user.clone(),
        };
        Ok(Self {
            argv: argv(wants, typed)?,
            environment: environment(wants, typed)?,
            directory,
            user,
        })
    }

    /// What a variable is set to.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut all = self.environment.iter();
        let found = all.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_os_str())
    }

    /// Sets a variable that nobody has set, or that is empty where that means nothing.
    pub fn default_variable(&mut self, name: &str, value: &str) {
        match self.environment.iter_mut().find(|(key, _)| key == name) {
            None => self.environment.push((name.into(), value.into())),
            Some((_, set)) if name == "HOME" && set.is_empty() => *set = value.into(),
            Some(_) => {}
        }
    }
}

fn argv(wants: &Wants, typed: &Typed) -> Result<Vec<OsString>, CommandError> {
    let own = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
    if typed.shell {
        let [text] = typed.args.as_slice() else {
            return Err(CommandError::Shell(typed.args.len()));
        };
        return Ok(vec!["/bin/sh".into(), "-c".into(), text.clone()]);
    }
    let mut argv = match &typed.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => own(&wants.entrypoint),
    };
    match typed.args.is_empty() && typed.entrypoint.is_none() {
        true => argv.extend(own(&wants.cmd)),
        false => argv.extend(typed.args.iter().cloned()),
    }
    match argv.is_empty() {
        true => Err(CommandError::Nothing),
        false => Ok(argv),
    }
}

fn environment(wants: &Wants, typed: &Typed) -> Result<Vec<(OsString, OsString)>, CommandError> {
    let own = wants
        .environment
        .iter()
        .map(|(name, value)| (OsString::from(name), Some(OsString::from(value))));
    let mut all: Vec<(OsString, OsString)> = Vec::new();
    for (name, value) in own.chain(typed.environment.iter().cloned()) {
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
            return Err(CommandError::Variable(name));
        }
        let at = all.iter().position(|(other, _)| *other == name);
        match (at, value) {
            (Some(at), Some(value)) => all[at].1 = value,
            (Some(at), None) => _ = all.remove(at),
            (None, Some(value)) => all.push((name, value)),
            (None, None) => {}
        }
    }
    Ok(all)
}

/// Variables of a file, as Docker's `--env-file` has them: `NAME=value`, nothing in it quoted;
/// `NAME` alone is the caller's own, whose value is nothing here.
///
/// # Errors
/// A line without a name, or with blanks in it; what is wrong.
pub fn parse_env_file(bytes: &[u8]) -> Result<Vec<(String, Option<String>)>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let lines = text.lines().enumerate();
    let lines = lines.map(|(number, line)| (number + 1, line.trim_start()));
    let mut all = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("line {number}: `{name}` is no name of a variable"));
        }
        all.push((name.to_owned(), value));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_is_what_docker_and_mesos_make_of_it() {
        // image's entrypoint | image's cmd | --entrypoint | arguments | what is run
        let table = "
            -       | sh -c x | -     | -     | sh -c x
            -       | sh -c x | -     | ls -l | ls -l
            /init a | b c     | -     | -     | /init a b c
            /init a | b c     | -     | d     | /init a d
            /init a | b c     | /x    | -     | /x
            /init a | b c     | /x    | d e   | /x d e
            /init a | b c     | ''    | d e   | d e
            /init a | b c     | ''    | -     | nothing
            /init   | -       | -     | -     | /init
            -       | -       | -     | -     | nothing
            -       | -       | -     | ls    | ls
            -       | -       | /x    | -     | /x
        ";
        for row in table.lines().filter(|row| row.contains('|')) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let list = |cell: &str| match cell {
                "-" => Vec::new(),
                cell => words(cell),
            };
            let wants = Wants {
                entrypoint: list(cells[0]),
                cmd: list(cells[1]),
                ..Wants::default()
            };
            let typed = Typed {
                entrypoint: match cells[2] {
                    "-" => None,
                    "''" => Some(OsString::new()),
                    program => Some(program.into()),
                },
                args: list(cells[3]).into_iter().map(OsString::from).collect(),
                ..Typed::default()
            };
            let got = match Command::merge(&wants, &typed) {
                Ok(command) => command.argv.join(OsStr::new(" ")),
                Err(CommandError::Nothing) => "nothing".into(),
                Err(error) => panic!("{row}: {error}"),
            };
            assert_eq!(got, cells[4], "{row}");
        }
    }

    #[test]
    fn a_shell_is_given_one_text_and_the_images_command_is_not_looked_at() {
        let wants = Wants {
            entrypoint: words("/init"),
            cmd: words("a b"),
            ..Wants::default()
        };
        let typed = |args: &[&str]| Typed {
            shell: true,
            args: args.iter().map(OsString::from).collect(),
            ..Typed::default()
        };
        let command = Command::merge(&wants, &typed(&["echo $A | cat"])).unwrap();
        assert_eq!(command.argv, ["/bin/sh", "-c", "echo $A | cat"]);
        for (args, count) in [(&[][..], 0), (&["a", "b"][..], 2)] {
            let error = Command::merge(&wants, &typed(args)).unwrap_err();
            assert_eq!(error, CommandError::Shell(count));
        }
    }

    #[test]
    fn an_appc_images_first_word_stays_and_arguments_replace_the_rest() {
        let manifest = br#"{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app",
            "app":{"exec":["/bin/app","--one","two"],"user":"0","group":"0","workingDirectory":"/srv",
                "environment":[{"name":"A","value":"b"}],"supplementaryGIDs":[5,6]}}"#;
        let manifest = crate::image::appc::Manifest::parse(manifest).unwrap();
        let wants = Wants::of_app("example.com/app", manifest.app.unwrap());
        let mut typed = Typed::default();
        let command = Command::merge(&wants, &typed).unwrap();
        assert_eq!(command.argv, ["/bin/app", "--one", "two"]);
        assert_eq!(command.directory, "/srv");
        assert_eq!(command.variable("AC_APP_NAME"), Some(OsStr::new("app")));
        let user = UserWish::Appc {
            user: "0".to_owned(),
            group: "0".to_owned(),
            groups: vec![5, 6],
        };
        assert_eq!(command.user, user);
        assert_eq!(command.variable("container"), Some(OsStr::new("lazyroot")));
        typed.args = vec!["three".into()];
        let command = Command::merge(&wants, &typed).unwrap();
        assert_eq!(command.argv, ["/bin/app", "three"]);
    }

    #[test]
    fn of_an_appc_image_what_is_not_done_is_named() {
        let manifest = |more: &str| {
            let text = format!(
                r#"{{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app",
                "app":{{"exec":["/a"],"user":"0","group":"0",{more}}}}}"#
            );
            let manifest = crate::image::appc::Manifest::parse(text.as_bytes()).unwrap();
            Wants::of_app("example.com/app", manifest.app.unwrap())
        };
        let wants = manifest(
            r#""isolators":[{"name":"os/linux/no-new-privileges","value":true},
                {"name":"resource/memory","value":{"limit":"1G"}}],
            "eventHandlers":[{"name":"pre-start","exec":["/b"]}],
            "mountPoints":[{"name":"data","path":"/data"},{"name":"fixed","path":"/fixed","readOnly":true}]"#,
        );
        assert!(wants.no_new_privileges);
        let left_out = ["isolator `resource/memory`", "handler `pre-start`"];
        assert_eq!(wants.left_out, left_out);
        assert_eq!(wants.volumes, ["/data", "/fixed"]);
        assert_eq!(wants.read_only, ["/fixed"]);
        let wants =
            manifest(r#""isolators":[{"name":"os/linux/no-new-privileges","value":false}]"#);
        assert!(!wants.no_new_privileges && wants.left_out.is_empty());
    }

    #[test]
    fn variables_are_set_once_replaced_and_taken_away() {
        let config = RunConfig {
            env: ["A=1", "B=x=y", "C", "D=4", "A=2"]
                .map(str::to_owned)
                .into(),
            cmd: words("sh"),
            ..RunConfig::default()
        };
        let typed = Typed {
            environment: vec![
                ("D".into(), None),
                ("E".into(), Some("5".into())),
                ("B".into(), Some("".into())),
                ("F".into(), None),
            ],
            ..Typed::default()
        };
        let command = Command::merge(&config.into(), &typed).unwrap();
        let text = command.environment.iter().map(|(name, value)| {
            let (name, value) = (name.to_str().unwrap(), value.to_str().unwrap());
            format!("{name}={value}")
        });
        assert_eq!(text.collect::<Vec<_>>(), ["A=2", "B=", "C=", "E=5"]);
        for name in ["", "a=b"] {
            let typed = Typed {
                environment: vec![(name.into(), None)],
                args: vec!["sh".into()],
                ..Typed::default()
            };
            let error = Command::merge(&Wants::default(), &typed).unwrap_err();
            assert_eq!(error, CommandError::Variable(name.into()));
        }
    }

    #[test]
    fn a_file_of_variables_is_read_as_docker_reads_it() {
        let file = b"\xef\xbb\xbf# no\n  A=1 # yes\r\n\nB=\n\tC='x y'=z\nOWN \n#D=4";
        let value = |text: &str| Some(text.to_owned());
        let wanted = [
            ("A", value("1 # yes")),
            ("B", value("")),
            ("C", value("'x y'=z")),
            ("OWN", None),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(parse_env_file(file).unwrap(), wanted);
        for (file, what) in [
            (&b"A=1\n=2"[..], "line 2: `` is no name of a variable"),
            (b"A B=1", "line 1: `A B` is no name of a variable"),
            (b"A=\xff", "invalid utf-8 sequence of 1 bytes from index 2"),
        ] {
            assert_eq!(parse_env_file(file).unwrap_err(), what);
        }
    }

    #[test]
    fn the_working_directory_is_absolute() {
        for (image, typed, directory) in [
            ("", None, "/"),
            ("/srv", None, "/srv"),
            ("srv/a", None, "/srv/a"),
            ("/srv", Some("/b"), "/b"),
        ] {
            let wants = Wants {
                cmd: words("sh"),
                directory: image.to_owned(),
                ..Wants::default()
            };
            let mut said = Typed {
                directory: typed.map(str::to_owned),
                ..Typed::default()
            };
            assert_eq!(Command::merge(&wants, &said).unwrap().directory, directory);
            said.directory = Some("b".to_owned());
            let error = Command::merge(&wants, &said).unwrap_err();
            assert_eq!(error, CommandError::Relative("b".to_owned()));
        }
    }

    #[test]
    fn a_default_is_set_where_nobody_says_anything() {
        let config = RunConfig {
            env: vec!["HOME=".to_owned(), "PATH=/x".to_owned()],
            cmd: words("sh"),
            ..RunConfig::default()
        };
        let mut command = Command::merge(&config.into(), &Typed::default()).unwrap();
        for (name, value) in [("PATH", PATH), ("HOME", "/root"), ("TERM", "xterm")] {
            command.default_variable(name, value);
        }
        for (name, value) in [("PATH", "/x"), ("HOME", "/root"), ("TERM", "xterm")] {
            assert_eq!(command.variable(name), Some(OsStr::new(value)));
        }
    }
}
