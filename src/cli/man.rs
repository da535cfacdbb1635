//! `lazyroot man`

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::report::{Exit, Failure};

/// Write the manual pages, one for each verb, into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory, `/usr/local/share/man/man1` for instance. Made if missing.
    directory: PathBuf,
}

pub(super) fn run(args: &Args, command: clap::Command) -> Result<(), Failure> {
    // What short help leaves out for its length would have no text here.
    let whole = command.mut_args(|arg| arg.hide_short_help(false));
    let mut program = whole.disable_help_subcommand(true);
    program.build();
    let written = fs::create_dir_all(&args.directory).and_then(|()| {
        let verbs = program.get_subcommands().cloned();
        let mut all = verbs.chain([program.clone()]);
        all.try_for_each(|command| write(command, &args.directory))
    });
    written.map_err(|error| {
        let what = format!(
            "cannot write manual pages to `{}`: {error}",
            args.directory.display()
        );
        Failure::new(Exit::Failed, what)
    })
}

/// The page of the program or a verb.
fn write(command: clap::Command, directory: &Path) -> io::Result<()> {
    let verb = command.get_name().to_owned();
    let page = Man::new(command);
    let mut text = Vec::new();
    page.render(&mut text)?;
    let mut end = Roff::new();
    exit_status(&mut end, &verb);
    see_also(&mut end, &verb);
    end.to_writer(&mut text)?;
    fs::write(directory.join(page.get_filename()), text)
}

/// Exit codes and when they are answered, as [`Exit`] has them.
const CODES: [(&str, &str); 7] = [
    ("0", "All was done."),
    ("1", "Something failed."),
    ("2", "The command line cannot be understood."),
    ("3", "There is no such image, container, path or mount."),
    ("4", "It is in use."),
    ("5", "The store is damaged."),
    ("130", "It was interrupted (Ctrl-C)."),
];

/// Those of `run`, where the others are the command's.
const CODES_OF_RUN: [(&str, &str); 5] = [
    (
        "125",
        "Something of lazyroot's failed, or the command line cannot be understood.",
    ),
    ("126", "The command cannot be run."),
    ("127", "There is no such command."),
    ("128 + N", "Signal N ended the command."),
    ("130", "It was interrupted (Ctrl-C)."),
];

fn exit_status(page: &mut Roff, verb: &str) {
    page.control("SH", ["EXIT STATUS"]);
    let codes = match verb {
        "run" => {
            page.text([roman("That of the command, or:")]);
            &CODES_OF_RUN[..]
        }
        _ => &CODES[..],
    };
    for (code, when) in codes {
        page.control("TP", []);
        page.text([bold(*code)]);
        page.text([roman(*when)]);
    }
}

/// Pages that whoever reads one of them may want next.
const TOGETHER: [&[&str]; 11] = [
    &["import", "pull", "validate"],
    &["push", "pull", "login", "logout"],
    &["images", "inspect", "tag", "remove"],
    &["ls", "cat", "browse"],
    &["mount", "umount", "browse"],
    &[
        "provision",
        "containers",
        "run",
        "bundle",
        "destroy",
        "recover",
    ],
    &["diff", "commit", "export"],
    &["export", "import", "push"],
    &["gc", "remove", "du", "verify"],
    &["metrics", "doctor", "config"],
    &["completions", "man"],
];

fn see_also(page: &mut Roff, verb: &str) {
    let mut pages = vec!["lazyroot(1)".to_owned()];
    let groups = TOGETHER.iter().filter(|group| group.contains(&verb));
    for other in groups.copied().flatten() {
        let other_page = format!("lazyroot-{other}(1)");
        if *other != verb && !pages.contains(&other_page) {
            pages.push(other_page);
        }
    }
    let pages = match verb {
        // Its verbs have a section of their own.
        "lazyroot" => "mount(8), chroot(1), fusermount3(1)".to_owned(),
        "mount" | "umount" => format!("{}, mount(8), fusermount3(1)", pages.join(", ")),
        _ => pages.join(", "),
    };
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(pages)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::whole;

    #[test]
    fn each_verb_has_others_beside_it_that_there_are() {
        let whole = whole(None);
        let verbs: Vec<&str> = whole
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        for verb in &verbs {
            assert!(TOGETHER.iter().any(|group| group.contains(verb)), "{verb}");
        }
        for verb in TOGETHER.iter().copied().flatten() {
            assert!(verbs.contains(verb), "{verb}");
        }
    }
}
