"""What zeros buy on an Ethos-U: Vela's figures for one network, dense and by pattern, on one system.

    python -m bench.ethos_u CHECKPOINT.pt [--accelerator ethos-u85-256] [--memory Sram_Only]

The checkpoint is the demo's dense network (`make demo` leaves it in build/demo/model.pt); each pattern prunes it by
magnitude, since cycles depend on where the zeros are and not on what the other weights hold. Needs the extra [ethos-u].
Every figure is an estimate of Arm's compiler, and a ratio is of the dense file in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Recipe
from idp_deploy.loading import load_model
from idp_deploy.pruning import left_dense, one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.simulation.ethos_u85 import lint
from idp_deploy.vendors import vela
from sample_models import digits, mobilenet_v1

SYSTEMS = {
    "ethos-u55": "Ethos_U55_High_End_Embedded",
    "ethos-u65": "Ethos_U65_High_End",
    "ethos-u85": "Ethos_U85_SYS_DRAM_Mid",
}
FORMS: dict[str, tuple[Recipe | None, int | None]] = {  # how it is pruned; distinct values of a weight
    "dense": (None, None),
    "dense, 16 values": (None, 16),
    "2:4": (Recipe(0.5, pattern="2:4"), None),
    "1:4": (Recipe(0.75, pattern="1:4"), None),
    "50 % scattered": (Recipe(0.5), None),
    "75 % scattered": (Recipe(0.75), None),
    "90 % scattered": (Recipe(0.9), None),
    "90 % scattered, 16 values": (Recipe(0.9), 16),
}


def figures(checkpoint: Path, configuration: vela.Configuration) -> dict[str, Any]:
    """Form → Vela's cycles, milliseconds, bytes, operators off the NPU, and each against dense."""
    dense, task = load_model(checkpoint, mobilenet_v1.build), digits.task()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (recipe, values) in FORMS.items():
            model = one_shot(dense, recipe) if recipe else CompressedModel(dense.module, {})
            path = Path(folder) / "net.tflite"
            integers = quantize(model, "int8", task=task, values=values)
            export(integers, "tflite", task.example_inputs(), path, encoding="dense", io="int8")
            made = vela.compile_for(path.read_bytes(), configuration, path.name)
            left = left_dense(dense.module, recipe) if recipe else {}
            rows[name] = {
                "zeros": model.zeros,
                "npu_cycles": made.number("cycles_npu"),
                "total_cycles": made.number("cycles_total"),
                "ms": made.number("inference_time") * 1e3,
                "encoded_bytes": made.number("total_npu_encoded_weights"),
                "flash_bytes": len(made.content),
                "operators": len(made.rows),
                "operators_on_cpu": sum(not row.on_npu for row in made.rows),
                "layers_at_2:4": len(lint(read(path)).sparse_ops),
                "left_dense": [weight for weight, reason in left.items() if reason != "depthwise"],
            }
            rows[name]["total_of_dense"] = rows[name]["total_cycles"] / rows["dense"]["total_cycles"]
            print(name, rows[name], flush=True)
    return rows


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--accelerator", default="ethos-u85-256")
    parser.add_argument("--memory", default="Sram_Only")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    system = SYSTEMS[given.accelerator.rpartition("-")[0]]
    configuration = vela.Configuration(given.accelerator, system, given.memory)
    rows = figures(given.checkpoint, configuration)
    setting = {"accelerator": given.accelerator, "system": system, "memory": given.memory}
    text = json.dumps({"software": vela.name(), "setting": setting, "rows": rows}, indent=1) + "\n"
    if given.output:
        given.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
