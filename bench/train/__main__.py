"""Runs the modules of this folder in turn; see its docstring."""

import bench.train
from bench.goals import run_modules

if __name__ == "__main__":
    run_modules(bench.train)
