"""int8 with layers asked to stay float: what lies between them computes in floats, in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import verify

EXAMPLE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


class Between(nn.Module):
    """Float layers with pooling, a sum and a mean between them, and integer ones around."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x)) + torch.relu(self.c(x))
        x = nn.functional.max_pool2d(x, 2).mean((2, 3))
        return self.last(torch.relu(self.head(x)))


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
@pytest.mark.parametrize("globs", [["head"], ["b", "c", "head"], ["*"]])
def test_operators_of_layers_asked_for_compute_in_floats(globs: list[str], format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = quantize(CompressedModel(Between().eval(), {}), "int8", example_inputs=EXAMPLE, keep_float=globs)
    path = export(found, format, EXAMPLE, tmp_path / f"net{FORMATS[format].suffix}").path
    assert verify(path, found, EXAMPLE).passed
    contents = read(path)
    assert found.quantization is not None
    kept = {name.replace(".", "_") for name in found.quantization.kept_float}
    stored = {tensor.name.replace(".", "_").split("#")[0]: tensor.dtype for tensor in contents.tensors}
    for name in ("a_weight", "b_weight", "c_weight", "head_weight", "last_weight"):
        if name in kept:
            assert stored[name].startswith("float")
        elif format != "coreml":  # where 64 entries take more beside their scales
            assert stored[name] == "int8"
    types = [contents.values[name].dtype for op in contents.ops for name in op.outputs if name in contents.values]
    integers = [dtype for dtype in types if dtype in ("int8", "uint8")]
    if globs == ["*"] or format == "coreml":
        assert not integers
    elif format == "tflite":
        kinds = [op.kind for op in contents.ops]
        floats = {op.kind for op in contents.ops if contents.values[op.outputs[0]].dtype == "float32"} - {"DEQUANTIZE"}
        assert kinds.count("DEQUANTIZE") == 2  # one on the way to the float layers, one to the float output
        assert floats == ({"FULLY_CONNECTED"} if globs == ["head"] else {*floats, "ADD", "MAX_POOL_2D", "MEAN"})
