"""Pools of two nodes as one, over real sockets on loopback: the same verdicts, none lost, none twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import AuthenticationError
from pathlib import Path

import pytest

from nemo_acereason.config.schema import RewardConfig
from nemo_acereason.errors import ConfigError
from nemo_acereason.records import Prompt, Sample, Verdict
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.sandbox.remote_pool import PoolServer, RemotePool, SpreadPool
from tests.unit.sandbox.test_pool import ECHO, children, prompt, sample

SECRET = b"of this test alone"
NUMBER = RewardConfig("pool_rewards:number")


def work() -> Iterator[tuple[Prompt, Sample, tuple[int, int]]]:
    """200 samples, each with a reward of its own."""
    for place in range(200):
        yield prompt(name=str(place)), sample(str(place / 7)), (place // 8, place % 8)


@pytest.fixture
def server() -> Iterator[PoolServer]:
    made = PoolServer(NUMBER, SECRET, host="127.0.0.1", num_workers=1)
    yield made
    made.close()


@pytest.fixture
def spread(server: PoolServer) -> Iterator[SpreadPool]:
    pool = SpreadPool(RewardPool(NUMBER, num_workers=1), [RemotePool(server.address, SECRET, num_workers=1)])
    yield pool
    pool.close()


def serve_in_a_process(told: Connection) -> None:
    made = PoolServer(RewardConfig("pool_rewards:by_name"), SECRET, host="127.0.0.1", num_workers=1)
    told.send(made.address)
    time.sleep(600)


@contextlib.contextmanager
def other_process() -> Iterator[tuple[multiprocessing.process.BaseProcess, tuple[str, int]]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_in_a_process, args=(theirs,), daemon=True)
    process.start()
    try:
        yield process, ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


class Counter:
    """A pool that never judges."""

    is_lost = False
    timeout_s = 1.0
    reward = NUMBER

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.num_open = 0

    def use(self, reward: RewardConfig, *, timeout_s: float) -> None: ...

    def submit(self, *_sample: object) -> None:
        self.num_open += 1


def test_two_nodes_judge_as_one_does(spread: SpreadPool) -> None:
    with RewardPool(NUMBER, num_workers=1) as alone:
        for each in work():
            alone.submit(*each)
            spread.submit(*each)
        expected, got = alone.collect(), spread.collect()
    assert len(got) == 200
    assert {key: (score.verdict, score.reward, score.detail) for key, score in got.items()} == {
        key: (score.verdict, score.reward, score.detail) for key, score in expected.items()
    }
    assert spread.collect() == {}


def test_samples_go_to_the_pool_with_fewest_open_for_its_workers() -> None:
    local, twice_as_wide = Counter(1), Counter(2)
    spread = SpreadPool(local, [twice_as_wide])  # type: ignore[arg-type, list-item]
    for each in work():
        spread.submit(*each)
    assert (local.num_open, twice_as_wide.num_open) == (67, 133)


def test_identical_responses_are_judged_once_on_one_node(spread: SpreadPool, tmp_path: Path) -> None:
    spread.use(RewardConfig("pool_rewards:by_name", {"directory": str(tmp_path)}))
    for place in range(16):
        spread.submit(prompt(), sample("count"), (0, place))
    assert len(spread.collect()) == 16
    assert (tmp_path / "calls").read_text() == "x"


def test_use_switches_every_node_and_leaves_what_is_under_way(spread: SpreadPool) -> None:
    for place in range(20):
        spread.submit(prompt(name=str(place)), sample("0.5"), (place, 0))
    spread.use(RewardConfig("pool_rewards:number", {"scale": 0.5}))
    for place in range(20):
        spread.submit(prompt(name=str(place)), sample("0.5"), (place, 1))
    rewards = {key: score.reward for key, score in spread.collect().items()}
    assert rewards == {(place, turn): (0.5, 0.25)[turn] for place in range(20) for turn in (0, 1)}


def test_a_limit_holds_on_every_node(spread: SpreadPool) -> None:
    spread.use(RewardConfig("pool_rewards:by_name"), timeout_s=1.0)
    for place in range(2):
        spread.submit(prompt(name=str(place)), sample("sleep"), (place, 0))
    assert [score.verdict for score in spread.collect().values()] == [Verdict.TIMEOUT] * 2


def test_a_killed_server_loses_and_doubles_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    by_name = RewardConfig("pool_rewards:by_name", {"directory": str(tmp_path)})
    with other_process() as (process, address):
        remote = RemotePool(address, SECRET, num_workers=1)
        spread = SpreadPool(RewardPool(by_name, num_workers=1), [remote])
        for place in range(60):
            spread.submit(prompt(name=str(place)), sample("slow"), (place, 0))
        while remote.num_open > 25:
            time.sleep(0.01)
        process.kill()
        spread.use(NUMBER)  # what is judged again is judged with the reward it was submitted for
        for place in range(60, 80):
            spread.submit(prompt(name=str(place)), sample(str(place)), (place, 0))
        while not remote.is_lost:
            time.sleep(0.01)
        scores = spread.collect()
        expected = {(place, 0): 1.0 if place < 60 else float(place) for place in range(80)}
        assert {key: score.reward for key, score in scores.items()} == expected
        assert capfd.readouterr().err.count("the reward pool on 127.0.0.1 is lost") == 1

        spread.submit(prompt(), sample("3"), (0, 0))  # goes on with the local one
        assert spread.collect()[0, 0].reward == 3.0
        spread.close()


def test_close_leaves_no_process_and_can_be_called_twice() -> None:
    before = children()
    server = PoolServer(ECHO, SECRET, host="127.0.0.1", num_workers=1)
    spread = SpreadPool(RewardPool(ECHO, num_workers=1), [RemotePool(server.address, SECRET, num_workers=1)])
    for place in range(10):
        spread.submit(prompt("a", str(place)), sample("a"), (place, 0))
    spread.collect()
    assert len(children() - before) == 2
    assert spread.peak_memory_bytes() > 1 << 20
    for each in (spread, server, spread, server):
        each.close()
    assert children() == before


def test_a_server_ends_that_no_leader_ever_called() -> None:
    before = children()
    PoolServer(ECHO, SECRET, host="127.0.0.1", num_workers=1).close()
    assert children() == before


def test_strangers_are_turned_away_and_the_leader_still_gets_in(server: PoolServer) -> None:
    with pytest.raises(AuthenticationError):
        RemotePool(server.address, b"a guess", num_workers=1)
    with socket.create_connection(server.address):
        pass
    remote = RemotePool(server.address, SECRET, num_workers=1)
    remote.submit(prompt(), sample("2"), (0, 0))
    assert remote.collect()[0, 0].reward == 2.0
    remote.close()


def test_a_reward_that_cannot_be_imported_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="no_such"):
        PoolServer(RewardConfig("pool_rewards:no_such"), SECRET, host="127.0.0.1", num_workers=1)
