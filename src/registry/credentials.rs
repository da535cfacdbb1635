//! Who somebody is at a registry.
//!
//! What it is for: [`Credentials::login`] is the only question that is asked. May read
//! files and run helpers that those name. Must not know requests; whoever gets a
//! [`Login`] sends it to the registry that it was asked for and to where that one has
//! tokens made, and to nobody else.

use std::fmt;

/// Something that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What is sent.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a registry knows somebody by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Name and password: sent as Basic, to the registry or to where it has tokens made.
    Password {
        /// The name.
        user: String,
        /// The password, or a token that is used as one.
        password: Secret,
    },
    /// A token that is exchanged for others (OAuth2's refresh token; `identitytoken`).
    Identity(Secret),
    /// A token that is sent as it is (`registrytoken`).
    Bearer(Secret),
}

/// Why it is not known who somebody is, though it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot find out who you are at `{registry}`")]
pub struct CredentialsError {
    /// The registry.
    pub registry: String,
    /// What went wrong.
    pub source: std::io::Error,
}

/// Where logins are.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    fixed: Vec<(String, Login)>,
}

impl Credentials {
    /// Nobody is known anywhere.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One login, for one registry.
    #[must_use]
    pub fn only(registry: &str, login: Login) -> Self {
        Self {
            fixed: vec![(registry.to_owned(), login)],
        }
    }

    /// Who one is at a registry, as references write it (`docker.io`, `host:5000`), for
    /// one of its repositories (`library/debian`); nothing where nobody said it.
    ///
    /// # Errors
    /// A file or a helper that fails. Nothing is asked for anonymously that somebody
    /// wanted to be asked for by name.
    pub fn login(
        &self,
        registry: &str,
        _repository: &str,
    ) -> Result<Option<Login>, CredentialsError> {
        let found = self.fixed.iter().find(|(of, _)| of == registry);
        Ok(found.map(|(_, login)| login.clone()))
    }
}
