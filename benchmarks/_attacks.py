"""The table of hostile input that `benchmarks.faults` tried on the shared builders of the tests."""

from __future__ import annotations

from benchmarks import results

ATTACKS = {  # kind: what it is, and what was seen of it before it was closed
    "settings": (
        "teachers' settings that name files, load code or ask for too much; links",
        "a file of the machine in a signed bundle; 2.5 GB",
    ),
    "image-settings": ("image processors' settings, narrow images", "7 of 10 tracebacks; 5.3 GB"),
    "weights": (
        "weights of another model, models that do not name one of several classes",
        'a random network with "agrees 100.0%"',
    ),
    "yaml": ("YAML that is more than plain values", "5 s for 477 bytes; tracebacks"),
    "tables": ("tables of very many names, cells or levels; Git LFS pointers", "35 s; 605 MiB"),
    "answers": ("boards' answers", "9 of 13 tracebacks, 3 read without end"),
    "bundles": ("bundles that ask for too much", "a file of 8 TiB without a bound; 3.3 MB unpacked to 4.75 GB"),
}


def table() -> str:
    """What came of hostile input of the newer kinds, beside what was seen before."""
    kept = results.read("attacks")
    figures, host = kept["figures"], kept["host"]
    lines = [
        "| hostile input | seen before | cases | through | refused | tracebacks | over 20 s | over 1 GiB | most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, (what, before) in ATTACKS.items():
        f = figures[kind]
        most = f"{f['slowest_cpu_s']:.1f} s, {f['largest_mib']:,.0f} MiB"
        cells = (f["cases"], f["through"], f["refused"], f["tracebacks"] + f["died"], f["over_20_s_cpu"])
        lines.append(f"| {what} | {before} | {' | '.join(map(str, cells))} | {f['over_1_gib']} | {most} |")
    harmless = sum(figures[kind]["harmless"] for kind in ATTACKS)
    foot = (
        f"Seconds are of CPU time, since the machine was busy; memory is the peak of a process that had loaded what it "
        f"needed, torch for weights. {harmless} cases of YAML and tables are harmless and were read as what they are. "
        '"Seen before" is what single cases did, not a count of the same cases. '
        f"{host['cpu']}, {host['cores']} cores, {kept['date']}; commit {kept['commit'][:12]}, `{kept['command']}`."
    )
    return "\n".join([*lines, "", foot])
