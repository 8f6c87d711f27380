"""AceReason-Nemotron post-training, end to end, on Megatron-core and vLLM."""
