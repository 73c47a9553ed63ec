"""What every exporter ends with: a graph within the target's ceiling that names nothing of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import RuntimeCannotLoad

if TYPE_CHECKING:
    from edgekd.core.profile import Profile


def finish(graph: Any, path: Path, target: Profile) -> Path:
    """Check the graph, write it to `path`, one file. Raises RuntimeCannotLoad above the target's opset."""
    import onnx

    graph.ir_version = min(graph.ir_version, target.max_ir_version)
    _strip(graph)
    found = max(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    if found > target.max_opset:
        raise RuntimeCannotLoad(
            f"the export has opset {found}; the target {target.name} knows {target.max_opset}",
            fix="raise max_opset in the profile if the device's ONNX Runtime allows it",
        )
    onnx.checker.check_model(graph)
    onnx.save(graph, path)
    return path


def _strip(model: Any) -> None:
    """Remove names of files and of this machine: a bundle is reproducible and leaks nothing."""
    model.doc_string, model.producer_name, model.producer_version = "", "edgekd", ""
    del model.metadata_props[:]
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
