"""The whole vocabulary on one rank; the sharded case runs over gloo in tests/distributed/test_trainer.py."""

import pytest
import torch

from nemo_acereason.parallel.vocab_parallel import logp_and_entropy

T, V, PADDED = 7, 11, 16


@pytest.fixture(name="logits_TV")
def make_logits() -> torch.Tensor:
    return torch.randn(T, PADDED, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture(name="target_T")
def make_target() -> torch.Tensor:
    return torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_log_softmax_of_the_real_columns(
    logits_TV: torch.Tensor, target_T: torch.Tensor, temperature: float
) -> None:
    logits_TV[:, V:] = 100.0  # padding must not count, whatever it holds
    logp_T, entropy_T = logp_and_entropy(logits_TV, target_T, temperature=temperature, vocab_size=V, tp_pg=None)
    wanted_TV = (logits_TV[:, :V] / temperature).log_softmax(-1)
    torch.testing.assert_close(logp_T, wanted_TV.gather(1, target_T[:, None])[:, 0])
    torch.testing.assert_close(entropy_T, -(wanted_TV.exp() * wanted_TV).sum(-1))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradient_equals_autograd_and_is_zero_on_padding(
    logits_TV: torch.Tensor, target_T: torch.Tensor, temperature: float
) -> None:
    weight_T = torch.linspace(-1, 1, T)
    mine, other = logits_TV.clone().requires_grad_(), logits_TV.clone().requires_grad_()
    logp_T, entropy_T = logp_and_entropy(mine, target_T, temperature=temperature, vocab_size=V, tp_pg=None)
    (logp_T * weight_T).sum().backward()
    wanted_T = (other[:, :V] / temperature).log_softmax(-1).gather(1, target_T[:, None])[:, 0]
    (wanted_T * weight_T).sum().backward()
    assert mine.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(mine.grad, other.grad)
    assert not mine.grad[:, V:].any()
    assert not entropy_T.requires_grad


def test_logits_are_not_changed(logits_TV: torch.Tensor, target_T: torch.Tensor) -> None:
    before = logits_TV.clone()
    logp_and_entropy(logits_TV, target_T, temperature=1.0, vocab_size=PADDED, tp_pg=None)
    assert torch.equal(logits_TV, before)


def test_bfloat16_logits_are_summed_in_float32(logits_TV: torch.Tensor, target_T: torch.Tensor) -> None:
    half = logits_TV.bfloat16()
    logp_T, _ = logp_and_entropy(half, target_T, temperature=1.0, vocab_size=V, tp_pg=None)
    assert logp_T.dtype == torch.float32
    wanted_T = half[:, :V].float().log_softmax(-1).gather(1, target_T[:, None])[:, 0]
    torch.testing.assert_close(logp_T, wanted_T)
