"""Makes torch, torchvision, open_clip and transformers work together. Import this before any of them.

Where torchvision's compiled operators cannot be loaded (its CUDA build beside a CPU build of torch), importing
torchvision fails on two operators that nothing here uses, and takes open_clip and transformers down with it.
Declaring the operators' schemas first mends that. Where torchvision is whole, nothing is done.
"""

from __future__ import annotations

import ctypes
import os

import torch

_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
#: Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_libraries: list[torch.library.Library] = []


def _mend_torchvision() -> None:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in _OPERATORS.values():
            library.define(schema)
        _libraries.append(library)
        import torchvision  # noqa: F401
    except ImportError:
        pass


def use_cores(share: int | None = None) -> None:
    """Lets torch use `share` cores (all, where None). Ray sets OMP_NUM_THREADS=1 in its workers, which is too few."""
    torch.set_num_threads(
        share or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def keep_memory() -> None:
    """Lets this process keep the memory that it frees, for its next tensors, where the C library is glibc.

    Else each large tensor is of fresh pages, and to get them from the system takes longer than to fill them: 28 ms for
    50 MB, and 2 ms where they are kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


_mend_torchvision()
