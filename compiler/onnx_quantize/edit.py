"""Replace sites of a graph by quantized ones, in one sweep over its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from compiler.errors import QuantizationError
from compiler.onnx_quantize.sites import Site
from compiler.passes.graph import (
    constants,
    defined,
    outer_names,
    remove_initializers,
    replace_nodes,
)

MICROSOFT = "com.microsoft"
_SUFFIX = "_quantized"


class GraphEdit:
    """Collects what replaces each site, then rewrites the graph once.

    Invariant: names that are added end in a suffix that no name of the source may have, so
    a graph that was quantized here before is refused.
    """

    def __init__(self, model: ModelProto) -> None:
        if any(_SUFFIX in name for name in defined(model.graph)):
            raise QuantizationError("the graph was quantized before; give the float original")
        self._model = model
        self._before: dict[int, list[NodeProto]] = {}
        self._gone: set[int] = set()
        self._made: dict[str, None] = {}

    def opset(self) -> int:
        """Return the version of ONNX's own operators that the graph uses."""
        found = [i.version for i in self._model.opset_import if i.domain in ("", "ai.onnx")]
        return int(found[0]) if found else 0

    def constant(self, base: str, part: str, array: NDArray[Any]) -> str:
        """Add an initializer, once for each name; return the name."""
        name = f"{base}_{part}{_SUFFIX}"
        if name not in self._made:
            self._made[name] = None
            packed = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            self._model.graph.initializer.append(packed)
        return name

    def node(
        self,
        at: int,
        operator: str,
        inputs: list[str],
        outputs: list[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node in front of the node at a position."""
        node = helper.make_node(
            operator, inputs, outputs, name=outputs[0] + "_node", domain=domain, **attributes
        )
        self._before.setdefault(at, []).append(node)

    def value(self, base: str, part: str) -> str:
        """Return the name of a value in between."""
        return f"{base}_{part}{_SUFFIX}"

    def remove(self, site: Site) -> None:
        """Drop the nodes that a site consists of."""
        self._gone.add(site.node)
        if site.bias_node is not None:
            self._gone.add(site.bias_node)

    def apply(self) -> None:
        """Rewrite the graph; drop constants and nodes that nothing uses any more."""
        graph = self._model.graph
        nodes: list[NodeProto] = []
        for index, node in enumerate(graph.node):
            nodes.extend(self._before.get(index, ()))
            if index not in self._gone:
                nodes.append(node)
        needed = {value.name for value in graph.output}
        kept = []
        for node in reversed(nodes):
            if needed.isdisjoint(node.output):
                continue
            needed |= outer_names(node)
            kept.append(node)
        replace_nodes(graph, reversed(kept))
        remove_initializers(graph, constants(graph).keys() - needed)
        present = defined(graph)
        values = [value for value in graph.value_info if value.name in present]
        del graph.value_info[:]
        graph.value_info.extend(values)
        domains = {node.domain for node in graph.node}
        imported = {item.domain for item in self._model.opset_import}
        if MICROSOFT in domains and MICROSOFT not in imported:
            self._model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
