"""The local log: one line an event, for people or as JSON.

What is logged about a call are the fields in `FIELDS`, given as `extra`; no other
attribute of a record is written. Invariant: nothing that logs is handed text of a
prompt or an answer, and exceptions of others are logged by type and place only,
since their messages may quote what they choked on.
"""

from __future__ import annotations

import json
import logging
import sys
import time

FIELDS = ("request_id", "principal", "method", "model", "status", "detail")


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


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if failed := _exception(record):
            entry["exception"] = failed
        return json.dumps(entry, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """One readable line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = [_timestamp(record), f"{record.levelname.lower():<7}", record.getMessage()]
        parts += [f"{name}={value}" for name, value in _extras(record).items()]
        if failed := _exception(record):
            parts.append(failed)
        return " ".join(parts).replace("\n", " ")


def set_up_logging(*, as_json: bool, level: int = logging.INFO) -> None:
    """Send every logger of this process to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("casemate", "runtime", "security"):
        logging.getLogger(ours).setLevel(level)
