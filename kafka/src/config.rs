//! The one client configuration: every Kafka client of weir is made from a [`KafkaConfig`].
//!
//! Credentials come from a directory with one file each, as a mounted Secret has them. They are read when a client is
//! made, so that a rotated Secret is taken up by the next one, and never appear in an error or a log.

use std::{
    io,
    path::{Path, PathBuf},
};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use weir_crds::kafka_cluster::{KafkaProtocol, KafkaSecurity, SaslMechanism};

/// A request that a broker has not answered by then has failed. librdkafka wants it to be no longer than a transaction.
const SOCKET_TIMEOUT_MS: u32 = 10_000;
/// A broker that is not there is asked again after this long at most: an outage ends within a second of the broker's.
const RECONNECT_BACKOFF_MS_MAX: u32 = 1_000;

const USERNAME_FILE: &str = "kafka-username";
const PASSWORD_FILE: &str = "kafka-password";
const CA_FILE: &str = "kafka-ca.crt";
const CERTIFICATE_FILE: &str = "kafka-tls.crt";
const KEY_FILE: &str = "kafka-tls.key";

/// How one cluster is reached, and with whose credentials.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    pub bootstrap_servers: Vec<String>,
    pub security: KafkaSecurity,
    /// Holds `kafka-username`, `kafka-password`, `kafka-ca.crt`, `kafka-tls.crt`, `kafka-tls.key`, as far as needed.
    pub credentials_dir: Option<PathBuf>,
}

/// Who logs in, and how. Not shown anywhere.
pub(crate) struct Login {
    pub mechanism: &'static str,
    pub username: String,
    pub password: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("no bootstrap server is named")]
    NoBootstrapServers,
    #[error("protocol SaslTls needs a mechanism: ScramSha256 or ScramSha512")]
    NoMechanism,
    #[error("protocol SaslTls needs the file {file} in the credentials; there is no credentials Secret")]
    NoCredentials { file: &'static str },
    #[error("the credentials have no file {file}, which {reason}")]
    MissingFile { file: &'static str, reason: &'static str },
    #[error("cannot read {path} of the credentials")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the credentials' file {file} is not UTF-8 text")]
    NotText { file: &'static str },
    #[error("the credentials' file {file} is empty")]
    Empty { file: &'static str },
}

impl KafkaConfig {
    /// What every client has in common; each kind of client adds its own on top.
    pub(crate) fn client(&self) -> Result<ClientConfig, ConfigError> {
        if self.bootstrap_servers.is_empty() {
            return Err(ConfigError::NoBootstrapServers);
        }
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap_servers.join(","))
            .set("client.id", "weir")
            .set("socket.timeout.ms", SOCKET_TIMEOUT_MS.to_string())
            .set("socket.keepalive.enable", "true")
            // Requests are small and waited for: Nagle's algorithm would add its delay to each commit.
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", RECONNECT_BACKOFF_MS_MAX.to_string())
            // A producer is told of its fencing by the calls it makes; the client's metrics are nobody's business.
            .set("enable.metrics.push", "false")
            .set_log_level(RDKafkaLogLevel::Info);
        match self.security.protocol {
            KafkaProtocol::Plaintext => {
                config.set("security.protocol", "plaintext");
            }
            KafkaProtocol::Tls => {
                config.set("security.protocol", "ssl");
                self.trust(&mut config)?;
                self.present_certificate(&mut config)?;
            }
            KafkaProtocol::SaslTls => {
                config.set("security.protocol", "sasl_ssl");
                if let Some(Login { mechanism, username, password }) = self.login()? {
                    config.set("sasl.mechanism", mechanism).set("sasl.username", username).set("sasl.password", password);
                }
                self.trust(&mut config)?;
                self.present_certificate(&mut config)?;
            }
        }
        Ok(config)
    }

    /// Who logs in; `None`: the protocol has no login.
    pub(crate) fn login(&self) -> Result<Option<Login>, ConfigError> {
        if self.security.protocol != KafkaProtocol::SaslTls {
            return Ok(None);
        }
        let mechanism = match self.security.mechanism.ok_or(ConfigError::NoMechanism)? {
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        Ok(Some(Login { mechanism, username: self.required(USERNAME_FILE)?, password: self.required(PASSWORD_FILE)? }))
    }

    /// Whom to believe, as PEM: the credentials' own CA first, then the cluster's; `None`: the system's.
    pub(crate) fn ca(&self) -> Result<Option<String>, ConfigError> {
        Ok(self.optional(CA_FILE)?.or_else(|| self.security.ca_certificates.clone()))
    }

    fn trust(&self, config: &mut ClientConfig) -> Result<(), ConfigError> {
        match self.ca()? {
            Some(pem) => config.set("ssl.ca.pem", pem),
            None => config.set("ssl.ca.location", "probe"),
        };
        Ok(())
    }

    fn present_certificate(&self, config: &mut ClientConfig) -> Result<(), ConfigError> {
        if let Some((certificate, key)) = self.certificate()? {
            config.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key);
        }
        Ok(())
    }

    /// The client's certificate and its key, as PEM: it needs both, or there is none.
    pub(crate) fn certificate(&self) -> Result<Option<(String, String)>, ConfigError> {
        match (self.optional(CERTIFICATE_FILE)?, self.optional(KEY_FILE)?) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(ConfigError::MissingFile { file: KEY_FILE, reason: "kafka-tls.crt needs" }),
            (None, Some(_)) => Err(ConfigError::MissingFile { file: CERTIFICATE_FILE, reason: "kafka-tls.key needs" }),
        }
    }

    fn required(&self, file: &'static str) -> Result<String, ConfigError> {
        if self.credentials_dir.is_none() {
            return Err(ConfigError::NoCredentials { file });
        }
        // `kubectl create secret --from-file` keeps the newline that an editor put at the end.
        let text = self.optional(file)?.ok_or(ConfigError::MissingFile { file, reason: "protocol SaslTls needs" })?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(ConfigError::Empty { file }) } else { Ok(text.to_owned()) }
    }

    fn optional(&self, file: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(dir) = &self.credentials_dir else { return Ok(None) };
        read_optional(dir, file)
    }
}

fn read_optional(dir: &Path, file: &'static str) -> Result<Option<String>, ConfigError> {
    let path = dir.join(file);
    match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| ConfigError::NotText { file }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn config(protocol: KafkaProtocol, mechanism: Option<SaslMechanism>, files: &[(&str, &str)]) -> (KafkaConfig, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let config = KafkaConfig {
            bootstrap_servers: vec!["a:1".into(), "b:2".into()],
            security: KafkaSecurity { protocol, mechanism, ca_certificates: Some("cluster".into()) },
            credentials_dir: Some(dir.path().to_owned()),
        };
        (config, dir)
    }

    #[test]
    fn plaintext_needs_nothing_and_carries_no_secret() {
        let (config, _dir) = config(KafkaProtocol::Plaintext, None, &[("kafka-username", "u"), ("kafka-password", "p")]);
        let client = config.client().unwrap();
        assert_eq!(client.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!((client.get("security.protocol"), client.get("sasl.password")), (Some("plaintext"), None));
    }

    #[test]
    fn the_credentials_ca_precedes_the_clusters() {
        let (own, _dir) = config(KafkaProtocol::Tls, None, &[("kafka-ca.crt", "own")]);
        assert_eq!(own.client().unwrap().get("ssl.ca.pem"), Some("own"));
        let (clusters, _dir) = config(KafkaProtocol::Tls, None, &[]);
        assert_eq!(clusters.client().unwrap().get("ssl.ca.pem"), Some("cluster"));
        let system = KafkaConfig { security: KafkaSecurity { ca_certificates: None, ..clusters.security.clone() }, ..clusters };
        assert_eq!((system.client().unwrap().get("ssl.ca.pem"), system.client().unwrap().get("ssl.ca.location")), (None, Some("probe")));
    }

    #[test]
    fn scram_takes_user_and_password_from_their_files() {
        let (config, _dir) =
            config(KafkaProtocol::SaslTls, Some(SaslMechanism::ScramSha512), &[("kafka-username", "u\n"), ("kafka-password", " p ")]);
        let client = config.client().unwrap();
        assert_eq!(client.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(client.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
        assert_eq!((client.get("sasl.username"), client.get("sasl.password")), (Some("u"), Some(" p ")));
    }

    #[test]
    fn what_is_missing_is_named() {
        let sasl = Some(SaslMechanism::ScramSha256);
        let cases: [(KafkaProtocol, Option<SaslMechanism>, &[(&str, &str)], &str); 5] = [
            (KafkaProtocol::SaslTls, sasl, &[("kafka-username", "u")], "kafka-password"),
            (KafkaProtocol::SaslTls, sasl, &[("kafka-password", "p")], "kafka-username"),
            (KafkaProtocol::SaslTls, sasl, &[("kafka-password", "p"), ("kafka-username", "\n")], "kafka-username"),
            (KafkaProtocol::SaslTls, None, &[("kafka-password", "p"), ("kafka-username", "u")], "mechanism"),
            (KafkaProtocol::Tls, None, &[("kafka-tls.crt", "c")], "kafka-tls.key"),
        ];
        for (protocol, mechanism, files, named) in cases {
            let (config, _dir) = config(protocol, mechanism, files);
            let error = config.client().unwrap_err().to_string();
            assert!(error.contains(named), "{error:?} does not name {named}");
        }
        let (mut config, _dir) = config(KafkaProtocol::SaslTls, sasl, &[]);
        config.credentials_dir = None;
        assert!(config.client().unwrap_err().to_string().contains("kafka-username"));
    }
}
