"""Logs of a command, on stderr: lines for people, or one JSON object a line."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FORMATS: Final = ("text", "json")

_TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# What every record has; whatever else is on one was given as `extra`.
_STANDARD: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)) | {"message": "", "asctime": ""}
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, logger, message, event, and the extra fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        data: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                data.setdefault(name, value)
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            data["stack"] = record.stack_info
        return json.dumps(data, default=str)


def configure(level: str, style: str = "text") -> None:
    """Send what is logged at `level` and above to stderr. The application may configure more of its own later."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # It logs each statement with its values, which are the payloads of tasks.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
