"""Where nothing may be written: into a finished bundle, and into the store."""

from __future__ import annotations

import os
from pathlib import Path

from edgekd.core.errors import UsageError
from edgekd.onboard import verify


def check_above(out: Path, store: Path | None) -> None:
    """Raises UsageError where `out` lies under a file, inside a finished bundle, or inside the store."""
    for above in Path(os.path.abspath(out)).parents:
        if os.path.lexists(above) and not os.path.isdir(above):
            what = "a link that leads nowhere" if os.path.islink(above) and not os.path.exists(above) else "no folder"
            raise UsageError(
                f"the output {out} cannot be made: {above} is {what}", fix="give --out a new folder inside another one"
            )
    real = Path(os.path.realpath(out))
    for above in real.parents:
        if _holds_bundle(above):
            raise UsageError(
                f"the output {out} lies inside the bundle {above}, into which nothing may be written",
                fix=f"give --out a folder beside it: {above.with_name(f'{above.name}-2')}",
            )
    if store is not None and (inside := Path(os.path.realpath(store))) in (real, *real.parents):
        raise UsageError(
            f"the output {out} lies inside the store {inside}, which is swept", fix="give --out a folder outside of it"
        )


def _holds_bundle(folder: Path) -> bool:
    """Whether a manifest.json of edgekd lies in it, whatever became of the rest: web pages have one of that name."""
    try:
        manifest = verify.read_json(verify.read_small(folder / "manifest.json"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and isinstance(manifest.get("artifact"), dict)
