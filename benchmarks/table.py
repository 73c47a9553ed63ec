"""The tables of README.md and docs/results.md, from the kept results.

`python -m benchmarks.table` writes them, `--check` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import _attacks, asked, results
from benchmarks._rounds import ahead_of_us
from benchmarks._variants import quantization, rough, unsteady

ROOT = Path(__file__).parents[1]
SUMMARY = ("summary",)  # of README.md; the others stand in docs/results.md


def summary() -> str:
    """What the demo and compression alone gave, and who was faster."""
    demo, quantization = results.read("demo"), results.read("quantization")
    f, model = demo["figures"], quantization["figures"]["models"]["MiniLM-L6"]
    low, high = f["speedup_interval"]
    ours = model["lengths"]["128"]["edgekd"]
    steadiness = rough(abs(f["aa_ratio"] - 1))
    unstable = unsteady(model["lengths"]["128"])
    lines = [
        "| what | result |",
        "|---|---|",
        f"| the demo's student, beside its teacher in fp32 | {f['retained']:.1%} of the accuracy, "
        f"{f['speedup']:.1f}x as fast [{low:.1f}, {high:.1f}]{steadiness}, "
        f"{f['smaller']:.1f}x smaller |",
        f"| its peak memory above the import baseline | {_memory(f)} |",
        f"| MiniLM compressed alone, 128 tokens | cosine {ours['fidelity']['value']:.4f}, "
        f"{ours['speedup']['value']:.2f}x as fast as ONNX Runtime fp32{unstable} |",
    ]
    for name in ahead_of_us(model["lengths"]) or ():
        peer, _, length = name.rpartition(" at ")
        theirs = model["lengths"][length][peer]
        lines.append(
            f"| {peer}, {length} tokens: faster than edgekd | cosine {theirs['fidelity']['value']:.4f}, "
            f"{theirs['speedup']['value']:.2f}x{unsteady(model['lengths'][length])} |"
        )
    foot = f"{demo['host']['cpu']}, one thread, {demo['date']}; brackets are 95% intervals."
    return "\n".join([*lines, "", foot])


def demo() -> str:
    """Asked and measured, for the default demo."""
    kept = results.read("demo")
    f, host = kept["figures"], kept["host"]
    low, high = f["speedup_interval"]
    steadiness = rough(abs(f["aa_ratio"] - 1))
    kept_span = " [{:.1%}, {:.1%}]".format(*f["retained_interval"]) if "retained_interval" in f else ""
    rows = [
        (
            "teacher's accuracy kept",
            f"{asked.RETAINED:.0%}",
            f"{f['retained']:.1%}{kept_span} "
            f"({f['shipped']['metric_value']:.1%} of {f['teacher']['metric_value']:.1%}, "
            f"{f['n_test']} held-out questions)",
        ),
        (
            "faster than the fp32 teacher",
            f"{asked.SPEEDUP:g}x",
            f"{f['speedup']:.2f}x [{low:.2f}, {high:.2f}]{steadiness}",
        ),
        (
            "smaller than its ONNX",
            f"{asked.SMALLER:g}x",
            f"{f['smaller']:.1f}x ({f['teacher']['artifact_mib']:.1f} to {f['shipped']['artifact_mib']:.1f} MiB)",
        ),
        ("peak memory above the import baseline", "", _memory(f)),
        ("TF-IDF with a linear classifier, for comparison", "", f"{f['baseline']['metric_value']:.1%}"),
        ("build, empty store", f"{asked.BUILD_S / 60:g} min", f"{f['build_s'] / 60:.1f} min"),
        ("the same build, other folder", f"{asked.AGAIN_S:g} s", f"{f['repeat_other_folder_s']:.1f} s"),
        ("the same command again", f"{asked.AGAIN_S:g} s", f"{f['repeat_same_folder_s']:.1f} s"),
        ("`edgekd --help`", f"{asked.HELP_CPU_S:g} CPU-s", f"{f['help_cpu_s']:.2f} CPU-s"),
        (
            "`edgekd plan --target rpi4` before it measures",
            f"{asked.PLAN_CPU_S:g} CPU-s",
            f"{f['plan_cpu_s']:.2f} CPU-s",
        ),
    ]
    lines = ["| figure | asked | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    foot = (
        f"{host['cpu']}, {host['cores']} cores, onnxruntime {host['ort_version']}, {kept['date']}, seed {f['seed']}, "
        f"A/A ratio {f['aa_ratio']:.3f}; brackets are 95% intervals; `python -m benchmarks.demo`."
    )
    return "\n".join([*lines, "", foot])


def sizing() -> str:
    """Predictions against measurements, by family; then budgets and plans."""
    kept = results.read("sizing")
    f, host = kept["figures"], kept["host"]
    lines = ["| family, recipe | anchor shapes | memory | latency | file |", "|---|---|---|---|---|"]
    lines += [
        f"| {name.replace('/', ', ')} | {e['n']} | {e['memory_mib']:.1%} | {e['latency_ratio']:.1%} "
        f"| {e['artifact_mib']:.1%} |"
        for name, e in f["errors"].items()
    ]
    lines += ["", "| budget | measured peak of the choice | next larger shape |", "|---|---|---|"]
    for name, b in f["budgets"].items():
        above = f"{b['next_larger']}: {'; '.join(b['next_breaks'])}" if b["next_larger"] else "none"
        lines.append(
            f"| {name}: {b['budget_mib']:g} MiB | {b['measured_mib']:.1f} MiB, "
            f"{b['measured_mib'] / b['budget_mib']:.0%} ({b['choice']}) | {above} |"
        )
    plans = ", ".join(f"{task} {p['first_s']:.1f} s ({p['again_s']:.1f} s again)" for task, p in f["plans"].items())
    foot = (
        f"Errors: 90th percentile of the relative error, each shape predicted by a fit that never saw it. "
        f"`edgekd plan`: {plans}. {host['cpu']}, {host['cores']} cores, onnxruntime {host['ort_version']}, "
        f"{kept['date']}; `python -m benchmarks.sizing`."
    )
    return "\n".join([*lines, "", foot])


def distillation() -> str:
    """What each kind of distillation adds to labels alone, in points."""
    kept = results.read("distillation")
    f, host = kept["figures"], kept["host"]
    names = [arm["name"] for arm in next(iter(f["settings"].values()))["arms"]]
    seeds = {
        "with few labels" if name.endswith("few") else "with all": said["arms"][0]["seeds"]
        for name, said in f["settings"].items()
    }
    lines = [f"| data, labels | teacher | labels alone | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for name, said in f["settings"].items():
        task, labels = name.split("/")
        alone = said["control"]["accuracy"]
        cells = [f"{arm['difference']:+.1f} [{arm['low']:+.1f}, {arm['high']:+.1f}]" for arm in said["arms"]]
        cells = [f"**{cell}**" if clear(arm) else cell for cell, arm in zip(cells, said["arms"], strict=True)]
        many = f"{said['labels']:,} of {said['rows']:,}" if labels == "few" else f"all {said['labels']:,}"
        lines.append(
            f"| {MODALITIES[task]}, {many} | {said['teacher']:.1%} | {sum(alone) / len(alone):.1%} "
            f"| {' | '.join(cells)} |"
        )
    foot = (
        "Points of held-out accuracy over the same student on labels alone (random weights, as many steps), "
        f"{', '.join(f'{count} seeds {where}' for where, count in seeds.items())}; 95% intervals over seeds and "
        f"samples; bold where clear of zero, gain or loss. {host['cpu']}, "
        f"{kept['date']}; "
        "`python -m benchmarks.distillation`."
    )
    return "\n".join([*lines, "", foot])


def throughput() -> str:
    """Samples a second against a plain loop, and memory against the data's size."""
    kept = results.read("throughput")
    f, host = kept["figures"], kept["host"]
    speed, memory = f["speed"], f["memory"]
    rate, shares = speed["samples_per_s"], speed["shares"]
    few, many = memory.values()
    lines = ["| loop | samples a second | against the plain loop |", "|---|---|---|"]
    for name, key, ratios in (
        ("teacher in the loop, padded to the longest input", "plain", None),
        ("teacher in the loop, length buckets", "buckets", speed["bucket_ratios"]),
        ("outputs kept on disk, length buckets, building the cache included", "ours", speed["ratios"]),
    ):
        spread = f"{sorted(ratios)[len(ratios) // 2]:.1f}x ({min(ratios):.1f} to {max(ratios):.1f})" if ratios else ""
        lines.append(f"| {name} | {rate[key]:.0f} | {spread} |")
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    more = many["peak_rss_mib"] / few["peak_rss_mib"] - 1
    foot = (
        f"{speed['rows']} rows, {speed['epochs']} epochs, {speed['threads']} thread, in turn, medians; ours: {parts}. "
        f"Peak memory of keeping outputs and training: {few['peak_rss_mib']:.0f} MiB with {few['rows']:,} rows, "
        f"{many['peak_rss_mib']:.0f} MiB with {many['rows']:,} ({more:+.1%}). "
        f"{host['cpu']}, {kept['date']}; `python -m benchmarks.throughput`."
    )
    return "\n".join([*lines, "", foot])


def instructions() -> str:
    """What each model's variants execute on each core, over its fp32; the multiply-adds by kind."""
    kept = results.read("instructions")
    cores, host = kept["figures"]["cores"], kept["host"]
    heads = [f"{cpu} | float, int8, dot products" for cpu in cores]
    lines = [f"| model | recipe | {' | '.join(heads)} |", "|---" * (2 + 2 * len(cores)) + "|"]
    for model, recipes in next(iter(cores.values()))["models"].items():
        for recipe in recipes:
            each = [said["models"][model][recipe] for said in cores.values()]
            cells = [
                f"{one['relative']:.2f}x | {', '.join(_short(one[kind]) for kind in ('float', 'int8', 'dot'))}"
                for one in each
            ]
            lines.append(f"| {model} | {recipe} | {' | '.join(cells)} |")
    apart = max(said["largest_difference_of_two_runs"] for said in cores.values())
    hosts = "; ".join(said["host"].partition(",")[0] for said in cores.values())
    foot = (
        f"Instructions of one inference ({kept['figures']['tokens']} tokens of a text) over fp32's on the same core; "
        "beside them, in millions, those that multiply and add floats, int8 values, and int8 values in dot products. "
        "Random weights but where trained is said: what a model costs does not depend on what it has learned. Two runs "
        f"differ by at most {apart:.2%}. {hosts}, onnxruntime {host['ort_version']}, {kept['date']}; "
        "`python -m benchmarks.instructions`."
    )
    return "\n".join([*lines, "", foot])


def faults() -> str:
    """What was done to builds, models and bundles, and what came of it."""
    kept = results.read("faults")
    f, host = kept["figures"], kept["host"]
    kills, disk, pickles, onnx = f["kills"], f["full-disk"], f["pickles"], f["onnx"]
    mutated, flips, tampering, timed = f["mutated-onnx"], f["bit-flips"], f["tampering"], f["verify-time"]
    tried = [
        (
            f"a build killed at {kills['kills']} random moments",
            f"{kills['corrupt']} corrupt; "
            f"at most {kills['most_stages_redone_for_a_kill']} stage made again for a kill; "
            f"{kills['same_bytes']} of {kills['chains']} chains of kills end with the bytes of an undisturbed build",
        ),
        (
            f"a full disk in each of {disk['stages']} stages",
            f"{disk['hit']} hit, {disk['named']} named; {disk['earlier_intact']} left what was finished intact, "
            f"{disk['went_on_to_the_same_bytes']} went on to the same bytes",
        ),
        (
            f"{pickles['files']} hostile checkpoints",
            f"{pickles['executed']} executed, {pickles['hangs']} over 20 s, {pickles['tracebacks']} tracebacks, "
            f"{pickles['refused']} refused; slowest {pickles['slowest_s']:.1f} s",
        ),
        (
            f"{onnx['files']} hostile ONNX files",
            f"{onnx['hangs']} over 20 s, {onnx['tracebacks']} tracebacks, "
            f"{onnx['refused']} refused; slowest {onnx['slowest_s']:.1f} s",
        ),
        (
            f"{mutated['files']:,} mutated ONNX files",
            f"{mutated['refused'] + mutated['crashed_alone_and_refused']:,} refused, "
            f"{mutated['taken']} are models still; "
            f"{mutated['hangs']} over 20 s, {mutated['tracebacks']} tracebacks",
        ),
        (
            f"single bits of a signed bundle's {flips['files']} files flipped",
            f"{flips['refused']:,} of {flips['flips']:,} refused before ONNX Runtime saw a file",
        ),
        (
            f"{tampering['kinds']} kinds of tampering",
            f"{tampering['refused_for_its_reason_before_the_runtime']} refused, each for its reason",
        ),
        (f"`edgekd verify --key` of {timed['bundle_mb']:.0f} MB", f"{timed['median_s']:.2f} s"),
    ]
    lines = ["| what was done | what came of it |", "|---|---|", *(f"| {what} | {came} |" for what, came in tried)]
    foot = (
        f"{host['cpu']}, {host['cores']} cores, onnxruntime {host['ort_version']}, {kept['date']}, seed "
        f"{kills['seed']}; `python -m benchmarks.faults`."
    )
    return "\n".join([*lines, "", foot, "", _attacks.table()])


def clinic() -> str:
    """Real graphs under edgekd and under ONNX Runtime's defaults, where their figures are kept."""
    kept = results.read("clinic")
    told, host = kept["figures"], kept["host"]
    lines = [
        "| graph | of | ORT dynamic int8: fidelity | speed | edgekd: fidelity | speed | what ships |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in told["graphs"].items():
        cells = [name, one["of"]]
        for tool in (_OTHERS, _OURS):
            cells += _treated(one[tool], told["floor"])
        lines.append(f"| {' | '.join([*cells, _ships(one[_OURS])])} |")
    count = told["counts"]
    ours, others = (count[tool] for tool in (_OURS, _OTHERS))
    foot = (
        f"Of {len(told['graphs'])} graphs {_so_far(told)}edgekd ships {ours['sound_and_faster']} at a fidelity of "
        f"{told['floor']:g} or more and surely faster, {ours['worse']} below that; the others stay fp32. ORT's "
        f"defaults: {others['sound_and_faster']} sound and faster, {others['worse']} worse, {others['none']} that do "
        f"not run. {host['cpu']}, one thread, {kept['date']}; `python -m benchmarks.clinic`."
    )
    return "\n".join([*lines, "", foot])


def _so_far(told: dict[str, Any]) -> str:
    """How many graphs the clinic has, where not all were treated."""
    return "" if len(told["graphs"]) == told["of"] else f"treated so far, of {told['of']}, "


_OTHERS, _OURS = "ORT dynamic int8", "edgekd"


def _treated(one: dict[str, Any], floor: float) -> list[str]:
    """Fidelity and speed of one graph under one tool."""
    if one["fidelity"] is None or one["speed_interval"] is None:
        return ["–", one["why"]]
    low, high = one["speed_interval"]
    worse = " **worse**" if one["fidelity"] < floor else ""
    return [f"{one['fidelity']:.4f}{worse}", f"{one['speed']:.2f}x [{low:.2f}, {high:.2f}]"]


def _ships(one: dict[str, Any]) -> str:
    return f"{one['recipe']}: {one['why']}" if one["recipe"] and one["why"] else one["recipe"] or "–"


def clear(arm: dict[str, Any]) -> bool:
    """Whether a difference's interval leaves zero out, above or below."""
    return bool(arm["low"] > 0 or arm["high"] < 0)


def _short(millions: float) -> str:
    return f"{millions:.3g}" if millions >= 0.01 else "0"


def _memory(figures: dict[str, Any]) -> str:
    """Peak memory of teacher and student; with the baseline, where the figures name it."""
    words = f"{figures['teacher']['peak_rss_mib']:.0f} to {figures['shipped']['peak_rss_mib']:.0f} MiB"
    base = figures.get("import_baseline_mib")
    return words if base is None else f"{words} (baseline {base:.0f} MiB)"


MODALITIES = {
    "text-classification": "TREC questions",
    "image-classification": "Fashion-MNIST",
    "time-series-classification": "FordA",
}
TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "demo": demo,
    "sizing": sizing,
    "distillation": distillation,
    "throughput": throughput,
    "quantization": quantization,
    "instructions": instructions,
    "faults": faults,
}


def pages() -> dict[Path, tuple[str, ...]]:
    """Return each page with the tables that stand in it."""
    return {ROOT / "README.md": SUMMARY, ROOT / "docs" / "results.md": tuple(set(TABLES) - set(SUMMARY))}


def main() -> int:
    """Put each table between its markers; with --check, say whether they are there already."""
    stale = 0
    for page, names in pages().items():
        text = page.read_text(encoding="utf-8")
        fresh = text
        for name in names:
            start, end = f"<!-- table:{name} -->\n", "\n<!-- end -->"
            before, _, rest = fresh.partition(start)
            assert end in "\n" + rest, f"{page.name}: no {name} table, or no end of it"
            fresh = before + start + TABLES[name]() + end + ("\n" + rest).partition(end)[2]
        if "--check" not in sys.argv[1:]:
            page.write_text(fresh, encoding="utf-8")
        elif fresh != text:
            print(f"{page.name}: a table is not that of benchmarks/results; run `python -m benchmarks.table`")
            stale = 1
    unproven = results.problems() if "--check" in sys.argv[1:] else []
    for line in unproven:
        print(line)
    return int(bool(stale or unproven))


if __name__ == "__main__":
    sys.exit(main())
