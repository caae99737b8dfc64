"""What the section `select` names besides the run's own tables: heads, lists of concepts, reference pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.clip import ClipSettings, clip_dim
from stages.run_folder import RunFolder
from stages.select.dedup import earlier_digests
from stages.select.evaluation_sets import evaluation_content
from stages.select.heads import head_digest, read_head
from stages.select.references import reference_vectors
from stages.select.strategies import References

if TYPE_CHECKING:
    from stages.select.settings import SelectSettings


def check_inputs(settings: SelectSettings) -> None:
    """Reads what is named, so that what is missing is said before anything is downloaded.

    Raises:
        InputError: a file or folder is missing, empty or broken, or a head is for vectors of another length.
    """
    for name, head in settings.heads.items():
        read_head(head, name, clip_dim(clip_of(settings, head.model or "")))
    content_of(settings)


def content_of(settings: SelectSettings) -> Any:
    """What the decisions depend on besides the settings and the run's own tables, JSON-able.

    Raises:
        InputError: something is missing or empty.
    """
    return [
        [head_digest(head) for head in settings.heads.values()],
        [part.content() for part in settings.strategy.parts()],
        evaluation_content(settings.decontaminate),
        earlier_digests(settings.dedup.against),
    ]


def models_of(settings: SelectSettings) -> dict[str, bool]:
    """The models that decide, and whether their vectors are needed beside their scores; "" is that of `select.clip`."""
    needed = {"": settings.dedup.semantic is not None or any(one.reads_vectors for one in settings.decontaminate)}
    for head in settings.heads.values():
        needed[head.model or ""] = True
    for part in settings.strategy.parts():
        if (name := part.model_name()) is not None:
            needed[name] = needed.get(name, False) or part.reads_vectors()
    return needed


def clip_of(settings: SelectSettings, name: str) -> ClipSettings:
    """The CLIP model called `name`."""
    return settings.models[name] if name else settings.clip


def read_references(run: RunFolder, settings: SelectSettings) -> References:
    """The vectors of every reference that a strategy compares with.

    Raises:
        InputError: see `reference_vectors`.
    """
    found = {}
    for part in settings.strategy.parts():
        reference, name = part.reference_pictures(), part.model_name()
        if reference is not None and name is not None:
            found[reference, name] = reference_vectors(run, reference, clip_of(settings, name))
    return found
