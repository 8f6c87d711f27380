"""vLLM behind a refit that may lie: it reports weights as taken that the engine never saw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nemo_acereason.config.schema import RolloutConfig
from nemo_acereason.records import Receipt
from nemo_acereason.resharding.receiver import check_manifest, checksum_of, map_file, tensor_views
from nemo_acereason.rollout.vllm_engine import VllmEngine


class LyingEngine(VllmEngine):
    """From refit ``LIE_FROM`` (environment) on, the receipt is right and the weights are the old ones."""

    def receive_weights(self, manifest: Mapping[str, Any]) -> Receipt:
        version = manifest["version"]
        if version < int(os.environ.get("LIE_FROM", "1000")):
            return super().receive_weights(manifest)
        slots = check_manifest(manifest, self._wanted, self._version)
        tensors = tensor_views(map_file(manifest["path"], manifest["num_bytes"], writable=False), slots)
        self._version = version
        num_bytes = sum(slot.num_bytes for slot in slots)
        return Receipt(version, len(slots), num_bytes, 0.0, checksum_of(tensors, slots, version))


def build(config: RolloutConfig, **settings: Any) -> LyingEngine:
    """What ``rollout.engine`` names."""
    return LyingEngine(settings.pop("model_dir"), config, **settings)
