"""What the other processes of a measurement do. Each answers in JSON lines on its standard output."""

import json
from typing import Any


def say(**answer: Any) -> None:
    """Answer the parent."""
    print(json.dumps(answer), flush=True)
