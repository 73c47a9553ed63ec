"""What transformers loads, held against what the folder and its config.json name; its own errors told as ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import EdgeKDError, TeacherError

# What of a model must come from its file.
WHOLE = "whole"  # everything
BODY = "body"  # all but the head, which is trained here
ENCODER = "encoder"  # what token outputs are made of: a head is dropped, a pooler is not asked

_SHOWN = 3
_POOLER = "pooler"  # of BERT and its like: no token's output depends on it, and a fresh head trains it anew
# heads of pre-training that a classifier is often saved with, and that nothing of it uses
_PRETRAINING = (
    "cls",
    "discriminator_predictions",
    "generator_predictions",
    "lm_head",
    "mlm_head",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
)
# modules of torch that hold a model as their one part, and put their name before or between its own
_WRAPPERS = frozenset({"_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"})
_MOST_LEADING = 3  # components that all names may begin with: `base_model.model.model.`


@dataclass(frozen=True)
class Faults:
    """Names of weights that the model lacks, that it has no place for, or that have another shape."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    head_alone: bool = False  # whether the head is all that is missing

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)


def faults_from(said: Mapping[str, Any]) -> Faults:
    """The faults that `asdict` wrote, JSON in between."""
    return Faults(tuple(said["missing"]), tuple(said["unexpected"]), tuple(said["mismatched"]), said["head_alone"])


def faults(told: Mapping[str, Iterable[Any]], held: Collection[str], base: str, purpose: str) -> Faults:
    """What of transformers' `output_loading_info` is a fault for the purpose.

    `held` are the names in the file; `base` is the model's `base_model_prefix`, under which its body stands in a model
    with a head.
    """

    def in_body(name: str) -> bool:
        return name.startswith(f"{base}.") or f"{base}.{name}" in held

    def pooler(name: str) -> bool:
        return _POOLER in name.split(".")[:2]

    bare = not any(name.startswith(f"{base}.") for name in held)
    missing = sorted(map(str, told["missing_keys"]))
    unexpected = [name for name in sorted(map(str, told["unexpected_keys"])) if not pooler(name)]
    unexpected = [name for name in unexpected if name.split(".")[0] not in _PRETRAINING]
    mismatched = sorted(_name(one) for one in told["mismatched_keys"])
    head_alone = bool(missing) and not any(map(in_body, missing)) and not unexpected and not mismatched
    if purpose == BODY:
        missing = [name for name in missing if in_body(name) and not pooler(name)]
        mismatched = [name for name in mismatched if in_body(name)]
    if purpose == ENCODER:
        missing = [name for name in missing if not pooler(name)]
    if purpose != WHOLE and not bare:
        unexpected = [name for name in unexpected if in_body(name)]
    return Faults(tuple(missing), tuple(unexpected), tuple(mismatched), head_alone)


def compared(expected: Mapping[str, Collection[int]], held: Mapping[str, Collection[int]]) -> Faults:
    """The faults of weights whose names and shapes must be these, all of them."""
    return Faults(
        missing=tuple(sorted(expected.keys() - held.keys())),
        unexpected=tuple(sorted(held.keys() - expected.keys())),
        mismatched=tuple(
            name for name in sorted(expected.keys() & held.keys()) if tuple(expected[name]) != tuple(held[name])
        ),
    )


def refusal(folder: Path, model: str, found: Faults, base_model: str = "") -> TeacherError:
    """The error for a folder whose weights are not those of the class `model`.

    `base_model` is the class of its body alone, where it has one.
    """
    said = [
        f"{len(names)} {words}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for names, words in (
            (found.missing, "missing"),
            (found.unexpected, "of another model"),
            (found.mismatched, "of another shape"),
        )
        if names
    ]
    fix = (
        "save the model itself, with the config.json that belongs to it: model.save_pretrained(folder); of a compiled "
        "or wrapped one what is inside: model._orig_mod, or model.module"
    )
    if found.head_alone and base_model:
        fix = (
            "save the fine-tuned model with its head: model.save_pretrained(folder); or, to have a head trained on "
            f'your labels, set "architectures": ["{base_model}"] in its config.json'
        )
    return TeacherError(
        f"the weights in {folder} are not those of the {model} that its config.json describes, which would be part "
        f"random: {'; '.join(said)}",
        fix=fix,
    )


def unwrapped(names: Collection[str]) -> list[dict[str, str]]:
    """Ways to name the weights without what wraps their model, each old name to new; the smallest change first.

    Names that torch.compile, DataParallel, FSDP and checkpointing put anywhere; and what all names begin with.
    """
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    ways = [plain]
    for _ in range(_MOST_LEADING):
        firsts = {name.partition(".")[0] for name in ways[-1].values()}
        if len(firsts) != 1 or not all("." in name for name in ways[-1].values()):
            break
        ways.append({old: new.partition(".")[2] for old, new in ways[-1].items()})
    distinct = [way for way in ways if len({*way.values()}) == len(way) and all(way.values())]
    return [way for way in distinct if any(old != new for old, new in way.items())]


def pretrained(place: Path, auto_model: str, purpose: str, *, folder: Path, **settings: Any) -> Any:
    """The model at `place`, a private copy of a folder, in float32, through one of transformers' auto classes.

    Raises TeacherError where transformers cannot load it, and where weights that the purpose needs are not those in
    the folder: transformers itself would give random ones in their place, and say so in a warning.
    """
    import transformers

    with by_transformers(folder):
        model, told = getattr(transformers, auto_model).from_pretrained(
            place,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    found = faults(told, _held(place), model.base_model_prefix, purpose)
    if found:
        raise refusal(folder, type(model).__name__, found, type(model.base_model).__name__)
    return model.float()


@contextmanager
def by_transformers(folder: Path) -> Iterator[None]:
    """Raises TeacherError for whatever transformers raises in the block; errors of the machine pass."""
    try:
        yield
    except (EdgeKDError, MemoryError):
        raise
    except Exception as error:  # of wrong settings it raises every kind that Python knows
        if isinstance(error, OSError) and error.errno is not None:  # a full disk is not the folder's fault
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise TeacherError(
            f"transformers cannot load {folder}: {type(error).__name__}: {reason[:300]}",
            fix="mend its config.json or tokenizer_config.json, or save it again: model.save_pretrained(folder), "
            "tokenizer.save_pretrained(folder)",
        ) from error


def _held(folder: Path) -> set[str]:
    """Names in the folder's safetensors files."""
    from safetensors import safe_open

    found: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {*opened.keys()}
    return found


def _name(mismatched: Any) -> str:
    """A name, or transformers' (name, shape, shape)."""
    return str(mismatched if isinstance(mismatched, str) else mismatched[0])
