//! Talks to a Kubernetes API server: where it is, one request, and following all objects of a kind. It knows nothing of meshes,
//! and it must never take silence, an error or a half-read list for the absence of objects.

pub mod access;
pub mod base64;
pub mod client;
pub mod exec;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod time;
pub mod watch;

#[cfg(test)]
mod tests;

/// What went wrong between us and the API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Access(String),
    #[error("reach the API server: {0}")]
    Unreachable(String),
    /// It answered, and said no.
    #[error("the API server answered {status} {reason}: {message}")]
    Refused { status: u16, reason: String, message: String },
    #[error("the API server sent what we cannot read: {0}")]
    Malformed(String),
}

impl Error {
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            Error::Access(_) | Error::Unreachable(_) | Error::Malformed(_) => None,
        }
    }

    /// Somebody else was first, or wrote in between.
    pub fn conflicts(&self) -> bool {
        self.status() == Some(409)
    }

    pub fn not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// The resource version is older than what the API server remembers: list again.
    pub fn gone(&self) -> bool {
        self.status() == Some(410)
    }
}
