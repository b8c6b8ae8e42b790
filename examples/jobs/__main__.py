"""The command line of the three jobs; `command` says what it does."""

import sys

from examples.jobs import flights, images, mail
from examples.jobs.command import main

if __name__ == "__main__":
    sys.exit(main([mail.JOB, flights.JOB, images.JOB]))
