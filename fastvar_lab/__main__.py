"""`python -m fastvar_lab COMMAND`, also installed as `fastvar-lab`."""

import sys

from fastvar_lab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
