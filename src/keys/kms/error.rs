//! Refusals of the KMS, under the names that AWS KMS gives them.

use std::fmt;

use crate::keys::KeyError;

/// Why the KMS refused.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// By its rules.
    #[error("{code}: {message}")]
    Refused {
        /// The name of the error.
        code: ErrorCode,
        /// What happened, to which key, and what to do.
        message: String,
    },
    /// The keystore or the audit log failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The names of errors, those of AWS KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    AccessDenied,
    AlreadyExists,
    Conflict,
    Disabled,
    IncorrectKey,
    InvalidAliasName,
    InvalidCiphertext,
    InvalidGrantId,
    InvalidState,
    KeyUnavailable,
    LimitExceeded,
    MalformedPolicyDocument,
    NotFound,
    UnsupportedOperation,
    Validation,
}

impl ErrorCode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::AlreadyExists => "AlreadyExistsException",
            Self::Conflict => "ConflictException",
            Self::Disabled => "DisabledException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::InvalidAliasName => "InvalidAliasNameException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidGrantId => "InvalidGrantIdException",
            Self::InvalidState => "KMSInvalidStateException",
            Self::KeyUnavailable => "KeyUnavailableException",
            Self::LimitExceeded => "LimitExceededException",
            Self::MalformedPolicyDocument => "MalformedPolicyDocumentException",
            Self::NotFound => "NotFoundException",
            Self::UnsupportedOperation => "UnsupportedOperationException",
            Self::Validation => "ValidationException",
        }
    }
}

impl KmsError {
    /// A refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
