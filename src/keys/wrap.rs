//! Wrapping of DEKs by AES-256-GCM, shared by the providers that hold key material themselves.
//! The envelope's other fields are the AAD, so a wrap opens only in the envelope, the file and
//! the volume that it was made for.

use std::collections::BTreeMap;

use super::clock::unix_now;
use super::error::KeyError;
use super::provider::Binding;
use crate::crypto::{
    AeadKey, NONCE_LEN, Nonce, OpenFailed, SECRET_LEN, Secret, TAG_LEN, Tag, random_array,
};
use crate::format::{Envelope, KeyId, Mode, WRAPPED_DEK_LEN, WrapAlgorithm};

/// Who wraps: the fields of an envelope that name the key.
pub(super) struct Wrapper<'a> {
    /// The mode of the provider.
    pub(super) mode: Mode,
    /// The provider's name.
    pub(super) provider: &'a str,
    /// The key.
    pub(super) key_id: &'a KeyId,
    /// The version of `material`.
    pub(super) key_version: u32,
    /// The key material.
    pub(super) material: &'a Secret,
    /// The user's pairs for a DEK that had no envelope before.
    pub(super) context: &'a BTreeMap<String, String>,
}

impl Wrapper<'_> {
    /// Wraps `dek`; date and context of `previous` carry over.
    ///
    /// The nonce is random. One version of material makes at most as many wraps as a volume has
    /// DEKs, far below the 2^32 of SP 800-38D, 8.3. The AAD binds every other field of the
    /// envelope, the volume and the file.
    pub(super) fn wrap(
        &self,
        dek: &Secret,
        previous: Option<&Envelope>,
        binding: Binding,
    ) -> Result<Envelope, KeyError> {
        let mut envelope = self.envelope(WrapAlgorithm::Aes256Gcm, previous);
        let aad = envelope.aad(binding.volume, binding.file);
        envelope.wrapped_dek = seal_secret(self.material, dek, &aad).to_vec();
        envelope.encode()?;
        Ok(envelope)
    }

    /// The envelope without the wrapped DEK.
    pub(super) fn envelope(
        &self,
        wrap_algorithm: WrapAlgorithm,
        previous: Option<&Envelope>,
    ) -> Envelope {
        Envelope {
            mode: self.mode,
            provider: self.provider.to_owned(),
            key_id: self.key_id.clone(),
            key_version: self.key_version,
            wrap_algorithm,
            created: previous.map_or_else(unix_now, |previous| previous.created),
            context: previous.map_or(self.context, |previous| &previous.context).clone(),
            wrapped_dek: Vec::new(),
        }
    }
}

/// Seals one secret under another, under a random nonce: nonce, bytes, tag.
pub(super) fn seal_secret(under: &Secret, secret: &Secret, aad: &[u8]) -> [u8; WRAPPED_DEK_LEN] {
    let mut sealed = [0; WRAPPED_DEK_LEN];
    let nonce: Nonce = random_array();
    let (head, rest) = sealed.split_at_mut(NONCE_LEN);
    let (body, tail) = rest.split_at_mut(SECRET_LEN);
    head.copy_from_slice(&nonce);
    tail.copy_from_slice(&AeadKey::new(under).seal(&nonce, aad, secret.expose(), body));
    sealed
}

/// Opens what [`seal_secret`] has sealed.
pub(super) fn open_secret(
    under: &Secret,
    sealed: &[u8; WRAPPED_DEK_LEN],
    aad: &[u8],
) -> Result<Secret, OpenFailed> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().expect("a nonce comes first");
    let (body, tag) = rest.split_last_chunk::<TAG_LEN>().expect("a tag comes last");
    let (nonce, tag): (&Nonce, &Tag) = (nonce, tag);
    Secret::try_from_fn(|secret| AeadKey::new(under).open(nonce, aad, body, tag, secret))
}

/// Unwraps the DEK of `envelope` with the material that it names.
pub(super) fn unwrap(
    material: &Secret,
    envelope: &Envelope,
    binding: Binding,
) -> Result<Secret, KeyError> {
    let failed = || KeyError::UnwrapFailed {
        key_id: envelope.key_id.clone(),
        version: envelope.key_version,
    };
    let wrapped = <&[u8; WRAPPED_DEK_LEN]>::try_from(envelope.wrapped_dek.as_slice())
        .map_err(|_| failed())?;
    if envelope.wrap_algorithm != WrapAlgorithm::Aes256Gcm {
        return Err(failed());
    }
    let aad = envelope.aad(binding.volume, binding.file);
    open_secret(material, wrapped, &aad).map_err(|_| failed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FileId, VolumeId};

    const BINDING: Binding = Binding { volume: VolumeId([1; 16]), file: FileId([2; 16]) };

    fn wrapped(dek: &Secret, material: &Secret, previous: Option<&Envelope>) -> Envelope {
        let key_id = KeyId("k".into());
        let wrapper = Wrapper {
            mode: Mode::Managed,
            provider: "keystore",
            key_id: &key_id,
            key_version: 1,
            material,
            context: &BTreeMap::new(),
        };
        wrapper.wrap(dek, previous, BINDING).unwrap()
    }

    #[test]
    fn unwraps_in_its_place_only() {
        let (dek, material) = (Secret::random(), Secret::random());
        let envelope = wrapped(&dek, &material, None);
        assert!(unwrap(&material, &envelope, BINDING).unwrap().equals(&dek));
        assert!(unwrap(&Secret::random(), &envelope, BINDING).is_err());
        let other_file = Binding { file: FileId([3; 16]), ..BINDING };
        let other_volume = Binding { volume: VolumeId([3; 16]), ..BINDING };
        for moved in [other_file, other_volume] {
            assert!(matches!(
                unwrap(&material, &envelope, moved),
                Err(KeyError::UnwrapFailed { version: 1, .. })
            ));
        }
    }

    #[test]
    fn any_altered_field_or_bit_is_refused() {
        let (dek, material) = (Secret::random(), Secret::random());
        let base = wrapped(&dek, &material, None);
        let altered = [
            Envelope { mode: Mode::Supplied, ..base.clone() },
            Envelope { provider: "other".into(), ..base.clone() },
            Envelope { key_id: KeyId("l".into()), ..base.clone() },
            Envelope { key_version: 2, ..base.clone() },
            Envelope { wrap_algorithm: WrapAlgorithm::Provider, ..base.clone() },
            Envelope { created: base.created + 1, ..base.clone() },
            Envelope { context: [("a".into(), "b".into())].into(), ..base.clone() },
            Envelope { wrapped_dek: base.wrapped_dek[1..].to_vec(), ..base.clone() },
            Envelope { wrapped_dek: Vec::new(), ..base.clone() },
        ];
        for envelope in altered {
            assert!(unwrap(&material, &envelope, BINDING).is_err(), "{envelope:?}");
        }
        for bit in 0..WRAPPED_DEK_LEN * 8 {
            let mut envelope = base.clone();
            envelope.wrapped_dek[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&material, &envelope, BINDING).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_rewrap_keeps_date_and_context_and_draws_a_new_nonce() {
        let (dek, material) = (Secret::random(), Secret::random());
        let mut first = wrapped(&dek, &material, None);
        first.created = 12;
        first.context.insert("department".into(), "finance".into());
        let second = wrapped(&dek, &material, Some(&first));
        assert_eq!((second.created, &second.context), (12, &first.context));
        assert_ne!(second.wrapped_dek[..NONCE_LEN], first.wrapped_dek[..NONCE_LEN]);
        assert!(unwrap(&material, &second, BINDING).unwrap().equals(&dek));
    }
}
