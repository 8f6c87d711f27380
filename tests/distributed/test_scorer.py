"""The reward pools of a run over its nodes, wired through a gloo group."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.distributed.launch import run_ranks

REWARD_FILE = Path(__file__).parents[1] / "unit" / "sandbox" / "pool_rewards.py"


def _judge(local_ranks: list[int], function: str) -> Any:
    import torch.distributed as dist

    from nemo_acereason.config.schema import RewardConfig, RewardPoolConfig
    from nemo_acereason.errors import ConfigError
    from nemo_acereason.launch.scorer import start_scorer
    from nemo_acereason.records import Prompt, Sample
    from nemo_acereason.sandbox.reward_worker import __name__ as worker_module

    os.environ["MASTER_ADDR"] = "127.0.0.1"
    reward = RewardConfig(f"{REWARD_FILE}:{function}")
    try:
        scorer, server = start_scorer(RewardPoolConfig(num_workers=1), reward, local_rank=local_ranks[dist.get_rank()])
    except ConfigError as error:
        return str(error)
    rewards = {}
    if scorer:
        for place in range(30):
            sample = Sample((), (), str(place), "stop", 0)
            scorer.submit(Prompt(str(place), "", "", "test", "", ()), sample, (place, 0))
        rewards = {key[0]: score.reward for key, score in scorer.collect().items()}
        scorer.close()
    dist.barrier()
    if server:
        server.close()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    left = [command for command in commands if worker_module in command]
    return type(scorer).__name__, type(server).__name__, rewards, left


def test_the_first_rank_of_another_node_lends_its_cores() -> None:
    leader, other = run_ranks(2, _judge, [0, 0], "number", timeout_s=100.0)
    assert leader == ("SpreadPool", "NoneType", {place: float(place) for place in range(30)}, [])
    assert other == ("NoneType", "PoolServer", {}, [])


def test_on_one_node_there_is_one_plain_pool() -> None:
    leader, other = run_ranks(2, _judge, [0, 1], "number", timeout_s=100.0)
    assert leader == ("RewardPool", "NoneType", {place: float(place) for place in range(30)}, [])
    assert other == ("NoneType", "NoneType", {}, [])


def test_a_reward_that_cannot_be_imported_ends_every_rank_alike() -> None:
    leader, other = run_ranks(2, _judge, [0, 0], "no_such", timeout_s=100.0)
    assert leader == other
    assert "cannot be imported" in leader
