"""What every exporter ends with: graphs within the target's ceiling that name nothing of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core import external
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad
from edgekd.core.model import Model, graph_file
from edgekd.core.registry import plugin

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile


OWN_METADATA = "edgekd."  # how the keys begin of what a program reads in a graph


def finish(graph: Any, path: Path, target: Profile) -> Path:
    """Check the graph and write it to `path`, its weights beside it where one file cannot hold them.

    Raises RuntimeCannotLoad above the target's opset.
    """
    import onnx

    graph.ir_version = min(graph.ir_version, target.max_ir_version)
    _strip(graph)
    found = max(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    if found > target.max_opset:
        raise RuntimeCannotLoad(
            f"the export has opset {found}; the target {target.name} knows {target.max_opset}",
            fix="raise max_opset in the profile if the device's ONNX Runtime allows it",
        )
    if external.fits(graph):
        onnx.checker.check_model(graph)
        return external.save(graph, path)
    external.save(graph, path)
    onnx.checker.check_model(str(path))  # one in memory would have to be a single message
    return path


def finished(graphs: Mapping[str, Any], out: Path, task: str, target: Profile) -> Model:
    """Finish a task's graphs, by name, in the folder `out`. Raises as `finish` does."""
    written = {name: finish(graph, graph_file(out, name), target) for name, graph in graphs.items()}
    return Model(written, plugin("tasks", task).program)


def only_graph(task: str, exporter: str) -> str:
    """Return the name of a task's graph. Raises EdgeKDError where it has several."""
    names = plugin("tasks", task).graphs
    if len(names) != 1:
        raise EdgeKDError(
            f"the exporter {exporter} writes one graph; a model for {task} has {', '.join(names)}",
            fix="export it with an exporter that writes these graphs",
        )
    return names[0]


def _strip(model: Any) -> None:
    """Remove names of files and of this machine: a bundle is reproducible and leaks nothing."""
    model.doc_string, model.producer_name, model.producer_version = "", "edgekd", ""
    kept = [one for one in model.metadata_props if one.key.startswith(OWN_METADATA)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for part in (*_parts(model.graph), *model.functions, *(node for own in model.functions for node in own.node)):
        part.doc_string = ""
        del part.metadata_props[:]


def _parts(graph: Any) -> Iterator[Any]:
    """The graph and all in it that may carry notes, the graphs inside its nodes as well."""
    yield graph
    for part in (graph.input, graph.output, graph.value_info, graph.initializer, graph.node):
        yield from part
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _parts(inner)
