"""Index the Python standard library with a queue and a worker, and kill the worker half-way.

    python -m examples.stdlib_index

Read it in this order: `__main__` is the whole story, `analyse` has the tasks, `workers` starts the process that runs
them, `proof` reads the database back. `sources`, `progress` and `report` have nothing to do with queues.
"""
