"""What is asked of a GPU, asked of its stand-in; and that the stand-in notices what would go wrong on a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stand_in_gpu import NAME, Waiting, nothing_waits, registered

from skillneurons.utilities.devices import to_device

TESTS = Path(__file__).parent
there_only = [
    pytest.mark.gpu,
    pytest.mark.skipif(not registered(), reason="is for the stand-in: pytest -p stand_in_gpu -m gpu"),
]


def test_all_that_is_asked_of_a_gpu_holds_on_its_stand_in():
    files = [str(TESTS / name) for name in ("test_cuda.py", "test_stand_in_gpu.py")]
    # Without every function's example, which takes minutes more: PYTHONPATH=tests pytest -p stand_in_gpu -m gpu
    wanted = ["-m", "gpu", "-k", "not example"]
    command = [sys.executable, "-m", "pytest", "-p", "stand_in_gpu", *wanted, "-q", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *files], cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout.splitlines()[-1]


@pytest.fixture
def there():
    return torch.arange(12.0).reshape(3, 4).to(NAME)


class TestTheStandIn:
    pytestmark = there_only

    def test_computes_on_views_in_place_and_backwards_as_the_cpu_does(self, there):
        here = torch.arange(12.0).reshape(3, 4)
        for tensor in (there, here):
            tensor[:, 1:3] += 5
            tensor[torch.tensor([0, 2])] *= 2
        assert there.device.type == NAME and torch.equal(there.cpu(), here)
        leaves = [tensor.clone().requires_grad_() for tensor in (there, here)]
        for leaf in leaves:
            (leaf @ leaf.T).sum().backward()
        ours, theirs = (leaf.grad for leaf in leaves)
        assert ours is not None and theirs is not None
        assert ours.device.type == NAME and torch.equal(ours.cpu(), theirs)

    def test_refuses_tensors_of_two_devices(self, there):
        with pytest.raises(RuntimeError, match="two devices"):
            torch.add(there, torch.ones(3, 4))
        with pytest.raises(RuntimeError, match="two devices"):
            torch.cat([there, torch.ones(3, 4)])
        with pytest.raises(RuntimeError, match="on the CPU was indexed by one on the device"):
            torch.ones(3, 4)[torch.tensor([0]).to(NAME)]
        assert (there + torch.tensor(1.0)).device.type == NAME

    def test_refuses_copies_to_the_cpu_that_do_not_wait_for_their_values(self, there):
        for copy in (lambda: there.to("cpu", non_blocking=True), lambda: torch.empty(3, 4).copy_(there, True)):
            with pytest.raises(RuntimeError, match="could be read before they are there"):
                copy()
        assert to_device(there, torch.device("cpu")).device.type == "cpu"

    @pytest.mark.parametrize(
        "wait",
        [
            lambda there: there.sum().item(),
            lambda there: bool((there > 3).all()),
            lambda there: there.cpu(),
            lambda there: torch.ones(3).to(there.device),
            lambda there: there[there > 3],
            lambda there: there[torch.tensor([0, 1])],
            lambda there: there.nonzero(),
            lambda there: torch.empty(3, 4).copy_(there),
        ],
    )
    def test_notices_what_keeps_the_host_waiting(self, there, wait):
        wait(there)
        with pytest.raises(Waiting), nothing_waits(NAME):
            wait(there)
        wait(there)

    def test_does_not_mind_what_keeps_nobody_waiting(self, there):
        with nothing_waits(NAME):
            moved = torch.ones(3).to(there.device, non_blocking=True)
            assert (there[:, :3] @ moved).add_(1).shape == (3,)
