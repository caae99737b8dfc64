"""Runs `transformers serve` (an OpenAI-compatible server) where torchvision needs mending first.

The arguments are those of `transformers serve`: python -m pipelines.serve_language --port 8766
"""

from __future__ import annotations

import sys

import models.compat  # noqa: F401

if __name__ == "__main__":
    from transformers.cli.transformers import main

    sys.argv[1:1] = ["serve"]
    main()
