"""Damages slides by chance and diagnoses them: what ends otherwise than with one line and a code.

    python -m benchmarks.fuzz --cases 10000 --seed 1 --out fuzzed

A case that has a problem is kept in --out; `--first N --cases 1` with the same seed repeats it.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.fuzzer import fuzz
from tests.untrained import publish_untrained


def main() -> None:
    """Print each problem, and how many cases ended with which exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzzed"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    codes: Counter[int] = Counter()
    problems, begun = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        publish_untrained(repository, Path(scratch))
        numbers = range(options.first, options.first + options.cases)
        for ended in fuzz(numbers, options.seed, repository, options.out):
            codes[ended.code] += 1
            if ended.problem:
                problems += 1
                print(f"{ended.case}: {ended.problem}", flush=True)
    seconds = time.monotonic() - begun
    print(f"{sum(codes.values())} cases in {seconds:.0f} s, by code: {dict(sorted(codes.items()))}")
    print(f"{problems} problems; their files are in {options.out}" if problems else "no problem")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
