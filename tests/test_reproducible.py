"""The same bytes whatever the number of threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.files import sha256
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.loading import save_checkpoint
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.tasks import own_threads
from tests.formats_here import HERE

pytestmark = pytest.mark.anew
EXAMPLE = (torch.randn(2, 16, 48, 48, generator=torch.Generator().manual_seed(1)),)


class Wide(nn.Module):
    """Tensors of more than 2¹⁵ entries, which PyTorch shares out between threads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(16, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.wide, self.head = nn.Conv2d(64, 512, 1), nn.Linear(512, 80)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(torch.relu(self.norm(self.first(x))))
        return self.head(torch.relu(x).mean((2, 3)))


def model() -> CompressedModel:
    torch.manual_seed(0)
    module = Wide().eval()
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            masks[name] = torch.rand(parameter.shape) > 0.7
            parameter.data *= masks[name]
    module.norm.running_mean.normal_()
    return CompressedModel(module, masks)


def test_this_network_is_shared_out_between_threads() -> None:
    """Else nothing would be tested: sums of one thread and of two round differently."""
    values = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    with own_threads(1):
        alone = values.sum()
    with own_threads(2):
        assert values.sum() != alone


@pytest.mark.wide
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantize_gives_the_same_bytes_on_one_thread_and_two(scheme: str, tmp_path: Path) -> None:
    for threads in (1, 2):
        with own_threads(threads):
            save_checkpoint(quantize(model(), scheme, example_inputs=EXAMPLE), tmp_path / f"{threads}.pt")
    assert sha256(tmp_path / "1.pt") == sha256(tmp_path / "2.pt")


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_export_gives_the_same_bytes_on_one_thread_and_two(format: FormatName, tmp_path: Path) -> None:
    for threads in (1, 2):
        (tmp_path / str(threads)).mkdir()
        with own_threads(threads):
            export(model(), format, EXAMPLE, tmp_path / str(threads) / f"net{FORMATS[format].suffix}")
    assert len({sha256(tmp_path / str(threads) / f"net{FORMATS[format].suffix}") for threads in (1, 2)}) == 1
