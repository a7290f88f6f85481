//! TLS, from files.

use std::fs;
use std::path::Path;

use etcd_client::{Certificate, Identity, TlsOptions};
use tidings_api::{Error, Result};

use crate::config::EtcdConfig;

/// What the configuration says about TLS. Reads the files.
pub(crate) fn options(config: &EtcdConfig) -> Result<TlsOptions> {
    let mut options = TlsOptions::new();
    if let Some(path) = &config.ca_file {
        options = options.ca_certificate(Certificate::from_pem(read("ca_file", path)?));
    }
    #[cfg(feature = "tls-native-roots")]
    if config.ca_file.is_none() {
        options = options.with_native_roots();
    }
    if let (Some(certificate), Some(key)) = (&config.cert_file, &config.key_file) {
        let certificate = read("cert_file", certificate)?;
        options = options.identity(Identity::from_pem(certificate, read("key_file", key)?));
    }
    if let Some(name) = &config.server_name {
        options = options.domain_name(name);
    }
    Ok(options)
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        let path = path.display();
        Error::invalid_config(format!(
            "{field} {path}: accepted is a file that can be read"
        ))
        .with_backend("etcd")
        .with_source(error)
    })
}
