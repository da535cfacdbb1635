//! What is said of a command line that nobody can understand, beyond what clap says.
//!
//! What it is for: words of other tools lead to ours, and a value that came from the environment is told
//! by the variable's name. Must not know what verbs do.

use std::any::TypeId;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Error;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Verbs of docker and podman, and what is here instead.
const THEIRS: [(&str, &str); 13] = [
    ("build", "`lazyroot commit` makes an image of changes"),
    (
        "cp",
        "`lazyroot containers` shows directories, which cp(1) copies from and to; \
         `lazyroot cat` prints a file of an image",
    ),
    ("create", "`lazyroot provision` makes a container"),
    (
        "exec",
        "`lazyroot containers` shows directories, in which chroot(1) or any launcher starts a command",
    ),
    ("history", "`lazyroot inspect` shows an image's history"),
    ("kill", "`lazyroot destroy` removes a container"),
    ("load", "`lazyroot import` takes images from archives"),
    (
        "ps",
        "`lazyroot containers` shows what containers there are",
    ),
    (
        "rm",
        "`lazyroot destroy` removes a container, `lazyroot remove` an image",
    ),
    ("rmi", "`lazyroot remove` removes an image"),
    ("save", "`lazyroot export` writes an image to an archive"),
    (
        "start",
        "`lazyroot run` runs a command in a new container, `lazyroot provision` only makes one",
    ),
    ("stop", "`lazyroot destroy` removes a container"),
];

/// The error with what we know more.
pub(super) fn explain(mut error: Error, typed: &[OsString]) -> Error {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(&error, ContextKind::InvalidSubcommand);
            let tip = THEIRS.iter().find(|(theirs, _)| Some(*theirs) == word);
            if let Some((_, tip)) = tip {
                let tips = ContextValue::StyledStrs(vec![StyledStr::from(*tip)]);
                error.remove(ContextKind::SuggestedSubcommand);
                error.insert(ContextKind::Suggested, tips);
            }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            if let Some(variable) = variable(&error, typed) {
                error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
            }
        }
        ErrorKind::InvalidUtf8 => {
            if let Some((variable, value)) = not_utf8() {
                let what = format!(
                    "invalid value '{}' for '{variable}': it is not UTF-8\n\n\
                     For more information, try '--help'.\n",
                    value.to_string_lossy()
                );
                return Error::raw(ErrorKind::InvalidUtf8, what);
            }
        }
        _ => {}
    }
    error
}

/// The variable, with its value, that should be text and is not: clap does not say where it has
/// found that, and looks at variables also where a flag behind the verb says otherwise. Paths may
/// be anything.
fn not_utf8() -> Option<(String, OsString)> {
    let program = super::program();
    let settings = program.get_arguments();
    let texts = settings.filter(|arg| arg.get_value_parser().type_id() != TypeId::of::<PathBuf>());
    let mut variables = texts.filter_map(|arg| {
        let variable = arg.get_env()?;
        Some((variable.to_str()?.to_owned(), env::var_os(variable)?))
    });
    variables.find(|(_, value)| value.to_str().is_none())
}

/// The variable that a wrong value is from: clap names the flag, which nobody typed.
fn variable(error: &Error, typed: &[OsString]) -> Option<String> {
    let shown = text(error, ContextKind::InvalidArg)?;
    // `--backend <HOW>`, `--prefetch[=<BOOL>]`.
    let flag = shown.split([' ', '[', '=']).next()?;
    let name = flag.strip_prefix("--")?;
    let value = text(error, ContextKind::InvalidValue)?;
    let joined = format!("{flag}={value}");
    let apart = [flag, value];
    if typed.iter().any(|word| **word == *joined) || typed.windows(2).any(|words| *words == apart) {
        return None;
    }
    let variable = format!("LAZYROOT_{}", name.replace('-', "_").to_ascii_uppercase());
    let said = env::var_os(&variable)?;
    (said == *value).then_some(variable)
}

fn text(error: &Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}
