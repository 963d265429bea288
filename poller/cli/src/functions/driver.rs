//! From one driver to another.
//!
//! `driver_override` names the only driver that may take a function; `unbind` of the driver that has
//! it takes it away; `bind` of the other gives it, and says why where it does not. Each step is looked
//! at afterwards: sysfs takes some writes without doing anything.

use std::io;
use std::path::Path;

use ringbell_drivers::address::Bdf;

use super::Machine;
use crate::error::{Result, plain};

impl Machine {
    /// The driver that the function has now.
    pub(super) fn driver(&self, bdf: Bdf) -> Result<Option<String>> {
        Ok(self.sysfs.function(bdf)?.driver)
    }

    /// Names the only driver that may take the function; `None`: any.
    pub(super) fn set_override(&self, bdf: Bdf, driver: Option<&str>) -> Result<(), String> {
        let path = self.sysfs.path(bdf).join("driver_override");
        self.put(&path, driver.unwrap_or("\n"))?;
        tracing::info!(%bdf, driver, "set driver_override");
        Ok(())
    }

    /// Takes the function away from its driver. This waits for the driver, in the kernel.
    pub(super) fn detach(&self, bdf: Bdf) -> Result<(), String> {
        self.put(&self.sysfs.path(bdf).join("driver/unbind"), &bdf.to_string())?;
        match self.driver(bdf) {
            Ok(None) => {
                tracing::info!(%bdf, "unbound");
                Ok(())
            }
            Ok(Some(driver)) => Err(format!("{driver} did not let go of it")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives the function, which has no driver, to this one.
    pub(super) fn attach(&self, bdf: Bdf, driver: &str) -> Result<(), String> {
        let bind = self.sysfs.drivers().join(driver).join("bind");
        let written = self.kernel.write(&bind, &bdf.to_string());
        match self.driver(bdf) {
            Ok(Some(now)) if now == driver => {
                tracing::info!(%bdf, driver, "bound");
                Ok(())
            }
            Ok(_) => {
                let why = written.err().map_or_else(|| "it did not say why".to_owned(), |e| plain(&e));
                Err(format!("{driver} did not take it: {why}; dmesg may say more"))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives the function to whichever driver takes it, or to none.
    pub(super) fn probe(&self, bdf: Bdf) -> Result<(), String> {
        let probe = self.sysfs.root().join("bus/pci/drivers_probe");
        let written = self.kernel.write(&probe, &bdf.to_string());
        // Linux says EINVAL where no driver took it, which is an answer, too.
        let failed = written.err().filter(|e| e.raw_os_error() != Some(nix::libc::EINVAL));
        tracing::info!(%bdf, "asked the kernel for a driver");
        failed.map_or(Ok(()), |error| Err(not_written(&probe, &error)))
    }

    fn put(&self, path: &Path, text: &str) -> Result<(), String> {
        self.kernel.write(path, text).map_err(|error| not_written(path, &error))
    }
}

fn not_written(path: &Path, error: &io::Error) -> String {
    format!("cannot write to {}: {}", path.display(), plain(error))
}
