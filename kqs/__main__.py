"""`python -m kqs` is the `kqs` command."""

from kqs.cli import main

if __name__ == "__main__":
    main()
