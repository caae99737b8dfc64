"""The recipe's section `source`."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.settings import Settings
from stages.source.forms import AUTO, form_names

_SECRET = re.compile("secret|password|token", re.IGNORECASE)


class SourceSettings(Settings):
    """Where the pictures and their captions lie, in which form, and which columns or fields hold what."""

    table: str | list[str] = Field(
        default=...,
        description="what is read: a file, a folder, or a glob of files (`urls/*.parquet`), local or at an address "
        "that fsspec knows (s3://, https://); or a list of these. Several files are read as one table, those of a "
        "glob by name",
    )
    form: str = Field(
        default=AUTO,
        description="auto, or parquet, csv, tsv, jsonl, folder (of pictures), coco, webdataset (img2dataset's folders "
        "too), llava or visual_genome; auto goes by the file's suffix, and for folders and .json by what is in them "
        "(never visual_genome)",
    )
    url: str = Field(default="url", description="column with the picture's address")
    caption: str = Field(default="caption", description="column with the caption that is scored")
    captions: str | None = Field(default=None, description="column with all captions: a list, or a JSON list as text")
    boxes: str | None = Field(
        default=None,
        description="column with boxes: a list (or a JSON list as text) of {label, x, y, w, h}, where x, y is the "
        "upper left corner; or of {label, x1, y1, x2, y2} (see box_form)",
    )
    box_form: Literal["xywh", "xyxy"] = Field(
        default="xywh",
        description="a box's four numbers: corner, width and height; or upper left and lower right corner",
    )
    box_units: Literal["pixels", "fractions"] = Field(
        default="pixels", description="pixels of the original picture, or fractions (0..1) of its width and height"
    )
    licence: str | None = Field(default=None, description="column with the picture's licence")
    pictures: str | None = Field(
        default=None,
        description="folder, or begin of an address, under which the pictures lie whose names the table holds; from a "
        "folder (local, s3://) they are read, from http:// and https:// downloaded",
    )
    storage_options: dict[str, Any] = Field(
        default={},
        description="options for remote stores, as fsspec takes them, for example {endpoint_url: ..., anon: true}; "
        "secrets belong in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_SECRET) and are "
        "refused here",
    )
    rows_per_part: int = Field(
        default=2000, ge=1, le=10_000, description="rows in one part (one shard, one step of resume)"
    )

    @field_validator("form")
    @classmethod
    def _known(cls, form: str) -> str:
        if form != AUTO and form not in form_names():
            raise ValueError(f"there is no form '{form}'; known are {AUTO}, {', '.join(form_names())}")
        return form

    @model_validator(mode="after")
    def _no_secrets(self) -> Self:
        for name in _secrets(self.storage_options):
            raise ValueError(f"storage_options.{name}: a secret has no place in a recipe; give it in the environment")
        return self

    def columns(self) -> dict[str, str]:
        """What is wanted -> the column that holds it."""
        wanted = {name: getattr(self, name) for name in ("url", "caption", "captions", "boxes", "licence")}
        return {name: column for name, column in wanted.items() if column is not None}


def _secrets(options: dict[str, Any]) -> list[str]:
    found = [name for name, value in options.items() if _SECRET.search(name) and value and value != "anon"]
    for name, value in options.items():
        if isinstance(value, dict):
            found += [f"{name}.{inner}" for inner in _secrets(value)]
    return found
