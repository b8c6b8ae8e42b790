"""Tasks as signed JSON, in a file that others can write: what they forge or copy is refused, and a key is replaced.

    python -m examples.signed_tasks

Prints

    paid 19.00 EUR
    a forged call is not run: this call was written by the serializer cloudpickle, and here signed reads
    a copied result is refused: this result cannot be verified
    with a new key: paid 19.00 EUR, paid 1.00 EUR
"""

import asyncio
import secrets
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from sitq import JSONSerializer, PayloadRefusedError, Signed, TaskQueue, Worker
from sitq.events import TaskParked
from sitq.model import Succeeded, TaskQuery


@dataclass
class Invoice:
    total: Decimal
    currency: str = "EUR"


def pay(invoice: Invoice) -> str:
    return f"paid {invoice.total} {invoice.currency}"


def tasks(db: Path, keys: dict[str, bytes]) -> TaskQueue:
    return TaskQueue(db, serializer=Signed(JSONSerializer(tasks=[pay], types=[Invoice]), keys))


async def forge_a_call(db: Path) -> None:
    """What somebody without a key can do: enqueue with a queue of his own."""
    async with TaskQueue(db) as forger:
        await forger.enqueue(print, "forged")


async def copy_a_result(db: Path, task_id: str) -> str:
    """Put the result of one task into another one, as who can write the file can."""
    async with TaskQueue(db) as forger:
        copy = await forger.enqueue(print)
        backend = forger.backend
        [original] = await backend.find(TaskQuery(ids=[task_id], with_bytes=True))
        [reserved] = (await backend.reserve("forger", None, 1, timedelta(seconds=30), ids=[copy])).tasks
        await backend.complete([Succeeded(reserved.held, original.result or b"")])
        return str(copy)


async def main(db: Path) -> None:
    old = {"2026": secrets.token_bytes(32)}
    async with tasks(db, old) as queue, Worker(queue):
        parked = asyncio.Event()

        @queue.on(TaskParked)
        def tell(event: TaskParked) -> None:
            print(f"a forged call is not run: {event.error.partition(':')[0]}")
            parked.set()

        first = await queue.enqueue(pay, Invoice(Decimal("19.00")))
        print(await first.result(timeout=10))
        await forge_a_call(db)
        await asyncio.wait_for(parked.wait(), 30)

    async with tasks(db, old) as queue:
        copy = await copy_a_result(db, first)
        try:
            await queue.get_result(copy)
        except PayloadRefusedError as error:
            print(f"a copied result is refused: {str(error).partition(':')[0]}")

    both = {"2027": secrets.token_bytes(32), **old}
    async with tasks(db, both) as queue, Worker(queue):
        second = await queue.enqueue(pay, Invoice(Decimal("1.00")))
        values = [(await queue.get_result(one, timeout=10)).value for one in (first, second)]
        print(f"with a new key: {', '.join(map(str, values))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "signed.db"))
