"""Commands that are imported when they are asked for: `edgekd --help` names them all and loads none."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands by name: what is added, and those of modules, each loaded on first use.

    `modules` has a command's name with its module and name there, `module:name`.
    """

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules, self._loaded = modules, dict[str, click.Command]()

    def __getitem__(self, name: str) -> click.Command:
        """Return the command. Raises KeyError where there is none of that name."""
        if name not in self._loaded:
            module, _, attribute = self._modules[name].partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._modules, **self._loaded})

    def __len__(self) -> int:
        return len({**self._modules, **self._loaded})


class LazyGroup(click.Group):
    """A group whose help shows a line for each command without loading it."""

    def __init__(self, *arguments: object, lines: dict[str, tuple[str, str]], **settings: object) -> None:
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]
        self.lines = {name: line for name, (_, line) in lines.items()}
        self.commands = LazyCommands({name: module for name, (module, _) in lines.items()})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their lines, whole."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.lines.get(name) or self.commands[name].get_short_help_str()) for name in self.commands]
            )
