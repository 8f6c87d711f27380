import torch

from nemo_acereason.algorithm.pack import pack
from nemo_acereason.records import TrainRow, TrainSample
from nemo_acereason.trainer.microbatch import build_microbatch, rank_rows

CPU = torch.device("cpu")


def sample(length: int, first_token: int) -> TrainSample:
    tokens = tuple(range(first_token, first_token + length))
    return TrainSample(tokens, (1.0,) * 2, (0.5,) * 2)


def rows_of(*lengths: int, row_tokens: int = 8) -> list[TrainRow]:
    return pack([sample(length, 10 * i) for i, length in enumerate(lengths, start=1)], row_tokens)


def test_microbatch_is_the_real_tokens_and_their_segments() -> None:
    rows = rows_of(6, 4, 4)
    batch = build_microbatch(rows, CPU)
    assert batch.token_T.tolist() == [10, 11, 12, 13, 14, 20, 21, 22, 30, 31, 32]
    assert batch.target_T.tolist() == [11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33]
    assert batch.bounds.tolist() == [0, 5, 8, 11]
    assert batch.bounds.dtype == torch.int32
    assert batch.longest_segment == 5
    assert [len(row.token_T) for row in batch.rows] == [8, 3]
    assert sum(float(row.weight_T.sum()) for row in batch.rows) == 3.0


def test_every_row_goes_to_one_rank_and_all_ranks_have_equally_many_microbatches() -> None:
    rows = rows_of(8, 7, 7, 7, 8)
    shares = [rank_rows(rows, dp_rank=rank, dp_size=2, rows_per_microbatch=2) for rank in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    dealt = [row for share in shares for batch in share for row in batch if bool(row.mask_T.any())]
    assert sorted(id(row) for row in dealt) == sorted(id(row) for row in rows)


def test_a_rank_without_rows_computes_an_empty_one() -> None:
    (batch,) = rank_rows(rows_of(5), dp_rank=1, dp_size=2, rows_per_microbatch=1)
    built = build_microbatch(batch, CPU)
    assert built.token_T.tolist() == [0]
    assert built.bounds.tolist() == [0, 1]
    assert not built.rows[0].mask_T.any()
    assert float(built.rows[0].weight_T.sum()) == 0.0
