#!/usr/bin/env python3
"""Makes vectors.json beside it from FORMAT.md, with Python's hmac and zlib and with the AES-GCM of
OpenSSL (package cryptography). Nothing here comes from ssefs itself."""
import hmac, json, pathlib, struct, zlib
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

def hkdf(secret, label):
    pseudorandom = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(pseudorandom, label + b"\x01", "sha256")

def ascending(start, count):
    return bytes(range(start, start + count))

def generation(start, length):
    return ascending(start, 28) + struct.pack("<H", length)

volume, file = bytes.fromhex("00112233445546778899aabbccddeeff"), ascending(0xF0, 16)
volume_key, salt = ascending(0x40, 32), ascending(0x60, 16)
epoch, sequence, block = 2, 3, 17

head = b"ssefsJNL" + struct.pack("<H6x", 1) + volume + struct.pack("<Q", epoch) + salt + bytes(8)
journal_key = hkdf(volume_key, b"ssefs/v1/journal" + head)

old = generation(0x10, 19) + bytes(30)
base = old + struct.pack("<I", zlib.crc32(old + b"A"))
body = file + struct.pack("<QQ", sequence, block) + base + generation(0x50, 300) + bytes(18)
record = body + AESGCM(journal_key).encrypt(struct.pack("<Q4x", sequence), b"", body)

vectors = dict(volume_key=volume_key, head=head, journal_key=journal_key, record=record)
text = json.dumps({name: value.hex() for name, value in vectors.items()}, indent=2)
(pathlib.Path(__file__).parent / "vectors.json").write_text(text + "\n")
