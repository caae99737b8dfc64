"""The endpoint against a real server: what is asked, how often, and what each way of failing comes to."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from schemas.errors import InputError, SluiceError
from stages.instruct.endpoint import Answer, AnswerStore, BudgetSpentError, Endpoint, EndpointSettings
from stages.instruct.endpoint.engines import openai as engine
from tests.stages.instruct.endpoint_server import EndpointServer, Rule, echo, said, serve

_PAIRS = [{"role": "system", "content": "Ask and answer."}, {"role": "user", "content": "a cat"},
          {"role": "assistant", "content": "Question: What?\nAnswer: A cat.\nQuestion: Where?\nAnswer: Here."},
          {"role": "user", "content": "a dog"}]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_FIRST_PAUSE_S", 0.001)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _endpoint(server: EndpointServer, folder: Path, **settings: Any) -> Endpoint:
    given = {"base_url": server.url, "model": "m", **settings}
    return Endpoint(EndpointSettings(**given), AnswerStore(folder / "answers", "run"))


def _ask(endpoint: Endpoint, *texts: str) -> list[str]:
    return [answer.text for answer in endpoint.answer_all([("v-1", _chat(text)) for text in texts])]


def test_equal_requests_under_way_at_once_are_asked_once_over_threads(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    with serve(echo) as server:
        endpoint = _endpoint(server, tmp_path)

        def ask(_: int) -> list[str]:
            together.wait()
            return _ask(endpoint, "a", "b", "a", "c")

        with ThreadPoolExecutor(4) as pool:
            assert all(answers == ['"a"', '"b"', '"a"', '"c"'] for answers in pool.map(ask, range(4)))
        assert sorted(server.words()) == ["a", "b", "c"]


def test_what_the_answer_depends_on_is_asked_anew_and_the_rest_is_kept(tmp_path: Path) -> None:
    with serve(echo) as server:
        _ask(_endpoint(server, tmp_path), "a")
        _ask(_endpoint(server, tmp_path, concurrency=2, retries=1), "a")
        assert len(server.asked) == 1
        for changed in ({"model": "n"}, {"temperature": 0.5}, {"max_tokens": 9}, {"options": {"top_p": 0.9}}):
            _ask(_endpoint(server, tmp_path, **changed), "a")
        _endpoint(server, tmp_path).answer_all([("v-2", _chat("a"))])
        assert len(server.asked) == 6
        assert server.asked[4]["top_p"] == 0.9


def test_no_more_requests_are_under_way_than_allowed(tmp_path: Path) -> None:
    now: list[int] = []
    most = 0
    full = threading.Event()

    async def rule(body: dict[str, Any]) -> web.Response:
        nonlocal most
        now.append(1)
        most = max(most, len(now))
        if most == 3:
            full.set()
        await asyncio.to_thread(full.wait, 10)
        now.pop()
        return echo(body)

    with serve(rule) as server:
        assert len(_ask(_endpoint(server, tmp_path, concurrency=3), *"abcdefgh")) == 8
    assert most == 3


def test_errors_drops_nonsense_and_busy_servers_are_tried_again(tmp_path: Path) -> None:
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    trouble = iter([web.Response(status=500), web.Response(status=429, headers={"Retry-After": "0"}), None,
                    web.Response(status=503, headers={"Retry-After": past}), web.Response(text="<html>busy</html>"),
                    web.json_response({"choices": []}),
                    web.json_response({"choices": [{"message": {"content": ["no", "text"]}}]})])  # fmt: skip

    with serve(lambda body: next(trouble, echo(body))) as server:
        assert _ask(_endpoint(server, tmp_path, retries=7), "a") == ['"a"']
        assert len(server.asked) == 8


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (lambda _: web.Response(status=503, text="down for\nmaintenance"), SluiceError,
         r"failed 2 times: HTTP 503 down for maintenance; see that it runs, then start the run again"),
        (lambda _: web.Response(text="<html>"), SluiceError, "not of OpenAI's form; see that base_url is"),
        (lambda _: web.Response(text='{"choices": [{"message"'), SluiceError, "not of OpenAI's form"),
        (lambda _: web.Response(status=401), InputError, r"refuses a request without a key \(HTTP 401\)"),
        (lambda _: web.Response(status=404, text="no model m"), InputError, r"HTTP 404 no model m.*base_url, model"),
        (lambda _: web.Response(status=302, headers={"Location": "/"}), InputError, "HTTP 302"),
        (lambda _: web.json_response({"error": {"code": "insufficient_quota"}}, status=429), SluiceError,
         "the account has nothing left"),
    ],
)  # fmt: skip
def test_each_way_of_failing_has_one_clear_line(
    tmp_path: Path, rule: Rule, error: type[SluiceError], message: str
) -> None:
    with serve(rule) as server, pytest.raises(error, match=message) as caught:
        _ask(_endpoint(server, tmp_path, retries=1), "a")
    assert type(caught.value) is error
    assert "\n" not in str(caught.value) and server.url in str(caught.value)


def test_a_slow_server_runs_into_the_time_out_and_the_deadline(tmp_path: Path) -> None:
    release = threading.Event()

    async def rule(body: dict[str, Any]) -> web.Response:
        await asyncio.to_thread(release.wait, 10)
        return echo(body)

    with serve(rule) as server:
        with pytest.raises(SluiceError, match=r"failed 2 times: no answer within 0\.05 s"):
            _ask(_endpoint(server, tmp_path, timeout_s=0.05, retries=1), "a")
        with pytest.raises(SluiceError, match="failed 1 times: no answer within 0"):
            _ask(_endpoint(server, tmp_path, timeout_s=5, deadline_s=0.05), "a")
        release.set()


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    settings = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m", retries=1)
    with pytest.raises(SluiceError, match=r"127\.0\.0\.1:9.*failed 2 times.*start the run again"):
        _ask(Endpoint(settings, AnswerStore(tmp_path)), "a")
    odd = EndpointSettings(base_url="http://localhost:99999/v1", model="m")
    with pytest.raises(InputError, match="base_url: http://localhost:99999/v1 is not an address"):
        _ask(Endpoint(odd, AnswerStore(tmp_path)), "a")


def test_an_empty_answer_is_kept_and_a_chat_that_does_not_fit_is_not(tmp_path: Path) -> None:
    def rule(body: dict[str, Any]) -> web.Response:
        if body["messages"][-1]["content"] == "long":
            return web.json_response({"error": {"message": "maximum context length is 2048"}}, status=400)
        return said(None)

    with serve(rule) as server:
        assert _ask(_endpoint(server, tmp_path), "long", "empty") == ["", ""]
        assert _ask(_endpoint(server, tmp_path), "empty", "long") == ["", ""]
        assert sorted(server.words()) == ["empty", "long", "long"]


def test_what_was_paid_for_is_kept_when_another_request_fails(tmp_path: Path) -> None:
    failed = threading.Event()

    async def rule(body: dict[str, Any]) -> web.Response:
        if body["messages"][-1]["content"] == "bad":
            failed.set()
            return web.Response(status=403)
        await asyncio.to_thread(failed.wait, 10)
        return echo(body)

    with serve(rule) as server:
        with pytest.raises(InputError, match="403"):
            _ask(_endpoint(server, tmp_path, concurrency=3), "a", "bad", "b", *"cdefgh")
        assert sorted(server.words()) == ["a", "b", "bad"]
        server.rule = echo
        assert len(_ask(_endpoint(server, tmp_path), *"abcdefgh")) == 8
        assert server.words().count("a") == server.words().count("b") == 1


def test_the_key_is_sent_and_stands_in_no_message_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda body: web.Response(status=500, text=f"no {key} here")) as server:
        key = "s3cret-value"
        with pytest.raises(InputError, match="api_key_env: the environment variable SLUICE_TEST_KEY is not set"):
            _endpoint(server, tmp_path, api_key_env="SLUICE_TEST_KEY")
        monkeypatch.setenv("SLUICE_TEST_KEY", key)
        endpoint = _endpoint(server, tmp_path, api_key_env="SLUICE_TEST_KEY", retries=0)
        with pytest.raises(SluiceError, match=r"no \*\*\* here"):
            _ask(endpoint, "a")
        server.rule = lambda body: web.Response(status=401, text=f"wrong key {key}")
        with pytest.raises(InputError, match="refuses the key in SLUICE_TEST_KEY") as caught:
            _ask(endpoint, "a")
        assert key not in str(caught.value)
        server.rule = echo
        _ask(endpoint, "a")
        assert server.headers[-1]["Authorization"] == f"Bearer {key}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(key.encode() not in path.read_bytes() for path in files)


def test_a_schema_is_asked_for_where_the_server_has_it(tmp_path: Path) -> None:
    answer = {"turns": [{"question": "What is\nit?", "answer": "A dog."}]}
    with serve(lambda _: said(json.dumps(answer))) as server:
        told = _endpoint(server, tmp_path).answer_all([("v-1", _PAIRS), ("v-1", _chat("plain"))])
        assert told[0].text == "Question: What is it?\nAnswer: A dog."
        by_form = {"response_format" in body: body for body in server.asked}
        assert by_form[True]["response_format"]["json_schema"]["schema"]["required"] == ["turns"]
        system, _, example, _ = [message["content"] for message in by_form[True]["messages"]]
        assert system.endswith('{"turns": [{"question": "...", "answer": "..."}]}.')
        assert json.loads(example)["turns"][1] == {"question": "Where?", "answer": "Here."}
        assert by_form[False]["messages"] == _chat("plain")


def test_a_server_without_schemas_is_asked_for_text_unless_the_recipe_insists(tmp_path: Path) -> None:
    def rule(body: dict[str, Any]) -> web.Response:
        if "response_format" in body:
            return web.json_response({"detail": "Unexpected fields: {'response_format'}"}, status=422)
        return said("Question: What?\nAnswer: A dog.")

    with serve(rule) as server:
        endpoint = _endpoint(server, tmp_path, concurrency=1)
        other = [*_PAIRS[:-1], {"role": "user", "content": "a hat"}]
        told = endpoint.answer_all([("v-1", _PAIRS), ("v-1", other)])
        assert [answer.text for answer in told] == ["Question: What?\nAnswer: A dog."] * 2
        assert ["response_format" in body for body in server.asked] == [True, False, False]
        with pytest.raises(InputError, match=r"HTTP 422.*base_url, model, structured"):
            _endpoint(server, tmp_path, structured="on").answer_all([("v-1", _PAIRS)])
        assert _endpoint(server, tmp_path, structured="off").answer_all([("v-1", _PAIRS)])
        assert "response_format" not in server.asked[-1]


def test_the_run_stops_at_its_budget_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    price = {"input_per_million": 1e5, "output_per_million": 2e5}
    with serve(echo) as server:  # each answer is 10 + 5 tokens, or 2 in money; at most 6 + 0 + 20 tokens
        capped = {"max_tokens": 20, "price": price, "concurrency": 3}
        with pytest.raises(BudgetSpentError, match=r"75 of 100 tokens.* for 5 answers.*raise instruct.endpoint.budget"):
            _ask(_endpoint(server, tmp_path, budget={"tokens": 100}, **capped), *"abcdefghij")
        assert len(server.asked) == 5
        with pytest.raises(BudgetSpentError, match=r"10 of 12 in money"):
            _ask(_endpoint(server, tmp_path, budget={"money": 12}, **capped), *"abcdefghij")
        assert len(server.asked) == 5  # what the killed run spent counts
        assert _ask(_endpoint(server, tmp_path, budget={"tokens": 176}, **capped), *"abcdefghij")[9] == '"j"'
        assert len(server.asked) == 10
        other = Endpoint(EndpointSettings(base_url=server.url, model="m", max_tokens=20, budget={"tokens": 30}),
                         AnswerStore(tmp_path / "answers", "other"))  # fmt: skip
        assert _ask(other, "a", "k") == ['"a"', '"k"']  # another run pays only for what it asks itself
        assert other.store.spent().requests == 1


def test_rate_limits_spread_what_is_asked(tmp_path: Path) -> None:
    with serve(echo) as server:
        endpoint = _endpoint(server, tmp_path, requests_per_minute=6000, tokens_per_minute=1e6)
        assert len(_ask(endpoint, *"abcde")) == 5
        begin = endpoint.engine._requests._next  # type: ignore[attr-defined]
        assert len(_ask(endpoint, *"fghij")) == 5
        assert endpoint.engine._requests._next - begin >= 0.049  # type: ignore[attr-defined]


def test_settings_that_do_not_fit_together_are_refused() -> None:
    for given, message in (
        ({"engine": "openia", "base_url": "http://x"}, "known: openai, transformers, vllm"),
        ({}, "engine openai needs a base_url of http"),
        ({"base_url": "localhost:8000/v1"}, "engine openai needs a base_url of http"),
        ({"base_url": "http://x", "budget": {"money": 1}}, "a budget in money needs price"),
    ):
        with pytest.raises(ValidationError, match=message):
            EndpointSettings(model="m", **given)  # type: ignore[arg-type]


def test_answers_of_a_cut_or_broken_line_are_asked_again(tmp_path: Path) -> None:
    first, second = AnswerStore(tmp_path, "a"), AnswerStore(tmp_path, "b")
    first.put_all({"k": Answer("größer", 3, 2), "l": Answer("x\ny", 1, 1)})
    first.sync()
    second.put_all({"m": Answer("", 7, 0)})
    segment = next(path for path in tmp_path.iterdir() if b"gr" in path.read_bytes())
    with open(segment, "ab") as file:
        file.write(b'{"key": 3}\nnot json\n{"key": "n", "text": "cut sho')
    again = AnswerStore(tmp_path, "a")
    assert again.get("k") is None
    again.refresh()
    assert again.get("k") == Answer("größer", 3, 2) and again.get("l") == Answer("x\ny", 1, 1)
    assert again.get("m") == Answer("", 7, 0) and again.get("n") is None
    assert (again.spent().requests, again.spent().tokens) == (2, 7)
    second.refresh()
    assert second.get("k") == Answer("größer", 3, 2) and second.spent().tokens == 7
