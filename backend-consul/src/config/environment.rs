//! The environment variables that Consul's own tools read.

use tidings_api::{Error, HostPort, Result};

use super::ConsulConfig;

impl ConsulConfig {
    /// This configuration with what it leaves out taken from Consul's environment variables, where
    /// [`environment`](Self::environment) asks for it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the variable.
    pub(crate) fn completed(self) -> Result<Self> {
        self.completed_from(|name| std::env::var(name).ok())
    }

    fn completed_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if !self.environment {
            return Ok(self);
        }
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if self.agent == Self::default().agent
            && let Some(address) = variable("CONSUL_HTTP_ADDR")
        {
            self.take_address(&address)?;
        }
        self.tls |= match variable("CONSUL_HTTP_SSL").as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(refused("CONSUL_HTTP_SSL", "accepted are true and false")),
        };
        if self.token.is_none() && self.token_file.is_none() {
            self.token = variable("CONSUL_HTTP_TOKEN").map(Into::into);
            if self.token.is_none() {
                self.token_file = variable("CONSUL_HTTP_TOKEN_FILE").map(Into::into);
            }
        }
        for (field, name) in [
            (&mut self.ca_file, "CONSUL_CACERT"),
            (&mut self.cert_file, "CONSUL_CLIENT_CERT"),
            (&mut self.key_file, "CONSUL_CLIENT_KEY"),
        ] {
            // Set beside plain HTTP they have no meaning, as in Consul's own tools.
            if self.tls && field.is_none() {
                *field = variable(name).map(Into::into);
            }
        }
        for (field, name) in [
            (&mut self.tls_server_name, "CONSUL_TLS_SERVER_NAME"),
            (&mut self.consul_namespace, "CONSUL_NAMESPACE"),
            (&mut self.partition, "CONSUL_PARTITION"),
        ] {
            let meant = self.tls || name != "CONSUL_TLS_SERVER_NAME";
            if meant && field.is_none() {
                *field = variable(name);
            }
        }
        self.validate()?;
        Ok(self)
    }

    fn take_address(&mut self, address: &str) -> Result<()> {
        const NAME: &str = "CONSUL_HTTP_ADDR";
        let rest = match address.split_once("://") {
            None => address,
            Some(("http" | "tcp", rest)) => rest,
            Some(("https", rest)) => {
                self.tls = true;
                rest
            }
            Some(_) => {
                return Err(refused(
                    NAME,
                    "accepted are host:port, http://host:port and https://host:port",
                ));
            }
        };
        self.agent = rest
            .trim_end_matches('/')
            .parse::<HostPort>()
            .map_err(|error| refused(NAME, &error.to_string()))?;
        Ok(())
    }
}

fn refused(name: &str, accepted: &str) -> Error {
    Error::invalid_config(format!("{name}: {accepted}")).with_backend(crate::BACKEND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(config: ConsulConfig, variables: &[(&str, &str)]) -> Result<ConsulConfig> {
        config.completed_from(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn asking() -> ConsulConfig {
        ConsulConfig {
            environment: true,
            ..ConsulConfig::default()
        }
    }

    #[test]
    fn the_environment_is_read_only_when_asked() {
        let variables = [
            ("CONSUL_HTTP_ADDR", "http://10.0.0.1:85"),
            ("CONSUL_HTTP_TOKEN", "t0k3n"),
            ("CONSUL_NAMESPACE", "team"),
        ];
        let silent = completed(ConsulConfig::default(), &variables).unwrap();
        assert_eq!(silent, ConsulConfig::default());
        let read = completed(asking(), &variables).unwrap();
        assert_eq!(read.agent.to_string(), "10.0.0.1:85");
        assert_eq!(read.token, Some("t0k3n".into()));
        assert_eq!(read.consul_namespace.as_deref(), Some("team"));
    }

    #[test]
    fn what_is_configured_comes_first() {
        let mut config = asking();
        config.agent = "10.0.0.9:1".parse().unwrap();
        config.token_file = Some("/run/token".into());
        let variables = [
            ("CONSUL_HTTP_ADDR", "10.0.0.1:85"),
            ("CONSUL_HTTP_TOKEN", "t"),
        ];
        assert_eq!(completed(config.clone(), &variables).unwrap(), config);
    }

    #[test]
    fn an_unusable_variable_is_named_without_its_value() {
        for (name, value) in [
            ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
            ("CONSUL_HTTP_SSL", "perhaps"),
        ] {
            let error = completed(asking(), &[(name, value)])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(name) && error.contains("accepted"),
                "{error}"
            );
        }
    }
}
