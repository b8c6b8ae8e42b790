"""sitq: an embeddable, async-first task queue."""
