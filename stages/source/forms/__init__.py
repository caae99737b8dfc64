"""The forms that a source can have, one class in one file each, found by the file's name.

To add a form, add a file here with one subclass of `Form` or `RecordForm`; its name in a recipe is the file's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.by_file import class_in, names_in
from schemas.errors import InputError
from stages.source.forms.base import Form, RecordForm
from stages.source.places import find_places

if TYPE_CHECKING:
    from stages.source.settings import SourceSettings

__all__ = ["AUTO", "Form", "RecordForm", "form_names", "open_form"]

#: The name that stands for the form that fits.
AUTO = "auto"


def form_names() -> list[str]:
    """Names that a recipe can use under `source.form`."""
    return names_in(__path__)


def open_form(settings: SourceSettings) -> Form:
    """The reader of the source, in the form that the recipe names or that fits what lies there.

    Raises:
        InputError: there is nothing to read, or its form cannot be told.
    """
    places = find_places(settings.table, settings.storage_options)
    if settings.form != AUTO:
        return _find_form(settings.form)(settings, places)
    forms = [_find_form(name) for name in form_names()]
    for form in forms:
        if form.fits(places[0]):
            return form(settings, places)
    known = ", ".join(sorted(suffix for form in forms for suffix in form.suffixes))
    raise InputError(
        f"source.table: {places[0].location} is of no known form; known are {known}, folders of pictures, and "
        f"folders of .tar files; where it is one of these under another name, say so in "
        f"source.form: {' | '.join(form_names())}"
    )


def _find_form(name: str) -> type[Form]:
    return class_in(__name__, name, Form)
