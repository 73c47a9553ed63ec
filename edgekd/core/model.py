"""A model: named graphs in the order that its program runs them; the one place that knows how they lie in a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core import external
from edgekd.core.digests import digest, file_sha256
from edgekd.core.errors import EdgeKDError

ONE = "model"  # the graph's name where a model has one
FORWARD = "forward"  # the program that runs each graph once, in their order


@dataclass(frozen=True)
class Model:
    """ONNX files by the names of their graphs, and the program in `edgekd/onboard` that runs them."""

    graphs: Mapping[str, Path]
    program: str = FORWARD

    @classmethod
    def of(cls, file: Path) -> Model:
        """Return the model of one file."""
        return cls({ONE: file})

    @classmethod
    def in_folder(cls, folder: Path, graphs: Sequence[str], program: str = FORWARD, *, suffix: str = "") -> Model:
        """Return the model in a folder: of each graph the file with its recipe's suffix, else the one without."""
        found = {}
        for name in graphs:
            own, plain = graph_file(folder, name, suffix), graph_file(folder, name)
            found[name] = plain if plain.is_file() and not own.is_file() else own
        return cls(found, program)

    @property
    def file(self) -> Path:
        """The file of a model of one graph."""
        if len(self.graphs) != 1:
            raise EdgeKDError(
                f"the model has the graphs {', '.join(self.graphs)}, where one is taken",
                fix="give a model of one graph",
            )
        return next(iter(self.graphs.values()))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file, each graph's external data behind it."""
        return tuple(file for graph in self.graphs.values() for file in external.files(graph))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def size_mib(self) -> float:
        """The same in MiB."""
        return self.size / 2**20

    @property
    def sha256(self) -> str:
        """One digest over the program, the graphs' names and order, and the bytes of all files."""
        listed = [[name, *(file_sha256(file) for file in external.files(graph))] for name, graph in self.graphs.items()]
        return digest({"program": self.program, "graphs": listed})

    @property
    def job(self) -> dict[str, Any]:
        """What names it in a runner's job: `model`, a path or paths by name, and a `program` other than forward."""
        one = list(self.graphs) == [ONE]
        model = str(self.graphs[ONE]) if one else {name: str(file) for name, file in self.graphs.items()}
        return {"model": model} | ({} if self.program == FORWARD else {"program": self.program})

    def copied(self, folder: Path) -> Model:
        """Copy every file into a folder, under its own name."""
        copies = {name: external.copy(file, folder / file.name) for name, file in self.graphs.items()}
        return Model(copies, self.program)

    def changed(
        self,
        folder: Path,
        change: Callable[[str, Path, Path], object],
        *,
        suffix: str = "",
        leave: Collection[str] = (),
    ) -> tuple[Model, dict[str, str]]:
        """Write `change(name, file, out)` of each graph into a folder; the model there, and what stays as it is.

        A graph that `change` refuses with EdgeKDError, and one of `leave`, is copied under its plain name: the reason
        stands under its name. Raises that error where no graph is left that was changed.
        """
        found, stays, last = {}, {}, None
        for name, file in self.graphs.items():
            out = graph_file(folder, name, suffix)
            if name in leave:
                stays[name] = "left as it is"
                continue
            try:
                change(name, file, out)
            except EdgeKDError as error:
                stays[name], last = error.message, error
                for file in external.files(out):  # a recipe that did nothing may have written that
                    file.unlink(missing_ok=True)
                continue
            found[name] = external.settled(out)
        if last is not None and not found:
            raise last
        kept = {name: external.copy(self.graphs[name], graph_file(folder, name)) for name in stays}
        return Model({name: (found | kept)[name] for name in self.graphs}, self.program), stays


def graph_file(folder: Path, graph: str, suffix: str = "") -> Path:
    """Return where a graph lies in a folder: its name, its recipe's suffix as loaders expect it, `.onnx`."""
    return folder / f"{graph}{suffix}.onnx"
