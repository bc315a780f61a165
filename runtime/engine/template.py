"""The chat template: Jinja2, from the signed bundle, in a sandbox with limits.

The template is covered by the bundle's signature, so it is not hostile by default; but
a signature says who, not how careful. So it gets Jinja's immutable sandbox (no
attributes of the interpreter, no changing of its arguments), no loader (no include,
import or extends), a short list of filters and tests, and these limits:

  - the source, and the text it renders to, have a largest size;
  - its loops may take `MAX_LOOP_ITEMS` steps in one rendering, all of them together;
  - no value grows beyond the size of a rendering: `+`, `~`, `*`, `**`, `join` and
    `replace` are checked before they run, and formatting and padding are not there;
  - a time limit, looked at with every piece of output and every step of a loop. No
    signal interrupts an expression: those are bounded by the size of what they make.

Templates can refuse a conversation with `raise_exception(message)`. There is no clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from runtime.engine.errors import TemplateError

MAX_TEMPLATE_CHARS = 65_536
MAX_RENDERED_CHARS = 1_048_576
MAX_LOOP_ITEMS = 10_000
MAX_RENDER_SECONDS = 1.0
_MAX_POWER_OPERAND = 16

_FILTERS = frozenset(
    {"capitalize", "count", "d", "default", "first", "int", "items", "join", "last", "length"}
    | {"list", "lower", "map", "reject", "rejectattr", "replace", "reverse", "safe", "select"}
    | {"selectattr", "string", "title", "tojson", "trim", "upper"}
)
_TESTS = frozenset(
    {"defined", "undefined", "string", "mapping", "sequence", "iterable", "number", "integer"}
    | {"boolean", "none", "true", "false", "in", "sameas", "eq", "equalto", "ne", "lt", "le"}
    | {"gt", "ge", "==", "!=", "<", "<=", ">", ">="}
)
# What pads, expands or multiplies; `replace` can grow a string by any factor.
_STRING_MAKERS = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "encode", "translate", "join", "replace"}
)


# Not a name that a template could set.
_BUDGET = "rendering budget"


class _Refused(Exception):
    """The template called `raise_exception`."""


class _Budget:
    """What is left of one rendering's loop steps and time."""

    def __init__(self) -> None:
        self._items = MAX_LOOP_ITEMS
        self._deadline = time.monotonic() + MAX_RENDER_SECONDS

    def spend(self, items: int = 0) -> None:
        self._items -= items
        if self._items < 0:
            raise TemplateError("the chat template loops too often")
        if time.monotonic() > self._deadline:
            raise TemplateError("the chat template takes too long")

    def walk(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(1)
            yield value


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, less what makes much out of little."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters["walk"] = _walk
        self.filters["join"] = _join
        self.filters["replace"] = _replace
        self.tests = {name: self.tests[name] for name in _TESTS}
        self.globals = {"namespace": self.globals["namespace"], "dict": dict}
        self.globals |= {"raise_exception": _raise_exception, "range": _range}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _STRING_MAKERS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse `str.format`, which Jinja would only guard against attribute access."""
        if super().wrap_str_format(value) is not None:
            raise TemplateError("the chat template formats with str.format")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Counted().visit(tree)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not _is_small(operator, left, right):
            raise TemplateError("the chat template makes a value beyond the limit")
        return super().call_binop(context, operator, left, right)


class _Counted(NodeTransformer):
    """Puts what the sandbox cannot intercept where it is counted.

    `for x in y` becomes `for x in y | walk`, and `a ~ b` the `+` of strings that it is.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's naming
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "walk", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2's naming
        self.generic_visit(node)
        texts = [
            nodes.Filter(part, "string", [], [], None, None, lineno=node.lineno)
            for part in node.nodes
        ]
        result: nodes.Expr = texts[0]
        for text in texts[1:]:
            result = nodes.Add(result, text, lineno=node.lineno)
        return result


def _is_small(operator: str, left: Any, right: Any) -> bool:
    """Whether the result of an operator stays below the size of a rendering."""
    if operator == "%":
        return isinstance(left, int)
    if operator == "**":
        return all(
            isinstance(value, int) and value <= _MAX_POWER_OPERAND for value in (left, right)
        )
    if operator == "+":
        return _size(left) + _size(right) <= MAX_RENDERED_CHARS
    if isinstance(left, int | float) and isinstance(right, int | float):
        return True
    # A sequence times a number.
    times = left if isinstance(left, int) else right if isinstance(right, int) else 1
    return _size(left) * _size(right) * max(times, 1) <= MAX_RENDERED_CHARS


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


@jinja2.pass_context
def _walk(context: jinja2.runtime.Context, values: Iterable[Any]) -> Iterator[Any]:
    budget: _Budget = context[_BUDGET]
    return budget.walk(values)


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_LOOP_ITEMS:
        raise TemplateError("the chat template makes a range beyond the limit")
    return found


def _join(values: Any, separator: str = "") -> str:
    """Jinja's `join`, without attributes, and bounded."""
    texts = [str(value) for value in values]
    if sum(map(len, texts)) + len(texts) * len(separator) > MAX_RENDERED_CHARS:
        raise TemplateError("the chat template makes a value beyond the limit")
    return separator.join(texts)


def _replace(text: str, old: str, new: str) -> str:
    """Jinja's `replace`, without a count, and bounded."""
    if len(text) + text.count(old) * len(new) > MAX_RENDERED_CHARS:
        raise TemplateError("the chat template makes a value beyond the limit")
    return text.replace(old, new)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


class ChatTemplate:
    """A compiled chat template; `render` is safe from any thread."""

    def __init__(self, source: str, *, bos: str | None = None, eos: str | None = None) -> None:
        """`bos` and `eos` are what `bos_token` and `eos_token` stand for in the template.

        Raises:
            TemplateError: it is too long, or not a template this environment takes.
        """
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError(f"the chat template has more than {MAX_TEMPLATE_CHARS} characters")
        try:
            self._template = _Environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"the chat template is not valid: {type(error).__name__}") from None
        self._special = {"bos_token": bos or "", "eos_token": eos or ""}

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The prompt for (role, content) pairs, up to where the answer begins.

        Raises:
            TemplateError: the template refused the messages, failed, or passed a limit;
                the message never quotes them.
        """
        budget = _Budget()
        turns = [{"role": role, "content": content} for role, content in messages]
        variables = {_BUDGET: budget, "messages": turns, "add_generation_prompt": True}
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(variables | self._special):
                budget.spend()
                length += len(part)
                if length > MAX_RENDERED_CHARS:
                    raise TemplateError("the rendered conversation is too long")
                parts.append(part)
        except TemplateError:
            raise
        except _Refused:
            raise TemplateError("the chat template does not accept these messages") from None
        except Exception as error:  # anything a template can provoke; its text may be quoted
            raise TemplateError(f"the chat template failed: {type(error).__name__}") from None
        return "".join(parts)
