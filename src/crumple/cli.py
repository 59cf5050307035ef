"""Command line: one subcommand per stage; the workflow's rules call these and nothing else."""

from __future__ import annotations

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; a known failure prints one sentence and returns 1."""
    parser = argparse.ArgumentParser(prog="crumple", description=__doc__)
    parser.add_subparsers(dest="command", required=True)
    parser.parse_args(argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
