"""Files and names on one side, models and tasks on the other.

    "pkg.mod:factory"  ──load_module──▸ nn.Module        "pkg.mod:task" ──load_task──▸ Task
    model.pt, .safetensors ──load_model──▸ Model
    our checkpoint ◂──save_checkpoint── MaskedModel | CompressedModel ◂──load_checkpoint── our checkpoint
    either kind of file ──load_any──▸ CompressedModel

Code is named on the command line or in configuration and is never taken from inside a file: a file holds tensors and
plain values, is read with `weights_only=True`, and every field of it is checked before use.
"""

from idp_deploy.loading.checkpoints import as_it_stands, load_any, load_checkpoint, load_model, save_checkpoint
from idp_deploy.loading.factories import load_module, load_task, resolve

__all__ = [
    "as_it_stands",
    "load_any",
    "load_checkpoint",
    "load_model",
    "load_module",
    "load_task",
    "resolve",
    "save_checkpoint",
]
