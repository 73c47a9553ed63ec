"""Trust: whether a bundle is the one that was shipped, by whom, how new, and for which device. Runs no model.

The order matters: first the signature over the manifest's bytes, then the strict walk and the hashes, then what the
manifest says. The model is opened by others (`answers`), after all this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core import versions
from edgekd.core.cpus import usable_cpus
from edgekd.core.errors import BelowAccuracy, EdgeKDError, RuntimeCannotLoad, UsageError, suggestion
from edgekd.core.pointers import check_no_pointer, check_none_within
from edgekd.onboard import verify
from edgekd.security import child, keys, signing
from edgekd.security.signing import PublicKey

_ANSWERS_S, _ANSWERS_MIB_PER_S = 60.0, 2.0  # for running the golden inputs; of model for each second more
_ANSWERS_MIB = 4096  # of memory, beside eight times the model's file
_ANEW = "take the bundle anew from where it was built; nothing may be written into its folder"
_ONCE_MORE = f"close programs that use much memory and verify once more; if that does not help, {_ANEW}"
_KINDS = {1: EdgeKDError, 5: BelowAccuracy, 7: RuntimeCannotLoad}  # by verify.py's exit code


@dataclass(frozen=True)
class Trust:
    """The keys that a device believes, and those that it does not believe any more, whatever else it was told."""

    keys: tuple[PublicKey, ...]
    revoked: frozenset[str] = frozenset()  # key ids
    revoked_keys: tuple[PublicKey, ...] = ()  # of those, the ones whose file is at hand

    @classmethod
    def of(cls, trusted: Iterable[Path], revoked: Iterable[str] = ()) -> Trust:
        """Keys by their files or folders of them; revoked ones also by their id. Raises UsageError."""
        own = tuple(key for path in trusted for key in keys.read_publics(path))
        known: list[PublicKey] = []
        ids = set()
        for word in revoked:
            if verify.is_hash(word.lower()):
                ids.add(word.lower())
            elif os.path.lexists(word):
                known += keys.read_publics(Path(word))
            else:
                raise UsageError(
                    f"--revoked {word} is neither a key's file nor its id",
                    fix="give its .pub file, or all 64 hexadecimal digits of its id, as `edgekd keygen` printed them",
                )
        if not own:
            raise UsageError(
                "--revoked without --key: nobody is trusted at all", fix="give the trusted keys: --key PUB"
            )
        return cls(own, frozenset(ids | {key.key_id for key in known}), tuple(known))


@dataclass(frozen=True)
class Asked:
    """What else a bundle is held to."""

    trust: Trust | None = None  # None: nobody asks who signed it
    after: str | None = None  # the version that it must be newer than
    target: str | None = None  # the device's profile, a name or a YAML file
    ignore_modes: bool = False


@dataclass(frozen=True)
class Checked:
    """A bundle whose files are those that its manifest lists, and that is what was asked for."""

    folder: Path
    manifest: dict[str, Any]
    signed_by: tuple[PublicKey, ...]  # trusted keys alone
    notes: tuple[str, ...]  # what the reader should know beside

    @property
    def count(self) -> int:
        """The files listed."""
        return sum(len(self.manifest[part]["files"]) for part in ("artifact", "evidence"))

    @property
    def model(self) -> str:
        """The graphs by their files' names, as they may go to a terminal."""
        return str(verify.shown(verify.model_name(self.manifest)))


def check(bundle: Path, asked: Asked | None = None) -> Checked:
    """All but the model's answers. Raises EdgeKDError where the bundle is not what was shipped or asked for."""
    asked = asked or Asked()
    check_no_pointer(bundle / "manifest.json", EdgeKDError)
    try:
        raw = verify.read_small(bundle / "manifest.json")
    except (OSError, ValueError) as error:
        raise EdgeKDError(f"manifest.json cannot be used: {signing.why(error)}", fix=_ANEW) from error
    signed, notes = _signed(bundle, raw, asked.trust)  # before any of its bytes is parsed, or a file hashed
    try:
        manifest = verify.check_files(bundle, asked.ignore_modes, raw)
    except verify.Failed as error:
        check_none_within(bundle, EdgeKDError)
        raise EdgeKDError(str(error), fix=error.fix or _ANEW) from error
    if asked.after is not None:
        _newer(manifest["version"], asked.after)
        notes += [] if signed else ["the version is what the manifest says; only a signature (--key) vouches for it"]
    if asked.target is not None:
        _serves(manifest, asked.target)
    return Checked(bundle, manifest, tuple(signed), tuple(notes))


def answers(checked: Checked) -> str:
    """Run the golden inputs in a child process with limits: how far off the answers were, in words.

    Raises BelowAccuracy where they are outside the tolerance, RuntimeCannotLoad where ONNX Runtime refuses the model or
    the child meets a limit, EdgeKDError where the golden vectors cannot be used.
    """
    size_mib = sum((checked.folder / name).stat().st_size for name in verify.model_files(checked.manifest)) >> 20
    seconds = _ANSWERS_S + size_mib / _ANSWERS_MIB_PER_S
    limits = child.Limits(_ANSWERS_MIB + 8 * size_mib, cpu_s=int(seconds) * usable_cpus())
    given = {"folder": str(checked.folder.absolute())}
    try:
        said = child.call("edgekd.receipts.trust:_answers", given, timeout_s=seconds, limits=limits)
    except child.ChildError as error:
        fix = f"look for a loop in the model; {_ANEW}" if error.limit in ("time", "cpu") else _ONCE_MORE
        raise RuntimeCannotLoad(f"{checked.model} does not run here: {error.why}", fix=fix) from error
    return str(said["words"])


def check_ends(folder: Path, manifest: dict[str, Any]) -> None:
    """Before a bundle's model is timed here, where nothing limits it: raises RuntimeCannotLoad where a limit is met.

    How well it answers is judged by whoever times it.
    """
    try:
        answers(Checked(folder, manifest, (), ()))
    except EdgeKDError as error:
        if isinstance(error.__cause__, child.ChildError):
            raise


def _answers(folder: str) -> dict[str, str]:
    """In the child: ONNX Runtime sees the model here, and only here."""
    place = Path(folder)
    try:
        return {"words": verify.check_answers(place, verify.read_manifest(place))}
    except verify.Failed as error:
        fix = "it takes an onnxruntime that the manifest's min allows, and memory" if error.code == 7 else _ANEW
        raise _KINDS[error.code](str(error), fix=fix) from error


def _signed(bundle: Path, raw: bytes, trust: Trust | None) -> tuple[list[PublicKey], list[str]]:
    """The trusted keys that signed the manifest's bytes `raw`, and notes. Raises EdgeKDError where none did."""
    place = signing.beside(bundle)
    name = place.name.removesuffix(".sig")
    if trust is None:
        there = f"{place.name} is not checked without --key PUB" if place.exists() else "there is no signature either"
        return [], [f"hashes show damage, not malice; {there}"]
    if not place.exists():
        raise EdgeKDError(
            f"{name} is not signed: there is no {place.name} beside it",
            fix="take the .sig from where the bundle was built: `edgekd build ... --sign KEY` makes one",
        )
    envelope = signing.read_envelope(place)
    if envelope.payload != raw:
        raise EdgeKDError(
            f"{place.name} is the signature of another bundle, or manifest.json was changed",
            fix="take the bundle and its .sig anew from where they were built",
        )
    known = {key.key_id: key for key in (*trust.revoked_keys, *trust.keys)}
    for one in envelope.signatures:
        if one.key_id in known and not known[one.key_id].holds(envelope.payload, one.value):
            raise EdgeKDError(f"the signature of {known[one.key_id]} is not its own, or damaged", fix=_ANEW)
    good = [known[one.key_id] for one in envelope.signatures if one.key_id in known and one.key_id not in trust.revoked]
    bad = [one.key_id for one in envelope.signatures if one.key_id in trust.revoked]
    named = ", ".join(str(known[one]) if one in known else f"the key {one[:16]}" for one in bad)
    if good:
        return good, [f"also signed by {named}, which is revoked"] if bad else []
    trusted = ", ".join(str(key) for key in trust.keys if key.key_id not in trust.revoked) or "nobody: all are revoked"
    by = f"{named}, which is revoked" if bad else ", ".join(f"the key {one.key_id[:16]}" for one in envelope.signatures)
    raise EdgeKDError(
        f"{name} is signed by {by}; trusted: {trusted}",
        fix="do not use it; take one that is signed by a key that is not revoked"
        if bad
        else "do not use it, unless its builder tells you by another way that the key is theirs (--key)",
    )


def _newer(version: str, after: str) -> None:
    """Raises EdgeKDError where a bundle's version is not greater; UsageError where `after` is no version."""
    floor = versions.numbers(after, where="--after")
    try:
        own = versions.numbers(version)
    except UsageError as error:
        raise EdgeKDError(f"the bundle's version {version[:40]!a} is no version", fix=error.fix) from error
    if own <= floor:
        raise EdgeKDError(
            f"the bundle's version {version} is not newer than {after}",
            fix="take a newer one; to go back to an old model, build it again as a newer version (--bundle-version)",
        )


def _serves(manifest: dict[str, Any], target: str) -> None:
    """Raises EdgeKDError where the bundle was not built for the target, or needs more than its profile has."""
    from edgekd.hardware.profile import load_profile, target_names

    file = Path(target).suffix.lower() in (".yaml", ".yml")
    profile = load_profile(target) if file or target in target_names() else None
    name = profile.name if profile else target
    if name not in manifest["compatible"]:
        built = ", ".join(map(verify.shown, manifest["compatible"]))
        near = "" if profile else f"; if {name[:80]!a} is mistyped: {suggestion(name, target_names())}"
        raise EdgeKDError(
            f"the bundle was built for {built}, not for {name}", fix=f"take the one for this target{near}"
        )
    if profile is None:  # a profile of the builder's own: its name is all that is known here
        return
    least = manifest["min"]
    over = [
        f"{key} {verify.shown(str(least[key]))} where {name} has {own}"
        for key, own, fits in (
            ("arch", profile.arch, least.get("arch") in (None, profile.arch)),
            ("opset", profile.max_opset, _within(least.get("opset"), profile.max_opset)),
            ("ir_version", profile.max_ir_version, _within(least.get("ir_version"), profile.max_ir_version)),
            ("ort_version", profile.ort_version, _overlap(least["ort_version"], profile)),
        )
        if not fits
    ]
    missing = [one for one in _texts(least.get("isa")) if one not in profile.isa]
    over += [f"the instructions {', '.join(map(verify.shown, missing))}, which {name} has not"] if missing else []
    if over:
        raise EdgeKDError(
            f"the bundle needs {'; '.join(over)}", fix="take the one for this target, or correct its profile"
        )


def _within(least: Any, most: int) -> bool:
    return least is None or (isinstance(least, int) and least <= most)


def _texts(values: Any) -> Sequence[str]:
    return [] if values is None else list(map(str, values if isinstance(values, list) else [values]))


def _overlap(wanted: str, profile: Any) -> bool:
    """Whether some release of ONNX Runtime is allowed by the bundle and by the profile, and not known to be bad."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import Version

    from edgekd.core.results import this_host
    from edgekd.hardware import ort_releases

    try:
        both = SpecifierSet(wanted) & SpecifierSet(profile.ort_version)
    except InvalidSpecifier:
        return False
    return ort_releases.oldest(both, profile.bad_ort, Version(this_host().ort_version)) is not None
