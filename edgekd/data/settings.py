"""The settings beside a stranger's model, cut down to the keys that are known to be harmless, each of a checked type.

transformers lets settings name files of the machine and code of the hub. What is not on these lists never reaches it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.core.errors import TeacherError
from edgekd.data import limits

Settings = dict[str, Any]
MOST_SIDE = 4096  # pixels of a side that a model may ask for

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "clean_up_tokenization_spaces",
    "do_basic_tokenize",
    "do_lower_case",
    "do_word_tokenize",
    "keep_accents",
    "legacy",
    "lowercase",
    "normalization",
    "remove_space",
    "split_by_punct",
    "split_special_tokens",
    "strip_accents",
    "tokenize_chinese_chars",
    "trim_offsets",
    "from_slow",
    "use_default_system_prompt",
    "spaces_between_special_tokens",
    "do_subword_tokenize",
)
_SIDES = ("left", "right")
_PIECE_FLAGS = ("enable_sampling", "add_bos", "add_eos", "reverse", "emit_unk_piece")
_PIECE_NUMBERS = ("nbest_size", "alpha", "num_threads")
_TOKEN_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
_CLASS = re.compile(r"[A-Za-z0-9_]{1,80}Tokenizer(Fast)?|PreTrainedTokenizerFast")
_PROCESSOR_CLASS = re.compile(r"[A-Za-z0-9]{1,80}(ImageProcessor|ImageProcessorFast|FeatureExtractor)")
_MODEL_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,80}")
# keys that make transformers load something else than the folder's model: what it is then, nobody has checked
_ELSEWHERE = {
    "auto_map": "code of its own, which is never run",
    "custom_pipelines": "code of its own, which is never run",
    "quantization_config": "quantized weights",
    "transformers_weights": "weights under another name",
    "attribute_map": "other names for its own keys",  # one of them could be a name that begins with _
    "sub_configs": "other classes of settings",
}
# what older versions of transformers wrote and nothing reads: left out
_LEFT_OUT: dict[str, tuple[type, ...]] = {
    "_name_or_path": (str,),
    "_num_labels": (int,),
    "_commit_hash": (str,),
    "_attn_implementation_autoset": (bool,),
    "_flash_attn_2_enabled": (bool,),
    "_output_attentions": (bool,),
}
_FILE_KEY = re.compile(r".*(file|files|path|paths|dir|directory)")
_UNUSED_PATHS = ("special_tokens_map_file", "name_or_path")  # where the tokenizer once lay: nothing opens them
_MOST_WORD = 1000
_MOST_DEPTH = 200


def clean_config(said: Mapping[str, Any], file: Path) -> Settings:
    """A model's config.json less what nothing reads.

    Raises TeacherError where it asks for code, kernels, other weights or names, at any depth. An attention that is
    named there is loaded from the hub by transformers 4.56 to 5.2 (CVE-2026-4372), hence no name is taken at all.
    """
    labels = said.get("label2id")  # whose keys are words of its owner
    named = isinstance(labels, dict) and all(type(one) is int for one in labels.values())
    kept = {"label2id": labels} if named else {}
    said = {key: value for key, value in said.items() if key not in kept}
    for path, key, value in _entries(said):
        if key in _ELSEWHERE and value:
            raise _asks(file, _ELSEWHERE[key], path)
        if key in _LEFT_OUT and (value is None or type(value) in _LEFT_OUT[key]):
            continue
        if "attn_implementation" in key.lower() or (key.lower() != key and key.lower() in _ELSEWHERE):
            raise _asks(file, "kernels of its own", path)
        if "kernel" in key.lower() and not _is_size(value):
            raise _asks(file, "kernels of its own", path)
        if key.startswith("_"):
            raise _asks(file, "what only transformers itself may set", path)
    cleaned: Settings = _without(said) | kept
    return cleaned


def clean_tokenizer(said: Mapping[str, Any], file: Path) -> Settings:
    """What tokenizer_config.json may say. Raises TeacherError for code, files elsewhere and values of a wrong type."""
    check_files(said, file)
    return _taken(said, file, _TOKENIZER)


def clean_special_tokens(said: Mapping[str, Any], file: Path) -> Settings:
    """The tokens of special_tokens_map.json by role. Raises TeacherError as `clean_tokenizer` does."""
    check_files(said, file)
    return _taken(said, file, _TOKENS)


def clean_added_tokens(said: Mapping[str, Any], file: Path) -> Settings:
    """Token to id of added_tokens.json. Raises TeacherError for anything else."""
    for token, number in said.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise _wrong(file, token, number, "an id: a whole number from 0 on")
    return dict(said)


def clean_processor(said: Mapping[str, Any], file: Path) -> Settings:
    """What preprocessor_config.json may say. Raises TeacherError for code and values of a wrong type or size."""
    _check_code(said, file)
    flags = {key: _flag for key in said if key.startswith("do_")}
    return _taken(said, file, _PROCESSOR | flags)


def check_files(said: Mapping[str, Any], file: Path) -> None:
    """Raises TeacherError where settings ask for code, or name a file that is not in their folder.

    Paths of the machine that saved them stand in many folders; where there is no such file here they are passed over.
    No name is ever opened.
    """
    _check_code(said, file)
    for path, key, value in _entries(said):
        if not _FILE_KEY.fullmatch(key.lower()) or key in _UNUSED_PATHS:
            continue
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and _leads_out(name, file.parent):
                raise TeacherError(
                    f"{file} takes {path} from {limits.shown(name)}, outside the folder",
                    fix=f"remove {path} from {file.name}: the tokenizer's files are found by their own names",
                )


def _check_code(said: Mapping[str, Any], file: Path) -> None:
    for path, key, value in _entries(said):
        if key in ("auto_map", "custom_pipelines") and value:
            raise _asks(file, _ELSEWHERE[key], path)


def _leads_out(name: str, folder: Path) -> bool:
    try:
        place = Path(name)
        if ".." in place.parts or name.startswith("~") or "://" in name:
            return True
        if place.is_absolute():
            return place.exists() and not place.resolve().is_relative_to(folder.resolve())
        here = folder / place
        return here.exists() and not here.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # no name of a file at all, or a link to itself
        return True


def _entries(said: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Every key with where it stands and its value, at any depth."""
    if depth > _MOST_DEPTH:
        return  # of JSON that deep nothing is left in what `_without` gives
    if isinstance(said, Mapping):
        for key, value in said.items():
            place = f"{path}.{key}" if path else key
            yield place, key, value
            yield from _entries(value, place, depth + 1)
    elif isinstance(said, list):
        for value in said:
            yield from _entries(value, path, depth + 1)


def _without(said: Any, depth: int = 0) -> Any:
    """The same without the keys that are left out."""
    if depth > _MOST_DEPTH:
        return None
    if isinstance(said, Mapping):
        return {key: _without(value, depth + 1) for key, value in said.items() if key not in _LEFT_OUT}
    return [_without(value, depth + 1) for value in said] if isinstance(said, list) else said


def _is_size(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_size(one) for one in value)
    return value is None or value is False or type(value) in (int, float)


# Checks of one value: what it should be, in words, where it is something else.


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _number(value: Any) -> str:
    return "" if type(value) is int or (type(value) is float and math.isfinite(value)) else "a number"


def _above_zero(value: Any) -> str:
    return "" if not _number(value) and value > 0 else "a number above 0"


def _word(value: Any) -> str:
    return "" if isinstance(value, str) and len(value) <= _MOST_WORD else f"a text of at most {_MOST_WORD} characters"


def _words(value: Any) -> str:
    good = isinstance(value, list) and not any(_word(one) for one in value)
    return "" if good else "a list of words"


def _one_of(*choices: str) -> Callable[[Any], str]:
    return lambda value: "" if isinstance(value, str) and value in choices else f"one of {', '.join(choices)}"


def _named(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    return lambda value: "" if isinstance(value, str) and pattern.fullmatch(value) else what


def _token(value: Any) -> str:
    if isinstance(value, dict):
        flags = {key: one for key, one in value.items() if key not in ("content", "__type")}
        good = not _word(value.get("content")) and value.get("__type", "AddedToken") == "AddedToken"
        good = good and all(key in _TOKEN_FLAGS and isinstance(one, bool) for key, one in flags.items())
        return "" if good else 'a token: {"content": "[PAD]", "lstrip": false ...}'
    return "" if not _word(value) else "a token"


def _token_list(value: Any) -> str:
    good = isinstance(value, list) and not any(_token(one) for one in value)
    return "" if good else "a list of tokens"


def _extra_tokens(value: Any) -> str:
    if isinstance(value, dict):
        return "" if not any(_token(one) for one in value.values()) else "tokens by name"
    return _token_list(value)


def _numbered_tokens(value: Any) -> str:
    good = isinstance(value, dict) and all(
        key.isdecimal() and len(key) < 10 and isinstance(one, dict) and not _token(one) for key, one in value.items()
    )
    return "" if good else 'tokens by their ids: {"0": {"content": "[PAD]"}}'


def _pieces(value: Any) -> str:
    good = isinstance(value, dict) and all(
        not (_flag(one) if key in _PIECE_FLAGS else _number(one)) and key in (*_PIECE_FLAGS, *_PIECE_NUMBERS)
        for key, one in value.items()
    )
    return "" if good else f"settings of SentencePiece ({', '.join((*_PIECE_FLAGS, *_PIECE_NUMBERS))})"


def _side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_SIDE


def _size(value: Any) -> str:
    keys = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"longest_edge"})
    good = _side(value) or (isinstance(value, dict) and set(value) in keys and all(map(_side, value.values())))
    return (
        "" if good else (f'pixels from 1 to {MOST_SIDE:,}: {{"height": 224, "width": 224}} or {{"shortest_edge": 224}}')
    )


def _resample(value: Any) -> str:
    return "" if type(value) is int and 0 <= value <= 5 else "a number from 0 to 5 (2 is bilinear, 3 bicubic)"


def _factor(value: Any) -> str:
    return "" if not _number(value) and 0 < value <= 1 else "a number above 0, at most 1"


def _means(value: Any) -> str:
    good = isinstance(value, list) and len(value) in (1, 3) and not any(_number(one) for one in value)
    return "" if good else "a number for each channel (1 or 3)"


def _deviations(value: Any) -> str:
    good = not _means(value) and all(one > 0 for one in value)
    return "" if good else "a number above 0 for each channel (1 or 3)"


_Checks = Mapping[str, Callable[[Any], str]]
_TOKENS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(_ROLES, _token),
    "additional_special_tokens": _token_list,
    "extra_special_tokens": _extra_tokens,
}
_TOKENIZER = {
    **_TOKENS,
    **dict.fromkeys(_FLAGS, _flag),
    **dict.fromkeys(("model_max_length", "max_len"), _above_zero),
    **dict.fromkeys(("padding_side", "truncation_side"), _one_of(*_SIDES)),
    "tokenizer_class": _named(_CLASS, "the name of a tokenizer of transformers, such as BertTokenizer"),
    "added_tokens_decoder": _numbered_tokens,
    "model_input_names": _words,
    "never_split": _words,
    "errors": _one_of("strict", "replace", "ignore"),
    "sp_model_kwargs": _pieces,
    "vocab_type": _one_of("spm"),
    "src_lang": _word,
    "tgt_lang": _word,
}
_PROCESSOR: dict[str, Callable[[Any], str]] = {
    "image_processor_type": _named(_PROCESSOR_CLASS, "the name of an image processor of transformers"),
    "feature_extractor_type": _named(_PROCESSOR_CLASS, "the name of an image processor of transformers"),
    "size": _size,
    "crop_size": _size,
    "resample": _resample,
    "rescale_factor": _factor,
    "rescale_offset": _flag,
    "include_top": _flag,
    "crop_pct": _factor,
    "image_mean": _means,
    "image_std": _deviations,
}
MODEL_NAMES: _Checks = {
    "model_type": _named(_MODEL_TYPE, "the name of a type of models: bert"),
    "tokenizer_class": _TOKENIZER["tokenizer_class"],
}


def clean_names(said: Mapping[str, Any], file: Path) -> Settings:
    """Of config.json, what tells which tokenizer or processor it is. Raises TeacherError for code and odd names."""
    _check_code(said, file)
    return _taken(said, file, MODEL_NAMES)


def _taken(said: Mapping[str, Any], file: Path, checks: _Checks) -> Settings:
    """The keys that are on the list; null says no token, elsewhere nothing. Raises TeacherError for wrong values."""
    taken = {key: said[key] for key in said if key in checks and (said[key] is not None or key in _ROLES)}
    for key, value in taken.items():
        if value is not None and (wanted := checks[key](value)):
            raise _wrong(file, key, value, wanted)
    return taken


def _asks(file: Path, what: str, path: str) -> TeacherError:
    return TeacherError(
        f"{file} asks for {what} ({path})",
        fix=f"remove {path} from {file.name} if the model works without it; otherwise give a model that transformers "
        "loads by itself: without trust_remote_code, in float32",
    )


def _wrong(file: Path, key: str, value: Any, wanted: str) -> TeacherError:
    return TeacherError(
        f"{file} has an unusable {key}: it says {limits.shown(value)}, not {wanted}",
        fix=f"set {key} in {file.name} to {wanted}; or remove the key, where the default is meant",
    )
