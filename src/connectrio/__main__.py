"""`python -m connectrio` is the `connectrio` command."""

from connectrio.cli import connectrio_script

if __name__ == "__main__":
    connectrio_script()
