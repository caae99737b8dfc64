"""What every engine must do alike: the same pictures, the same reasons, the same guard, the same commit."""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.vocabulary import Reason
from stages.acquire import AcquireSettings, AcquireWork
from stages.acquire.engine import Engine, make_engine
from tests.stages.acquire.hostile_server import Server, answer, encoded, picture
from tests.stages.acquire.test_acquire_work import make_run, samples

#: Where HTTP leaves no choice, and where our rules do not.
REASONS: dict[str, Reason | None] = {
    "/ok.jpg": None,
    "/moved.jpg": None,
    "/private/ok.jpg": None,
    "/noai-for-others.jpg": None,
    "/missing.jpg": Reason.HTTP_CLIENT_ERROR,
    "/gone.jpg": Reason.HTTP_CLIENT_ERROR,
    "/empty.jpg": Reason.HTTP_OTHER,
    "/to-nowhere.jpg": Reason.HTTP_OTHER,
    "/500.jpg": Reason.HTTP_SERVER_ERROR,
    "/drip.jpg": Reason.DEADLINE,
    "/silent.jpg": Reason.TIMEOUT,
    "/endless.jpg": Reason.TOO_LARGE,
    "/says-large.jpg": Reason.TOO_LARGE,
    "/short.jpg": Reason.CONNECT_ERROR,
    "/garbage.jpg": Reason.PROTOCOL_ERROR,
    "/hangs-up.jpg": Reason.CONNECT_ERROR,
    "/loop.jpg": Reason.TOO_MANY_REDIRECTS,
    "/to-file.jpg": Reason.BAD_URL,
    "/to-metadata.jpg": Reason.BLOCKED_ADDRESS,
    "/to-private.jpg": Reason.BLOCKED_ADDRESS,
    "/to-mapped.jpg": Reason.BLOCKED_ADDRESS,
    "/closed/ok.jpg": Reason.ROBOTS,
    "/to-closed.jpg": Reason.ROBOTS,
    "/noai.jpg": Reason.OPT_OUT,
    "/noai-for-us.jpg": Reason.OPT_OUT,
    "/tdm.jpg": Reason.OPT_OUT,
    "/page.jpg": Reason.NOT_A_PICTURE,
    "/drawing.svg": Reason.NOT_A_PICTURE,
    "/broken.jpg": Reason.DECODE_ERROR,
    "/huge.png": Reason.TOO_MANY_PIXELS,
    "/pixel.png": Reason.TOO_FEW_PIXELS,
}


@pytest.fixture(params=["aiohttp", "img2dataset"])
def named(request: pytest.FixtureRequest, settings: AcquireSettings) -> AcquireSettings:
    return settings.model_copy(update={"engine": request.param, "host_failures": 0})


@pytest.fixture
def engine(named: AcquireSettings) -> Iterator[Engine]:
    made = make_engine(named)
    yield made
    made.close()


def test_every_engine_gives_the_same_reasons(engine: Engine, hostile: Server) -> None:
    outcomes = engine.acquire([hostile.url(path) for path in REASONS])
    assert {path: row["reason"] for path, (row, _) in zip(REASONS, outcomes, strict=True)} == REASONS
    for row, jpeg in outcomes:
        assert (jpeg is None) == (row["reason"] is not None) == (row["error_message"] is not None)


@pytest.mark.parametrize(
    "url", ["", "not a url", "ftp://example.com/x", "file:///etc/passwd", "http://", "http://10.0.0.1/x.jpg",
            "http://[::1]/x.jpg", "http://169.254.169.254/x.jpg"]
)  # fmt: skip
def test_no_engine_goes_where_it_must_not(engine: Engine, url: str) -> None:
    ((row, jpeg),) = engine.acquire([url])
    assert jpeg is None and row["reason"] in (Reason.BAD_URL, Reason.BLOCKED_ADDRESS)


def test_every_engine_shrinks_alike(named: AcquireSettings, tmp_path: Path) -> None:
    # Smooth, so that no way of reducing it can differ much.
    shown = picture(40, 30, 5).resize((400, 300), Image.Resampling.BICUBIC)
    server = Server({f"/{name}": answer(encoded(shown, form)) for name, form in (("a.jpg", "JPEG"), ("b.png", "PNG"))})
    try:
        run = make_run(tmp_path, [server.url("/a.jpg"), server.url("/b.png")])
        work = AcquireWork(run, named.model_copy(update={"size": 100}))
        assert work.process(0) == {"success": 2}
        work.close()
        for row in samples(run):
            assert (row["width"], row["height"], row["original_width"]) == (100, 75, 400)
        reference = np.asarray(shown.convert("RGB").resize((100, 75), Image.Resampling.BOX), np.float32)
        for _, jpeg in sorted(dict(_pictures(run.path("samples", "00000.tar"))).items()):
            stored = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), np.float32)
            assert np.abs(stored - reference).mean() < 3
    finally:
        server.close()


def _pictures(path: Path) -> Iterator[tuple[str, bytes]]:
    from stages.tar import read_members

    yield from read_members(path, "jpg")


def test_rows_without_a_picture_do_not_use_up_the_room_for_others(
    settings: AcquireSettings, hostile: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.acquire.download._MOST_WAITING", 1)
    engine = make_engine(settings.model_copy(update={"concurrency": 8, "per_host": 8, "host_failures": 0}))
    paths = ["/ok.jpg", "/missing.jpg", "/page.jpg", "/gone.jpg"] * 30
    with ThreadPoolExecutor(1) as thread:
        outcomes = thread.submit(engine.acquire, [hostile.url(path) for path in paths]).result(timeout=60)
    assert sum(jpeg is not None for _, jpeg in outcomes) == 30
    engine.close()


def test_the_peers_guard_ends_with_it(settings: AcquireSettings, hostile: Server) -> None:
    make_engine(settings.model_copy(update={"engine": "img2dataset"})).close()
    with urllib.request.urlopen(hostile.url("/tdm.jpg")) as response:
        assert response.status == 200
