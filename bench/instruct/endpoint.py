"""How fast the endpoint is asked, and what failures and kills cost, against a local stub that counts.

The stub answers after 200 ms and takes 64 requests at once, so no client can have more than 320 answers a second.
Goals: at least 90% of that; with 5% errors 500 and 2% dropped connections everything is answered, and nothing twice;
killed (-9) in the middle and started again, nothing is asked again whose answer was taken.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.goals import print_goal
from bench.instruct._stub import AT_ONCE, LATENCY_S, begin, counts, served
from stages.instruct.endpoint import AnswerStore, Endpoint, EndpointSettings, Messages

PARTS, PARTS_AT_ONCE = 8, 2
_SYSTEM = "You are looking at a picture together with somebody who asks about it. " * 20


def main(quick: bool) -> None:
    """Prints the three goals."""
    requests = 960 if quick else 4800
    with tempfile.TemporaryDirectory() as folder, served() as url:
        _rate(url, Path(folder, "rate"), requests)
        _failures(url, Path(folder, "failures"), requests)
        _kill(url, Path(folder, "kill"), requests)


def ask(url: str, folder: Path, requests: int) -> int:
    """Asks as the line does, in parts with two under way; every tenth request stands in two parts. Gives how many were
    answered with what was asked."""
    settings = EndpointSettings(base_url=f"{url}/v1", model="stub", concurrency=AT_ONCE)
    endpoint = Endpoint(settings, AnswerStore(folder, "bench"))
    size = requests // PARTS
    parts = [[*range(begin, begin + size), *range(0, size, 10)] for begin in range(0, requests, size)]

    def answer(part: list[int]) -> int:
        answers = endpoint.answer_all([("bench-1", _chat(number)) for number in part])
        return sum(f"is thing {number}." in said.text for number, said in zip(part, answers, strict=True))

    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        return sum(pool.map(answer, parts))


def _chat(number: int) -> Messages:
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": f"thing {number}"}]


def _rate(url: str, folder: Path, requests: int) -> None:
    begin(url)
    start = time.monotonic()
    ask(url, folder, requests)
    rate, ideal = requests / (time.monotonic() - start), AT_ONCE / LATENCY_S
    print_goal("instruct", "share of the ideal rate", rate / ideal, 0.9, per_s=round(rate, 1), ideal_per_s=ideal,
               requests=requests, **_seen(url))  # fmt: skip


def _failures(url: str, folder: Path, requests: int) -> None:
    begin(url, errors=0.05, drops=0.02)
    right = ask(url, folder, requests)
    wanted = requests + PARTS * len(range(0, requests // PARTS, 10))
    seen = counts(url)
    wrong = wanted - right + requests - seen["keys"] + seen["answers"] - seen["keys"]
    print_goal("instruct", "5% errors and 2% drops: not answered, or answered twice", wrong, 0, least=False,
               requests=requests, **_seen(url))  # fmt: skip


def _kill(url: str, folder: Path, requests: int) -> None:
    begin(url)
    arguments = f"{url!r}, Path({str(folder)!r}), {requests}"
    call = f"from bench.instruct.endpoint import ask; from pathlib import Path; ask({arguments})"
    process = subprocess.Popen([sys.executable, "-c", call])
    while counts(url)["answers"] < requests // 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    taken = counts(url)["taken"]
    subprocess.run([sys.executable, "-c", call], check=True)
    seen = counts(url)
    print_goal("instruct", "killed in the middle: asked again though the answer was taken", seen.get("again", 0), 0,
               least=False, taken_before_the_kill=taken, under_way_at_the_kill=seen["answers"] - seen["keys"],
               requests=requests, answered=seen["keys"])  # fmt: skip


def _seen(url: str) -> dict[str, Any]:
    seen = counts(url)
    return {name: seen.get(name, 0) for name in ("most_at_once", "refused_429", "errors_500", "dropped", "answers")}
