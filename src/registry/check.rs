//! Whether a registry takes a login.

use std::sync::atomic::{AtomicBool, Ordering};

use ureq::http::Method;

use super::endpoint::Endpoint;
use super::session::{Call, Target, shown};
use super::{Access, Registry, RegistryError};
use crate::reference::Reference;

impl Registry {
    /// Asks the registry of `name` for nothing in particular, with the login of the
    /// settings; whether it demanded one at all.
    ///
    /// # Errors
    /// [`RegistryError::NoLogin`], if it does not take that one; all else too.
    pub fn check(&self, name: &Reference, stop: &AtomicBool) -> Result<bool, RegistryError> {
        let to = Endpoint::origin(name, &self.settings.insecure);
        let halt = || stop.load(Ordering::Relaxed);
        let repository = self.repository(name);
        let once = || {
            let root = to.root(self.https(&to)?);
            let call = Call::new(Method::GET, Target::Url(&root), Access::Nothing);
            let answer = self.send(&to, &call)?;
            match answer.status {
                200 => Ok(()),
                _ => Err(self.refusal(&to, "the API of registries", &shown(&root), answer)),
            }
        };
        let outcome = self.guarded(stop, || repository.retried(&to, &halt, |_| (once(), false)));
        match outcome {
            Ok(()) => Ok(self.was_asked_for_login(&to)),
            Err(RegistryError::Refused { registry, said, .. }) => {
                Err(RegistryError::NoLogin { registry, said })
            }
            Err(error) => Err(error),
        }
    }
}
