"""Who made a bundle: the envelope that carries a manifest with its signatures, and what signs and checks it.

The envelope is DSSE 1.0 (github.com/secure-systems-lab/dsse, protocol.md and envelope.md), kept stricter than it asks
for, so that damage shows as well: each signature names its key, and there are no fields that nobody knows.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekd.core.errors import EdgeKDError
from edgekd.onboard import verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.edgekd.manifest+json"
_LARGEST_ENVELOPE = 8 << 20  # bytes
_MOST_SIGNATURES = 32


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the key's DER SubjectPublicKeyInfo, as 64 hexadecimal digits."""
    from cryptography.hazmat.primitives import serialization as form

    return sha256(public.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are held against; `name` is that of its file."""

    key_id: str
    name: str
    _key: Ed25519PublicKey = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id[:16]})"

    def holds(self, payload: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, over a manifest's bytes."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, encoding(payload))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signature:
    """One signature of an envelope, and the key that it says it is of."""

    key_id: str
    value: bytes


@dataclass(frozen=True)
class Signer:
    """A private key, opened."""

    key_id: str
    _key: Ed25519PrivateKey = field(repr=False, compare=False)

    def sign(self, payload: bytes) -> Signature:
        """Its signature over a manifest's bytes: the same bytes each time (RFC 8032 draws nothing at random)."""
        return Signature(self.key_id, self._key.sign(encoding(payload)))


@dataclass(frozen=True)
class Envelope:
    """A manifest's bytes with their signatures."""

    payload: bytes
    signatures: tuple[Signature, ...]

    def text(self) -> str:
        """As DSSE's envelope.md spells it, in standard base64."""
        signatures = [{"keyid": one.key_id, "sig": _base64(one.value)} for one in self.signatures]
        values = {"payload": _base64(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
        return json.dumps(values, separators=(",", ":")) + "\n"

    def signed(self, signers: Iterable[Signer]) -> Envelope:
        """The same with the signatures of these keys; those of others are kept, each where it stood."""
        own = {signer.key_id: signer.sign(self.payload) for signer in signers}
        return Envelope(self.payload, tuple(({one.key_id: one for one in self.signatures} | own).values()))


def beside(bundle: Path) -> Path:
    """Where a bundle's signature lies: NAME-TARGET.sig beside its folder."""
    place = Path(os.path.abspath(bundle))
    return place.with_name(f"{place.name}.sig")


def encoding(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding, PAE(type, body), which covers the type as well."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def read_envelope(path: Path) -> Envelope:
    """The envelope of a .sig file. Raises EdgeKDError where it is none, or not whole."""
    try:
        return parse_envelope(read_limited(path, _LARGEST_ENVELOPE))
    except (OSError, ValueError) as error:
        raise EdgeKDError(
            f"{path.name} is no signature of a bundle: {why(error)}", fix="take the .sig anew from where it was made"
        ) from error


def parse_envelope(raw: bytes) -> Envelope:
    """The envelope of a file's bytes. Raises ValueError where it is none."""
    values = verify.read_json(raw)
    if not isinstance(values, dict) or set(values) != {"payload", "payloadType", "signatures"}:
        raise ValueError("it has other fields than payload, payloadType and signatures")
    if values["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(f"its payloadType is not {PAYLOAD_TYPE}")
    signatures = values["signatures"]
    if not isinstance(signatures, list) or not 0 < len(signatures) <= _MOST_SIGNATURES:
        raise ValueError(f"it has not 1 to {_MOST_SIGNATURES} signatures")
    found = tuple(map(_signature, signatures))
    if len({one.key_id for one in found}) != len(found):
        raise ValueError("it has two signatures of one key")
    return Envelope(_bytes(values["payload"]), found)


def _signature(values: Any) -> Signature:
    if not isinstance(values, dict) or set(values) != {"keyid", "sig"} or not verify.is_hash(values["keyid"]):
        raise ValueError("a signature has other fields than keyid and sig")
    return Signature(values["keyid"], _bytes(values["sig"]))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: Any) -> bytes:
    """Standard or URL-safe base64, as DSSE allows; in its one spelling, so that no bit of it can change unseen."""
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("it is no base64")
    alphabet = b"-_" if "-" in text or "_" in text else b"+/"
    raw = base64.b64decode(text, altchars=alphabet, validate=True)
    if base64.b64encode(raw, altchars=alphabet).decode() != text:
        raise ValueError("its base64 has stray bits")
    return raw


def read_limited(path: Path, largest: int) -> bytes:
    """A small file, links followed. Raises OSError; ValueError where it is a device or too large."""
    with opened(path) as file:
        raw = file.read(largest + 1)
    if len(raw) > largest:
        raise ValueError(f"it is larger than {largest} bytes")
    return raw


def opened(path: Path) -> BinaryIO:
    """A file for reading. Raises OSError; ValueError where it is a device: a named pipe would wait for ever."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no file")
    return file


def why(error: Exception) -> str:
    """An error in words, without the path that the caller names."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
