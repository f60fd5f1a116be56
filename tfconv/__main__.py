"""`python -m tfconv`: see `tfconv.cli`."""

import sys

from tfconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
