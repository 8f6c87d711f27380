"""Mix MATH train and GSM8K problems into one JSON-lines file for ``--data``, with columns id, problem, answer.

::

    python scripts/make_math_mix.py --math math.json --gsm8k gsm8k_test.json --to math_mix.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from nemo_acereason.config.schema import DataConfig
from nemo_acereason.data.sources import load_rows, row_id
from nemo_acereason.errors import UserError


def main() -> None:
    """Read the command line, write the file, say how many rows it has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--math", required=True, metavar="FILE", help="columns problem, answer")
    parser.add_argument("--gsm8k", required=True, metavar="FILE", help="the answer stands after #### in the solution")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.jsonl", help="the file to write")
    arguments = parser.parse_args()
    sources = [
        DataConfig(source=arguments.math, skip_empty=True),  # published copies lack a few answers
        DataConfig(source=arguments.gsm8k, transform="nemo_acereason.data.transforms:gsm8k"),
    ]
    try:
        rows = [
            {"id": row_id(source, row, index), "problem": row["problem"], "answer": row["answer"]}
            for source in sources
            for index, row in enumerate(load_rows(source))
        ]
    except UserError as error:
        sys.exit(str(error))
    part = arguments.to.with_name(arguments.to.name + ".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, arguments.to)
    print(f"{arguments.to} holds {len(rows)} problems")


if __name__ == "__main__":
    main()
