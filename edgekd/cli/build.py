"""`edgekd build` and `edgekd plan`: for one target, or for several with one teacher."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.api_teacher import shown_before_asking, teacher_asked
from edgekd.cli.keygen import ask_passphrase
from edgekd.cli.plan_options import (
    GroupedCommand,
    asked_targets,
    grouped,
    main_option,
    options_of,
    plan_options,
)
from edgekd.cli.printing import echo, one_line, print_json
from edgekd.core.errors import EdgeKDError
from edgekd.plan.options import Shipping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekd.build_targets import BuiltTargets
    from edgekd.plan.options import Options
    from edgekd.plan.planning import Planned
    from edgekd.security.signing import Signer
    from edgekd.sizing.costs import Fit
    from edgekd.store.store import Store

_JSON = grouped("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.command(cls=GroupedCommand)
@plan_options
@main_option(
    "--out",
    type=click.Path(path_type=Path),
    help="The bundle's own folder, or that of all with --targets.  [default: build/NAME-TARGET, build/NAME-targets]",
)
@grouped(
    "--sign",
    "keys",
    group=Shipping.__doc__ or "",
    multiple=True,
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign the bundle with this private key (edgekd keygen); more than once.",
)
@_JSON
@click.pass_context
def build(
    context: click.Context,
    /,
    out: Path | None,
    keys: tuple[Path, ...],
    as_json: bool,
    target: str | None,
    targets: str | None,
    **values: Any,
) -> None:
    """Make a bundle for the target: teacher in, proven artifact out."""
    from edgekd.plan.planning import make_plans
    from edgekd.security.keys import open_signers
    from edgekd.store.store import open_store

    given = asked_targets(target, targets)
    signers = open_signers(keys, ask_passphrase)  # first: nobody waits an hour for a key that does not open
    store = open_store(say=partial(echo, err=True))
    planned = make_plans(teacher_asked(options_of(values, given), given), given, store)
    if targets is not None:
        context.exit(_build_several(planned, store, out, signers, as_json=as_json))
    _build_one(planned, store, out, signers, as_json=as_json)


def _build_one(planned: Planned, store: Store, out: Path | None, signers: Sequence[Signer], *, as_json: bool) -> None:
    from edgekd.cli import show
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.pipeline import build as run  # after the plan: what is refused is refused quickly

    [made] = planned.plans.values()
    with shown_on_stderr() as progress:
        folder = out or Path("build") / f"{made.name}-{made.target.name}"
        built = run(made, planned.splits, store, folder, progress, signers)
    signed = [signer.key_id for signer in signers]
    if as_json:
        print_json({"bundle": str(built.folder), "signed_by": signed, "summary": built.summary})
        return
    echo(show.summary(built.summary, built.folder, fresh=built.fresh, on_target=built.on_target_says))
    if signed:
        echo(f"signed  {built.folder}.sig, by {', '.join(one[:16] for one in signed)}")


def _build_several(
    planned: Planned, store: Store, out: Path | None, signers: Sequence[Signer], *, as_json: bool
) -> int:
    """The exit code: 0 where all shipped, else that of the first target that did not."""
    from edgekd.build_targets import build_targets
    from edgekd.cli.progress import shown_on_stderr

    with shown_on_stderr() as progress:
        built = build_targets(
            planned, store, out or Path("build") / f"{planned.shared.name}-targets", progress, signers
        )
    if as_json:
        signed = [signer.key_id for signer in signers]
        print_json({"targets": built.as_dict(), "signed_by": signed, "page": str(built.page)})
    else:
        _show_several(built)
    return built.exit_code


def _show_several(built: BuiltTargets) -> None:
    from edgekd.cli import show

    echo(show.targets_built(built))
    for outcome in built.outcomes:
        if outcome.error is not None:
            echo(f"error: {outcome.target}: {one_line(outcome.error.message)}", err=True)
            echo(f"  fix: {one_line(outcome.error.fix)}", err=True)


@click.command(cls=GroupedCommand)
@plan_options
@grouped("--measure", is_flag=True, help="Measure the finalists, as build does, rather than predict.")
@_JSON
@click.pass_context
def plan(
    context: click.Context, /, measure: bool, as_json: bool, target: str | None, targets: str | None, **values: Any
) -> None:
    """Show what `build` would do and what fits; train nothing."""
    from edgekd.plan.planning import make_plans
    from edgekd.sizing.language import is_config
    from edgekd.store import file_hashes
    from edgekd.store.store import open_store

    given = asked_targets(target, targets)
    if is_config(values["teacher"]):
        _plan_on_paper(options_of(values, given), given, measure=measure, as_json=as_json)
        return
    store = open_store(say=partial(echo, err=True))
    options, labelling = shown_before_asking(options_of(values, given), given, as_json=as_json)
    if options is None:
        if as_json:
            print_json({"labelling": labelling, "plan": None})
        return
    with file_hashes.believed():
        planned = make_plans(options, given, store)
    if targets is not None:
        context.exit(_plan_several(planned, store, measure=measure, as_json=as_json))
    _plan_one(planned, store, measure=measure, as_json=as_json)


def _plan_on_paper(options: Options, given: Sequence[str], *, measure: bool, as_json: bool) -> None:
    """Answer for a language model whose config alone is there."""
    from edgekd.cli import show_paper
    from edgekd.plan.planning import load_targets
    from edgekd.sizing import on_paper

    teacher, context = on_paper.asked(options, measure=measure)
    answers = {one.name: on_paper.plan_on_paper(teacher, one, context) for one in load_targets(given, options)}
    if as_json:
        print_json({"config": options.teacher, "targets": {name: made.as_dict() for name, made in answers.items()}})
        return
    echo("\n\n".join(show_paper.paper_plan(made, str(options.teacher)) for made in answers.values()))


def _plan_one(planned: Planned, store: Store, *, measure: bool, as_json: bool) -> None:
    from edgekd.cli import show

    [made] = planned.plans.values()
    if not as_json:
        echo(show.plan(made))
    shape = _fit(planned, made.target.name, store, measure=measure)
    if as_json:
        print_json(_as_json(planned, made.target.name, shape))
    elif shape is not None:
        echo(show.fit_table(shape, made))


def _plan_several(planned: Planned, store: Store, *, measure: bool, as_json: bool) -> int:
    """The exit code of the first target that cannot be met; 0 where all can."""
    from edgekd.build_targets import OF_ALL
    from edgekd.cli import show

    if not as_json:
        echo(show.shared_plan(planned.shared))
    errors: list[EdgeKDError] = []
    parts: dict[str, Any] = {}
    for target in planned.targets:
        if not as_json and target.name in planned.plans:
            echo("\n" + show.target_plan(planned.plans[target.name]))
        try:
            if target.name in planned.refused:
                raise planned.refused[target.name]
            shape = _fit(planned, target.name, store, measure=measure)
        except OF_ALL:
            raise
        except EdgeKDError as error:
            errors.append(error)
            parts[target.name] = error.as_dict()
            if not as_json:
                echo(f"\n{target.name} cannot be met: {one_line(error.message)}\n  fix: {one_line(error.fix)}")
            continue
        parts[target.name] = _as_json(planned, target.name, shape) | {"exit": 0}
        if shape is not None and not as_json:
            echo(show.fit_table(shape, planned.plans[target.name]))
    if as_json:
        print_json({"shared_sha256": planned.shared.shared_digest, "targets": parts})
    return errors[0].exit_code if errors else 0


def _fit(planned: Planned, name: str, store: Store, *, measure: bool) -> Fit | None:
    """The shape that the target's budgets leave room for; None of a teacher that is compressed as it is."""
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.sizing.fitting import fit

    made = planned.plans[name]
    if made.compresses_only:  # the teacher has the size that it has
        return None
    with shown_on_stderr() as progress:
        shape = fit(made, store, progress, measured=measure)
    made.check_exits(shape.chosen.shape)
    return shape


def _as_json(planned: Planned, name: str, shape: Fit | None) -> dict[str, Any]:
    made = planned.plans[name]
    parts = {"shared_sha256": made.shared_digest, "target_sha256": made.target_digest}
    return {
        "plan": made.as_dict(),
        "plan_sha256": made.digest,
        **parts,
        "fit": asdict(shape) if shape else None,
    }
