"""Images: thumbnails of photographs, in several sizes and formats. One task a photograph, in a process.

A process can be stopped in the middle of an encoder: `cancel` kills it at once, and so does the `timeout`. So a
thumbnail is written in a folder of its own, and renamed when it is whole: what has the name of a thumbnail is one. What
a killed process has left in that folder is cleared away by `gallery`, which waits for all photographs and runs whatever
became of them.

    python -m examples.jobs images demo

Prints

    china.jpg: 12 thumbnails
    flower.jpg: 12 thumbnails
    upload.jpg failed: OSError
    gallery: 24 thumbnails are whole, 1 photograph failed
    came in whole and got a new run: upload.jpg: 12 thumbnails
    one with 1,917 thumbnails was cancelled half-way: those that are there are whole
"""

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from examples.jobs.command import Job, open_queue
from sitq import Status, TaskError, TaskHandle, TaskQueue, Worker, call, current_task, result_of, task
from sitq.events import TaskProgressed

QUEUE = "images"
SIZES = (64, 128, 256, 512)
FORMATS = ("jpg", "png", "webp")
PARTIAL = ".partial"


class Order(NamedTuple):
    """What to make of each photograph.

    Attributes:
        folder: Where the thumbnails go.
        sizes: Pixels that the longer side may have.
        formats: Of the files, by their suffix.
    """

    folder: Path
    sizes: tuple[int, ...] = SIZES
    formats: tuple[str, ...] = FORMATS

    @property
    def partial(self) -> Path:
        """The folder for what is being written. On the same disk, so that a file can be renamed out of it."""
        return self.folder / PARTIAL


# -- The tasks -------------------------------------------------------------------------------------


@task(queue=QUEUE, executor="process", timeout=600)
def thumbnails(photo: Path, order: Order) -> list[str]:
    """Make all thumbnails of a photograph and return their names."""
    order.partial.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    names: list[str] = []
    total = len(order.sizes) * len(order.formats)
    for size in order.sizes:
        small = fit(image, size)
        for suffix in order.formats:
            name = f"{photo.stem}-{size}.{suffix}"
            small.save(order.partial / name)
            (order.partial / name).replace(order.folder / name)
            names.append(name)
            current_task().progress(100 * len(names) / total, name)
    return names


def fit(image: Image.Image, size: int) -> Image.Image:
    """Shrink an image so that its longer side has this many pixels. A smaller one stays as it is."""
    return ImageOps.contain(image, (size, size)) if max(image.size) > size else image


@task(queue=QUEUE)
def gallery(order: Order, outcomes: list[list[str] | TaskError]) -> str:
    """Clear up, and read back what was made."""
    shutil.rmtree(order.partial, ignore_errors=True)
    made = [outcome for outcome in outcomes if not isinstance(outcome, TaskError)]
    whole = sum(is_whole(order.folder / name) for names in made for name in names)
    lost = len(outcomes) - len(made)
    return f"{whole} thumbnails are whole, {lost} photograph{'' if lost == 1 else 's'} failed"


def is_whole(path: Path) -> bool:
    """Decode an image to its last pixel."""
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


# -- Photographs and their tasks -------------------------------------------------------------------


def photographs() -> list[Path]:
    """Those that the package scikit-learn carries. It is not imported: that would need NumPy and SciPy."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("scikit-learn is not installed: pip install --no-deps scikit-learn")
    return sorted(Path(spec.submodule_search_locations[0], "datasets", "images").glob("*.jpg"))


async def enqueue(
    queue: TaskQueue, photos: Iterable[Path], order: Order
) -> tuple[list[TaskHandle[list[str]]], TaskHandle[str]]:
    """Store a task for each photograph, and the gallery that waits for them."""
    made = await queue.enqueue_many(call(thumbnails, photo.resolve(), order) for photo in photos)
    whatever = queue.options(on_parent_failure="run")
    return made, await whatever.enqueue(gallery, order, [result_of(handle) for handle in made])


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="*", type=Path, help="those of scikit-learn if not given")
    parser.add_argument(
        "--folder", type=Path, default=Path("thumbnails"), help="for the thumbnails (thumbnails)"
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="PIXELS")
    parser.add_argument("--formats", nargs="+", choices=(*FORMATS, "avif"), default=FORMATS, metavar="SUFFIX")


async def submit(queue: TaskQueue, given: argparse.Namespace) -> Sequence[str]:
    photos: list[Path] = given.photos or photographs()
    if len({photo.stem for photo in photos}) < len(photos):
        sys.exit(
            "two photographs have the same name, and so would their thumbnails: rename one, or use two folders"
        )
    order = Order(given.folder.resolve(), tuple(given.sizes), tuple(given.formats))
    made, everything = await enqueue(queue, photos, order)
    return [*made, everything]


# -- The demonstration -----------------------------------------------------------------------------


async def demo(folder: Path) -> None:
    order = Order(folder / "thumbnails")
    china, flower = photographs()
    upload = folder / "upload.jpg"
    upload.write_bytes(flower.read_bytes()[:50_000])  # a third of it: the connection broke
    photos = [china, flower, upload]
    async with open_queue(folder / "images.db") as queue, Worker(queue):
        made, everything = await enqueue(queue, photos, order)
        for photo, handle in zip(photos, made, strict=True):
            result = await queue.get_result(handle, timeout=60)
            failed = result.status is not Status.SUCCESS
            print(f"{photo.name} failed: {result.error_type}" if failed else describe(photo, result.unwrap()))
        print(f"gallery: {await everything.result(timeout=60)}")

        shutil.copy(flower, upload)
        await queue.requeue(queue=QUEUE)
        print("came in whole and got a new run:", describe(upload, await made[-1].result(timeout=60)))

        await cancel_half_way(queue, order._replace(folder=folder / "many", sizes=tuple(range(1, 640))))


def describe(photo: Path, names: list[str]) -> str:
    return f"{photo.name}: {len(names)} thumbnails"


async def cancel_half_way(queue: TaskQueue, order: Order) -> None:
    [many], everything = await enqueue(queue, photographs()[:1], order)
    async for entry in many.events():
        if isinstance(entry.event, TaskProgressed):
            break
    assert await many.cancel(timeout=60) is Status.CANCELLED
    await everything.result(timeout=60)
    there = list(order.folder.iterdir())
    assert 0 < len(there) < len(order.sizes) * len(order.formats)
    assert all(is_whole(path) for path in there)
    print("one with 1,917 thumbnails was cancelled half-way: those that are there are whole")


JOB = Job(QUEUE, "thumbnails of photographs, in processes", arguments, submit, demo)
