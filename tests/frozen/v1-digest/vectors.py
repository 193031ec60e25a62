#!/usr/bin/env python3
"""Makes vectors.json beside it from FORMAT.md, with Python's hmac and zlib and with the AES of
OpenSSL (package cryptography). Nothing here comes from ssefs itself."""
import hmac, json, pathlib, struct, zlib
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

def hkdf(secret, label):
    pseudorandom = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(pseudorandom, label + b"\x01", "sha256")

def ascending(start, count):
    return bytes(range(start, start + count))

dek = ascending(0x00, 32)
digest_key = hkdf(dek, b"ssefs/v1/digest")

def aes(block):
    encryptor = Cipher(algorithms.AES(digest_key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()

def number(data):
    return int.from_bytes(data, "little")

def generation(start, length):
    return ascending(start, 28) + struct.pack("<H", length)

def entry(a, b, newer):
    return a + b + struct.pack("<I", zlib.crc32(a + b + newer))

old, new, last = generation(0x10, 4096), generation(0x50, 4096), generation(0x90, 19)
entry_0, entry_17 = entry(old, new, b"B"), entry(last, bytes(30), b"A")
total = 0
for block, newest in [(0, new), (17, last)]:
    tag = number(newest[12:28])
    total = (total + number(aes((tag ^ block).to_bytes(16, "little")))) % 2**128
sequence, epoch = 5, 2
start = number(aes(b"ssefs state mask"))
mask = number(aes((start ^ (epoch << 64 | sequence)).to_bytes(16, "little")))
digest = (total ^ mask).to_bytes(16, "little") + bytes(16)

vectors = dict(dek=dek, digest_key=digest_key, entry_0=entry_0, entry_17=entry_17, digest=digest)
text = json.dumps({name: value.hex() for name, value in vectors.items()}, indent=2)
(pathlib.Path(__file__).parent / "vectors.json").write_text(text + "\n")
