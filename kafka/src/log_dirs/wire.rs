//! A connection to one broker: requests and responses one after the other, until a deadline.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiVersionsRequest, RequestHeader, ResponseHeader},
    protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use weir_crds::kafka_cluster::KafkaProtocol;

use super::LogDirsError;
use crate::{admin::BrokerNode, config::KafkaConfig};

/// Of a response: a hundred thousand partitions take a few megabytes.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

trait Stream: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

pub struct Connection {
    stream: Box<dyn Stream>,
    deadline: Instant,
    requests: i32,
}

fn protocol(error: impl std::fmt::Display) -> LogDirsError {
    LogDirsError::Protocol(error.to_string())
}

/// What is left until a deadline; none is an error.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Connection {
    pub fn open(config: &KafkaConfig, broker: &BrokerNode, deadline: Instant) -> Result<Self, LogDirsError> {
        let socket = connect(broker, deadline)?;
        let stream: Box<dyn Stream> = match config.security.protocol {
            KafkaProtocol::Plaintext => Box::new(socket),
            KafkaProtocol::Tls | KafkaProtocol::SaslTls => {
                let name = ServerName::try_from(broker.host.clone()).map_err(|e| LogDirsError::Certificates(e.to_string()))?;
                let tls = ClientConnection::new(Arc::new(tls(config)?), name).map_err(|e| LogDirsError::Certificates(e.to_string()))?;
                Box::new(StreamOwned::new(tls, socket))
            }
        };
        Ok(Self { stream, deadline, requests: 0 })
    }

    /// The greatest version of a request that both sides know; `None`: the broker does not know the request.
    pub fn version_of<R: Request>(&mut self) -> Result<Option<i16>, LogDirsError> {
        let known = self.ask(&ApiVersionsRequest::default(), 0)?;
        let found = known.api_keys.iter().find(|api| api.api_key == R::KEY);
        let both = found.map(|api| (api.min_version.max(R::VERSIONS.min), api.max_version.min(R::VERSIONS.max)));
        Ok(both.filter(|(min, max)| min <= max).map(|(_, max)| max))
    }

    /// Sends a request, and waits for its response.
    pub fn ask<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, LogDirsError> {
        self.requests += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.requests)
            .with_client_id(Some(StrBytes::from("weir")));
        let mut content = BytesMut::new();
        header.encode(&mut content, R::header_version(version)).map_err(protocol)?;
        request.encode(&mut content, version).map_err(protocol)?;
        self.in_time()?;
        self.stream.write_all(&i32::try_from(content.len()).map_err(protocol)?.to_be_bytes())?;
        self.stream.write_all(&content)?;
        self.stream.flush()?;

        let mut response = self.receive()?;
        let header = ResponseHeader::decode(&mut response, R::Response::header_version(version)).map_err(protocol)?;
        if header.correlation_id != self.requests {
            return Err(protocol("it belongs to another request"));
        }
        R::Response::decode(&mut response, version).map_err(protocol)
    }

    fn receive(&mut self) -> Result<Bytes, LogDirsError> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|length| *length <= RESPONSE_BYTES_MAX);
        let mut content = vec![0; length.ok_or_else(|| protocol("its length is no length of a response"))?];
        self.read(&mut content)?;
        Ok(content.into())
    }

    /// Reads all of it; a broker that sends a byte now and then does not go beyond the deadline.
    fn read(&mut self, mut content: &mut [u8]) -> Result<(), LogDirsError> {
        while !content.is_empty() {
            self.in_time()?;
            match self.stream.read(content) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => content = &mut content[read..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// No single wait is longer than what is left.
    fn in_time(&self) -> io::Result<()> {
        let left = Some(left(self.deadline)?);
        self.stream.tcp().set_read_timeout(left)?;
        self.stream.tcp().set_write_timeout(left)
    }
}

fn connect(broker: &BrokerNode, deadline: Instant) -> Result<TcpStream, LogDirsError> {
    let host = broker.host.trim_matches(['[', ']']);
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, broker.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

/// Whom to believe and what to present: as librdkafka is told.
fn tls(config: &KafkaConfig) -> Result<ClientConfig, LogDirsError> {
    let unusable = |what: &str, error: &dyn std::fmt::Display| LogDirsError::Certificates(format!("{what}: {error}"));
    let certificates = |what: &str, pem: &str| {
        let parsed: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        parsed.map_err(|error| unusable(what, &error))
    };
    let mut roots = RootCertStore::empty();
    match config.ca()? {
        Some(pem) => {
            for certificate in certificates("the CA", &pem)? {
                roots.add(certificate).map_err(|error| unusable("the CA", &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS", &error))?
        .with_root_certificates(roots);
    match config.certificate()? {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| unusable("kafka-tls.key", &error))?;
            let chain = certificates("kafka-tls.crt", &certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable("kafka-tls.crt", &error))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}
