"""The commands that are killed, and a folder they run in."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

CODE = Path(__file__).parents[1] / "tiny_project" / "tiny.py"
_CODE = ("--model", "tiny:build", "--task", "tiny:task")
_CONFIGURATION = """\
model = "tiny:build"
task = "tiny:task"
weights = "model.pt"
output = "build"
targets = ["pixel-4"]

[prune]
target = 0.8
epochs = 1

[quantize]
scheme = "int8-weights"

[export]
to = ["onnx", "coreml"]
"""

_TRAINING = (
    *("torch", "torch.export", "torch.fx.experimental.symbolic_shapes", "accelerate", "scipy.stats"),
    *("idp_deploy.cli", "idp_deploy.loading", "idp_deploy.pruning", "idp_deploy.hardening", "idp_deploy.quantization"),
)
_EXPORTING = (
    *(*_TRAINING, "onnxscript", "onnxruntime", "coremltools"),
    *("idp_deploy.pipeline", "idp_deploy.exporting", "idp_deploy.verification", "idp_deploy.simulation"),
)
EVERYTHING = (*_EXPORTING, *(("litert_torch",) if find_spec("litert_torch") else ()))


@dataclass(frozen=True)
class Command:
    """`outputs` are what it writes, in its folder; `modules` what it imports, that takes long.

    With `resumes` it is started again with --resume.
    """

    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    modules: tuple[str, ...] = _TRAINING
    resumes: bool = False

    def again(self, resume: bool = True) -> list[str]:
        return [*self.arguments, *(["--resume"] if self.resumes and resume else [])]


COMMANDS = (
    Command("prune", ("prune", "model.pt", "--target", "0.8", *_CODE, "-o", "net.pt"), ("net.pt",), resumes=True),
    Command(  # whose data loader has a worker
        "workers",
        ("prune", "model.pt", "--target", "0.8", "--model", "tiny:build", "--task", "workers:task", "-o", "w.pt"),
        ("w.pt",),
        resumes=True,
    ),
    Command("quantize", ("quantize", "pruned.pt", "--scheme", "int8", *_CODE, "-o", "q.pt"), ("q.pt",)),
    Command(
        "export",
        ("export", "pruned.pt", "--to", "all", *_CODE, "-o", "."),
        ("pruned.onnx", "pruned.mlpackage", "pruned.tflite"),
        (*_EXPORTING, "litert_torch"),
    ),
    Command(
        "run",
        ("run", "idp-deploy.toml"),
        (
            "build/model.pruned.pt",
            *(f"build/model.pruned.int8-weights.{suffix}" for suffix in ("pt", "onnx", "mlpackage")),
        ),
        _EXPORTING,
    ),
    Command(
        "compare",
        (
            *("compare", "model.pt", "--methods", "idp,gmp", "--seeds", "2", "--epochs", "1", "--target", "0.8"),
            *(*_CODE, "--json", "-o", "report.json"),
        ),
        ("report.json",),
        resumes=True,
    ),
)  # fmt: skip
_BY_NAME = {command.name: command for command in COMMANDS}
IN_TURN = tuple(  # those that take seconds come less often
    _BY_NAME[name]
    for name in ("prune", "quantize", "compare", "export", "prune", "workers", "quantize", "compare", "run", "prune")
)
# processes that a command starts, by a part of their command line
WORKERS = ((_BY_NAME["export"], "idp_deploy.isolation.child"), (_BY_NAME["workers"], "tests.chaos.server"))


def prepare(folder: Path, seed: int) -> None:
    """Code, configuration, weights and a pruned checkpoint of a user."""
    import torch

    from idp_deploy import loading
    from idp_deploy.flow import Model, Recipe
    from idp_deploy.pruning import one_shot
    from tests.tiny_project.tiny import build

    folder.mkdir()
    shutil.copy(CODE, folder)
    (folder / "workers.py").write_text(CODE.read_text().replace("batch_size=32", "batch_size=32, num_workers=1"))
    (folder / "idp-deploy.toml").write_text(_CONFIGURATION)
    (folder / "notes.txt").write_text("mine")
    torch.manual_seed(seed)
    module = build().eval()
    torch.save(module.state_dict(), folder / "model.pt")
    loading.save_checkpoint(one_shot(Model(module), Recipe(sparsity=0.8)), folder / "pruned.pt")
