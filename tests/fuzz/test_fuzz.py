"""Whatever chance does to a slide, it alone fails; `make fuzz CASES=10000` for more of it."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.fuzzer import bases, damaged, fuzz
from tests.fuzz.mutations import MUTATIONS, Mutation

CASES = int(os.environ.get("SAGDEPLOY_FUZZ_CASES", "500"))
SEED = 2026


def test_damaged_slides_end_with_a_code_and_a_line(repository: Path, tmp_path: Path) -> None:
    ended = list(fuzz(range(CASES), SEED, repository, tmp_path / "failed"))
    problems = [(done.case, done.problem) for done in ended if done.problem]
    assert problems == []
    assert len(ended) == CASES
    codes = Counter(done.code for done in ended)
    assert min(codes[0], codes[3], codes[4]) > CASES // 50, codes


def test_a_case_is_the_same_file_each_time(tmp_path: Path) -> None:
    originals = bases(tmp_path)
    cases = [damaged(originals, SEED, number) for number in (3, 4, 3)]
    assert cases[0] == cases[2] != cases[1]


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutation_changes_a_file_but_no_other_time(mutation: Mutation) -> None:
    data = random.Random(1).randbytes(20_000)
    spoilt = [mutation(data, random.Random(seed)) for seed in (1, 1, 2)]
    assert data != spoilt[0] == spoilt[1] != spoilt[2]
