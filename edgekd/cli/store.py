"""`edgekd store`: what the store holds, whether it is whole, and what may go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from edgekd.cli.printing import echo, one_line, print_json
from edgekd.core.errors import UsageError, counted

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.store.entries import Kept

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group()
def store() -> None:
    """The stages' results that builds share: list, verify, prune."""


@store.command("list")
@_JSON
def store_list(as_json: bool) -> None:
    """What lies there, the least recently used first."""
    from edgekd.store.entries import kept
    from edgekd.store.store import open_store
    from edgekd.store.upkeep import CAP, cap_mib

    root, cap = open_store().root, cap_mib()
    found = kept(root)
    total = sum(one.size_mib for one in found)
    if as_json:
        entries = [one.as_dict() for one in found]
        print_json({"store": str(root), "total_mib": round(total, 3), "cap_mib": cap, "entries": entries})
        return
    limit = f"no cap (${CAP} is not set)" if cap is None else f"cap {cap:g} MiB"
    if found:
        echo(_table(found))
    echo(f"{counted(len(found), 'entry')}, {total:.1f} MiB in {root}; {limit}")


@store.command("verify")
@click.option("--remove-damaged", is_flag=True, help="Remove what is damaged: it is made anew when it is needed.")
@_JSON
@click.pass_context
def store_verify(context: click.Context, remove_damaged: bool, as_json: bool) -> None:
    """Hash every result again; exit 1 where one is damaged."""
    from edgekd.store.store import open_store
    from edgekd.store.upkeep import Which, prune, verify

    root = open_store().root
    wrong, whole = verify(root)
    done = prune(root, Which(damaged=True)) if wrong and remove_damaged else None
    removed = {one.name for one in done.removed} if done else set()
    fix = "`edgekd store prune --damaged` removes them; each is made anew when it is needed"
    if as_json:
        damaged = [one.as_dict() | {"damage": why, "removed": one.name in removed} for one, why in wrong.items()]
        print_json({"store": str(root), "whole": whole, "damaged": damaged} | ({"fix": fix} if wrong else {}))
    else:
        for one, why in wrong.items():
            echo(f"{one_line(one.name)}: {one_line(why)}{'; removed' if one.name in removed else ''}")
        echo(f"{whole} of {whole + len(wrong)} results in {root} are whole")
        if len(removed) < len(wrong):
            echo(f"  fix: {fix}", err=True)
    if wrong:
        context.exit(1)


@store.command("prune")
@click.option("--older-than", type=float, metavar="DAYS", help="What was last used so long ago.")
@click.option("--to-mib", type=float, metavar="N", help="The least recently used, until N MiB are left.")
@click.option("--damaged", is_flag=True, help="What is no longer as it was written.")
@click.option("--stage", metavar="NAME", help="Of this stage only.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@_JSON
def store_prune(
    older_than: float | None, to_mib: float | None, damaged: bool, stage: str | None, dry_run: bool, as_json: bool
) -> None:
    """Remove what all given options say; without any, what killed builds left behind a week ago or more.

    What a running build uses stays; so do measured anchors, calibration and the guest.
    """
    from edgekd.store.store import open_store
    from edgekd.store.upkeep import Which, prune

    for flag, value in (("--older-than", older_than), ("--to-mib", to_mib)):
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"{flag} {value:g} makes no sense", fix="give a number from 0 on")
    root = open_store().root
    if stage is not None:
        _check_stage(stage, root)
    done = prune(root, Which(older_than, to_mib, damaged, stage), dry_run=dry_run)
    if as_json:
        print_json(
            {
                "store": str(root),
                "dry_run": dry_run,
                "mib": round(done.mib, 3),
                "litter": len(done.litter),
                "removed": [one.as_dict() for one in done.removed],
                "in_use": [one.as_dict() for one in done.in_use],
            }
        )
        return
    if done.removed:
        echo(_table(done.removed))
    if done.in_use:
        echo(f"in use, left: {', '.join(one.name for one in done.in_use)}")
    what = "would be removed" if dry_run else f"removed, {len(done.litter)} leftovers of killed builds swept"
    echo(f"{done.mib:.1f} MiB in {counted(len(done.removed), 'entry')} {what}")


def _check_stage(stage: str, root: Path) -> None:
    """Raises UsageError for a stage of which the store holds nothing."""
    from edgekd.core.errors import suggestion
    from edgekd.store.entries import kept

    known = {one.stage for one in kept(root)}
    if known and stage not in known:
        raise UsageError(f"the store holds no stage {stage!r}", fix=suggestion(stage, known))


def _table(found: Sequence[Kept]) -> str:
    """A line an entry: stage, key, size, last use, the version that made it, of what."""
    rows = [("stage", "key", "MiB", "last used", "edgekd", "of")]
    for one in found:
        used = datetime.fromtimestamp(one.used_s).astimezone().strftime("%Y-%m-%d %H:%M")
        of = "(a stopped build's work)" if one.is_work else one.of
        rows.append((one.stage, one.path.name[:8], f"{one.size_mib:.1f}", used, one.edgekd or "-", of))
    lines_of = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in lines_of) for column in range(5)]
    lines = []
    for row in lines_of:
        cells = [
            cell.rjust(width) if column == 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join((*cells, row[5])).rstrip())
    return "\n".join(lines)
