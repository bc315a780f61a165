"""The chat template: Jinja2, from the signed bundle, in a sandbox with limits.

The template is covered by the bundle's signature, so it is not hostile by default; but
a signature says who, not how careful. So it gets Jinja's immutable sandbox (no
attributes of the interpreter, no changing of its arguments), no loader (no include,
import or extends), a short list of filters and tests, and these limits:

  - the source, and the text it renders to, have a largest size;
  - `range` and the messages may be walked for `MAX_LOOP_ITEMS` steps in one rendering;
  - nothing that makes a long string or a large number out of short ones: `*` and `**`
    with large results, "%" formatting, `format`, `center` and their like;
  - a time limit, looked at with every piece of output and every loop step that is
    counted. There is no signal and no thread to kill: what bounds a rendering that
    produces nothing is the loop limit; what bounds everything is the worker's rlimits.

Templates can refuse a conversation with `raise_exception(message)`. There is no clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.engine.errors import TemplateError

MAX_TEMPLATE_CHARS = 65_536
MAX_RENDERED_CHARS = 1_048_576
MAX_LOOP_ITEMS = 10_000
MAX_RENDER_SECONDS = 1.0
_MAX_PRODUCT = 65_536

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

    def range(self, *bounds: int) -> Iterator[int]:
        yield from self.walk(range(*bounds))

    def walk(self, values: Sequence[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(1)
            yield value


class _Messages(list[dict[str, str]]):
    """The messages, whose every walk is counted."""

    def __init__(self, messages: Sequence[dict[str, str]], budget: _Budget) -> None:
        super().__init__(messages)
        self._budget = budget

    def __iter__(self) -> Iterator[dict[str, str]]:
        return self._budget.walk([self[index] for index in range(len(self))])

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Messages(found, self._budget) if isinstance(index, slice) else found


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, less what makes much out of little."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.tests = {name: self.tests[name] for name in _TESTS}
        self.globals = {"namespace": self.globals["namespace"], "dict": dict}
        self.globals["raise_exception"] = _raise_exception

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _STRING_MAKERS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse `str.format`, which Jinja would only guard against attribute access."""
        if super().wrap_str_format(value) is not None:
            raise TemplateError("the chat template formats with str.format")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            if not isinstance(left, int):
                raise TemplateError("the chat template formats with %")
        elif not _is_small(operator, left, right):
            raise TemplateError("the chat template multiplies beyond the limit")
        return super().call_binop(context, operator, left, right)


def _is_small(operator: str, left: Any, right: Any) -> bool:
    if operator == "**":
        return isinstance(left, int) and isinstance(right, int) and max(left, right) <= 16
    sizes = [value if isinstance(value, int | float) else len(value) for value in (left, right)]
    return abs(sizes[0] * sizes[1]) <= _MAX_PRODUCT


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
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(
                messages=_Messages(turns, budget),
                range=budget.range,
                add_generation_prompt=True,
                **self._special,
            ):
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
