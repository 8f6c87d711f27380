"""Served rewards against a small HTTP server in this process, a test double of vLLM and of a judge."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nemo_acereason.records import Prompt, Sample, Score, Verdict
from nemo_acereason.rewards import served
from nemo_acereason.rewards.served import ClassifierService, JudgeService, ServedScorer, score_all, weighted_reward


class StandIn(ThreadingHTTPServer):
    """Answers as vLLM's /classify and /pooling and as a chat endpoint do; misbehaves on demand."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.failures: list[int] = []
        self.silence_s = 0.0
        self.raw: bytes | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is part of these tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(self.headers.get("Authorization", ""))
        time.sleep(self.server.silence_s)
        if self.server.failures:
            self.send_error(self.server.failures.pop(0))
            return
        if any("too long" in text for text in body.get("input", [])):
            self.send_error(400, "input is too long")
            return
        reply = self.server.raw if self.server.raw is not None else json.dumps(self._reply(body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.path == "/classify":
            data = [
                {"index": index, "label": "good", "probs": [1 - good, good], "num_classes": 2}
                for index, text in enumerate(body["input"])
                for good in [0.9 if "good" in text else 0.2]
            ]
            return {"data": data[::-1]}  # the index says whose it is, not the place
        if self.path == "/pooling":
            return {
                "data": [{"index": index, "data": [[0.1], [len(text)]]} for index, text in enumerate(body["input"])]
            }
        said = "fine work. SCORE: 3\nSCORE: 8" if "good" in body["messages"][1]["content"] else "I cannot say"
        return {"choices": [{"message": {"content": said}}]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(served, "_FIRST_PAUSE_S", 0.01)
    with StandIn() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def judged(text: str) -> tuple[Prompt, Sample]:
    return Prompt("p", "Write a poem.", "none", "writing", "", ()), Sample((), (), text, "stop", 0)


def test_classifier_gives_probabilities_in_order_from_one_request(server: StandIn) -> None:
    service = ClassifierService(server.url, "m")
    scores = service.score_batch([judged("good"), judged("bad"), judged("a good one")])
    assert [score.reward for score in scores] == [0.9, 0.2, 0.9]
    assert [score.verdict for score in scores] == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT]
    assert server.requests == [
        {"model": "m", "input": [f"Write a poem.\n\n{text}" for text in ("good", "bad", "a good one")]}
    ]


def test_only_what_follows_the_thinking_is_sent(server: StandIn) -> None:
    ClassifierService(server.url, "m", template="{response}").score_batch([judged("<think>good</think> bad {problem}")])
    assert server.requests[0]["input"] == ["bad {problem}"]


def test_pooling_takes_the_last_number(server: StandIn) -> None:
    service = ClassifierService(server.url, "m", endpoint="pooling", template="{response}", threshold=4.0)
    assert [score.reward for score in service.score_batch([judged("abc"), judged("abcde")])] == [3.0, 5.0]


def test_judge_takes_the_last_mark(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", "abc")
    service = JudgeService(f"{server.url}/v1", "m", api_key_variable="TEST_JUDGE_KEY")
    score = service.score_batch([judged("good")])[0]
    assert (score.verdict, score.reward) == (Verdict.CORRECT, 0.8)
    assert server.headers == ["Bearer abc"]


def test_a_judge_without_a_mark_is_our_failure(server: StandIn) -> None:
    scores = JudgeService(f"{server.url}/v1", "m").score_batch([judged("bad"), judged("good")])
    assert [score.verdict for score in scores] == [Verdict.INFRASTRUCTURE, Verdict.CORRECT]


def test_a_passing_failure_is_tried_again(server: StandIn) -> None:
    server.failures = [503, 429]
    assert score_all(ClassifierService(server.url, "m"), [judged("good")])[0].reward == 0.9
    assert len(server.requests) == 3


def test_a_lasting_failure_is_infrastructure_and_says_what_was_answered(server: StandIn) -> None:
    server.failures = [500] * 9
    score = score_all(ClassifierService(server.url, "m", num_retries=2), [judged("good")])[0]
    assert (score.verdict, score.reward) == (Verdict.INFRASTRUCTURE, 0.0)
    assert "answered 500" in score.detail
    assert len(server.requests) == 3


def test_silence_longer_than_the_limit_is_infrastructure(server: StandIn) -> None:
    server.silence_s = 1.0
    service = ClassifierService(server.url, "m", timeout_s=0.2, num_retries=1)
    assert score_all(service, [judged("good")])[0].verdict is Verdict.INFRASTRUCTURE


def test_nobody_listening_is_infrastructure() -> None:
    service = ClassifierService("http://127.0.0.1:9", "m", num_retries=0)
    assert score_all(service, [judged("good")])[0].verdict is Verdict.INFRASTRUCTURE


def test_one_refused_response_does_not_cost_the_others(server: StandIn) -> None:
    scores = score_all(ClassifierService(server.url, "m"), [judged("good"), judged("too long"), judged("bad")])
    assert [score.verdict for score in scores] == [Verdict.CORRECT, Verdict.INFRASTRUCTURE, Verdict.WRONG]


@pytest.mark.parametrize(
    "raw", [b"", b"not json", b"{}", b'{"data": []}', b'{"data": [{"index": 0, "probs": [1, NaN]}]}', b"[1]"]
)
def test_an_answer_of_another_shape_is_infrastructure(server: StandIn, raw: bytes) -> None:
    server.raw = raw
    service = ClassifierService(server.url, "m", num_retries=0)
    assert score_all(service, [judged("good")])[0].verdict is Verdict.INFRASTRUCTURE


def test_scorer_batches_what_waits_and_returns_each_by_key(server: StandIn) -> None:
    server.silence_s = 0.05
    scorer = ServedScorer(ClassifierService(server.url, "m"), batch_size=8, num_connections=1)
    for place in range(33):
        scorer.submit(*judged("good" if place % 2 else "bad"), (place, 1))
    scores = scorer.collect()
    scorer.close()
    scorer.close()
    assert {key: score.reward for key, score in scores.items()} == {
        (place, 1): 0.9 if place % 2 else 0.2 for place in range(33)
    }
    assert len(server.requests) < 10
    assert max(len(request["input"]) for request in server.requests) == 8


def half(_: Prompt, __: Sample) -> float:
    return 0.5


def ours(_: Prompt, __: Sample) -> Score:
    return Score.of(Verdict.INFRASTRUCTURE, detail="disk full")


def test_weighted_sum_of_named_rewards() -> None:
    prompt = Prompt("p", "", "5", "math", "", ())
    sample = Sample((), (), r"</think>\boxed{5}", "stop", 0)
    verifier = {"function": "nemo_acereason.rewards.math:math_reward", "weight": 0.8}
    score = weighted_reward(prompt, sample, parts=[verifier, {"function": f"{__name__}:half", "weight": 0.2}])
    assert score.verdict is Verdict.CORRECT
    assert score.reward == pytest.approx(0.9)
    failed = weighted_reward(prompt, sample, parts=[verifier, {"function": f"{__name__}:ours", "weight": 0.2}])
    assert (failed.verdict, failed.detail) == (Verdict.INFRASTRUCTURE, "disk full")
