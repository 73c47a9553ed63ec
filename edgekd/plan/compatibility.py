"""The runtime gate: what the target's ONNX Runtime will not load is refused while planning, before any training.

Pure decisions over the profile and the installed release; nothing is imported that is large, nothing is run. (What an
emulated core says of the real thing: `loads`.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import RuntimeCannotLoad
from edgekd.core.protocols import GraphTeacher
from edgekd.core.registry import plugin
from edgekd.hardware import ort_releases
from edgekd.plan.plan import NO_STUDENT

if TYPE_CHECKING:
    from packaging.version import Version

    from edgekd.hardware.profile import Profile


def check(target: Profile, installed: str, *, recipes: Iterable[str], exporters: Iterable[str]) -> None:
    """Raises RuntimeCannotLoad for the first thing that a runtime which the profile allows would not load.

    `installed` is the release of onnxruntime on this machine, which exports, measures and is emulated; `exporters`
    and `recipes` are the plug-ins that will write graphs.
    """
    from packaging.version import Version

    if installed == "absent":
        raise RuntimeCannotLoad("onnxruntime is not installed here", fix=f"run `{_install(target)}`")
    own = Version(installed)
    oldest = _oldest(target, own)
    _check_installed(target, own)
    _check_ceilings(target, oldest)
    for exporter in exporters:
        least = plugin("exporters", exporter).least_opset
        if least > target.max_opset:
            raise RuntimeCannotLoad(
                f"the {exporter} exporter writes opset {least} or higher; max_opset of {target.name} is "
                f"{target.max_opset}",
                fix=f"set max_opset to {least} or higher, if the device's ONNX Runtime loads that: all from "
                f"{ort_releases.RELEASES[0].version} on do",
            )
    for recipe in recipes:
        _check_recipe(target, recipe, oldest)


def exporters(family: str, kind: str, architecture: Mapping[str, Any], usual: str = "optimum") -> list[str]:
    """The plug-ins that will write the graphs of a student and of its teacher; none of a teacher that is a graph.

    `usual` is the task's, for models of the Hugging Face ecosystem.
    """
    families = [one for one in (family, architecture.get("family")) if one not in (None, NO_STUDENT)]
    found = [plugin("students", one).exporter for one in families]
    if not issubclass(plugin("teachers", kind), GraphTeacher) and "family" not in architecture:
        found.append(usual)
    return list(dict.fromkeys(found))


def _oldest(target: Profile, installed: Version) -> Version:
    found = ort_releases.oldest(target.allowed_ort, target.bad_ort, installed)
    if found is None:
        bad = f" but those of known_bad_ort ({', '.join(target.known_bad_ort)})" if target.known_bad_ort else ""
        raise RuntimeCannotLoad(
            f"ort_version {target.ort_version!r} of {target.name} allows no release that edgekd knows{bad}",
            fix="correct ort_version in the profile, or known_bad_ort",
        )
    return found


def _check_installed(target: Profile, installed: Version) -> None:
    here = f"onnxruntime {installed}, which exports and measures here,"
    if installed in target.bad_ort:
        raise RuntimeCannotLoad(
            f"{here} is one of known_bad_ort of {target.name}",
            fix=f"install another, `{_install(target)}`; or take it out of known_bad_ort if the device runs it",
        )
    if installed not in target.allowed_ort:
        raise RuntimeCannotLoad(
            f"{here} is none that {target.name} runs: its ort_version is {target.ort_version!r}",
            fix=f"install one that it allows, `{_install(target)}`; or widen ort_version in the profile, whose oldest "
            "release decides what may be written",
        )


def _check_ceilings(target: Profile, oldest: Version) -> None:
    row = ort_releases.loads(oldest)
    allows = f"ort_version {target.ort_version!r} of {target.name} allows {oldest}"
    if row is None:
        first = ort_releases.RELEASES[0].version
        raise RuntimeCannotLoad(
            f"{allows}; edgekd knows nothing of ONNX Runtime before {first}",
            fix=f"set ort_version to '>={first}' or narrower, as the device has it",
        )
    for name, word in (("opset", "opset"), ("ir_version", "IR version")):
        key, known = f"max_{name}", getattr(row, name)
        asked = getattr(target, key)
        if asked <= known:
            continue
        newer = next((one.version for one in ort_releases.RELEASES if getattr(one, name) >= asked), None)
        raise RuntimeCannotLoad(
            f"{allows}, which loads {word} {known} at most; {key} is {asked}",
            fix=f"set {key} to {known} or less" + (f", or ort_version to '>={newer}'" if newer else ""),
        )


def _check_recipe(target: Profile, recipe: str, oldest: Version) -> None:
    from packaging.version import Version

    quantizer = plugin("quantizers", recipe).for_target(target)
    if quantizer.least_opset > target.max_opset:
        raise RuntimeCannotLoad(
            f"{recipe} writes what needs opset {quantizer.least_opset}; max_opset of {target.name} is "
            f"{target.max_opset}",
            fix=f"raise max_opset if the device's ONNX Runtime loads more, or leave {recipe} out",
        )
    if Version(quantizer.least_ort) > oldest:
        raise RuntimeCannotLoad(
            f"{recipe} writes what ONNX Runtime loads from {quantizer.least_ort} on; ort_version "
            f"{target.ort_version!r} of {target.name} allows {oldest}",
            fix=f"set ort_version to '>={quantizer.least_ort}' if the device has that, or leave {recipe} out",
        )


def _install(target: Profile) -> str:
    bad = [f"!={one}" for one in target.bad_ort if one in target.allowed_ort]
    return f"pip install 'onnxruntime{','.join([*filter(None, [target.ort_version]), *bad]).replace(' ', '')}'"
