"""The slides of a run on other processes, of this machine or of a Dask cluster.

One task a slide. Whoever does a task writes its results as a whole, and the same bytes, so that
Dask may give it to another worker when one dies. Slides and results are named by their paths:
on a cluster all machines see the same ones.
"""

import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol, TypeVar

from sagdeploy.errors import ConfigError, EngineError
from sagdeploy.pipeline.stream import Progress, untold

if TYPE_CHECKING:
    from distributed import Client, Future

Task = TypeVar("Task")
Result = TypeVar("Result")

CONNECT_S = 20
"""Longest wait for a scheduler to answer."""


Work = Callable[[Task, Progress], Result]


class Spread(Protocol):
    """How the slides of a run are done."""

    def __call__(
        self,
        work: Work[Task, Result],
        tasks: Sequence[Task],
        lost: Callable[[Task, str], Result],
        progress: Progress,
    ) -> Generator[Result]:
        """What `work` makes of each task, as it ends; a closed iterator begins no more of them.

        lost:     what is made of a task that nobody could end, and why
        progress: told of the tiles that are done in this process, and of no others
        """
        ...


def one_by_one(
    work: Work[Task, Result],
    tasks: Sequence[Task],
    lost: Callable[[Task, str], Result],
    progress: Progress,
) -> Generator[Result]:
    """A Spread: all in this process, in order."""
    for task in tasks:
        yield work(task, progress)


def spread_over(workers: int | None, scheduler: str | None) -> AbstractContextManager[Spread]:
    """The Spread that a command line asks for: processes here, a cluster, or neither."""
    if workers and scheduler:
        raise ConfigError("--workers are of this machine: leave them out with --scheduler")
    if scheduler:
        return workers_of(scheduler)
    return workers_here(workers) if workers else nullcontext(one_by_one)


@contextmanager
def workers_here(count: int) -> Iterator[Spread]:
    """A Spread over processes of this machine, which end with the block."""
    import distributed  # slow to import, and only a cluster needs it

    _be_quiet()
    with (
        TemporaryDirectory(prefix="sagdeploy-") as scratch,
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            scheduler_kwargs={"dashboard": False},
            security=distributed.Security.temporary(),  # or any user here could send it code
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        try:
            yield _Tasks(client)
        except BaseException:
            for worker in cluster.workers.values():  # they would end their slides first
                os.kill(worker.pid, signal.SIGKILL)
            raise


@contextmanager
def workers_of(scheduler: str) -> Iterator[Spread]:
    """A Spread over the workers of a Dask scheduler; EngineError where it does not answer.

    scheduler: such as `tcp://head:8786`; by `tls://`, with the certificates of Dask's own settings
    """
    import distributed

    _be_quiet()
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{scheduler}: no Dask scheduler answers there", hint="start one with: dask scheduler"
        ) from error
    with client:
        yield _Tasks(client)


class _Tasks:
    """The Spread of a Dask client."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def __call__(
        self,
        work: Work[Task, Result],
        tasks: Sequence[Task],
        lost: Callable[[Task, str], Result],
        progress: Progress,
    ) -> Generator[Result]:
        """Results in the order in which they come."""
        from distributed import as_completed

        futures = {self._client.submit(work, task, untold, pure=False): task for task in tasks}
        try:
            for future in as_completed(list(futures), loop=self._client.loop):
                yield _result(future, futures[future], lost)
                future.release()
        finally:
            self._client.cancel(list(futures), force=True)


def _result(future: "Future[Result]", task: Task, lost: Callable[[Task, str], Result]) -> Result:
    from distributed import KilledWorker

    try:
        result: Result = future.result()
    except KilledWorker:
        return lost(task, "its worker died, and so did all that tried again")
    except CancelledError as error:
        raise EngineError(
            "the Dask scheduler is gone", hint="the same command goes on where this one ended"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the cluster's workers have no module {error.name!r}",
            hint="install the same sagdeploy there as here",
        ) from error
    return result


def _be_quiet() -> None:
    """Dask's own account of its work, hosts and addresses in it, is for --debug only."""
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
