"""Trials in processes of their own: equal to those of one process, and a killed one loses itself alone."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import one_thread
from typer.testing import CliRunner

from skillneurons import TuningConfig
from skillneurons.cli.commands import app
from skillneurons.runs import trials
from skillneurons.runs.jobs import Job, run_jobs, slurm_executor
from skillneurons.runs.trials import Trial, run_trials

TUNING = TuningConfig(steps=6, eval_every=3, lr=0.05)
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed")


def write(path, text):
    Path(path).write_text(text)


def write_own_id_and_wait(path):
    write(path, str(os.getpid()))
    time.sleep(600)


def refuse(word):
    raise ValueError(f"no {word} here")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Of every process: sums over other numbers of threads differ in their last digits."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Where other processes load the model from."""
    return model.save(tmp_path_factory.mktemp("model"))


def make_trials(task, folder, seeds=(0, 1)):
    return [Trial(task, seed, folder / f"seed-{seed}", 3, TUNING) for seed in seeds]


@pytest.fixture(scope="module")
def alone(model, task, tmp_path_factory):
    """What one process finds."""
    return run_trials(make_trials(task, tmp_path_factory.mktemp("alone")), model)


def assert_equal(results, expected):
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(result.classifier.prompt.vectors, other.classifier.prompt.vectors)
        assert all(torch.equal(a.above, b.above) for a, b in zip(result.scores, other.scores, strict=True))


def kill_when_written(path):
    """Kill the process that writes its id to `path`."""

    def wait_and_kill():
        for _ in range(3000):
            if path.exists() and path.read_text():
                return os.kill(int(path.read_text()), signal.SIGKILL)
            time.sleep(0.1)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_a_killed_process_and_a_failing_one_are_named_and_the_others_finish(tmp_path):
    doomed, third = tmp_path / "doomed", tmp_path / "third"
    jobs = [
        Job("doomed", write_own_id_and_wait, (doomed,)),
        Job("failing", refuse, ("bread",)),
        Job("third", write, (third, "done")),
    ]
    ended = []
    killer = kill_when_written(doomed)
    with pytest.raises(ChildProcessError) as caught:
        run_jobs(jobs, n_at_once=2, progress=lambda name, done, total: ended.append((done, total, name)))
    killer.join()
    assert "2 of 3 jobs" in str(caught.value)
    assert "doomed was killed by signal 9" in str(caught.value)
    assert "failing ended in ValueError: no bread here" in str(caught.value)
    assert third.read_text() == "done"
    assert sorted(name for *_, name in ended) == ["doomed", "failing", "third"]
    assert [(done, total) for done, total, _ in ended] == [(1, 3), (2, 3), (3, 3)]


def test_a_message_that_no_pipe_holds_is_read():
    with pytest.raises(ChildProcessError, match=r"long ended in ValueError: no (milk){100000} here"):
        run_jobs([Job("long", refuse, ("milk" * 100_000,))])


@pytest.mark.parametrize(("asked", "devices"), [("cuda:1", ["cuda:1"] * 3), ("cuda", ["cuda:0", "cuda:1", "cuda:0"])])
def test_workers_spread_over_the_gpus_unless_one_is_named(model, task, tmp_path, monkeypatch, asked, devices):
    def load(source, *, device, **options):
        chosen.append(device)
        return model

    def in_this_process(jobs, **options):
        for job in jobs:
            job.function(*job.arguments)
        raise KeyboardInterrupt  # nothing is to be read back

    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(trials, "load_model", load)
    monkeypatch.setattr(trials, "run_trial", lambda trial, model: None)
    monkeypatch.setattr(trials, "run_jobs", in_this_process)
    for options in ({"device": asked}, {}):
        with pytest.raises(KeyboardInterrupt):
            run_trials(make_trials(task, tmp_path, (0, 1, 2)), model, jobs=2, **options)
    assert chosen == [*devices, "cpu", "cpu", "cpu"]


def test_a_killed_trial_is_all_that_is_lost_and_running_again_completes(
    model, saved, task, alone, tmp_path, monkeypatch
):
    first, second = make_trials(task, tmp_path / "run")
    # The first process stands still with its prompt tuned, and is killed there.
    doomed = tmp_path / "doomed"
    monkeypatch.setattr(trials, "Job", lambda name, function, arguments: Job(name, *_doom(name, arguments, doomed)))
    killer = kill_when_written(doomed)
    with pytest.raises(ChildProcessError, match="signal0, seed 0 was killed by signal 9"):
        run_trials([first, second], model, source=saved, jobs=2)
    killer.join()
    monkeypatch.setattr(trials, "Job", Job)
    assert first.written() == ["classifier"] and second.written() == ["classifier", "scores"]
    prompt = (first.folder / "classifier.safetensors").read_bytes()

    told = []
    completed = run_trials([first, second], model, source=saved, jobs=2, tell=told.append)
    assert told == ["signal0, seed 0: ended (1 of 1)"]
    assert [result.reused for result in completed] == [("classifier",), ("classifier", "scores")]
    assert (first.folder / "classifier.safetensors").read_bytes() == prompt
    assert_equal(completed, alone)
    again = run_trials([first, second], model, source="nowhere", jobs=2)
    assert [result.reused for result in again] == [("classifier", "scores")] * 2


def _doom(name, arguments, path):
    return (tune_then_wait, (path, *arguments)) if name.endswith("seed 0") else (trials._work, arguments)


def tune_then_wait(path, *arguments):
    """A trial that stands still when its prompt is saved."""
    trials.find_skill_neurons = lambda *args, **kwargs: write_own_id_and_wait(path)
    trials._work(*arguments)


def test_a_trial_of_another_model_than_asked_for_is_refused(task, tmp_path):
    [trial] = make_trials(task, tmp_path, seeds=(0,))
    with pytest.raises(ValueError, match=r"from 'bundled', but what lies there has fingerprint \w+, and this one 1234"):
        trials._work(trial, 0, "bundled", None, "1234", "cpu", torch.float32)
    assert trial.written() == []


def test_submitit_runs_trials_and_names_what_failed(saved, model, task, alone, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit", reason="the slurm extra is not installed")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    )
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=20)
    [trial] = make_trials(task, tmp_path, seeds=(1,))
    arguments = (trial, 0, str(saved), None, model.fingerprint(), "cpu", "float32")
    jobs = [Job("late", refuse, ("milk",)), Job("early", trials._work, arguments)]
    with pytest.raises(ChildProcessError, match="1 of 2 jobs did not finish: late ended in ValueError: no milk here"):
        run_jobs(jobs, executor=executor)
    assert_equal(run_trials([trial], model, source="nowhere", executor=executor), alone[1:])


def test_options_for_slurm_are_checked_and_passed_on(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit", reason="the slurm extra is not installed")
    with pytest.raises(ValueError, match="'gpu'"):
        slurm_executor(tmp_path, "slurm_partition=a,gpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="srun"):
        slurm_executor(tmp_path)
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 1))
    executor = slurm_executor(tmp_path, "slurm_partition=gpu, timeout_min=240", n_at_once=7)
    chosen = executor._executor.parameters
    assert (chosen["partition"], chosen["time"], chosen["array_parallelism"]) == ("gpu", 240, 7)
    with pytest.raises(ValueError, match="chairs"):
        slurm_executor(tmp_path, "chairs=3")


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"skillneurons\[slurm\]"):
        slurm_executor(tmp_path)


def test_no_processes_are_too_few():
    with pytest.raises(ValueError, match="not 0"):
        run_jobs([], n_at_once=0)


def test_the_command_hands_each_seed_to_a_process(tmp_path, monkeypatch):
    seen = []

    def in_this_process(jobs, **options):
        seen.append((len(jobs), options["n_at_once"], options["executor"]))
        for job in jobs:
            job.function(*job.arguments)

    monkeypatch.setattr(trials, "run_jobs", in_this_process)
    command = ["find", "--rows", "24", "--seeds", "2", "--steps", "2", "--n-random", "1", "--kinds", "mean"]
    done = CliRunner().invoke(app, [*command, "--jobs", "2", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert seen == [(2, 2, None)] and "Reused" not in done.output
    assert (tmp_path / "run" / "run.json").exists()


def test_the_command_says_where_there_is_no_slurm(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the slurm extra is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["reproduce", "--slurm", "timeout_min=3", "--out", str(tmp_path / "run")])
    assert done.exit_code == 1 and "srun" in done.output
