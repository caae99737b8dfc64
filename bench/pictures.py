"""A fixed set of JPEGs like those of the web, and nginx on loopback to serve them. Both are only for benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

_QUALITY = 83
_EXPONENT = 1.5
_PER_FOLDER = 1000


def make_pictures(folder: Path, count: int) -> list[str]:
    """Writes `count` JPEGs of 0.3 to 2 megapixels, 150 kB on average, unless they are there; their paths in `folder`.

    The content is noise whose amplitude falls with frequency, as that of photographs does, so steeply that quality 83
    takes about a bit a pixel: decoding costs what it costs for a photograph of that size. Its number fixes a picture.
    """
    paths = [f"{index // _PER_FOLDER:03d}/{index:06d}.jpg" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not (folder / path).exists()]
    if missing:
        for index in range(0, count, _PER_FOLDER):
            (folder / f"{index // _PER_FOLDER:03d}").mkdir(parents=True, exist_ok=True)
        with Pool() as pool:
            pool.starmap(_write, [(index, folder / paths[index]) for index in missing], chunksize=50)
    return paths


_BASE: list[np.ndarray] = []


def _write(index: int, path: Path) -> None:
    if not _BASE:
        _BASE.extend(_field(seed) for seed in range(4))
    rng = np.random.default_rng(index)
    area, aspect = rng.uniform(0.3e6, 2.0e6), rng.uniform(0.6, 1.6)
    width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    base = _BASE[index % len(_BASE)]
    top, left = rng.integers(base.shape[0] - height + 1), rng.integers(base.shape[1] - width + 1)
    crop = base[top : top + height, left : left + width]
    if index % 2:
        crop = crop[:, ::-1]
    temporary = path.with_suffix(".tmp")
    Image.fromarray(np.roll(crop, index % 3, axis=2)).save(temporary, "JPEG", quality=_QUALITY)
    temporary.replace(path)


def _field(seed: int, side: int = 2048) -> np.ndarray:
    """uint8 [side, side, 3]: noise whose amplitude falls with frequency, its channels correlated as in photographs."""
    rng = np.random.default_rng(10_000 + seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((side, side))) / frequency**_EXPONENT
        plane = np.fft.irfft2(noise, (side, side))
        planes.append((plane - plane.mean()) / plane.std())
    luma, first, second = planes
    colour = np.stack([luma + 0.3 * first, luma, luma + 0.3 * second], axis=2)
    return (128 + 50 * colour).clip(0, 255).astype(np.uint8)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Serves `root` on a free port of loopback; yields the URL's beginning. Ends the server it started."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise SystemExit("this benchmark needs nginx: apt-get install nginx-light")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Started by root, its worker would be another user's, who cannot read a private folder.
        user = "user root; " if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;"
            "events { worker_connections 8192; }"
            f"http {{ access_log off; sendfile on; keepalive_requests 1000000; {temporary}"
            "types { image/jpeg jpg; }"
            f"server {{ listen 127.0.0.1:{port} backlog=4096; root {root.absolute()}; }} }}"
        )
        server = subprocess.Popen([program, "-c", str(config), "-p", folder, "-e", "stderr"])
        try:
            _wait(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


@contextmanager
def silent() -> Iterator[str]:
    """A host that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(4096)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise SystemExit(f"nginx ended with exit status {server.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("nginx did not come up within 10 s")
