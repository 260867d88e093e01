//! HTTPS: each handshake is given the certificate of the moment, so that a renewal needs no restart and ends no connection.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Router, serve::Listener};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::certificates::Leaf;

/// A handshake takes milliseconds; who takes longer is not an apiserver.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are being made at a time: many apiservers reconnecting at once are fewer.
const HANDSHAKES_MAX: usize = 256;
/// After an error of accepting, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate is no PEM")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    #[error("the key is no PEM")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("certificate and key do not belong together")]
    Pair(#[source] rustls::Error),
}

/// What is served with at the moment; nothing until the first one was loaded.
#[derive(Debug, Default)]
pub struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl Serving {
    pub fn load(&self, leaf: &Leaf) -> Result<(), CertificateError> {
        let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(CertificateError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(CertificateError::Key)?;
        let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(CertificateError::Pair)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes connections; handshakes go on beside each other, so that one that hangs holds up nobody.
pub struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub fn new(tcp: TcpListener, serving: Arc<Serving>) -> Result<Self, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let mut config = builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(serving);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tcp, acceptor: TlsAcceptor::from(Arc::new(config)), handshakes: JoinSet::new() })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next(), if !self.handshakes.is_empty() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                accepted = self.tcp.accept(), if self.handshakes.len() < HANDSHAKES_MAX => match accepted {
                    Ok((stream, address)) => {
                        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
                        self.handshakes.spawn(async move {
                            let stream = handshake.await.ok()?.inspect_err(|error| tracing::debug!(%error, %address, "a handshake failed"));
                            Some((stream.ok()?, address))
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be taken");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// Serves until `stop`, and then what is under way to its end.
pub async fn serve(listener: TlsListener, router: Router, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}
