"""The long form: `python -m tests.lab fuzz`."""

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.fuzz import rows, times


def run(seed: int, count: int, progress: Progress) -> Batch:
    """Half of the cases are hostile rows, half of them cron expressions."""
    half = count // 2
    damaged, of_rows = rows.run(seed, half, progress)
    wrong, of_times = times.run(seed, count - half, lambda done: progress(half + done))
    return Batch(
        count, damaged + wrong, {**of_rows, **{f"cron {name}": number for name, number in of_times.items()}}
    )


FUZZ = Experiment(
    name="fuzz",
    unit="cases",
    about="Damage rows of a store and write odd cron expressions: typed errors only, and the other tasks go on.",
    batch=4_000,
    run=run,
)
