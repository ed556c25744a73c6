"""Members of an arm trained at once, each process a share of them."""

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from sagdeploy.errors import SagError
from sagdeploy.training.arm import Arm, Member, train_members
from sagdeploy.training.train import Progress


def train_in_processes(
    arm: Arm, members: Sequence[Member], processes: int, progress: Progress
) -> None:
    """Train members in other processes; the first error is raised when the others are done.

    They are forked from a server that has imported torch once and has started none of its
    threads, which do not survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    running: dict[Connection, BaseProcess] = {}
    errors: list[SagError] = []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            share = (arm, members[index::processes], arm.ram_bytes // processes, theirs)
            running[ours] = context.Process(target=_work, args=share, daemon=True)
            running[ours].start()
            theirs.close()
        while running:
            for told in wait(list(running)):
                assert isinstance(told, Connection)
                errors += _hear(told, running, progress)
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    if errors:
        raise errors[0]


def _hear(
    told: Connection, running: dict[Connection, BaseProcess], progress: Progress
) -> list[SagError]:
    """Pass on one message of a process, or see to its end; returns what went wrong there."""
    try:
        message = told.recv()
    except EOFError:
        process = running.pop(told)
        process.join()
        if process.exitcode == 0:
            return []
        return [
            SagError(
                f"a training process ended with code {process.exitcode}",
                hint="run it again with --jobs 1: it resumes",
            )
        ]
    if isinstance(message, SagError):
        return [message]
    progress(message)
    return []


def _work(arm: Arm, members: Sequence[Member], ram_bytes: int, told: Connection) -> None:
    """Train some members in a process of their own, telling its parent of every epoch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    try:
        train_members(arm, members, ram_bytes, told.send)
    except SagError as error:
        told.send(error)
