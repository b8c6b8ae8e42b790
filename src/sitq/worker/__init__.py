"""The worker: small services, wired and shut down by `worker.py`."""

from sitq.worker.worker import Worker

__all__ = ["Worker"]
