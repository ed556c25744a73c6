"""A batch loses nothing to a server that is killed under it, again and again."""

import random
import threading
from pathlib import Path

import pytest

from sagdeploy.batch import Batch, BatchResult, predict_batch
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.serving.triton import PACE, TritonEngine
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.serving.restarting import Restarting

SLIDES, KILLS = 50, 20


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[SlideInput]:
    """Slides of some hundreds of small tiles: most have more than fit one request."""
    folder = tmp_path_factory.mktemp("slides")
    painted = [SlideInput(f"slide-{index}", folder / f"{index}.tiff") for index in range(SLIDES)]
    for index, slide in enumerate(painted):
        paint_slide(slide.path, SlideSpec(seed=index, size_l0=(640, 470), grade=1.0))
    return painted


class Saboteur:
    """Kills the server in the middle of slides that a seed has chosen, or soon after."""

    def __init__(self, server: Restarting, kills: int) -> None:
        self._rng = random.Random(5)
        self._server = server
        self._due = sorted(self._rng.sample(range(SLIDES - 5), kills))
        self._after = self._rng.randint(1, 9)
        self._slide, self._batches = 0, 0
        self._lock = threading.Lock()

    def progress(self, tiles: int) -> None:
        """Another batch of the slide is done, or the one request that a small slide takes."""
        with self._lock:
            self._batches += 1
            is_due = bool(self._due) and self._slide >= self._due[0]
            if is_due and (self._batches >= self._after or tiles > PACE.batch_tiles):
                self._server.kill()
                self._due.pop(0)
                self._after = self._batches + self._rng.randint(1, 9)

    def report(self, outcome: SlideOutcome) -> None:
        """The next slide begins."""
        self._slide, self._batches = self._slide + 1, 0
        self._after = min(self._after, 9)


def predict_all(
    server: Restarting, slides: list[SlideInput], out: Path, *, kills: int
) -> BatchResult:
    """Results of the batch, the server killed so many times meanwhile."""
    engine, saboteur = TritonEngine(server.url), Saboteur(server, kills)
    batch = Batch(engine, ModelChoice("small"), out, PredictOptions())
    try:
        return server.run(
            lambda: predict_batch(slides, batch, report=saboteur.report, progress=saboteur.progress)
        )
    finally:
        engine.close()


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a batch's results, but the one that holds times."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_twenty_kills_during_fifty_slides_change_no_byte(
    repository: Path, slides: list[SlideInput], server_cache: Path | None, tmp_path: Path
) -> None:
    with Restarting(repository, server_cache) as server:
        undisturbed = predict_all(server, slides, tmp_path / "undisturbed", kills=0)
        assert server.kills == 0
        disturbed = predict_all(server, slides, tmp_path / "disturbed", kills=KILLS)
        assert server.kills == KILLS
    assert [record.slide_id for record in disturbed.records] == [s.slide_id for s in slides]
    assert {outcome.status for outcome in disturbed.outcomes} == {"done"}
    assert disturbed.records == undisturbed.records
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "undisturbed")
