"""Runs the modules of this folder in turn, each in a fresh process, which prints its goals' lines last.

python -m bench.select [--quick] [--only NAME]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller, to see that it runs")
    parser.add_argument("--only", choices=names, help="this one alone")
    arguments = parser.parse_args()
    failed = 0
    for name in [arguments.only] if arguments.only else names:
        code = f"from bench.select.{name} import main; main({arguments.quick})"
        failed |= subprocess.run([sys.executable, "-c", code]).returncode
    return min(abs(failed), 1)


if __name__ == "__main__":
    sys.exit(main())
