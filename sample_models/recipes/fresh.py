"""Fresh weights in a file: `python -m sample_models.recipes.fresh "pkg.mod:build(classes=1000)" -o model.pt`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from idp_deploy.errors import IdpDeployError
from idp_deploy.files import replacing
from idp_deploy.loading import load_module


def main(arguments: list[str] | None = None) -> int:
    """Write the state dict of a freshly initialised module; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sample_models.recipes.fresh", description=__doc__)
    parser.add_argument("factory", help="callable that builds the module")
    parser.add_argument("-o", "--output", type=Path, default=Path("model.pt"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    try:
        module = load_module(given.factory)
        with replacing(given.output) as temporary:
            torch.save(module.state_dict(), temporary)
    except IdpDeployError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
