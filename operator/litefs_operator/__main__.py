"""`python -m litefs_operator` is `litefs-operator`."""

import sys

from litefs_operator.main import main

if __name__ == "__main__":
    sys.exit(main())
