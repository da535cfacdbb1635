//! Config files: TOML, one key for each setting.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::super::report::{Exit, Failure};
use super::{Files, Wishes};

/// Largest config file. All settings with the longest paths have a tenth of it.
const FILE_MAX: u64 = 1 << 20;

impl Files {
    /// What they say; what goes before comes first.
    pub(super) fn read(self) -> Result<Vec<(PathBuf, Wishes)>, Failure> {
        if let Some(path) = self.named {
            let wishes = read(&path)?.ok_or_else(|| {
                let what = format!("there is no config file `{}`", path.display());
                Failure::new(Exit::NotFound, what)
            })?;
            return Ok(vec![(path, wishes)]);
        }
        let mut all = Vec::new();
        for path in self.usual.into_iter().rev() {
            if let Some(wishes) = read(&path)? {
                all.push((path, wishes));
            }
        }
        Ok(all)
    }
}

/// One file; nothing where there is none.
fn read(path: &Path) -> Result<Option<Wishes>, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        let what = format!("the config file `{}`: {what}", path.display());
        Failure::new(Exit::Usage, what)
    };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(&error)),
        Ok(_) if text.len() as u64 > FILE_MAX => {
            return Err(wrong(&format!("it has more than {FILE_MAX} bytes")));
        }
        Ok(_) => {}
    }
    let wishes: Wishes = toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or_default();
            before.matches('\n').count() + 1
        });
        let line = line.map_or_else(String::new, |line| format!("line {line}: "));
        wrong(&format!("{line}{}", error.message()))
    })?;
    let base = std::path::absolute(path)?;
    let base = base.parent().unwrap_or(Path::new("/"));
    wishes.below(|_| Ok(base.to_owned())).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_file_goes_before_an_earlier_one_and_none_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("system"), "store = '/system'\nkeyring = 'keys'\n").unwrap();
        std::fs::write(path("own"), "store = '/own'\n").unwrap();
        let usual = ["none", "system", "own"].map(path).to_vec();
        let named = None;
        let all = Files { usual, named }.read().unwrap();
        let read: Vec<&PathBuf> = all.iter().map(|(path, _)| path).collect();
        assert_eq!(read, [&path("own"), &path("system")]);
        let store = all.iter().find_map(|(_, wishes)| wishes.store.clone());
        assert_eq!(store, Some("/own".into()));
        let keyring = all.iter().find_map(|(_, wishes)| wishes.keyring.clone());
        assert_eq!(keyring, Some(path("keys")));
    }
}
