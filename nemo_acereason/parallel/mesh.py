"""Which rank holds what: the trainer ranks as a mesh with the axes data, pipeline and tensor.

Pure arithmetic. The order is Megatron's (tensor fastest, then data, then pipeline), so that the ranks of one tensor
group are neighbours on one node. Creates no process group.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MeshPlace:
    """One rank's coordinates."""

    tp_rank: int
    dp_rank: int
    pp_rank: int


@dataclass(frozen=True, slots=True)
class Mesh:
    """Sizes of the three axes.

    >>> Mesh(tensor_parallel=2, data_parallel=2).place(3)
    MeshPlace(tp_rank=1, dp_rank=1, pp_rank=0)
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1

    @property
    def num_ranks(self) -> int:
        """Processes of the whole mesh."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    def place(self, rank: int) -> MeshPlace:
        """Coordinates of a global rank."""
        tp_rank = rank % self.tensor_parallel
        dp_rank = rank // self.tensor_parallel % self.data_parallel
        return MeshPlace(tp_rank, dp_rank, rank // (self.tensor_parallel * self.data_parallel))

    def rank(self, place: MeshPlace) -> int:
        """Global rank at coordinates; the inverse of :meth:`place`."""
        return place.tp_rank + self.tensor_parallel * (place.dp_rank + self.data_parallel * place.pp_rank)
