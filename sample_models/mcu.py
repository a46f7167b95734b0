"""`make demo-mcu`: two small networks onto microcontrollers, gated on flash, SRAM and arena.

    keywords   a DS-CNN that hears ten sounds  →  Ethos-U55, compiled by Vela
    images     a MobileNet-v1 0.25 on digits   →  TensorFlow Lite Micro, its weights unpacked by its own TFLM_DECODE

Each is trained here and handed to `idp-deploy run` with a configuration that lies beside this file. Needs the extras
[ethos-u] and [tflm]; what is written goes to build/mcu.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.resources import files as resources
from pathlib import Path

import torch
from torch import nn

from idp_deploy.cli import main as idp_deploy
from idp_deploy.files import replacing
from idp_deploy.tasks import Task, evaluate
from sample_models import digits, keywords, mobilenet_v1
from sample_models.demo import epoch, say
from sample_models.training import train

FOLDER = Path("build/mcu")
SEED = 0
EPOCHS = 6
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Task]]] = {
    "keywords": (keywords.build, keywords.task),
    "images": (mobilenet_v1.build_quarter, digits.task),
}


def main(names: list[str]) -> None:
    """Train, then run the pipeline of each; the exit code is the first that is not 0."""
    codes = [run(name) for name in names or NETS]
    raise SystemExit(next((code for code in codes if code), 0))


def run(name: str) -> int:
    """One network from nothing to a gated file; the exit code of `idp-deploy run`."""
    build, make_task = NETS[name]
    task, weights = make_task(), FOLDER / name / "model.pt"
    say(f"{name}: training a dense network")
    torch.manual_seed(SEED)
    model = train(build(), task, epochs=EPOCHS, seed=SEED, progress=epoch)
    with replacing(weights) as temporary:
        torch.save(model.state_dict(), temporary)
    say(f"wrote {weights}: {evaluate(model, task) * 100:.2f} % right")
    configuration = FOLDER / f"{name}.toml"
    with replacing(configuration) as temporary:
        temporary.write_bytes((resources("sample_models") / f"mcu_{name}.toml").read_bytes())
    try:
        idp_deploy(["run", str(configuration)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
