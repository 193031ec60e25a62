//! What the parts cost that touch no file: sealing, entries, page 0, geometry, the content
//! digest. `cargo bench --bench pure`, with a word to choose among them.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ssefs::crypto::{AeadKey, Derivation, MacKey, Nonce, Secret, random_nonces};
use ssefs::format::{
    BLOCK_LEN, BlockIndex, ContentSum, DIGEST_KEY_LABEL, DigestKey, Entry, Envelope, FileId,
    Generation, Header, KeyId, Marked, Mode, PAGE_LEN, PlainSize, Prologue, STATE_MAC_LABEL,
    Sealed, StateFlags, StateRecord, Suite, VolumeId, WRAPPED_DEK_LEN, WrapAlgorithm, cipher_size,
    entry_place, plain_size,
};

fn blocks(criterion: &mut Criterion) {
    let key = AeadKey::new(&Secret::copy_from(&[3; 32]));
    let plaintext = [7; BLOCK_LEN as usize];
    let (mut ciphertext, mut opened) = (plaintext, plaintext);
    let (nonce, aad) = ([1; 12], 5_u64.to_le_bytes());
    let tag = key.seal(&nonce, &aad, &plaintext, &mut ciphertext);
    let mut group = criterion.benchmark_group("block of 4 KiB");
    group.throughput(Throughput::Bytes(BLOCK_LEN));
    group.bench_function("seal", |bencher| {
        let mut sealed = [0; BLOCK_LEN as usize];
        // The nonce is the same each time, as nothing of this is kept.
        bencher.iter(|| key.seal(&nonce, &aad, black_box(&plaintext), &mut sealed));
    });
    group.bench_function("open", |bencher| {
        bencher.iter(|| key.open(&nonce, &aad, black_box(&ciphertext), &tag, &mut opened));
    });
    group.finish();
    criterion.bench_function("256 nonces", |bencher| {
        let mut nonces: [Nonce; 256] = [[0; 12]; 256];
        bencher.iter(|| random_nonces(black_box(&mut nonces)));
    });
}

fn entries(criterion: &mut Criterion) {
    let entry = entry(1);
    let bytes = entry.encode();
    let mut group = criterion.benchmark_group("entry");
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&entry).encode()));
    group.bench_function("decode", |bencher| bencher.iter(|| Entry::decode(black_box(&bytes))));
    group.finish();
}

fn page_zero(criterion: &mut Criterion) {
    let dek = Secret::copy_from(&[3; 32]);
    let key = MacKey::new(&Derivation::new(&dek).key(STATE_MAC_LABEL));
    let header = header();
    let mut page = [0; PAGE_LEN as usize];
    header.encode_into(&mut page).expect("the header fits");
    header.encode_both_states(&state(1), &key, &mut page);
    let mut group = criterion.benchmark_group("page 0");
    group.bench_function("parse", |bencher| bencher.iter(|| Header::parse(black_box(&page))));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| header.verify(black_box(&page), &key, false));
    });
    group.bench_function("encode the header", |bencher| {
        let mut page = page;
        bencher.iter(|| header.encode_into(black_box(&mut page)));
    });
    group.bench_function("encode a state record", |bencher| {
        let mut page = page;
        bencher.iter(|| header.encode_state(black_box(&state(2)), &key, &mut page));
    });
    group.bench_function("derive the keys of a file", |bencher| {
        bencher.iter(|| {
            let derivation = Derivation::new(black_box(&dek));
            (derivation.key(STATE_MAC_LABEL), derivation.key(DIGEST_KEY_LABEL))
        });
    });
    group.finish();
}

fn geometry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("geometry");
    group.bench_function("size to cipher size and back", |bencher| {
        bencher.iter(|| plain_size(cipher_size(black_box(PlainSize(123_456_789)))));
    });
    group.bench_function("places of a block and its entry", |bencher| {
        let place = |block: BlockIndex| (block.cipher_start(), entry_place(block));
        bencher.iter(|| place(black_box(BlockIndex(123_456))));
    });
    group.finish();
}

fn digest(criterion: &mut Criterion) {
    let key = DigestKey::new(&Secret::copy_from(&[5; 32]));
    let (old, new) = (entry(1), entry(2));
    let mut group = criterion.benchmark_group("content digest");
    group.bench_function("replace a block", |bencher| {
        let mut sum = ContentSum::default();
        bencher.iter(|| key.replace(&mut sum, BlockIndex(9), black_box(&old), black_box(&new)));
    });
    group.bench_function("mask", |bencher| {
        bencher.iter(|| key.mask(ContentSum::default(), black_box(7), 1));
    });
    group.finish();
}

fn entry(seed: u8) -> Entry {
    let sealed = |seed| Sealed { nonce: [seed; 12], tag: [seed; 16], len: 4096 };
    let (current, previous) = (sealed(seed), Some(sealed(seed + 100)));
    Entry::Stored(Marked { newer: Generation::A, current, previous })
}

fn header() -> Header {
    let prologue = Prologue {
        suite: Suite::Aes256Gcm,
        file_id: FileId([1; 16]),
        volume_id: VolumeId([2; 16]),
    };
    let envelope = Envelope {
        mode: Mode::Managed,
        provider: "local".to_owned(),
        key_id: KeyId("0123456789abcdef".to_owned()),
        key_version: 1,
        wrap_algorithm: WrapAlgorithm::Aes256Gcm,
        created: 0,
        context: [("department".to_owned(), "books".to_owned())].into(),
        wrapped_dek: vec![5; WRAPPED_DEK_LEN],
    };
    Header::new(prologue, envelope).expect("the envelope fits its slot")
}

fn state(sequence: u64) -> StateRecord {
    StateRecord {
        sequence,
        size: 77,
        durable_size: 0,
        epoch: 1,
        seal_count: 1,
        flags: StateFlags::default(),
        envelope_slot: 0,
        digest: [0; 32],
    }
}

/// Short enough to be run between two changes.
fn configured() -> Criterion {
    let (warm_up, measurement) = (Duration::from_millis(300), Duration::from_secs(1));
    Criterion::default().warm_up_time(warm_up).measurement_time(measurement)
}

criterion_group! {
    name = pure;
    config = configured();
    targets = blocks, entries, page_zero, geometry, digest
}
criterion_main!(pure);
