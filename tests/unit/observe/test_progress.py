import io

from rich.console import Console

from nemo_acereason.observe.progress import Progress

STEP = {"reward_mean": 0.4321, "response_tokens_mean": 812.4, "tokens_per_s": 12345.6, "seconds/step": 10.0}


def run(console: Console) -> None:
    with Progress({"sft": 2, "math_[8k]": 3}, console) as progress:
        progress.begin_stage("sft")
        progress.step("sft", 1, {"loss": 1.5, "seconds/step": 9.0, "seconds/evaluate": 7.0})
        progress.note("[not markup] heldout avg@8 0.250")
        progress.begin_stage("math_[8k]", 1)
        progress.step("math_[8k]", 2, STEP)


def test_log_file_gets_one_plain_line_per_step() -> None:
    out = io.StringIO()
    run(Console(file=out, width=20, soft_wrap=True))
    assert out.getvalue().splitlines() == [
        "sft 1/2  loss 1.5000  0:08 left",
        "[not markup] heldout avg@8 0.250",
        "math_[8k] 2/3  reward 0.432  length 812  12,346 tokens/s  0:10 left",
    ]


def test_terminal_gets_bars_with_the_same_figures() -> None:
    out = io.StringIO()
    run(Console(file=out, width=120, force_terminal=True, color_system=None))
    text = out.getvalue()
    assert "1/2" in text
    assert "2/3" in text
    assert "reward 0.432  length 812  12,346 tokens/s  0:10 left" in text
    assert "math_[8k]" in text


def test_terminal_is_left_alone_before_a_stage_begins() -> None:
    out = io.StringIO()
    with Progress({"sft": 2}, Console(file=out, force_terminal=True)):
        pass
    assert out.getvalue() == ""


def test_time_left_follows_the_last_steps() -> None:
    out = io.StringIO()
    with Progress({"math": 100}, Console(file=out)) as progress:
        progress.begin_stage("math")
        for step in range(1, 31):
            progress.step("math", step, {"seconds/step": 1000.0 if step <= 20 else 60.0})
    assert out.getvalue().splitlines()[-1] == "math 30/100  1:10:00 left"
