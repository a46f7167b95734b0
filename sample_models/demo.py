"""`make demo`: train a MobileNet-v1 on real digits, then hand it to `idp-deploy run` as a user would.

Everything after the training is configured in this repository's pyproject.toml, so that the plain commands
`idp-deploy prune build/demo/model.pt --target 0.9` and `idp-deploy export --to coreml` work here afterwards. Installed
from a wheel, `python -m sample_models.demo` writes the same configuration into the empty folder it is run in.
"""

from __future__ import annotations

import sys
from importlib.resources import files as resources
from pathlib import Path

import torch

from idp_deploy.cli import main as idp_deploy
from idp_deploy.configuration import load
from idp_deploy.files import replacing
from idp_deploy.tasks import evaluate
from sample_models import digits, mobilenet_v1
from sample_models.training import train

FOLDER = Path("build/demo")
MODEL = "sample_models.mobilenet_v1:build"
SEED = 0
EPOCHS = 6


def main() -> None:
    """Train once, then run the pipeline; the exit code is that of `idp-deploy run`."""
    configure()
    weights = FOLDER / "model.pt"
    task = digits.task()
    say("training a dense MobileNet-v1 on scikit-learn's digits")
    torch.manual_seed(SEED)
    model = train(mobilenet_v1.build(), task, epochs=EPOCHS, seed=SEED, progress=epoch)
    with replacing(weights) as temporary:
        torch.save(model.state_dict(), temporary)
    say(f"wrote {weights}: {evaluate(model, task) * 100:.2f} % of held-out digits right")
    say("idp-deploy run")
    idp_deploy(["run"])


def configure() -> None:
    """Write the configuration where there is none; another project's is no place for the demo."""
    found = load(environment={})
    if found.source is None:
        with replacing(Path("idp-deploy.toml")) as temporary:
            temporary.write_bytes((resources("sample_models") / "demo.toml").read_bytes())
    elif found.model != MODEL:
        raise SystemExit(f"error: {found.source} configures another model — run the demo in an empty folder")


def epoch(number: int, loss: float, accuracy: float) -> None:
    """One line an epoch."""
    say(f"epoch {number:>3}  loss {loss:.4f}  accuracy {accuracy * 100:.2f} %")


def say(message: str) -> None:
    """Progress belongs on stderr; stdout carries the report."""
    sys.stderr.write(message + "\n")


if __name__ == "__main__":
    main()
