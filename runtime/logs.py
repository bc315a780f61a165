"""The local log: one line an event, for people or as JSON.

What is logged about a call are the fields in `FIELDS`, given as `extra`; no other
attribute of a record is written. Invariants:

- Nothing that logs is handed text of a prompt or an answer, and exceptions of others
  are logged by type and place only, since their messages may quote what they choked
  on. asyncio puts such a message, and the arguments of a callback, into its own: of
  what it logs only the words before the first of them are kept.
- One event is one line: control and format characters are escapes wherever they come
  from, so that no name that a client chose makes a line or moves a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
import time

from casemate.cli.visible import json_text, one_line

FIELDS = ("request_id", "principal", "method", "model", "status", "detail")

# What begins a repr, or a further line, in a message of asyncio's.
_QUOTING = re.compile(r"[\n<(:'\"]")


def _extras(record: logging.LogRecord) -> dict[str, str]:
    values = ((name, getattr(record, name, None)) for name in FIELDS)
    return {name: str(value) for name, value in values if value}


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _exception(record: logging.LogRecord) -> str:
    """Return type and place of an exception, without its message."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    kind, _, trace = record.exc_info
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return kind.__name__
    return f"{kind.__name__} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.name.partition(".")[0] == "asyncio":
        return _QUOTING.split(message, maxsplit=1)[0].rstrip()
    return message


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_extras(record),
        }
        if failed := _exception(record):
            entry["exception"] = failed
        return json_text(entry)


class PlainFormatter(logging.Formatter):
    """One readable line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = [_timestamp(record), f"{record.levelname.lower():<7}", _message(record)]
        parts += [f"{name}={value}" for name, value in _extras(record).items()]
        if failed := _exception(record):
            parts.append(failed)
        return one_line(" ".join(parts))


def set_up_logging(*, as_json: bool, level: int = logging.INFO) -> None:
    """Send every logger of this process to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("casemate", "runtime", "security"):
        logging.getLogger(ours).setLevel(level)
