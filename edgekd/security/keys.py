"""Keys in files: Ed25519 (RFC 8032), private ones as PKCS #8 and public ones as SubjectPublicKeyInfo, both PEM.

A private key lives in its file and in a `Signer`; it is never written elsewhere, printed, hashed or passed on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from edgekd.core.errors import UsageError
from edgekd.core.files import flush
from edgekd.security.signing import PublicKey, Signer, key_id, opened, read_limited, why

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSPHRASE = "EDGEKD_PASSPHRASE"  # noqa: S105  (the variable's name)
_LARGEST_KEY, _LONGEST = 16 << 10, 1023  # bytes, of a key's file and of a passphrase
_MAKE = "`edgekd keygen PATH` makes a pair"
_GIVE = f"give a private key's file; {_MAKE}"


def read_public(path: Path) -> PublicKey:
    """A public key's file: PEM, SubjectPublicKeyInfo. Raises UsageError where it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    fix = f"give the .pub file of the builder's key; {_MAKE}"
    try:
        raw = read_limited(path, _LARGEST_KEY)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the public key {path}: {why(error)}", fix=fix) from error
    if b"PRIVATE KEY-----" in raw:
        public = path.with_name(f"{path.name}.pub")
        raise UsageError(
            f"{path} holds a private key, which no device needs", fix=f"give {public}" if public.exists() else fix
        )
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey) or raw.count(b"-----BEGIN") != 1:
        raise UsageError(f"{path} is no Ed25519 public key in PEM", fix=fix)
    return PublicKey(key_id(key), path.name, key)


def read_publics(path: Path) -> list[PublicKey]:
    """The key of a file, or of each .pub file of a folder. Raises UsageError where one is none, or there is none."""
    if not path.is_dir():
        return [read_public(path)]
    found = [read_public(one) for one in sorted(path.glob("*.pub"))]
    if not found:
        raise UsageError(f"the folder {path} has no *.pub", fix="give a folder of public keys, or a key's file")
    return found


def open_signers(paths: Iterable[Path], ask: Callable[[Path], str]) -> tuple[Signer, ...]:
    """Private keys, each once, in the order given. `ask` is asked for a passphrase that the environment has not.

    Raises UsageError for a file that is no such key, that others may read, or that the passphrase does not open.
    """
    signers = {}
    for path in paths:
        signer = open_signer(path, ask)
        signers[signer.key_id] = signer
    os.environ.pop(PASSPHRASE, None)  # no child process has any use for it
    return tuple(signers.values())


def open_signer(path: Path, ask: Callable[[Path], str]) -> Signer:
    """One private key. Raises UsageError; no error carries anything of what the file holds."""
    try:
        with opened(path) as file:
            loose = os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077
            raw = file.read(_LARGEST_KEY + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the key {path}: {why(error)}", fix=_GIVE) from error
    _check_private(path, raw)
    if loose:  # only now: a file that is no private key may have to be readable, as /etc/passwd
        raise UsageError(f"the key {path} can be read by others", fix=f"chmod 600 {quote(str(path.absolute()))}")
    key = _opened(path, raw, ask)
    return Signer(key_id(key.public_key()), key)


def _check_private(path: Path, raw: bytes) -> None:
    """Raises UsageError where a file's bytes do not look like one private key in PEM."""
    if b"-----BEGIN PUBLIC KEY-----" in raw and b"PRIVATE KEY-----" not in raw:
        beside = path.with_suffix("")
        own = f"give the private key beside it: {beside}" if path.suffix == ".pub" and beside.exists() else _GIVE
        raise UsageError(f"{path} is a public key: a private one signs", fix=own)
    if len(raw) > _LARGEST_KEY or raw.count(b"-----BEGIN") != 1 or b"PRIVATE KEY-----" not in raw:
        raise _no_key(path)


def _no_key(path: Path) -> UsageError:
    return UsageError(f"{path} is no Ed25519 private key in PEM", fix=_GIVE)


def _opened(path: Path, raw: bytes, ask: Callable[[Path], str]) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in raw
    passphrase = _encoded(os.environ.get(PASSPHRASE) or ask(path)) if encrypted else None
    try:
        key = load_pem_private_key(raw, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise UsageError(
                f"the key {path} does not open: the passphrase is another, or the file is damaged",
                fix=f"give its passphrase in ${PASSPHRASE}, or when asked",
            ) from None
        raise _no_key(path) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key


def make_key(path: Path, passphrase: str | None = None) -> PublicKey:
    """A new pair: the private key at `path`, mode 600, and the public one at `path`.pub. Overwrites nothing.

    Both are written aside and linked into place, the public one first: what has a name is whole. Raises UsageError
    where one is there or cannot be.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if path.is_dir():
        raise UsageError(f"{path} is a folder", fix=f"give the key a name: {path / 'release.key'}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", fix=f"mkdir -p {quote(str(path.parent.absolute()))}")
    public = path.with_name(f"{path.name}.pub")
    for place in (path, public):
        if os.path.lexists(place):
            raise UsageError(f"{place} is there already; a key is never overwritten", fix="give another PATH")
    key = Ed25519PrivateKey.generate()
    lock = form.BestAvailableEncryption(_encoded(passphrase)) if passphrase else form.NoEncryption()
    own = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
    shared = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    try:
        _write_new(public, shared, 0o644)
        try:
            _write_new(path, own, 0o600)
        except BaseException:
            public.unlink()
            raise
        flush(path.parent)
    except FileExistsError as error:
        raise UsageError(f"{error.filename2 or error.filename} is there already", fix="give another PATH") from error
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}",
            fix="give a PATH in a folder of your own, on a disk that keeps permissions",
        ) from error
    return PublicKey(key_id(key.public_key()), public.name, key.public_key())


def _write_new(place: Path, content: bytes, mode: int) -> None:
    """Write a file that was not there, whole or not at all, never readable beyond `mode`. Raises OSError."""
    fresh = place.with_name(f".{place.name}.new-{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            if os.fstat(handle).st_mode & 0o777 & ~mode:
                raise PermissionError(1, "this disk keeps no permissions")
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.link(fresh, place)  # unlike a rename, it never takes the place of a file
    finally:
        fresh.unlink()


def _encoded(passphrase: str) -> bytes:
    raw = passphrase.encode(errors="surrogateescape")
    if len(raw) > _LONGEST:
        raise UsageError(f"a passphrase of {len(raw)} bytes", fix=f"take one of at most {_LONGEST}")
    return raw
