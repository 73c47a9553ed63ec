"""The table of `quantization.py`: what each tool makes of the same model, and what that was measured on."""

from __future__ import annotations

from typing import Any

from benchmarks import results
from benchmarks._rounds import AA_LIMIT, ahead_of_us, off_by


def quantization() -> str:
    """Everybody's variant of the same models: fidelity to fp32, speed over it, size."""
    kept = results.read("quantization")
    f, host = kept["figures"], kept["host"]
    models: dict[str, Any] = f["models"]
    columns = [(model, length) for model, said in models.items() for length in said["lengths"]]
    names = list(dict.fromkeys(name for model, length in columns for name in models[model]["lengths"][length]))
    missing = {name: why for said in models.values() for name, why in said["not_run"].items()}
    heads = [f"{model}, {length}" for model, length in columns]
    lines = [f"| fidelity, speed, MiB | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in [*names, *(name for name in missing if name not in names)]:
        cells = [_variant(models[model]["lengths"][length], name, missing.get(name)) for model, length in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    few, many = f["calibration"]
    ahead = {model: ahead_of_us(said["lengths"]) for model, said in models.items()}
    ahead_words = "; ".join(
        f"{model}: {'not known, edgekd did not run' if one is None else ', '.join(one) or 'nobody'}"
        for model, one in ahead.items()
    )
    builds = ", ".join(
        f"{model} `{said.get('recipe', 'none')}` in {said['build_s'] / 60:.1f} min" for model, said in models.items()
    )
    foot = (
        "MiniLM: mean cosine to fp32 of held-out texts as they are (own) and of 32 and 128 tokens; EfficientNet-Lite0: "
        f"top-1 agreement with fp32 on Fashion-MNIST at 224 pixels. {_rows_words(f)} Speed: over ORT fp32, "
        f"1 thread, {_speed_words(f)}. Faster than edgekd at equal or "
        f"better fidelity: {ahead_words}. `build --student none`, search and report included: {builds}. "
        f"Calibration's peak memory: {few['peak_rss_mib']:.0f} MiB with {few['rows']:,} rows, "
        f"{many['peak_rss_mib']:.0f} MiB with {many['rows']:,}. {host['cpu']}, {host['cores']} cores, onnxruntime "
        f"{host['ort_version']}, {kept['date']}; `make peers`, `python -m benchmarks.quantization`."
    )
    return "\n".join([*lines, "", foot])


def unsteady(figures: dict[str, Any]) -> str:
    """The words beside each speed of a run that A/A calls unstable; none where it is stable."""
    return rough(off_by(figures))


def rough(off: float | None) -> str:
    """The words beside a speed whose A/A control is so far from 1; none where that is within the limit."""
    return f" (unstable, A/A {off:.1%} off)" if off is not None and off > AA_LIMIT else ""


def _rows_words(figures: dict[str, Any]) -> str:
    """What edgekd searched on, and which rows the figures are of."""
    if "setting" not in figures:  # of a run before search, gate and report rows were three sets
        return (
            f"{figures['held_out']} held-out rows each, of which those that gate what edgekd ships (a third of the "
            "texts, all images) are a part; models were not measured in one run. Peers ran at their defaults; edgekd "
            "searched over recipes, settings and layers."
        )
    setting = figures["setting"]
    each = "; ".join(
        f"{model} on {said['rows']['selection']:,} rows ({said['trials']} trials)"
        for model, said in figures["models"].items()
        if "rows" in said
    )
    return (
        f"{setting['report']} rows each, which no tool has seen. All were given the same {setting['calibration']} rows "
        f"or so to calibrate on. edgekd searched over recipes, settings and layers ({each or 'it did not run'}), and "
        f"{setting['gate']} rows more gate what it ships; peers ran at their defaults. The sets share no content."
    )


def _speed_words(figures: dict[str, Any]) -> str:
    if "setting" not in figures:
        return f"median of {figures['rounds']} or more interleaved rounds, 95% interval over rounds"
    setting = figures["setting"]
    return (
        f"{setting['rounds']} interleaved rounds in each of {setting['processes']} sets of fresh processes, 95% "
        f"interval over these; measured {setting['tries']} times at most while A/A is more than {AA_LIMIT:.0%} off"
    )


def _variant(figures: dict[str, Any], name: str, missing: str | None) -> str:
    one = figures.get(name)
    if one is None:
        return (missing or "not run").partition(":")[0]
    said = f"{one['fidelity']['value']:.4f}"
    if "speedup" in one:
        low, high = one["speedup"]["interval"]
        said += f", {one['speedup']['value']:.2f}x [{low:.2f}, {high:.2f}]{unsteady(figures)}, {one['size_mib']:.1f}"
    return said
