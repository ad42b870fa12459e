"""`python -m signal_py` is `signal-engine`."""

import sys

from signal_py.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
