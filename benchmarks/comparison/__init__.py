"""sitq beside other task queues: the same work, on the same machine, in the same run."""
