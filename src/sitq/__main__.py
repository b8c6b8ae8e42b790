"""`python -m sitq` is `sitq`."""

import sys

from sitq.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
