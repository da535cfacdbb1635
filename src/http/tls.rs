//! Who vouches for servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// Largest file of certificates, in bytes; that of a whole system has 200 KiB.
const FILE_MAX: u64 = 16 << 20;

/// Certificates of authorities: the system's, and more.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// Those of files; the system's are added.
    more: Option<Arc<Vec<Certificate<'static>>>>,
}

/// A file without certificates.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read.
    #[error("cannot read `{0}`")]
    Read(PathBuf, #[source] std::io::Error),
    /// There is no certificate in it.
    #[error("`{0}` has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)")]
    None(PathBuf),
    /// One of them is damaged.
    #[error("`{0}` has a certificate that cannot be read")]
    Damaged(PathBuf),
}

impl Roots {
    /// The system's, and all certificates of a PEM file.
    ///
    /// # Errors
    /// [`RootsError`].
    pub fn with_file(path: &Path) -> Result<Self, RootsError> {
        let pem = read(path).map_err(|error| RootsError::Read(path.to_owned(), error))?;
        let mut more = Vec::new();
        for item in parse_pem(&pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => more.push(certificate),
                Ok(_) => {}
                Err(_) => return Err(RootsError::Damaged(path.to_owned())),
            }
        }
        if more.is_empty() {
            return Err(RootsError::None(path.to_owned()));
        }
        let system = rustls_native_certs::load_native_certs().certs.into_iter();
        more.extend(system.map(|der| Certificate::from_der(&der).to_owned()));
        Ok(Self {
            more: Some(Arc::new(more)),
        })
    }

    pub(super) fn certs(&self) -> RootCerts {
        match &self.more {
            None => RootCerts::PlatformVerifier,
            Some(all) => RootCerts::Specific(Arc::clone(all)),
        }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
