"""The storage that ends with the process."""

from sitq.backends.memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
