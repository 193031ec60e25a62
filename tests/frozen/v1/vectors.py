#!/usr/bin/env python3
"""Makes vectors.json beside it from FORMAT.md, with Python's hmac, hashlib and zlib and with the
AES-GCM and Argon2id of OpenSSL (package cryptography). Nothing here comes from ssefs itself."""
import hashlib, hmac, json, pathlib, struct, zlib
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

def hkdf(secret, label):
    pseudorandom = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(pseudorandom, label + b"\x01", "sha256")

def counted(data):
    return struct.pack("<Q", len(data)) + data

def ascending(start, count):
    return bytes(range(start, start + count))

volume, file = bytes.fromhex("00112233445546778899aabbccddeeff"), ascending(0xF0, 16)
dek, supplied, volume_key = ascending(0x00, 32), ascending(0x20, 32), ascending(0x40, 32)
created, salt = 1_700_000_000, ascending(0x60, 32)

wrap_key = hkdf(supplied, b"ssefs supplied wrap v1")
fingerprint = hmac.digest(hkdf(supplied, b"ssefs supplied fingerprint v1"), volume, "sha256")
key_id = b"supplied:" + fingerprint[:16].hex().encode()
verifier = hmac.digest(hkdf(supplied, b"ssefs supplied verifier v1"), salt, "sha256")

context = [(b"department", b"finance")]
pairs = b"".join(counted(name) + counted(value) for name, value in context)
numbers = struct.pack("<BBIQ", 3, 1, 1, created)
names = counted(b"supplied") + counted(key_id)
aad = b"ssefs wrap\0" + struct.pack("<H", 1) + volume + file + numbers + names + pairs
nonce = ascending(0xA0, 12)
wrapped = nonce + AESGCM(wrap_key).encrypt(nonce, dek, aad)
envelope = numbers + names + struct.pack("<Q", len(context)) + pairs + counted(wrapped)

prologue = b"\x89ssefs\r\n" + struct.pack("<HHI", 1, 1, 0) + file + volume + bytes(80)
slots = (struct.pack("<H", len(envelope)) + envelope).ljust(1344, b"\0") + bytes(1344)
data_key, state_key = hkdf(dek, b"ssefs/v1/data"), hkdf(dek, b"ssefs/v1/state")
body = struct.pack("<QQQQQIBxxx", 5, 69651, 4096, 2, 18, 1, 0) + bytes(48)
state = body + hmac.digest(state_key, prologue + body + hashlib.sha256(slots).digest(), "sha256")

def sealed(nonce, plain):
    ciphertext = AESGCM(data_key).encrypt(nonce, plain, struct.pack("<Q", 17))
    return ciphertext[:-16], nonce + ciphertext[-16:] + struct.pack("<H", len(plain))

def entry(a, b, newer):
    return a + b + struct.pack("<I", zlib.crc32(a + b + newer))

plain = b"ssefs golden vector"
ciphertext, first = sealed(ascending(0xB0, 12), plain)
_, second = sealed(ascending(0xC0, 12), plain)

epochs = b"ssefs epochs\0" + volume + struct.pack("<4Q", 9, 2, 3, 9)
root = ascending(0x80, 32)
record_json = json.dumps({
    "volume": "00112233-4455-4677-8899-aabbccddeeff",
    "key_id": "10213243-5465-4687-98a9-bacbdcedfe0f",
    "versions": [{"version": 3, "created": created, "material": ascending(0x90, 32).hex()}],
}).encode()
record_id = b"00112233-4455-4677-8899-aabbccddeeff"
record_aad = b"ssefs keystore record\0ssefsKR1managed\0" + record_id
record_key, record_nonce = hkdf(root, b"ssefs keystore records v1"), ascending(0xD0, 12)
record = b"ssefsKR1" + record_nonce + AESGCM(record_key).encrypt(
    record_nonce, record_json, record_aad)
passphrase, argon_salt = b"correct horse battery staple", ascending(0xE0, 16)
argon = Argon2id(salt=argon_salt, length=32, iterations=2, lanes=2, memory_cost=256)
passphrase_key = argon.derive(passphrase)
root_sealed = AESGCM(passphrase_key).encrypt(nonce, root, b"ssefs keystore root key v1")

vectors = dict(
    volume_id=volume, file_id=file, dek=dek, supplied_key=supplied, volume_key=volume_key,
    wrap_key=wrap_key, key_id=key_id, verifier_salt=salt, verifier_hmac=verifier,
    wrap_aad=aad, wrapped_dek=wrapped, envelope=envelope,
    prologue=prologue, data_key=data_key, state_key=state_key, state=state,
    plain=plain, nonce_first=first[:12], nonce_second=second[:12], ciphertext_first=ciphertext,
    entry_first=entry(first, bytes(30), b"A"), entry_second=entry(first, second, b"B"),
    epochs_mac=hmac.digest(hkdf(volume_key, b"ssefs/v1/epochs"), epochs, "sha256"),
    root_key=root, record=record, material=ascending(0x90, 32),
    passphrase=passphrase, argon2id_salt=argon_salt, passphrase_key=passphrase_key,
    root_nonce=nonce, root_sealed=root_sealed,
)
text = json.dumps({name: value.hex() for name, value in vectors.items()}, indent=2)
(pathlib.Path(__file__).parent / "vectors.json").write_text(text + "\n")
