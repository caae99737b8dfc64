"""The places of several CLIP models in the graph."""

from pathlib import Path

import pytest
import torch

from pipelines.line import embed_places
from stages.embed import EmbedWork
from stages.run_folder import RunFolder
from stages.select import SelectSettings

SELECT = SelectSettings.model_validate({"models": {"second": {"batch_size": 7}, "third": {"actors": 2}}})


def test_every_model_has_a_place_and_all_of_them_hold_no_more_than_one_would(tmp_path: Path) -> None:
    places = embed_places(RunFolder(tmp_path), SELECT)
    works = [place.make() for place in places]
    assert [work.stage for work in works] == ["embed", "embed-second", "embed-third"]
    assert [work.clip.batch_size for work in works if isinstance(work, EmbedWork)] == [128, 7, 128]
    assert sum(place.num_cpus for place in places) == pytest.approx(1)
    assert [place.actors for place in places] == [1, 1, 2]


@pytest.mark.parametrize(("gpus", "share"), [(0, 0), (1, 1 / 4), (2, 1 / 2), (3, 1 / 2), (4, 1), (8, 1)])
def test_actors_share_the_gpus_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, share: float
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert {place.num_gpus for place in embed_places(RunFolder(tmp_path), SELECT)} == {share}
