"""Runs the command line as `python -m litefs`."""

from litefs.cli.main import main

if __name__ == "__main__":
    main()
