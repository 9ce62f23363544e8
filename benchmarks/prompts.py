"""Table of the gain by prompts over several training seeds, from the files of ``masam evaluate-prompts``.

    python benchmarks/prompts.py evidence/prompts/seed1.json evidence/prompts/seed2.json evidence/prompts/seed3.json

The models must differ only in their seed and be scored on the same cases.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from masam.evaluation.statistics import interval_over_cases, mean_over_seeds, paired_difference, spread_over_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="files that masam evaluate-prompts --out wrote")
    records = [json.loads(file.read_text("utf-8")) for file in parser.parse_args().files]
    keys = [[(score["case"], score["label"]) for score in record["scores"]] for record in records]
    if any(other != keys[0] for other in keys):
        parser.error("the files must contain the same cases and classes")
    names = [item["prompt"] for item in records[0]["summary"]]
    tables = {name: np.stack([table(record, number) for record in records]) for number, name in enumerate(names)}
    print("| prompt | Dice | SD of seeds | 95 % interval | minus automatic | 95 % interval of the difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, values in tables.items():
        more = "" if name == "automatic" else "{:+.3f} | {:+.3f} to {:+.3f}".format(
            *paired_difference(values, tables["automatic"])
        )  # fmt: skip
        low, high = interval_over_cases(values)
        spread = spread_over_seeds(values)
        print(f"| {name} | {mean_over_seeds(values):.3f} | {spread:.3f} | {low:.3f} to {high:.3f} | {more or ' | '} |")


def table(record: dict[str, Any], number: int) -> np.ndarray:
    """Return the Dice of one kind of prompt, [cases, classes]; NaN for classes absent from the reference."""
    cases, labels = record["cases"], list(dict.fromkeys(score["label"] for score in record["scores"]))
    values = np.full((len(cases), len(labels)), math.nan)
    for score in record["scores"]:
        ways = [score["automatic"], *score["boxes"].values(), *score["clicks"]]
        values[cases.index(score["case"]), labels.index(score["label"])] = ways[number]
    return values


main()
