"""A reader of C2PA manifests that shares nothing with our writer: boxes, CBOR and COSE by the letter of ISO 14496-12, RFC 8949, RFC 9052 and C2PA 2.1.

It knows one manifest, ES256, and the hash of whole boxes (`c2pa.hash.bmff.v2` and later, C2PA 2.1, section 18.6).
"""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def boxes(data, start=0, end=None):
    """Name, start and end of each box, and where its content begins."""
    place, end = start, len(data) if end is None else end
    while place < end:
        size, header = int.from_bytes(data[place : place + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        yield data[place + 4 : place + 8], place, place + (size or end - place), place + header
        place += size or end - place


def cbor(data, place=0):
    """One CBOR value and where it ends."""
    kind, low = data[place] >> 5, data[place] & 31
    place += 1
    if low < 24 or low == 31:
        number = low
    else:
        width = 1 << (low - 24)
        number, place = int.from_bytes(data[place : place + width], "big"), place + width
    if kind in (0, 1):
        return (number if kind == 0 else -1 - number), place
    if kind in (2, 3):
        content = data[place : place + number]
        return (bytes(content) if kind == 2 else content.decode()), place + number
    if kind in (4, 5):
        assert low != 31, "of unknown length"
        values = []
        for _ in range(number * (kind - 3)):
            value, place = cbor(data, place)
            values.append(value)
        return (values if kind == 4 else dict(zip(values[::2], values[1::2], strict=True))), place
    if kind == 6:
        return cbor(data, place)
    return {20: False, 21: True, 22: None}[low], place


@dataclass
class Reading:
    """What was signed, by whom, and whether signature, assertions and file fit."""

    claim: dict
    certificate: x509.Certificate
    is_signed: bool
    has_its_assertions: bool
    is_unchanged: bool


def contents(data, start, end, found):
    """The content of every JUMBF box below, by label; of a superbox what follows its own header, which is what is hashed."""
    label = ""
    for name, _, last, begin in boxes(data, start, end):
        if name == b"jumd":
            label = data[begin + 17 : data.index(b"\0", begin + 17)].decode()
        elif name == b"jumb":
            own = contents(data, begin, last, found)
            found[own] = (data[begin:last], found.get(own, (b"", b""))[1])
        else:
            found.setdefault(label, (b"", data[begin:last]))
    return label


def read(data):
    """The manifest in an MP4."""
    place, end = next(
        (begin, last) for name, _, last, begin in boxes(data) if name == b"uuid" and data[begin : begin + 16] == UUID
    )
    found = {}
    contents(data, data.index(b"jumb", place) - 4, end, found)
    claim_bytes = next(content for label, (_, content) in found.items() if label.startswith("c2pa.claim"))
    claim, _ = cbor(claim_bytes)
    (protected, unprotected, _, signature), _ = cbor(found["c2pa.signature"][1])
    chain = cbor(protected)[0].get(33) or unprotected.get("x5chain") or unprotected[33]
    certificate = x509.load_der_x509_certificate(chain[0] if isinstance(chain, list) else chain)
    assertions = [
        one for kind in ("assertions", "created_assertions", "gathered_assertions") for one in claim.get(kind, [])
    ]
    fits = [hashlib.sha256(found[one["url"].rpartition("/")[2]][0]).digest() == one["hash"] for one in assertions]
    label = next(label for label in found if label.startswith("c2pa.hash.bmff"))
    bound, _ = cbor(found[label][1])
    return Reading(
        claim,
        certificate,
        _is_signed(certificate, protected, claim_bytes, signature),
        all(fits),
        _hash(data, bound) == bound["hash"],
    )


def _is_signed(certificate, protected, payload, signature):
    def string(value, kind):
        return (
            bytes([kind | 25]) + len(value).to_bytes(2, "big") + value
            if len(value) > 255
            else (bytes([kind | 24, len(value)]) + value if len(value) > 23 else bytes([kind | len(value)]) + value)
        )

    signed = b"\x84" + string(b"Signature1", 0x60) + string(protected, 0x40) + string(b"", 0x40) + string(payload, 0x40)
    half = len(signature) // 2
    pair = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    try:
        certificate.public_key().verify(encode_dss_signature(*pair), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _hash(data, bound):
    """Of every box at the top that is not left out: its place in the file (8 bytes), and the box."""
    total, left_out = hashlib.sha256(), {one["xpath"]: one.get("data") for one in bound["exclusions"]}
    for name, first, last, _ in boxes(data):
        xpath = f"/{name.decode()}"
        parts = left_out.get(xpath, [])
        if parts is None or (parts and all(data[first + p["offset"] :].startswith(p["value"]) for p in parts)):
            continue
        total.update(first.to_bytes(8, "big") + data[first:last])
    return total.digest()
