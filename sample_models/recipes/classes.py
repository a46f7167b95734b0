"""What the tasks of both kinds of data ask of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from idp_deploy.errors import UsageError


def check_classes(outputs: Any, classes: Sequence[str]) -> None:
    """Refuse a model that does not have one output for every class.

    Args:
        outputs: logits (N, classes).

    Raises:
        UsageError: another number of outputs.
    """
    if outputs.shape[-1] != len(classes):
        shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
        raise UsageError(
            f"the model has {outputs.shape[-1]} outputs and the data {len(classes)} classes ({shown})",
            way_out=f"build it for them: --model 'pkg.mod:build(classes={len(classes)})'",
        )
