//! TLS 1.3 with raw public keys (RFC 7250): both sides prove their Ed25519 key, no certificate.

use std::sync::Arc;

use icd_grid::NodeId;
use icd_grid::message::ALPN;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::key::Key;

/// DER of an Ed25519 SubjectPublicKeyInfo before the 32 bytes of the key (RFC 8410).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The node that a raw public key names.
pub(crate) fn node_of(spki: &[u8]) -> Option<NodeId> {
    let key = spki.strip_prefix(&SPKI)?;
    key.try_into().ok().map(NodeId)
}

/// Who is at the other end.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let keys = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(keys.first()?)
}

/// What makes the TLS configurations of one node.
#[derive(Debug)]
pub(crate) struct Identity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    pub(crate) fn new(key: &Key) -> Result<Self, Error> {
        // Explicitly: a host process may have installed another default, or two.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let der = key
            .pkcs8()
            .ok_or_else(|| Error::General("the key has no encoding".into()))?;
        let private = provider
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(der.into()))?;
        let public = private
            .public_key()
            .ok_or_else(|| Error::General("the key has no public half".into()))?;
        let public = CertificateDer::from(public.to_vec());
        let certified = Arc::new(CertifiedKey::new(vec![public], private));
        Ok(Self {
            provider,
            certified,
        })
    }

    pub(crate) fn server(&self) -> Result<quinn::crypto::rustls::QuicServerConfig, Error> {
        let verifier = Arc::new(RawKey {
            provider: self.provider.clone(),
            expected: None,
        });
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its keys anew.
        config.send_tls13_tickets = 0;
        quinn::crypto::rustls::QuicServerConfig::try_from(config)
            .map_err(|e| Error::General(e.to_string()))
    }

    /// `expected`: the only key that is accepted at the other end.
    pub(crate) fn client(
        &self,
        expected: Option<NodeId>,
    ) -> Result<quinn::crypto::rustls::QuicClientConfig, Error> {
        let verifier = Arc::new(RawKey {
            provider: self.provider.clone(),
            expected,
        });
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        quinn::crypto::rustls::QuicClientConfig::try_from(config)
            .map_err(|e| Error::General(e.to_string()))
    }
}

/// The text by which a wrong key is recognised in the error of a handshake.
pub(crate) const WRONG_KEY: &str = "the key differs from the one that was expected";

#[derive(Debug)]
struct RawKey {
    provider: Arc<CryptoProvider>,
    expected: Option<NodeId>,
}

impl RawKey {
    fn check(&self, spki: &CertificateDer<'_>) -> Result<(), Error> {
        let node = node_of(spki).ok_or_else(|| Error::General("not an Ed25519 key".into()))?;
        match self.expected {
            Some(expected) if expected != node => Err(Error::General(WRONG_KEY.into())),
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(cert.as_ref()),
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn no_tls12() -> Error {
        Error::General("QUIC has TLS 1.3 only".into())
    }
}

impl ServerCertVerifier for RawKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
