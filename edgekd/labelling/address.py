"""Where a teacher answers: `api:URL`, and which key goes there."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgekd.core.errors import UsageError

PREFIX = "api:"
KEYS = ("EDGEKD_API_KEY", "OPENAI_API_KEY")
_NEWEST = ("api.openai.com", ".openai.azure.com")  # where `max_tokens` is refused by newer models
_EXAMPLE = "--teacher api:https://api.openai.com/v1"


@dataclass(frozen=True)
class Address:
    """A server's base URL; `identity` is the same for one on loopback whatever its port."""

    url: str
    host: str
    path: str
    loopback: bool
    secure: bool

    @property
    def identity(self) -> str:
        """What labels are told by."""
        return "a server on this machine" if self.loopback else f"{self.host}{self.path}"

    @property
    def newest(self) -> bool:
        """Whether the server takes `max_completion_tokens` rather than `max_tokens`."""
        return self.host.endswith(_NEWEST)

    def key(self, environment: Mapping[str, str]) -> str | None:
        """The key to send; None for a server on loopback without one.

        Raises UsageError where it lacks, is no header's value, or would travel unencrypted.
        """
        name = next((name for name in KEYS if environment.get(name)), None)
        if name is None:
            if self.loopback or not self.secure:
                return None
            raise UsageError(
                f"no key for {self.host}: neither ${KEYS[0]} nor ${KEYS[1]} is set",
                fix=f"export {KEYS[0]}=...; it is sent to {self.host} alone and written nowhere",
            )
        key = environment[name].strip()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UsageError(f"${name} holds more than a key: spaces or other signs", fix=f"export {name}=... again")
        if not (self.secure or self.loopback):
            raise UsageError(
                f"the key in ${name} would travel to {self.host} unencrypted",
                fix=f"give an https URL; or unset {name} if that server needs no key",
            )
        return key


def address(teacher: str) -> Address:
    """The address in `api:URL`. Raises UsageError."""
    if not teacher.startswith(PREFIX):
        raise UsageError(
            f"edgekd label asks a teacher behind an API, and {teacher} is none",
            fix=f"give its base URL: {_EXAMPLE}; edgekd build takes a model's folder as --teacher",
        )
    url = teacher.removeprefix(PREFIX).rstrip("/")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "the URL holds more than an address: a user, a password, a query or a fragment",
            fix=f"give the base URL alone ({_EXAMPLE}), and the key as ${KEYS[0]}",
        )
    if parts.scheme not in ("http", "https") or not host or port == 0 or not url.isprintable() or " " in url:
        raise UsageError(f"{teacher} is no address of a server", fix=f"give its base URL: {_EXAMPLE}")
    return Address(url, host, parts.path, _is_loopback(host), parts.scheme == "https")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
