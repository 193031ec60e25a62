//! Random values of everything on disk, and small changes to bytes.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;
use proptest::{array, option};
use ssefs::format::{
    Argon2idParameters, Descriptor, Entry, Envelope, EpochRecord, Generation, KeyId, KeySlot,
    Marked, Mode, Sealed, StateFlags, StateRecord, SuppliedVerifier, VolumeId, WrapAlgorithm,
};

/// A change of a few bytes.
#[derive(Clone, Debug)]
pub enum Mutation {
    Flip(Index, u8),
    Overwrite(Index, u64),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
}

pub fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let numbers = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(1 << 40),
        0..2000_u64
    ];
    let one = prop_oneof![
        4 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        2 => (any::<Index>(), numbers).prop_map(|(at, number)| Mutation::Overwrite(at, number)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => any::<Index>().prop_map(Mutation::Cut),
    ];
    vec(one, 1..4)
}

pub fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        let len = bytes.len();
        match mutation {
            Mutation::Insert(at, byte) => bytes.insert(at.index(len + 1), *byte),
            Mutation::Cut(at) => bytes.truncate(at.index(len + 1)),
            _ if len == 0 => {}
            Mutation::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Mutation::Remove(at) => drop(bytes.remove(at.index(len))),
            Mutation::Overwrite(at, number) => {
                let at = at.index(len);
                let end = len.min(at + 8);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
        }
    }
}

/// The same without a change of length.
pub fn mutate_in_place<const N: usize>(bytes: &mut [u8; N], mutations: &[Mutation]) {
    let mut longer = bytes.to_vec();
    mutate(&mut longer, mutations);
    longer.resize(N, 0);
    bytes.copy_from_slice(&longer);
}

fn sealed() -> impl Strategy<Value = Sealed> {
    let parts = (any::<[u8; 12]>(), any::<[u8; 16]>(), 1..=4096_u16);
    parts.prop_map(|(nonce, tag, len)| Sealed { nonce, tag, len })
}

pub fn entry() -> impl Strategy<Value = Entry> {
    let newer = prop_oneof![Just(Generation::A), Just(Generation::B)];
    let stored = (newer, sealed(), option::of(sealed()))
        .prop_map(|(newer, current, previous)| Entry::Stored(Marked { newer, current, previous }));
    prop_oneof![1 => Just(Entry::Hole), 9 => stored]
}

pub fn envelope() -> impl Strategy<Value = Envelope> {
    let mode = prop_oneof![Just(Mode::Managed), Just(Mode::Kms), Just(Mode::Supplied)];
    let algorithm = prop_oneof![Just(WrapAlgorithm::Aes256Gcm), Just(WrapAlgorithm::Provider)];
    let names = ("\\PC{0,20}", "\\PC{0,60}");
    let numbers = (any::<u32>(), any::<u64>());
    let context = btree_map("\\PC{0,12}", "\\PC{0,12}", 0..4);
    (mode, algorithm, names, numbers, context, vec(any::<u8>(), 0..300)).prop_map(
        |(mode, wrap_algorithm, (provider, key_id), (key_version, created), context, wrapped)| {
            Envelope {
                mode,
                provider,
                key_id: KeyId(key_id),
                key_version,
                wrap_algorithm,
                created,
                context,
                wrapped_dek: wrapped,
            }
        },
    )
}

pub fn state() -> impl Strategy<Value = StateRecord> {
    let numbers = array::uniform5(any::<u64>());
    (numbers, any::<(bool, bool, bool)>(), any::<[u8; 32]>()).prop_map(
        |([sequence, size, durable_size, epoch, seal_count], (holes, resizing, slot), digest)| {
            StateRecord {
                sequence: sequence.clamp(1, 1 << 62),
                size: size.min(1 << 62),
                durable_size: durable_size.min(1 << 62),
                epoch,
                seal_count: seal_count.min(1 << 32),
                flags: StateFlags { may_have_holes: holes, resizing, digest_kept: !holes },
                envelope_slot: u8::from(slot),
                digest,
            }
        },
    )
}

pub fn descriptor() -> impl Strategy<Value = Descriptor> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), "\\PC{0,40}");
    let argon2id = numbers.prop_map(|(memory_kib, passes, lanes, salt)| Argon2idParameters {
        memory_kib,
        passes,
        lanes,
        salt,
    });
    let supplied = ("\\PC{0,70}", "\\PC{0,70}", option::of(argon2id))
        .prop_map(|(salt, hmac, argon2id)| SuppliedVerifier { salt, hmac, argon2id });
    let slot = (envelope(), option::of(supplied))
        .prop_map(|(envelope, supplied)| KeySlot { envelope, supplied });
    (any::<[u8; 16]>(), any::<u64>(), vec(slot, 1..4)).prop_map(|(id, created, key_slots)| {
        Descriptor { format_version: 1, volume_id: VolumeId(id), created, key_slots }
    })
}

pub fn epochs() -> impl Strategy<Value = EpochRecord> {
    (btree_map(any::<u64>(), Just(()), 0..20), any::<u64>()).prop_map(|(unclean, last)| {
        let unclean: Vec<u64> = BTreeMap::into_keys(unclean).collect();
        EpochRecord { last: unclean.last().map_or(last, |newest| last.max(*newest)), unclean }
    })
}
