"""A target profile: what the device is and what one inference process may take of it.

Profiles are flat YAML with units in their keys; device teams edit them. They inherit from nothing, so a
reader sees one whole. Unknown keys and absurd values are refused, with the nearest key named.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekd.core import plain_yaml
from edgekd.core.errors import UsageError, suggestion
from edgekd.core.files import is_plain
from edgekd.core.pointers import check_no_pointer
from edgekd.core.registry import names, plugin
from edgekd.core.results import this_host
from edgekd.hardware import ort_releases
from edgekd.onboard import machine

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # x86 instructions that sum products of 8-bit values in 32 bits

_LARGEST = 64 << 10  # bytes of a profile's file: a shipped one has three thousand
MODEST_MHZ = 1000  # a guess where no source names the clock; used for predictions only
_SHARE_MIB, _SHARES = 64, 32  # of a machine's memory one process gets a thirty-second, and no more than 64 MiB
# QEMU's name for a core; it knows no Cortex-A78AE before its release 8, and a Cortex-A76 has the same instruction sets
_EMULATED = {name: name for name in ("cortex-a53", "cortex-a72", "cortex-a76")} | {"cortex-a78ae": "cortex-a76"}

_shown = Repr()  # a value in an error, shortened
_shown.maxlevel, _shown.maxlist, _shown.maxdict, _shown.maxstring, _shown.maxother = 2, 4, 4, 80, 80

Megabytes = Annotated[float, Field(gt=0, le=1 << 22)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]


class Profile(BaseModel):
    """One target. Sizes in MiB (2^20 bytes), times in milliseconds, clock in MHz."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: str
    soc: str
    source: str

    arch: Literal["x86_64", "aarch64"]
    microarch: str
    cores: Annotated[int, Field(ge=1, le=1024)]
    clock_mhz: Annotated[int, Field(ge=50, le=10_000)]
    isa: list[str]
    emulator_cpu: str | None = None

    gpu: str | None = None
    gpu_memory_mib: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    compute_capability: str | None = None
    memory_bandwidth_gb_s: Annotated[float, Field(gt=0, le=100_000)] | None = None

    memory_mib: Megabytes
    artifact_mib: Megabytes
    latency_ms: Milliseconds
    latency_percentile: Literal[50, 90, 99]
    cold_start_ms: Milliseconds

    max_drop_points: Annotated[float, Field(ge=0, le=100)]
    min_teacher_agreement: Annotated[float, Field(ge=0, le=1)]

    ort_version: str
    max_opset: Annotated[int, Field(ge=11, le=30)]
    max_ir_version: Annotated[int, Field(ge=7, le=20)]
    execution_provider: Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    known_bad_ort: list[str]

    recipes: Annotated[list[str], Field(min_length=1)]
    reduce_range: bool
    activation_type: Literal["uint8", "int8"]
    weight_type: Literal["uint8", "int8"]
    per_channel: bool

    @model_validator(mode="after")
    def _makes_sense(self) -> Profile:
        if self.threads > self.cores:
            raise ValueError(f"threads: {self.threads} threads on {self.cores} cores")
        _parse_releases(self)
        unknown = [recipe for recipe in self.recipes if recipe not in names("quantizers")]
        if unknown:
            raise ValueError(f"recipes: no recipe {unknown[0]!r}; {suggestion(unknown[0], names('quantizers'))}")
        able = [name for name in names("quantizers") if self.execution_provider in plugin("quantizers", name).providers]
        unable = [recipe for recipe in self.recipes if recipe not in able]
        if unable:
            raise ValueError(
                f"recipes: {self.execution_provider} has no kernels for {unable[0]}; it can run {', '.join(able)}"
            )
        cores = plugin("devices", "qemu").cores()
        if self.emulator_cpu is not None and self.emulator_cpu not in cores:
            raise ValueError(f"emulator_cpu: {self.emulator_cpu!r} is none; {suggestion(self.emulator_cpu, cores)}")
        if self.saturates:
            raise ValueError(
                "reduce_range: without VNNI the sums of 8-bit products saturate; "
                "set it to true (7-bit weights), or weight_type to uint8 (slower), or name the CPU's VNNI in isa"
            )
        return self

    @property
    def allowed_ort(self) -> SpecifierSet:
        """The releases of ONNX Runtime that the device may have, as `ort_version` says."""
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(self.ort_version)

    @property
    def bad_ort(self) -> tuple[Version, ...]:
        """The releases of `known_bad_ort`."""
        from packaging.version import Version

        return tuple(map(Version, self.known_bad_ort))

    @property
    def saturates(self) -> bool:
        """Whether int8 kernels may sum pairs of products in 16 bits and overflow: an x86 CPU without VNNI.

        The type of activations does not matter: int8 ones are made uint8 there. uint8 weights take another kernel.
        """
        return (
            self.arch == "x86_64"
            and self.execution_provider == "CPUExecutionProvider"
            and not VNNI & set(self.isa)
            and self.weight_type == "int8"
            and not self.reduce_range
            and bool({"dynamic_int8", "static_int8"} & set(self.recipes))
        )

    @property
    def runs_here(self) -> bool:
        """Whether this host has the target's architecture: only then is a figure from here `measured` for it.

        A target with a GPU does not run here: edgekd measures on the CPU.
        """
        return self.arch == this_host().arch and self.execution_provider == "CPUExecutionProvider"

    @property
    def needs_guest(self) -> bool:
        """Whether an emulated core stands for it: an aarch64 CPU target on a host of another architecture."""
        own = self.execution_provider == "CPUExecutionProvider" and self.emulator_cpu is not None
        return own and self.arch == "aarch64" != this_host().arch

    def as_dict(self) -> dict[str, Any]:
        """As the YAML file spells it."""
        return self.model_dump(by_alias=True)


def _parse_releases(profile: Profile) -> None:
    """Raises ValueError for an `ort_version` that is no specifier, and for what is no release in `known_bad_ort`."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        SpecifierSet(profile.ort_version)
    except InvalidSpecifier as error:
        raise ValueError(
            f"ort_version: {profile.ort_version!r} is no version specifier, such as '>=1.17,<2' or '==1.23.2'"
        ) from error
    for one in profile.known_bad_ort:
        try:
            Version(one)
        except InvalidVersion as error:
            raise ValueError(f"known_bad_ort: {one!r} is no release; name them as '1.21.0'") from error


def targets_folder() -> Path:
    """Where the shipped profiles lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "targets"
    return inside if inside.is_dir() else package.parent / "targets"


@cache
def target_names() -> tuple[str, ...]:
    """The shipped profiles' names, and `local`, which is probed."""
    return tuple(sorted(["local", *(path.stem for path in targets_folder().glob("*.yaml"))]))


def load_profile(target: str, *, budgets: dict[str, float] | None = None) -> Profile:
    """The profile of a shipped name, of `local`, or of a YAML file's path; `budgets` replace single values.

    Raises UsageError for an unknown name, an unreadable file, unknown keys and values that make no sense.
    """
    if target == "local":
        return parse_profile(probe_local() | (budgets or {}), where="target local")
    path = Path(target)
    if path.suffix.lower() not in (".yaml", ".yml"):
        if target not in target_names():
            raise UsageError(
                f"unknown target {target!r}", fix=f"{suggestion(target, target_names())}; or give a YAML file's path"
            )
        path = targets_folder() / f"{target}.yaml"
    check_no_pointer(path, UsageError)
    try:
        if path.exists() and not is_plain(path):  # a pipe would be waited for
            raise ValueError("it is no plain file")
        with path.open("rb") as stream:
            raw = stream.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        values = plain_yaml.read(raw)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        own = error.fix if isinstance(error, plain_yaml.PlainYamlError) else "give a readable YAML file"
        raise UsageError(
            f"cannot read the target profile {path}: {reason}",
            fix=f"{own}; `edgekd targets show rpi4 --yaml` prints one to start from",
        ) from error
    if not isinstance(values, dict):
        raise UsageError(
            f"the target profile {path} is not a list of `key: value` lines",
            fix="`edgekd targets show rpi4 --yaml` prints one to start from",
        )
    return parse_profile(values | (budgets or {}), where=f"target profile {path}")


def profile_text(target: str) -> str:
    """A profile as a YAML file to edit, comments and all where it is a shipped one."""
    path = targets_folder() / f"{target}.yaml"
    if path.exists():
        return path.read_text(encoding="utf-8")
    return yaml.safe_dump(load_profile(target).as_dict(), sort_keys=False, allow_unicode=True)


def parse_profile(values: dict[str, Any], *, where: str) -> Profile:
    """Check the values of a profile. Raises UsageError that names every bad key at once."""
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
        raise UsageError(
            f"{where}: {'; '.join(problems)}",
            fix="correct these keys; `edgekd targets show rpi4 --yaml` prints a profile with every key explained",
        ) from error


def _problem(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        fields = [field.alias or name for name, field in Profile.model_fields.items()]
        return f"unknown key {key!r} ({suggestion(key, fields).split('choose')[0].strip() or 'no such key'})"
    if detail["type"] == "missing":
        return f"missing key {key!r}"
    if detail["type"] == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{key} is {_shown.repr(detail['input'])}: {detail['msg'].lower()}"


def probe_local() -> dict[str, Any]:
    """A profile of this machine."""
    facts = machine.identity() | {"ort_version": this_host().ort_version}
    return probed(facts, name="local", title="this machine")


def probed(facts: Mapping[str, Any], *, name: str, title: str) -> dict[str, Any]:
    """A profile of a machine from its `machine.identity()` and `ort_version`: a sober share of it as budgets."""
    from packaging.version import Version

    isa = set(facts["isa"])
    arm = facts["arch"] == "aarch64"
    memory_mib = float(min(_SHARE_MIB, max(1, facts["memory_mib"] // _SHARES)))
    loadable = ort_releases.loads(Version(facts["ort_version"])) or ort_releases.RELEASES[0]
    return {
        "schema": 1,
        "name": name,
        "title": title,
        "soc": facts["cpu"],
        "source": "probed: /proc/cpuinfo; budgets are a sober default, not a property of the machine",
        "arch": facts["arch"],
        "microarch": facts["microarch"],
        "cores": facts["cores"],
        "clock_mhz": facts["clock_mhz"] or MODEST_MHZ,
        "isa": list(facts["isa"]),
        "emulator_cpu": _EMULATED.get(facts["microarch"]),
        "gpu": None,
        "gpu_memory_mib": None,
        "compute_capability": None,
        "memory_mib": memory_mib,
        "artifact_mib": memory_mib / 2,
        "latency_ms": 10.0,
        "latency_percentile": 50,
        "cold_start_ms": 2000.0,
        "max_drop_points": 1.0,
        "min_teacher_agreement": 0.8,
        "ort_version": f"=={facts['ort_version']}",
        "max_opset": min(18, loadable.opset),
        "max_ir_version": min(10, loadable.ir_version),
        "execution_provider": "CPUExecutionProvider",
        "threads": 1,
        # an illegal instruction on import on Armv8.0 (microsoft/onnxruntime issues 23957, 24112)
        "known_bad_ort": ["1.21.0"] if arm and "asimddp" not in isa else [],
        "recipes": ["float32", "dynamic_int8", "static_int8"],
        "reduce_range": not (VNNI | {"asimddp"}) & isa,
        "activation_type": "uint8",
        "weight_type": "int8",
        "per_channel": True,
    }
