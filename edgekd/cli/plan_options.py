"""The options of `build` and `plan` as click takes them, derived from their declarations; help in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from edgekd.core.errors import UsageError
from edgekd.plan.options import GROUPS, Declared, Main, Options, declarations, value_type

_GENERAL = "General"
_MAIN = Main.__doc__ or ""
_NO_TARGET = "name the device: --target NAME; `edgekd targets list` shows the profiles"


class GroupedOption(click.Option):
    """An option that stands under its group's title in the help."""

    def __init__(self, *arguments: Any, group: str = _GENERAL, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups, the one that most people need first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, in the order in which the options are declared."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(one, "group", _GENERAL), []).append(record)
        general = groups.pop(_GENERAL, [])
        for title, records in [*groups.items(), (_GENERAL, general)]:
            with formatter.section(title.rstrip(".")):
                formatter.write_dl(records)


def grouped(
    *flags: str, group: str = _GENERAL, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds an option to a group of the help."""
    return click.option(*flags, cls=GroupedOption, group=group, **settings)


def main_option(*flags: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds an option to those that most builds need."""
    return grouped(*flags, group=_MAIN, **settings)


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that decide a plan: the same for `build` and `plan`."""
    groups = {one.name: group for group in GROUPS for one in fields(group)}
    for name, declared, field in reversed(list(declarations())):
        command = _click_option(groups[name], name, declared, field.default)(command)
    command = main_option(
        "--targets",
        metavar="NAMES",
        help="Several of them, with commas between: one teacher, a bundle each, and a page that compares them.",
    )(command)
    return main_option("--target", help="The device: a profile's name (edgekd targets list) or a YAML file.")(command)


def _click_option(group: type, name: str, declared: Declared, default: Any) -> Any:
    kind, several = value_type(group, name)
    if kind is bool:
        flags = f"--{declared.flag}" + (f"/--{declared.off}" if declared.off else "")
        return grouped(flags, name, group=group.__doc__ or "", is_flag=True, default=default, help=declared.help)
    usual = declared.usual or (f"{default:g}" if isinstance(default, float) else default)
    words = declared.help + (f"  [default: {usual}]" if usual not in (None, ()) else "")
    settings = {"metavar": declared.metavar, "multiple": several, "type": kind, "default": default}
    return grouped(f"--{declared.flag}", name, group=group.__doc__ or "", help=words, **settings)


def asked_targets(target: str | None, targets: str | None) -> list[str]:
    """Return the targets, named or files. Raises UsageError where none is given, or both options are."""
    from edgekd.plan.planning import target_names

    if target is not None and targets is not None:
        raise UsageError("--target and --targets are both given", fix="give one of them: --targets takes one name, too")
    if targets is not None:
        return target_names(targets)
    if target is None:
        raise UsageError("Missing option '--target'.", fix=_NO_TARGET)
    return [target]


def options_of(values: dict[str, Any], targets: list[str]) -> Options:
    """Return what the user said; of several targets the plan is told apart."""
    return Options(target=targets[0], **values)
