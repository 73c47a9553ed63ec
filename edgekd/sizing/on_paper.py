"""A language model planned from its config alone: what fits, how fast it may be, and what distilling it would take.

All figures are predicted by arithmetic that each states; none is measured.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

from edgekd.core.errors import UsageError
from edgekd.core.registry import default, plugin
from edgekd.hardware.profile import Profile
from edgekd.hardware.roofline import macs_per_second
from edgekd.plan.options import Options, declarations
from edgekd.sizing.language import FILE_BITS, Language, read_config

MEMORIES_GB = (2, 4, 6, 8, 12, 16)
CONTEXTS = (2048, 8192, 32_768)
_PROGRAM = "causal"  # of tasks whose models these are
_ASKED = ("task", "teacher", "max_tokens")
USABLE = 0.85  # of a machine's memory: the rest is the system's
_RUNTIME = 128 << 20  # bytes of a process without a model, and of what a run of a chunk takes beside the widest layer
_CHUNK = 256  # tokens that prefill takes at once
_STEP = 256  # of a context that is told as the longest
_FROM_MEMORY = (0.25, 0.8)  # share of the bandwidth that decoding attains: one slow core, all of a fast one
BYTES_A_TOKEN = 256  # that the teacher's 64 largest logits take on disk
_TRAINED_BYTES = 16  # a parameter with its gradient and AdamW's state, in mixed precision
_LORA_BYTES = 2.6  # the same where the weights are frozen at 16 bits and adapters of a few percent are trained
_LEAST_DEPTH = 0.25  # of the teacher's layers: with fewer little is left to start from
_FORWARD, _TRAINING = (0.3, 0.6), (0.25, 0.5)  # of a GPU's peak
TOKENS = (("one domain", 100_000_000), ("several domains", 1_000_000_000), ("general", 10_000_000_000))


@dataclass(frozen=True)
class Gpu:
    """An accelerator as its data sheet has it: memory in GB, dense bfloat16 TFLOP/s."""

    name: str
    memory_gb: int
    tflops: float


GPUS = (Gpu("H100 80GB", 80, 989.0), Gpu("A100 80GB", 80, 312.0), Gpu("L4 24GB", 24, 121.0))


@dataclass(frozen=True)
class Peak:
    """What one process takes, in bytes, by what takes it."""

    weights: float
    cache: float  # of the context
    copies: float  # of the cache, where the runtime writes a new one beside the old
    logits: float  # of the last position
    other: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.weights + self.cache + self.copies + self.logits + self.other


@dataclass(frozen=True)
class Speed:
    """Tokens a second that decoding may reach at a context, least and most; None where the profile cannot say."""

    bits: int
    context: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Distilling:
    """What it would take to distil a student of a teacher on so many tokens, on one kind of GPU."""

    tokens: int
    words: str
    gpu: str
    teacher_gpus: int  # that hold its weights at 16 bits
    student_gpus: int  # that hold the student with AdamW's state
    lora_gpus: int  # that hold it with adapters
    hours: tuple[float, float]  # of one GPU, teacher's pass and student's epoch together
    cache_gb: float


@dataclass(frozen=True)
class PaperPlan:
    """The answer for one model on one target."""

    teacher: Language
    target: str
    budget_mib: float
    context: int  # that the budget is held against
    copies: int  # of the cache in memory
    bandwidth_gb_s: float | None
    threads: int  # that multiply, on a CPU; 0: a GPU
    fits: dict[int, dict[int, int]]  # by memory in GB and bits, the longest context; 0 where not even weights fit
    speeds: tuple[Speed, ...]
    within_budget: dict[int, int]  # by bits, the most layers of it that fit the target's budget
    student: Language
    distilling: tuple[Distilling, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {
            "parameters": self.teacher.parameters,
            "student_parameters": self.student.parameters,
            "weights_bytes": {bits: self.teacher.weights_bytes(bits) for bits in FILE_BITS},
            "cache_bytes": {tokens: self.teacher.cache_bytes(tokens) for tokens in contexts(self.teacher)},
            "kind": "predicted",
        }


def asked(options: Options, *, measure: bool) -> tuple[Language, int]:
    """Return the model and the context that the options ask for. Raises UsageError, TeacherError.

    Without weights and data little else can be asked.
    """
    if options.task != default("tasks") and plugin("tasks", options.task).program != _PROGRAM:
        raise UsageError(
            f"--teacher {options.teacher}: a config alone says enough of language models only, not for {options.task}",
            fix="leave --task out; or give the model's folder",
        )
    said = [
        one.flag
        for name, one, field in declarations()
        if name not in _ASKED and not one.budget and getattr(options, name) != field.default
    ]
    if said or measure:
        raise UsageError(
            f"--{said[0] if said else 'measure'}: {options.teacher} is a config alone, without weights or data",
            fix="leave it out, or give the model's folder",
        )
    model = read_config(Path(str(options.teacher)))
    context = options.max_tokens or min(model.context, CONTEXTS[0])
    if context > model.context:
        raise UsageError(
            f"--max-tokens {context}: the model's context ends at {model.context}",
            fix=f"give at most that: --max-tokens {model.context}",
        )
    return model, context


def plan_on_paper(teacher: Language, target: Profile, context: int) -> PaperPlan:
    """Return what is to be known of a model on a target before any of its weights are fetched."""
    copies = 2 if target.execution_provider == "CPUExecutionProvider" else 1
    budget = target.memory_mib * 2**20
    within = {bits: _most_layers(teacher, bits, context, copies, budget) for bits in FILE_BITS}
    half = max(1, teacher.layers // 2)
    fits_usefully = within[4] >= _LEAST_DEPTH * teacher.layers
    student = teacher.cut(min(half, within[4]) if fits_usefully else half)
    return PaperPlan(
        teacher=teacher,
        target=target.name,
        budget_mib=target.memory_mib,
        context=context,
        copies=copies,
        bandwidth_gb_s=target.memory_bandwidth_gb_s,
        threads=target.threads if copies > 1 else 0,
        fits={
            gb: {bits: longest_context(teacher, bits, USABLE * gb * 1e9, copies) for bits in FILE_BITS}
            for gb in MEMORIES_GB
        },
        speeds=tuple(speed(teacher, target, bits, tokens) for bits in FILE_BITS for tokens in contexts(teacher)),
        within_budget=within,
        student=student,
        distilling=tuple(distilling(teacher, student, tokens, words, gpu) for words, tokens in TOKENS for gpu in GPUS),
    )


def contexts(model: Language) -> tuple[int, ...]:
    """Return the contexts that figures are told for: none beyond the model's own."""
    return tuple(sorted({min(one, model.context) for one in CONTEXTS}))


def peak(model: Language, bits: int, context: int, copies: int) -> Peak:
    """Return the memory of one process: last-position logits in 32 bits, prefill in chunks."""
    cache = model.cache_bytes(context)
    widest = 4 * _CHUNK * (4 * model.hidden + 3 * model.feed_forward + min(context, model.context) * model.heads)
    return Peak(model.weights_bytes(bits), cache, (copies - 1) * cache, 4 * model.vocabulary, _RUNTIME + widest)


def longest_context(model: Language, bits: int, room: float, copies: int) -> int:
    """Return the longest context within so many bytes, in steps of 256; 0 where none fits."""
    low, high = 0, model.context // _STEP or 1
    while low < high:
        middle = (low + high + 1) // 2
        if peak(model, bits, min(middle * _STEP, model.context), copies).total <= room:
            low = middle
        else:
            high = middle - 1
    whole = model.context if low == (model.context // _STEP or 1) else low * _STEP
    return whole if peak(model, bits, whole or _STEP, copies).total <= room else low * _STEP


def speed(model: Language, target: Profile, bits: int, context: int) -> Speed:
    """Return decoding's band: each token reads all weights and the cache; a CPU also has to multiply them."""
    if target.memory_bandwidth_gb_s is None:
        return Speed(bits, context, None, None)
    read = model.multiplied * FILE_BITS[bits] / 8 + model.cache_bytes(context)
    low, high = (share * target.memory_bandwidth_gb_s * 1e9 / read for share in _FROM_MEMORY)
    macs = model.multiplied + 2 * model.layers * model.heads * model.head_size * context
    if (rates := macs_per_second(target, integers=bits < 16)) is not None:
        low, high = min(low, rates[0] / macs), min(high, rates[1] / macs)
    return Speed(bits, context, low, high)


def distilling(teacher: Language, student: Language, tokens: int, words: str, gpu: Gpu) -> Distilling:
    """Return what one pass of the teacher and one epoch of the student take: 2 and 6 FLOPs a weight and token."""
    room = 0.85 * gpu.memory_gb * 1e9

    def hours(flops: float, shares: Sequence[float]) -> tuple[float, float]:
        slow, fast = (flops / (share * gpu.tflops * 1e12) / 3600 for share in shares)
        return fast, slow

    forward = hours(2.0 * teacher.multiplied * tokens, _FORWARD)
    training = hours(6.0 * student.multiplied * tokens, _TRAINING)
    return Distilling(
        tokens=tokens,
        words=words,
        gpu=gpu.name,
        teacher_gpus=ceil(teacher.weights_bytes(16) / room),
        student_gpus=ceil(_TRAINED_BYTES * student.parameters / room),
        lora_gpus=ceil(_LORA_BYTES * student.parameters / room),
        hours=(forward[0] + training[0], forward[1] + training[1]),
        cache_gb=BYTES_A_TOKEN * tokens / 1e9,
    )


def _most_layers(model: Language, bits: int, context: int, copies: int, room: float) -> int:
    """Return the most layers of the model that fit; 0 where not even one does."""
    return bisect_right(
        range(1, model.layers + 1), room, key=lambda count: peak(model.cut(count), bits, context, copies).total
    )
