"""Text for the terminal: a language model planned from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.cli.show import table
from edgekd.sizing.language import FILE_BITS, GIB
from edgekd.sizing.on_paper import BYTES_A_TOKEN, USABLE, contexts, peak

if TYPE_CHECKING:
    from edgekd.sizing.on_paper import PaperPlan


def paper_plan(made: PaperPlan, name: str) -> str:
    """Return the whole answer."""
    parts = [
        f"{name}: {made.teacher}, context {made.teacher.context}\n{made.teacher.parameters:,} parameters, of which "
        f"{made.teacher.table:,} embeddings; {made.teacher.multiplied:,} are multiplied for each token\n"
        "All figures are predicted from the config; none is measured.",
        _memory(made),
        _fits(made),
        _speeds(made),
        _budget(made),
        _distilling(made),
    ]
    return "\n\n".join(parts)


def _memory(made: PaperPlan) -> str:
    model = made.teacher
    header = ["bits", "weights GiB", *(f"GiB at {tokens}" for tokens in contexts(model))]
    rows = [
        [
            f"{bits}",
            f"{model.weights_bytes(bits) / GIB:.2f}",
            *(f"{peak(model, bits, tokens, made.copies).total / GIB:.2f}" for tokens in contexts(model)),
        ]
        for bits in FILE_BITS
    ]
    caches = ", ".join(f"{model.cache_bytes(tokens) / GIB:.2f} GiB at {tokens}" for tokens in contexts(model))
    twice = "; counted twice, since ONNX Runtime writes a new one beside the old on a CPU" if made.copies > 1 else ""
    return (
        f"memory of one process, weights and context together\n{table(header, rows)}\n"
        f"cache of 16 bits: {caches}{twice}\n"
        f"logits: {4 * model.vocabulary / 2**20:.2f} MiB of the last position; of all positions that much a token"
    )


def _fits(made: PaperPlan) -> str:
    header = ["memory", *(f"{bits} bits" for bits in FILE_BITS)]
    rows = [
        [f"{gb} GB", *(f"{tokens} tokens" if tokens else "-" for tokens in by_bits.values())]
        for gb, by_bits in made.fits.items()
    ]
    return f"longest context that fits, {USABLE:.0%} of the memory being for this process\n{table(header, rows)}"


def _speeds(made: PaperPlan) -> str:
    if made.bandwidth_gb_s is None:
        return f"tokens/s: unknown, the profile of {made.target} has no memory_bandwidth_gb_s"
    header = ["bits", *(f"at {tokens}" for tokens in contexts(made.teacher))]
    rows = [
        [f"{bits}", *(f"{one.low:.2g} to {one.high:.2g}" for one in made.speeds if one.bits == bits)]
        for bits in FILE_BITS
    ]
    threads = f"{made.threads} thread{'s' * (made.threads > 1)}"
    arithmetic = f" and the arithmetic of {threads}" if made.threads else ""
    return (
        f"tokens/s of decoding on {made.target}, from {made.bandwidth_gb_s:g} GB/s of memory{arithmetic}\n"
        f"{table(header, rows)}"
    )


def _budget(made: PaperPlan) -> str:
    lines = [f"within {made.target}'s memory_mib {made.budget_mib:g}, context {made.context}"]
    for bits, layers in made.within_budget.items():
        if layers == made.teacher.layers:
            words = "the whole model"
        elif layers:
            words = f"{layers} of {made.teacher.layers} layers, {made.teacher.cut(layers).parameters / 1e9:.2f} billion"
        else:
            least = peak(made.teacher.cut(1), bits, made.context, made.copies).total / 2**20
            words = f"not even one layer, {least:,.0f} MiB with the embeddings"
        lines.append(f"  {bits} bits: {words}")
    if made.within_budget[4] < made.teacher.layers:
        need = peak(made.teacher, 4, made.context, made.copies).total / 2**20
        lines.append(f"  the whole model at 4 bits: --memory-mib {need * 1.02:.0f}")
    return "\n".join(lines)


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def _distilling(made: PaperPlan) -> str:
    student = made.student
    header = ["tokens", "for", "GPU", "to hold teacher", "student", "student (LoRA)", "GPU-hours", "cache GB"]
    rows = [
        [
            f"{one.tokens / 1e9:g} billion",
            one.words,
            one.gpu,
            f"{one.teacher_gpus}",
            f"{one.student_gpus}",
            f"{one.lora_gpus}",
            f"{_short(one.hours[0])} to {_short(one.hours[1])}",
            f"{one.cache_gb:,.0f}",
        ]
        for one in made.distilling
    ]
    small = made.within_budget[4] < student.layers
    return (
        f"distilling a student of {student.layers} of {made.teacher.layers} layers, {student.parameters:,} parameters "
        f"({student.parameters / made.teacher.parameters:.0%})"
        + (
            f"\nIt is too large for {made.target}'s budget: give more --memory-mib, or a smaller model of the family.\n"
            if small
            else "\n"
        )
        + "The teacher reads the corpus once, and its 64 largest logits of each token are kept "
        f"({BYTES_A_TOKEN} bytes);\nlayers are removed one at a time, those first that change the output least; "
        "the student then learns what was kept.\n"
        f"{table(header, rows)}\n"
        "one pass of the teacher and one epoch of the student; hours of one GPU, to be shared by as many as hold them"
    )
