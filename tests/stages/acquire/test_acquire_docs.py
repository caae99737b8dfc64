"""The docs name every reason that acquire gives, and keys that exist."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.vocabulary import Reason, Stage
from stages.acquire import AcquireSettings

_PAGE = (Path(__file__).parents[3] / "docs/recipes.md").read_text().partition("\n## Downloading\n")[2]


def test_every_reason_is_documented_in_the_words_of_the_vocabulary() -> None:
    documented = re.findall(r"^\| `(\w+)` \| (.+) \| (yes)? ?\|$", _PAGE, flags=re.MULTILINE)
    infos = {reason.value: reason.info for reason in Reason if reason.info.stage is Stage.ACQUIRE}
    expected = [(name, info.text, "yes" if info.transient else "") for name, info in infos.items()]
    assert [row for row in documented if row[0] in infos] == expected


def test_the_keys_of_the_docs_exist() -> None:
    named = [row.partition("|")[0] for row in re.findall(r"^\| (`.+)$", _PAGE.partition("| reason |")[0], flags=re.M)]
    keys = {key for row in named for key in re.findall(r"`(\w+)`", row)}
    assert len(keys) > 15
    assert keys <= AcquireSettings.model_fields.keys()
