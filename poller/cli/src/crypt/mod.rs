//! stub
use crate::cli::CryptArgs;
use crate::error::Result;
pub(crate) fn run(_args: CryptArgs) -> Result<()> {
    Ok(())
}
