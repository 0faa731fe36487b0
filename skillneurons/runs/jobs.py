"""Independent jobs in processes of their own: on this machine, or wherever a submitit executor puts them.

Unlike in a pool of workers, a process that is killed takes its own job with it and no other. Each costs one load of the
model.
"""

import multiprocessing
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from skillneurons.utilities.arguments import checked
from skillneurons.utilities.lazy import needed
from skillneurons.utilities.progress import told
from skillneurons.utilities.types import Library, Progress


@dataclass(frozen=True)
class Job:
    """A call in a process of its own; function and arguments are sent there, results stay in files.

    Args:
        name: For messages.
        function: Found by its module and name.
        arguments: By position.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[object, ...]


@checked
def run_jobs(
    jobs: Sequence[Job],
    *,
    n_at_once: int = 1,
    executor: Library = None,
    progress: Progress | bool = False,
) -> None:
    """Run every job, and say at the end which ones failed.

    Args:
        jobs: In any order.
        n_at_once: Local processes at a time. They divide this process's threads, and results of other numbers of
            threads may differ in their last digits.
        executor: Of submitit, instead of local processes: `slurm_executor`, or any other. Files that submitit needs
            lie in its own folder.
        progress: Called with (name, jobs finished, jobs) after each; or True, for bars or lines.

    Raises:
        ChildProcessError: Some did not finish; all others did.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from submitit import LocalExecutor
        >>> from skillneurons.runs.jobs import Job, run_jobs
        >>> with TemporaryDirectory() as folder:
        ...     paths = [Path(folder) / name for name in ("a", "b")]
        ...     jobs = [Job(path.name, Path.touch, (path,)) for path in paths]
        ...     run_jobs(jobs, executor=LocalExecutor(folder))
        ...     print([path.exists() for path in paths])
        [True, True]
    """
    if n_at_once < 1:
        raise ValueError(f"`n_at_once` is the number of processes at a time, 1 or more, not {n_at_once}.")
    if not jobs:
        return
    n_done, tell = 0, told(progress)

    def done(name: str) -> None:
        nonlocal n_done
        n_done += 1
        tell(name, n_done, len(jobs))

    failed = _run_local(jobs, n_at_once, done) if executor is None else _run_submitted(jobs, executor, done)
    if failed:
        reasons = "; ".join(f"{name} {reason}" for name, reason in failed.items())
        raise ChildProcessError(
            f"{len(failed)} of {len(jobs)} jobs did not finish: {reasons}. What the others did is kept: run the same "
            "again to go on."
        )


def _run_local(jobs: Sequence[Job], n_at_once: int, done: Callable[[str], None]) -> dict[str, str]:
    """Names of the jobs that failed, and why."""
    # Forked from a process that has imported this package and done nothing else: one import serves all jobs.
    forked = "forkserver" in multiprocessing.get_all_start_methods()
    context: Library = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload(["skillneurons"])
    n_threads = max(1, torch.get_num_threads() // n_at_once)
    waiting, running, failed = deque(jobs), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < n_at_once:
                job = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, n_threads, sender), name=job.name, daemon=True)
                process.start()
                sender.close()
                running[receiver] = process
            for receiver in wait(list(running)):
                process = running[receiver]
                # Read before the process is waited for: it does not end while the pipe is full of its message.
                message = _message(receiver)
                process.join()
                del running[receiver]
                if process.exitcode:
                    failed[process.name] = message or _end(process.exitcode)
                done(process.name)
    finally:
        for process in running.values():
            process.terminate()
    return failed


def _work(job: Job, n_threads: int, sender: Connection) -> None:
    """What a local process does."""
    torch.set_num_threads(n_threads)
    try:
        job.function(*job.arguments)
    except Exception as error:
        sender.send(f"ended in {type(error).__name__}: {error}")
        raise


def _message(receiver: Library) -> str:
    """What a process sent; empty if it ended, well or not, before it had sent something whole."""
    with receiver:
        try:
            return receiver.recv()
        except (EOFError, OSError):
            return ""


def _end(exitcode: int) -> str:
    return f"was killed by signal {-exitcode}" if exitcode < 0 else f"left with status {exitcode}"


def _run_submitted(jobs: Sequence[Job], executor: Library, done: Callable[[str], None]) -> dict[str, str]:
    with executor.batch():
        submitted = [executor.submit(job.function, *job.arguments) for job in jobs]
    failed = {}
    for job, one in zip(jobs, submitted, strict=True):
        try:
            one.result()
        except Exception as error:  # submitit has several kinds
            # Most hold the other process's traceback between two rules; its last line names the error.
            trace = re.search(r"-{5,}\n(.*)\n-{5,}", str(error), re.DOTALL)
            last = trace.group(1).strip().splitlines()[-1] if trace else f"no result: {error}"
            failed[job.name] = f"ended in {last}"
        done(job.name)
    return failed


@checked
def slurm_executor(folder: str | Path, options: str = "", *, n_at_once: int | None = None) -> Library:
    """A submitit executor for the Slurm cluster that this machine belongs to.

    Args:
        folder: Shared by all nodes; submitit keeps scripts and logs there.
        options: As submitit names them, for example `"slurm_partition=gpu,gpus_per_node=1,timeout_min=240"`.
        n_at_once: Most jobs at a time.

    Raises:
        MissingPackageError: submitit is not installed.
        ValueError: An option is not one of its, or there is no Slurm here.

    Example:
        >>> from skillneurons.runs.jobs import slurm_executor
        >>> slurm_executor("jobs", "slurm_partition=gpu,timeout_min")
        Traceback (most recent call last):
        ValueError: Options for Slurm are name=value, comma-separated, but one is 'timeout_min'.
    """
    submitit = needed("submitit", "slurm", "Slurm")
    pairs = [option.partition("=") for option in options.split(",") if option.strip()]
    if unclear := [name for name, sign, value in pairs if not (name.strip() and sign and value.strip())]:
        raise ValueError(f"Options for Slurm are name=value, comma-separated, but one is {unclear[0]!r}.")
    parameters = {name.strip(): int(value) if value.strip().isdigit() else value.strip() for name, _, value in pairs}
    if n_at_once is not None:
        parameters["slurm_array_parallelism"] = n_at_once
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm")
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, TypeError) as error:
        raise ValueError(f"No jobs can be submitted to Slurm: {error}") from error
    return executor
