//! Golden vectors, made by `tests/frozen/v1/vectors.py` with other cryptography than ours: the
//! library's bytes are compared one structure at a time.

use std::fs;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use ssefs::crypto::{AeadKey, MacKey, Secret, derive};
use ssefs::format::{
    Argon2idParameters, BlockIndex, ContentSum, DATA_KEY_LABEL, DIGEST_KEY_LABEL, DigestKey, Entry,
    Envelope, EpochRecord, FileId, Header, JournalHead, JournalRecord, KeyId, Mode, Prologue,
    STATE_MAC_LABEL, Sealed, StateFlags, StateRecord, Suite, SuppliedVerifier, VolumeId,
    WrapAlgorithm,
};
use ssefs::keys::{
    Access, Binding, KeyProvider, Keystore, ManagedProvider, SuppliedProvider, supplied_key_id,
    verify_supplied,
};

use super::fixture::{PASSPHRASE, frozen, make_private_dir, passphrase, put_private};
use super::independent::keys::{material, open_record};

struct Vectors(Value);

impl Vectors {
    fn read() -> Self {
        Self::of("v1")
    }

    fn of(version: &str) -> Self {
        let text = fs::read(frozen(version).join("vectors.json")).unwrap();
        Self(serde_json::from_slice(&text).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        HEXLOWER.decode(self.0[name].as_str().expect(name).as_bytes()).unwrap()
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().expect(name)
    }

    fn secret(&self, name: &str) -> Secret {
        Secret::copy_from(&self.array(name))
    }

    fn volume(&self) -> VolumeId {
        VolumeId(self.array("volume_id"))
    }

    fn binding(&self) -> Binding {
        Binding { volume: self.volume(), file: FileId(self.array("file_id")) }
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            mode: Mode::Supplied,
            provider: "supplied".into(),
            key_id: KeyId(String::from_utf8(self.bytes("key_id")).unwrap()),
            key_version: 1,
            wrap_algorithm: WrapAlgorithm::Aes256Gcm,
            created: 1_700_000_000,
            context: [("department".into(), "finance".into())].into(),
            wrapped_dek: self.bytes("wrapped_dek"),
        }
    }
}

#[test]
fn envelope_and_wrap() {
    let vectors = Vectors::read();
    let (envelope, binding) = (vectors.envelope(), vectors.binding());
    assert_eq!(envelope.encode().unwrap(), vectors.bytes("envelope"));
    assert_eq!(Envelope::decode(&vectors.bytes("envelope")).unwrap(), envelope);
    assert_eq!(envelope.aad(binding.volume, binding.file), vectors.bytes("wrap_aad"));
    let provider = SuppliedProvider::new(vectors.secret("supplied_key"), binding.volume);
    let access = Access::own(&PathBuf::new);
    let dek = provider.unwrap(&envelope, binding, &access).unwrap();
    assert!(dek.equals(&vectors.secret("dek")));
}

#[test]
fn supplied_key() {
    let vectors = Vectors::read();
    let key = vectors.secret("supplied_key");
    assert_eq!(supplied_key_id(&key, vectors.volume()), vectors.envelope().key_id);
    let hex = |name| HEXLOWER.encode(&vectors.bytes(name));
    let verifier =
        SuppliedVerifier { salt: hex("verifier_salt"), hmac: hex("verifier_hmac"), argon2id: None };
    verify_supplied(&key, &verifier).unwrap();
    let parameters =
        Argon2idParameters { memory_kib: 256, passes: 2, lanes: 2, salt: hex("argon2id_salt") };
    assert_eq!(vectors.bytes("passphrase"), PASSPHRASE);
    let derived = passphrase().derive(&parameters).unwrap();
    assert!(derived.equals(&vectors.secret("passphrase_key")));
}

#[test]
fn header() {
    let vectors = Vectors::read();
    let Binding { volume, file } = vectors.binding();
    let prologue = Prologue { suite: Suite::Aes256Gcm, file_id: file, volume_id: volume };
    assert_eq!(prologue.encode()[..], vectors.bytes("prologue"));
    let state_key = derive(&vectors.secret("dek"), STATE_MAC_LABEL);
    assert!(state_key.equals(&vectors.secret("state_key")));
    let header = Header::new(prologue, vectors.envelope()).unwrap();
    let mut page = [0; 4096];
    let state = StateRecord {
        sequence: 5,
        size: 17 * 4096 + 19,
        durable_size: 4096,
        epoch: 2,
        seal_count: 18,
        flags: StateFlags { may_have_holes: true, ..StateFlags::default() },
        envelope_slot: 0,
        digest: [0; 32],
    };
    header.encode_state(&state, &MacKey::new(&state_key), &mut page);
    assert_eq!(page[256..384], vectors.bytes("state"));
    assert!(page[128..256].iter().all(|byte| *byte == 0));
}

#[test]
fn content_digest() {
    let vectors = Vectors::of("v1-digest");
    let derived = derive(&vectors.secret("dek"), DIGEST_KEY_LABEL);
    assert!(derived.equals(&vectors.secret("digest_key")));
    let key = DigestKey::new(&derived);
    let mut sum = ContentSum::default();
    for (block, name) in [(0, "entry_0"), (17, "entry_17")] {
        let entry = Entry::decode(&vectors.array(name)).unwrap();
        key.add(&mut sum, BlockIndex(block), &entry);
    }
    assert_eq!(key.mask(sum, 5, 2)[..], vectors.bytes("digest"));
}

#[test]
fn block_and_entry() {
    let vectors = Vectors::read();
    let data_key = derive(&vectors.secret("dek"), DATA_KEY_LABEL);
    assert!(data_key.equals(&vectors.secret("data_key")));
    let (plain, key) = (vectors.bytes("plain"), AeadKey::new(&data_key));
    let seal = |nonce: &str| {
        let (nonce, mut cipher) = (vectors.array(nonce), vec![0; plain.len()]);
        let tag = key.seal(&nonce, &17_u64.to_le_bytes(), &plain, &mut cipher);
        (Sealed { nonce, tag, len: plain.len() as u16 }, cipher)
    };
    let ((first, cipher), (second, _)) = (seal("nonce_first"), seal("nonce_second"));
    assert_eq!(cipher, vectors.bytes("ciphertext_first"));
    let entry = Entry::Hole.succeeded_by(first);
    assert_eq!(entry.encode()[..], vectors.bytes("entry_first"));
    let entry = entry.succeeded_by(second);
    assert_eq!(entry.encode()[..], vectors.bytes("entry_second"));
    assert_eq!(Entry::decode(&vectors.array("entry_second")).unwrap(), entry);
}

#[test]
fn epoch_record() {
    let vectors = Vectors::read();
    let key = MacKey::new(&derive(&vectors.secret("volume_key"), b"ssefs/v1/epochs"));
    let record = EpochRecord { last: 9, unclean: vec![3, 9] };
    let mac = HEXLOWER.encode(&vectors.bytes("epochs_mac"));
    let text = format!("{{\"last\":9,\"unclean\":[3,9],\"mac\":\"{mac}\"}}\n");
    assert_eq!(record.encode(vectors.volume(), &key), text.as_bytes());
}

#[test]
fn keystore() {
    let vectors = Vectors::read();
    let volume = vectors.volume();
    let root: [u8; 32] = vectors.array("root_key");
    let id = volume.to_string();
    let record = open_record(&root, "managed", &id, &vectors.bytes("record")).unwrap();
    assert_eq!(material(&record, 3).unwrap()[..], vectors.bytes("material"));

    let hex = |name| HEXLOWER.encode(&vectors.bytes(name));
    let protected = json!({
        "version": 1,
        "argon2id": { "memory_kib": 256, "passes": 2, "lanes": 2, "salt": hex("argon2id_salt") },
        "nonce": hex("root_nonce"),
        "sealed": hex("root_sealed"),
    });
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("keystore");
    make_private_dir(&dir);
    put_private(&dir.join(format!("managed-{id}.record")), &vectors.bytes("record"));
    put_private(&dir.join("root.json"), &serde_json::to_vec(&protected).unwrap());
    let keystore = Keystore::open_protected(&dir, &passphrase()).unwrap();
    let managed = ManagedProvider::open_existing(keystore.into(), volume, 0, 0).unwrap();
    assert_eq!(managed.key_id().0, record["key_id"]);
    assert_eq!(managed.newest_version(), 3);
}

#[test]
fn journal() {
    let vectors = Vectors::of("v1-journal");
    let head = JournalHead::decode(&vectors.array("head")).unwrap();
    let salt = std::array::from_fn(|index| 0x60 + index as u8);
    let volume = VolumeId(Vectors::read().array("volume_id"));
    assert_eq!(head, JournalHead { volume, epoch: 2, salt });
    assert_eq!(head.encode()[..], vectors.bytes("head"));
    let key = AeadKey::new(&vectors.secret("journal_key"));
    let generation = |start: u8, len| Sealed {
        nonce: std::array::from_fn(|index| start + index as u8),
        tag: std::array::from_fn(|index| start + 12 + index as u8),
        len,
    };
    let record = JournalRecord {
        file: FileId(Vectors::read().array("file_id")),
        sequence: 3,
        block: BlockIndex(17),
        base: Entry::Hole.succeeded_by(generation(0x10, 19)),
        sealed: generation(0x50, 300),
    };
    for key in [key, head.key(&vectors.secret("volume_key"))] {
        assert_eq!(record.encode(&key)[..], vectors.bytes("record"));
        assert_eq!(JournalRecord::decode(&vectors.array("record"), &key), Some(record));
    }
}
