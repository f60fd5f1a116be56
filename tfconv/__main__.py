"""`python -m tfconv`: see `tfconv.cli`."""

import sys

from tfconv.commands.process import interruptible

if __name__ == "__main__":
    sys.exit(interruptible("tfconv.cli"))
