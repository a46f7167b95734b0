"""Core AI: `.aimodel` files beside those of Apple's own tool, and the Core ML interpreter beside Apple's runtime.

    python -m bench.coreai sizes CHECKPOINT.pt [FORM…]   the demo's pruned network; coreai-opt 0.3.0 is needed as well
    python -m bench.coreai zoo [NAME…]                   every network of tests/zoo.py in both formats

Needs the extra [coreai]. Sizes are of whole folders, accuracy is over the task's whole validation set, and outputs are
compared in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from idp_deploy import files
from idp_deploy.capturing import capture
from idp_deploy.errors import IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.coreai.write.conversion import quiet
from idp_deploy.loading.checkpoints import load_checkpoint
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import open_file, run_file, verify
from sample_models import digits, mobilenet_v1
from tests.zoo import ZOO, Entry, flat, pruned

BATCH = 30  # divides the validation set; the runtime decodes its weights once a call
FORMS = {"float32": (None, "float32"), "float16": (None, "float16"), "int8": ("int8-weights", "float16"),
         "int8, computed in float32": ("int8-weights", "float32"), "lut4": ("lut4", "float16")}  # fmt: skip
RESULTS = Path(__file__).parent / "results"


def sizes(checkpoint: Path, forms: list[str]) -> dict[str, Any]:
    """Ours and the vendor's file of one network in every number form: bytes and accuracy."""
    model, task = load_checkpoint(checkpoint, mobilenet_v1.build), digits.task()
    batches = list(_batches(task))
    example = (batches[0][0],)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in forms or FORMS:
            scheme, precision = FORMS[form]
            compressed = quantize(model, scheme, task=task) if scheme else model
            ours, theirs = Path(folder) / "ours.aimodel", Path(folder) / "theirs.aimodel"
            export(compressed, "coreai", example, ours, precision=precision)
            _vendors(model, example, theirs, scheme, precision)
            rows[form] = {
                name: {"bytes": files.size_bytes(path), "accuracy": _accuracy(path, batches)}
                for name, path in (("idp-deploy", ours), ("coreai-opt", theirs))
            }
            print(form, rows[form], flush=True)
    with torch.no_grad():
        rows["torch"] = {"accuracy": _score((model.module(x).numpy(), labels) for x, labels in batches)}
    return rows


def _batches(task: Any) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    pairs = list(task.validation_loader())
    images, labels = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    for start in range(0, len(images) - BATCH + 1, BATCH):
        yield images[start : start + BATCH], labels[start : start + BATCH].numpy()


def _vendors(model: CompressedModel, example: tuple[Any, ...], path: Path, scheme: str | None, precision: str) -> None:
    """The same weights through coreai-torch and coreai-opt as their pages have it: the zeros that are there, kept."""
    with quiet():
        from coreai_opt.coreai_utils.common import DType
        from coreai_opt.coreai_utils.passes.weight_sparsification import sparsify_weights
        from coreai_torch import TorchConverter, get_decomp_table

        module = capture(model, example).module
        if precision == "float16":
            module, example = module.half(), tuple(x.half() for x in example)
        program = torch.export.export(module, example).run_decompositions(get_decomp_table())
        converted = TorchConverter().add_exported_program(program).to_coreai()
        more = {"int8-weights": {"quantize_dtype": DType.INT8}, "lut4": {"palettize_nbits": 4}}.get(scheme or "", {})
        sparsify_weights(converted, target_sparsity=0.0, **more).save_asset(path)


def _accuracy(path: Path, batches: list[tuple[torch.Tensor, np.ndarray]]) -> float:
    (session,) = open_file(read(path)).values()
    return _score((session((x.numpy(),))[0], labels) for x, labels in batches)


def _score(outputs: Iterator[tuple[np.ndarray, np.ndarray]]) -> float:
    right = [np.argmax(output, 1) == labels for output, labels in outputs]
    return float(np.mean(np.concatenate(right)))


def zoo(names: list[str]) -> dict[str, Any]:
    """Each network in float32 in both formats: parity with torch, and the two witnesses beside each other."""
    rows: dict[str, Any] = {}
    for name in names or ZOO:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = _witnesses(ZOO[name], Path(folder))
        print(name, json.dumps(rows[name]), f"{time.process_time() - start:.0f} s", flush=True)
    return rows


def _witnesses(entry: Entry, folder: Path) -> dict[str, Any]:
    model, calls = pruned(entry), [entry.example_inputs(seed) for seed in (0, 11)]
    arrays = [tuple(x.numpy() for x in call) for call in calls]
    with torch.no_grad():
        expected = [[x.numpy() for x in flat(model.module(*call))] for call in calls]
    row: dict[str, Any] = {}
    found: dict[str, list[Any]] = {}
    for format, suffix in (("coreai", ".aimodel"), ("coreml", ".mlpackage")):
        path = folder / f"net{suffix}"
        try:
            export(model, format, calls[0], path, precision="float32")
            parity = verify(path, model, calls[0])
            row[format] = {
                "agrees": parity.passed,
                "error": max(output.max_relative_error for output in parity.outputs),
                "bytes": files.size_bytes(path),
                "weights proved": f"{sum(proof.passed for proof in parity.weights)} of {len(parity.weights)}",
            }
            (found[format],) = run_file(path, arrays).values()
        except IdpDeployError as error:
            row[format] = {"refused": error.message}
    if len(found) == 2:
        row["between the two"] = max(
            _distance(a, b, wanted)
            for one, other, call in zip(found["coreai"], found["coreml"], expected, strict=True)
            for a, b, wanted in zip(one, other, call, strict=True)
        )
    return row


def _distance(a: np.ndarray, b: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).max() / max(float(np.abs(wanted).max()), 1e-30))


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sizes", "zoo"))
    parser.add_argument("arguments", nargs="*", help="sizes: a checkpoint, number forms; zoo: names; all by default")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    rows = sizes(Path(given.arguments[0]), given.arguments[1:]) if given.what == "sizes" else zoo(given.arguments)
    packages = {name: version(name) for name in ("coreai-core", "coreai-torch", "torch", "coremltools")}
    text = json.dumps({"what": given.what, "versions": packages, "rows": rows}, indent=1) + "\n"
    if given.output:
        given.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
