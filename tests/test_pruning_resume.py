"""Killed runs continue to the same bytes; two processes agree on every mask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.hardening import harden
from idp_deploy.pruning import Progress, prune
from idp_deploy.tasks import own_threads
from tests.pruning_fixtures import PRUNABLE, RECIPES, Blobs, network, same, trained

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dense() -> Model:
    return trained()


class KilledError(Exception):
    """What a kill looks like from inside."""


@pytest.mark.wide
@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("after", [3, 13, 27])
def test_an_interrupted_run_resumes_to_the_same_bytes(dense: Model, tmp_path: Path, method: str, after: int) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == after:
            raise KilledError

    pattern, sparsity = RECIPES[method]
    recipe, task = Recipe(sparsity=sparsity, epochs=4, method=method, pattern=pattern), Blobs()
    whole = prune(dense, task, recipe)
    with pytest.raises(KilledError):
        prune(dense, task, recipe, progress=stop, checkpoint_dir=tmp_path)
    resumed = prune(dense, task, recipe, checkpoint_dir=tmp_path, resume=True)
    assert same(whole.module, resumed.module)
    assert same(harden(whole).module, harden(resumed).module)


def test_a_run_goes_on_with_the_threads_it_began_with(dense: Model, tmp_path: Path) -> None:
    """The last bits of a sum depend on their number."""

    def stop(progress: Progress) -> None:
        if progress.step == 13:
            raise KilledError

    recipe, task = Recipe(sparsity=0.9, epochs=2), Blobs()
    with own_threads(2):
        whole = prune(dense, task, recipe)
        with pytest.raises(KilledError):
            prune(dense, task, recipe, progress=stop, checkpoint_dir=tmp_path)
    with own_threads(1):
        resumed = prune(dense, task, recipe, checkpoint_dir=tmp_path, resume=True)
        hardened = harden(resumed, task)
        assert torch.get_num_threads() == 1
    assert resumed.provenance.threads == hardened.provenance.threads == 2
    assert same(whole.module, resumed.module)
    with own_threads(2):
        assert same(harden(whole, task).module, hardened.module)


def test_resuming_another_run_is_refused(dense: Model, tmp_path: Path) -> None:
    task = Blobs()
    prune(dense, task, Recipe(sparsity=0.9, epochs=1), checkpoint_dir=tmp_path)
    with pytest.raises(UsageError, match=r"had sparsity = 0\.9, this one has 0\.8"):
        prune(dense, task, Recipe(sparsity=0.8, epochs=1), checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(UsageError, match="started from another model"):
        prune(Model(network(5)), task, Recipe(sparsity=0.9, epochs=1), checkpoint_dir=tmp_path, resume=True)
    (tmp_path / "training_state.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(FileError, match="cannot be read as a training state"):
        prune(dense, task, Recipe(sparsity=0.9, epochs=1), checkpoint_dir=tmp_path, resume=True)


RUN = """
import sys, torch
from pathlib import Path
from idp_deploy.flow import Recipe
from idp_deploy.hardening import harden
from idp_deploy.pruning import prune
from tests.pruning_fixtures import Blobs, trained
folder = Path(sys.argv[1])
masked = prune(trained(), Blobs(), Recipe(sparsity=0.9, epochs=60), checkpoint_dir=folder,
               resume=sys.argv[2] == "resume", progress=lambda p: print(p.step, flush=True))
sparse = harden(masked)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
torch.save({"state": sparse.module.state_dict(), "masks": dict(sparse.masks)}, folder / f"result{rank}.pt")
"""


def run(folder: Path, how: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(folder), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


@pytest.mark.slow
def test_sigkill_at_random_steps_and_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "fresh")
    whole.communicate(timeout=300)
    expected = (tmp_path / "whole" / "result0.pt").read_bytes()
    dice = torch.Generator().manual_seed(int(time.time()))
    for attempt in range(5):
        folder, last = tmp_path / f"killed{attempt}", int(torch.randint(1, 470, (), generator=dice))
        killed = run(folder, "fresh")
        assert killed.stdout is not None
        for line in killed.stdout:
            if int(line) >= last:
                killed.send_signal(signal.SIGKILL)
                break
        assert killed.wait(60) == -signal.SIGKILL
        assert not (folder / "result0.pt").exists()
        run(folder, "resume").communicate(timeout=300)
        assert (folder / "result0.pt").read_bytes() == expected, f"killed after step {last}"


ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": [*ACCELERATE, "--dynamo_backend", "no", "--mixed_precision", "no", "--main_process_port", "0"],
    "accelerate bf16": [*ACCELERATE, "--dynamo_backend", "no", "--mixed_precision", "bf16", "--main_process_port", "0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_agree_on_every_mask(tmp_path: Path, launcher: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *LAUNCHERS[launcher], str(script), str(tmp_path), "fresh"]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=300, stdout=subprocess.DEVNULL)
    one, two = (torch.load(tmp_path / f"result{rank}.pt", weights_only=True) for rank in (0, 1))
    for key in ("state", "masks"):
        assert all(torch.equal(one[key][name], two[key][name]) for name in one[key])
    assert sum(int((~mask).sum()) for mask in one["masks"].values()) == round(0.9 * PRUNABLE)
    for name, mask in one["masks"].items():
        assert one["state"][name].dtype == torch.float32
        assert torch.equal(one["state"][name] != 0, mask)
