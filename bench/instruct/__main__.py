"""Instruct: whether what it writes is true, what its gates catch, and how fast its endpoint is asked.

Each module of this folder is one benchmark, run in a process of its own.
"""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys
from pathlib import Path


def main() -> None:
    names = sorted(
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_"
    )
    arguments = argparse.ArgumentParser(prog="python -m bench.instruct", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="less work: to see that it runs, not for figures")
    arguments.add_argument("--only", choices=names, help="one benchmark; all in turn where it is not given")
    given = arguments.parse_args()
    failed = []
    for name in [given.only] if given.only else names:
        code = f"from bench.instruct.{name} import main; main({given.quick})"
        if subprocess.run([sys.executable, "-c", code]).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
