"""`python -m connectrio` is the `connectrio` command."""

from connectrio.cli import main

if __name__ == "__main__":
    main()
