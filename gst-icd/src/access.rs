//! The access token of a private stream: a property that is never read back, or a file.

use std::path::{Path, PathBuf};

use gst::glib;
use gst::prelude::*;
use icd_grid::token::Token;

/// No token file has so many bytes.
const LONGEST: u64 = 4096;

/// As the user set it.
#[derive(Clone, Default)]
pub(crate) struct Access {
    token: Option<String>,
    /// It stood in the URI, and goes with it.
    from_uri: bool,
    pub(crate) file: Option<PathBuf>,
}

/// Hides the token.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let mut f = f.debug_struct("Access");
        f.field("token", &token).field("file", &self.file).finish()
    }
}

impl Access {
    /// The property is set.
    pub(crate) fn set(&mut self, token: Option<String>) {
        self.token = token;
        self.from_uri = false;
    }

    /// A URI has it.
    pub(crate) fn of_uri(&mut self, token: &str) {
        self.token = Some(token.into());
        self.from_uri = true;
    }

    /// Another URI comes: who is at its end shall not learn of the former one's.
    pub(crate) fn leave_uri(&mut self) {
        if std::mem::take(&mut self.from_uri) {
            self.token = None;
        }
    }

    /// The token, read anew from the file if there is one; an error says what to do.
    pub(crate) fn token(&self) -> Result<Option<Token>, String> {
        let text = match (&self.token, &self.file) {
            (Some(_), Some(_)) => {
                return Err("access-token and token-file are both set; leave one out".into());
            }
            (Some(token), None) => token.clone(),
            (None, Some(path)) => read(path)?,
            (None, None) => return Ok(None),
        };
        let token = Token::new(&text);
        let name = match &self.file {
            Some(path) => format!("token-file {}", path.display()),
            None => "access-token".into(),
        };
        token.map(Some).map_err(|e| format!("{name}: {e}"))
    }

    /// Whether there is any.
    pub(crate) fn is_set(&self) -> bool {
        self.token.is_some() || self.file.is_some()
    }

    /// The file, for a property.
    pub(crate) fn file_name(&self) -> Option<String> {
        self.file.as_ref().map(|path| path.display().to_string())
    }
}

/// The property that names the file, of both elements.
pub(crate) fn file_property() -> glib::ParamSpec {
    glib::ParamSpecString::builder("token-file")
        .nick("Token file")
        .blurb("File with the access token in its first line, instead of access-token; mode 0600")
        .mutable_ready()
        .build()
}

/// The first line of a file that nobody else can read.
fn read(path: &Path) -> Result<String, String> {
    let name = path.display();
    let said = |e: std::io::Error| {
        format!("cannot read token-file {name}: {e}; check the path, its owner and mode")
    };
    let meta = std::fs::metadata(path).map_err(said)?;
    // A device or a pipe may never end, or never begin.
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(format!(
            "token-file {name} is no file of at most {LONGEST} bytes; it holds the token in one line"
        ));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "token-file {name} is readable by others (mode {mode:o}); run: chmod 600 {name}"
            ));
        }
    }
    let text = std::fs::read_to_string(path).map_err(said)?;
    Ok(text.lines().next().unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_from_one_place_and_is_not_shown() {
        let of = |token: Option<&str>, file: Option<&str>| Access {
            token: token.map(Into::into),
            from_uri: false,
            file: file.map(Into::into),
        };
        assert_eq!(of(None, None).token(), Ok(None));
        assert_eq!(of(Some("a"), None).token(), Ok(Token::new("a").ok()));
        let both = of(Some("a"), Some("/nowhere")).token();
        assert!(both.is_err_and(|e| e.contains("leave one out")));
        let none = of(None, Some("/nowhere")).token();
        assert!(none.is_err_and(|e| e.contains("/nowhere")));
        let device = of(None, Some("/dev/zero")).token();
        assert!(device.is_err_and(|e| e.contains("is no file")));
        assert!(of(Some(""), None).token().is_err());
        assert!(!format!("{:?}", of(Some("secret"), None)).contains("secret"));
    }
}
