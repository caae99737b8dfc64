"""The kinds of conversation, one class in one file each, found by the file's name.

To add a kind, add a file here with one subclass of `PictureKind`, `TemplateKind` or `EndpointKind`; its name in a
recipe is the file's name.
"""

from __future__ import annotations

from schemas.by_file import find_class, names_in
from stages.instruct.kinds.base import EndpointKind, Kind, PictureKind, Rejected, TemplateKind

__all__ = [
    "EndpointKind", "Kind", "PictureKind", "Rejected", "TemplateKind", "exact_kinds", "find_kind", "kind_names",
]  # fmt: skip


def kind_names() -> list[str]:
    """Names that a recipe can use under `instruct.kinds`."""
    return names_in(__path__)


def exact_kinds() -> list[str]:
    """Names of the kinds whose answers can be compared word for word."""
    return [name for name in kind_names() if find_kind(name).exact]


def find_kind(name: str) -> type[Kind]:
    """The class of kind `name`.

    Raises:
        InputError: there is no such kind.
    """
    found: type[Kind] = find_class("kind", name, kind_names(), __name__, Kind)
    return found
