"""The limit's idle worker: sleeps until a datagram comes, then drains. Arguments: PATH DURABILITY."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from benchmarks import limits
from benchmarks.children import say


async def main(path: str, durability: Any) -> None:
    """Serve until the process is killed."""
    async with limits.aconnect(Path(path), durability) as db:
        await limits.serve(db, lambda port: say(port=port))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
