"""A vocabulary trimmed to what the data needs, that still splits unseen words rather than losing them.

Kept: special tokens; every single character, and its continuation piece (so any word made of known
characters can be spelled); every piece that the texts use; and whatever the tokenizer needs to build those.
The order of ids is kept, so special tokens that come first stay where configs expect them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd.core.cpus import usable_cpus
from edgekd.core.digests import file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.results import versions
from edgekd.data import clean
from edgekd.data.pairs import Pair, given_to_tokenizer
from edgekd.security import child
from edgekd.store.store import Store

Spec = dict[str, Any]
_SAVE_AGAIN = "save it again beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
_BASE_S, _MIB_PER_S, _FACTOR = 15.0, 0.2, 100  # a tenth of the speed, and twice the memory, of the slowest in use
_SURVEYED = "survey.json"
_CONVERT_S_PER_MIB = 10  # XLM-R's five take a few seconds


def survey(
    tokenizer_file: Path, texts: Iterable[Any], *, limit: int | None = None, fill: bool = False
) -> tuple[list[int], list[int]]:
    """Length of each text in tokens, special ones counted, and the ids to keep, ascending: one pass over the texts.

    `limit` keeps only the most frequent pieces beyond the indispensable ones. A tokenizer whose model we cannot
    trim safely keeps its whole vocabulary. Raises TeacherError for a file that is no tokenizer.
    """
    from tokenizers import Tokenizer

    used: Counter[int] = Counter()
    lengths = []
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        spec: Spec = json.loads(tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        given = [tuple(text) if isinstance(text, list) else text for text in map(given_to_tokenizer, texts)]
        for encoding in tokenizer.encode_batch_fast(given):
            ids = encoding.ids
            lengths.append(len(ids))
            used.update(ids)
        return lengths, _kept(spec, used, limit, tokenizer.get_vocab_size(with_added_tokens=True), fill=fill)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library's own kind is Exception itself, and a panic of Rust's is not even that
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TeacherError(f"the tokenizer {tokenizer_file} cannot be used: {reason[:300]}", fix=_SAVE_AGAIN) from error


def survey_apart(
    tokenizer_file: Path, texts: Sequence[str], *, limit: int | None, fill: bool = False
) -> tuple[list[int], list[int]]:
    """The same in a limited process: a tokenizer is a stranger's, and its patterns may take for ever on some text.

    Raises TeacherError.
    """
    size_mib = sum(map(len, texts)) >> 20
    seconds = _BASE_S + size_mib / _MIB_PER_S
    limits = child.Limits(memory_mib=4096 + _FACTOR * size_mib, cpu_s=int(seconds) * usable_cpus())
    job = {"file": str(tokenizer_file), "texts": [*map(given_to_tokenizer, texts)], "limit": limit, "fill": fill}
    try:
        lengths, kept = child.call("edgekd.data.vocabulary:surveyed", job, timeout_s=seconds, limits=limits)
    except child.ChildError as error:
        raise TeacherError(f"the tokenizer {tokenizer_file} cannot be used: {error.why}", fix=_SAVE_AGAIN) from error
    return lengths, kept


def survey_kept(
    tokenizer_file: Path, texts: Sequence[str], store: Store, *, limit: int | None, fill: bool = False
) -> tuple[list[int], list[int]]:
    """The same, kept in the store under the tokenizer's and the texts' content. Raises TeacherError."""
    hasher = sha256()
    for text in texts:
        for side in (text.first, text.second) if isinstance(text, Pair) else (text,):
            raw = side.encode(errors="surrogatepass")
            hasher.update(len(raw).to_bytes(8, "little") + raw)
        hasher.update(b"pair" * isinstance(text, Pair))
    key = {"tokenizer": file_sha256(tokenizer_file), "texts": hasher.hexdigest(), "limit": limit}
    key |= {"fill": True} if fill else {}

    def produce(out: Path) -> None:
        lengths, kept = survey_apart(tokenizer_file, texts, limit=limit, fill=fill)
        (out / _SURVEYED).write_text(json.dumps({"lengths": lengths, "kept": kept}), encoding="ascii")

    place = store.stage("survey", key | {"versions": versions("tokenizers")}, produce)
    found = json.loads((place / _SURVEYED).read_text(encoding="ascii"))
    return found["lengths"], found["kept"]


def surveyed(file: str, texts: list[Any], limit: int | None, *, fill: bool = False) -> tuple[list[int], list[int]]:
    """`survey`, in the child."""
    return survey(Path(file), texts, limit=limit, fill=fill)


def kept_ids(tokenizer_file: Path, texts: Iterable[str], *, limit: int | None = None, fill: bool = False) -> list[int]:
    """The ids to keep, as `survey` finds them."""
    return survey(tokenizer_file, texts, limit=limit, fill=fill)[1]


def _kept(spec: Spec, used: Counter[int], limit: int | None, size: int, *, fill: bool = False) -> list[int]:
    pieces = _pieces(spec)
    if pieces is None:
        return list(range(size))
    marker = spec["model"].get("continuing_subword_prefix") or ""
    ending = spec["model"].get("end_of_word_suffix") or ""
    must = {token["id"] for token in spec["added_tokens"]}
    must |= {id_ for piece, id_ in pieces.items() if len(piece.removeprefix(marker).removesuffix(ending)) <= 1}
    must |= {pieces[token] for token in (spec["model"].get("unk_token"),) if token in pieces}
    if spec["model"]["type"] == "Unigram" and spec["model"].get("unk_id") is not None:
        must.add(spec["model"]["unk_id"])
    if spec["model"].get("byte_fallback"):
        must |= {id_ for piece, id_ in pieces.items() if piece.startswith("<0x")}
    others = [id_ for id_, _ in used.most_common() if id_ not in must]
    others += [id_ for id_ in sorted(pieces.values()) if id_ not in must and id_ not in used] if fill else []
    wanted = must | set(others if limit is None else others[: max(0, limit - len(must))])
    if spec["model"]["type"] == "BPE":
        wanted |= _ancestors(spec, pieces, wanted)
    return sorted(wanted)


def trim_tokenizer(tokenizer_file: Path, kept: list[int], out: Path) -> None:
    """Write the tokenizer with the kept ids only, renumbered 0, 1, 2 ... in their old order."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    spec: Spec = json.loads(tokenizer.to_str())
    new = {old: position for position, old in enumerate(kept)}
    model, pieces = spec["model"], _pieces(spec)
    if pieces is not None and len(kept) < tokenizer.get_vocab_size(with_added_tokens=True):
        if model["type"] == "Unigram":
            model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
            model["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
        else:
            model["vocab"] = {piece: new[old] for piece, old in pieces.items() if old in new}
        if model["type"] == "BPE":
            model["merges"] = [
                merge
                for merge in model["merges"]
                if all(piece in model["vocab"] for piece in (*_pair(merge), _made(spec, merge)))
            ]
        for token in spec["added_tokens"]:
            token["id"] = new[token["id"]]
        _renumber(spec.get("post_processor"), new)
        if spec.get("padding"):
            spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]
    from tokenizers import Tokenizer

    text = json.dumps(spec, ensure_ascii=False, indent=1)
    Tokenizer.from_str(text)  # what cannot be read back must not be shipped
    out.write_text(text, encoding="utf-8")


def _pieces(spec: Spec) -> dict[str, int] | None:
    """Piece to id, for the model types that we can trim; None for others."""
    model = spec["model"]
    if model["type"] in ("WordPiece", "BPE"):
        return dict(model["vocab"])
    if model["type"] == "Unigram":
        return {piece: position for position, (piece, _) in enumerate(model["vocab"])}
    return None


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _made(spec: Spec, merge: str | list[str]) -> str:
    left, right = _pair(merge)
    return left + right.removeprefix(spec["model"].get("continuing_subword_prefix") or "")


def _ancestors(spec: Spec, pieces: dict[str, int], wanted: set[int]) -> set[int]:
    """Pieces that BPE passes through on its way to the wanted ones."""
    made_from: dict[str, list[str]] = {}  # a piece may be made of several pairs: which of them depends on the word
    for merge in spec["model"]["merges"]:
        made_from.setdefault(_made(spec, merge), []).extend(_pair(merge))
    names = {id_: piece for piece, id_ in pieces.items()}
    todo, found = [names[id_] for id_ in wanted if id_ in names], set()
    while todo:
        for part in made_from.get(todo.pop(), ()):
            if pieces.get(part) is not None and pieces[part] not in found:
                found.add(pieces[part])
                todo.append(part)
    return found


def _renumber(node: Any, new: dict[int, int]) -> None:
    """Post-processors name special tokens by id in several shapes: `"ids": [101]`, `["[CLS]", 101]`."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "ids" and isinstance(value, list):
                node[key] = [new[old] for old in value]
            elif key in ("cls", "sep") and isinstance(value, list) and len(value) == 2:
                node[key] = [value[0], new[value[1]]]
            else:
                _renumber(value, new)
    elif isinstance(node, list):
        for value in node:
            _renumber(value, new)


def tokenizer_file(folder: Path, store: Store) -> Path:
    """The teacher's `tokenizer.json`; made by transformers, in a child process, where only older files are there."""
    if (folder / "tokenizer.json").exists():
        return folder / "tokenizer.json"
    files = {name: file_sha256(folder / name) for name in clean.READ if (folder / name).is_file()}
    size_mib = sum((folder / name).stat().st_size for name in files) >> 20

    def produce(out: Path) -> None:
        seconds = _BASE_S + _CONVERT_S_PER_MIB * size_mib
        limits = child.Limits(memory_mib=8192, cpu_s=int(seconds) * usable_cpus())
        job = {"folder": str(folder), "out": str(out)}
        try:
            child.call("edgekd.data.vocabulary:write_tokenizer", job, timeout_s=seconds, limits=limits)
        except child.ChildError as error:
            raise TeacherError(
                f"the tokenizer in {folder} cannot be made into tokenizer.json: {error.why}", fix=_SAVE_AGAIN
            ) from error

    key = {"files": files, "versions": versions("transformers", "tokenizers")}
    return store.stage("tokenizer", key, produce) / "tokenizer.json"


def write_tokenizer(folder: str, out: str) -> None:
    """Convert a tokenizer's older files into `tokenizer.json` (runs in a child process)."""
    with clean.tokenizer(Path(folder), use_fast=True) as tokenizer:
        tokenizer.save_pretrained(out)
