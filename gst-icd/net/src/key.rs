//! Key pairs of streams and endpoints, and the file that keeps one.

use std::io::Write;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use icd_grid::{NodeId, StreamKey};

/// No key file has so many bytes.
const LONGEST: u64 = 64 * 1024;

/// An Ed25519 key pair.
#[derive(Clone)]
pub struct Key(SigningKey);

impl From<SigningKey> for Key {
    fn from(key: SigningKey) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.stream_key())
    }
}

/// A key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is there but can't be read.
    #[error("cannot read key-file {}: {}; check its owner and mode", .0.display(), .1)]
    Read(PathBuf, std::io::Error),
    /// It is a folder.
    #[error("key-file {path} is a folder; name a file in it, such as {path}/stream.pem", path = .0.display())]
    Folder(PathBuf),
    /// Others could read it.
    #[error("key-file {path} is readable by others (mode {:o}); run: chmod 600 {path}", .1, path = .0.display())]
    Open(PathBuf, u32),
    /// It is a link to nowhere.
    #[error("key-file {} is a link to a file that is not there; name that file, or remove the link", .0.display())]
    Link(PathBuf),
    /// It is not there and can't be made.
    #[error("cannot make key-file {}: {}; check that the folder exists and is writable", .0.display(), .1)]
    Write(PathBuf, std::io::Error),
    /// It holds something else.
    #[error("key-file {} holds no Ed25519 key in PEM (PKCS #8); name a file that does not exist to get a new key", .0.display())]
    Content(PathBuf),
    /// The operating system has no randomness.
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Key {
    /// A new one.
    pub fn random() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// The one in a file; if there is no file, a new one is made, with mode 0600.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(KeyError::Folder(path.into())),
            // A device or a pipe may never end, or never begin.
            Ok(meta) if !meta.is_file() || meta.len() > LONGEST => {
                return Err(KeyError::Content(path.into()));
            }
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Nothing is made through a link.
                return match path.is_symlink() {
                    true => Err(KeyError::Link(path.into())),
                    false => Self::make(path),
                };
            }
            Err(e) => return Err(KeyError::Read(path.into(), e)),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(KeyError::Content(path.into()));
            }
            Err(e) => return Err(KeyError::Read(path.into(), e)),
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = meta.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Open(path.into(), mode));
            }
        }
        SigningKey::from_pkcs8_pem(&text)
            .map(Self)
            .map_err(|_| KeyError::Content(path.into()))
    }

    fn make(path: &Path) -> Result<Self, KeyError> {
        let key = Self::random()?;
        // Without the public half, which OpenSSL 3.0 does not read.
        let halves = KeypairBytes {
            secret_key: key.0.to_bytes(),
            public_key: None,
        };
        let pem = halves
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|_| KeyError::Content(path.into()))?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options
            .open(path)
            .map_err(|e| KeyError::Write(path.into(), e))?;
        let written = file
            .write_all(pem.as_bytes())
            .and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a key would be an error for ever.
            let _ = std::fs::remove_file(path);
            return Err(KeyError::Write(path.into(), error));
        }
        Ok(key)
    }

    /// The public half, as a stream's name.
    pub fn stream_key(&self) -> StreamKey {
        StreamKey(self.0.verifying_key().to_bytes())
    }

    /// The public half, as a node's name.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn signing(&self) -> SigningKey {
        self.0.clone()
    }

    pub(crate) fn pkcs8(&self) -> Option<Vec<u8>> {
        Some(self.0.to_pkcs8_der().ok()?.as_bytes().to_vec())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("icd-key-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let path = folder("made").join("key.pem");
        let made = Key::load_or_make(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Key::load_or_make(&path).unwrap();
        assert_eq!(made.stream_key(), again.stream_key());
    }

    #[test]
    fn files_that_will_not_do_are_named_with_the_way_out() {
        let folder = folder("bad");
        let path = folder.join("key.pem");
        std::fs::write(&path, "nonsense").unwrap();
        let said = |path: &Path| Key::load_or_make(path).unwrap_err().to_string();
        assert!(said(&path).contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(said(&path).contains("Ed25519"));
        assert!(said(&folder.join("none/key.pem")).contains("folder"));
        assert!(said(&folder).contains("name a file in it"));
        assert!(said(Path::new("/dev/zero")).contains("Ed25519"));
        let link = folder.join("link.pem");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(folder.join("nowhere.pem"), &link).unwrap();
        assert!(said(&link).contains("remove the link"));
    }
}
