//! Plain connections and, with the feature `tls`, encrypted ones.

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use tidings_api::Result;

use crate::ConsulConfig;

#[cfg(feature = "tls")]
pub(super) type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
pub(super) type Connector = HttpConnector;

/// The connector of a valid configuration.
#[cfg(not(feature = "tls"))]
pub(super) fn build(_config: &ConsulConfig, limit: Duration) -> Result<Connector> {
    Ok(plain(limit))
}

/// The connector of a valid configuration.
///
/// # Errors
/// Where a file can't be read.
#[cfg(feature = "tls")]
pub(super) fn build(config: &ConsulConfig, limit: Duration) -> Result<Connector> {
    use crate::error::error;
    use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
    use rustls::pki_types::ServerName;
    use tidings_api::ErrorKind;

    let mut plain = plain(limit);
    plain.enforce_http(false);
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls::client_config(config)?)
        .https_or_http();
    let Some(name) = &config.tls_server_name else {
        return Ok(builder.enable_http1().wrap_connector(plain));
    };
    let name = ServerName::try_from(name.clone()).map_err(|cause| {
        error(
            ErrorKind::InvalidConfig,
            "tls_server_name: accepted is a DNS name or an IP address",
        )
        .with_source(cause)
    })?;
    Ok(builder
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(plain))
}

fn plain(limit: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    // A partition must end a silent connection even where no request has a limit of its own.
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector
}

#[cfg(feature = "tls")]
mod tls {
    use std::path::Path;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
    use tidings_api::{Error, ErrorKind, Result};

    use crate::ConsulConfig;
    use crate::error::error;

    pub(super) fn client_config(config: &ConsulConfig) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| invalid("tls", "no protocol version", cause))?;
        let roots = roots(config, &builder)?;
        let builder = builder.with_root_certificates(roots);
        let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates("cert_file", cert)?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|cause| unreadable("key_file", key, cause))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|cause| invalid("cert_file", "the key doesn't fit the certificate", cause))
    }

    fn roots(
        config: &ConsulConfig,
        _builder: &ConfigBuilder<ClientConfig, WantsVerifier>,
    ) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &config.ca_file {
            Some(file) => {
                for certificate in certificates("ca_file", file)? {
                    roots
                        .add(certificate)
                        .map_err(|cause| invalid("ca_file", "no authority's certificate", cause))?;
                }
            }
            // Without TLS there is nothing to trust, and the system's store is slow to read.
            None if config.uses_tls() => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
            None => {}
        }
        Ok(roots)
    }

    fn certificates(field: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|cause| unreadable(field, file, cause))
    }

    fn unreadable(
        field: &str,
        file: &Path,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        invalid(
            field,
            &format!("{} can't be read as PEM", file.display()),
            cause,
        )
    }

    fn invalid(
        field: &str,
        what: &str,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        let message = format!("{field}: {what}: accepted is a PEM file");
        error(ErrorKind::InvalidConfig, message).with_source(cause)
    }
}
