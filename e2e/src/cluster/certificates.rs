//! Keys and certificates of the cluster, made anew at every start.
//!
//! Two authorities: one for Kubernetes, one for the broker, so that a client that trusts the wrong one fails as it would
//! elsewhere.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// Why a certificate is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or certificate could not be made.
    #[error("cannot make the certificate {name}")]
    Make {
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// It could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Who a certificate is for.
#[derive(Debug, Default)]
pub struct Subject<'a> {
    /// The files' stem.
    pub name: &'a str,
    /// The user, as Kubernetes and Kafka see it.
    pub common_name: &'a str,
    /// The group, as Kubernetes sees it.
    pub organization: Option<&'a str>,
    /// Names by which clients reach it.
    pub dns_names: &'a [&'a str],
    /// Addresses by which clients reach it.
    pub addresses: &'a [IpAddr],
}

/// Signs certificates and writes them to a folder.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    certificate: String,
}

impl Authority {
    /// Makes an authority and writes `<name>.crt` and `<name>.key`.
    pub fn create(folder: &Path, name: &str) -> Result<Self, Error> {
        let make_error = |source| Error::Make { name: name.to_owned(), source };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, format!("weir-e2e {name}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(make_error)?;
        let certificate = parameters.self_signed(&key).map_err(make_error)?.pem();
        write(folder, name, "crt", &certificate)?;
        write(folder, name, "key", &key.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(parameters, key), folder: folder.to_path_buf(), certificate })
    }

    /// Makes a certificate for servers and clients, and writes `<name>.crt` and `<name>.key`. Returns both as PEM.
    pub fn issue(&self, subject: &Subject<'_>) -> Result<(String, String), Error> {
        let make_error = |source| Error::Make { name: subject.name.to_owned(), source };
        let names = subject.dns_names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut parameters = CertificateParams::new(names).map_err(make_error)?;
        parameters.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, subject.common_name);
        if let Some(organization) = subject.organization {
            parameters.distinguished_name.push(DnType::OrganizationName, organization);
        }
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(make_error)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(make_error)?.pem();
        let key = key.serialize_pem();
        write(&self.folder, subject.name, "crt", &certificate)?;
        write(&self.folder, subject.name, "key", &key)?;
        Ok((certificate, key))
    }

    /// The authority's certificate as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

/// Makes the key pair that signs the tokens of service accounts, and writes `<name>.key` and `<name>.pub`.
pub fn create_key_pair(folder: &Path, name: &str) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(|source| Error::Make { name: name.to_owned(), source })?;
    write(folder, name, "key", &key.serialize_pem())?;
    write(folder, name, "pub", &key.public_key_pem())
}

fn write(folder: &Path, name: &str, extension: &str, content: &str) -> Result<(), Error> {
    let path = folder.join(format!("{name}.{extension}"));
    std::fs::write(&path, content).map_err(|source| Error::Write { path, source })
}
