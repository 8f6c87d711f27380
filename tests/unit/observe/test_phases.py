import pytest

from nemo_acereason.observe.phases import Phases


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_seconds_add_up_per_phase_and_step(clock: Clock) -> None:
    phases = Phases(clock)
    for seconds in (2.0, 3.0):
        with phases("generate"):
            clock.now += seconds
    clock.now += 0.5
    with phases("train"):
        clock.now += 1.0
    assert phases.take() == {"seconds/generate": 5.0, "seconds/train": 1.0, "seconds/step": 6.5}


def test_take_starts_a_new_step(clock: Clock) -> None:
    phases = Phases(clock)
    with phases("train"):
        clock.now += 1.0
    phases.take()
    clock.now += 4.0
    assert phases.take() == {"seconds/step": 4.0}


def test_inner_phase_is_not_counted_twice(clock: Clock) -> None:
    phases = Phases(clock)
    with phases("generate"):
        clock.now += 1.0
        with phases("reward_wait"):
            clock.now += 10.0
        clock.now += 2.0
    assert phases.take() == {"seconds/generate": 3.0, "seconds/reward_wait": 10.0, "seconds/step": 13.0}


def test_phase_that_raises_is_counted_and_closed(clock: Clock) -> None:
    phases = Phases(clock)

    def fail() -> None:
        with phases("train"):
            clock.now += 1.0
            raise RuntimeError("a step went wrong")

    with pytest.raises(RuntimeError, match="went wrong"):
        fail()
    clock.now += 1.0
    assert phases.take() == {"seconds/train": 1.0, "seconds/step": 2.0}
