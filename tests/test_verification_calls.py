"""The calls that a file is tried with: drawn from the task, from an example, from the file itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.errors import UsageError
from idp_deploy.flow import Value
from idp_deploy.tasks import Task
from idp_deploy.verification.calls import arrays, calls_from_file, rows_of, seeded_calls
from tests.verification_fixtures import EXAMPLE, contents


class Words(Task):
    """Token ids 10 … 29, a mask of ones and zeros, labels."""

    def __init__(self) -> None:
        rows = torch.Generator().manual_seed(0)
        ids = torch.randint(10, 30, (12, 6), generator=rows)
        self.data = TensorDataset(ids, (ids % 4 > 0).long(), ids[:, 0] % 2)

    def train_loader(self, seed: int) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4)

    def validation_loader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=8)


def test_integers_stay_within_what_the_task_shows_and_masks_stay_masks() -> None:
    task = Words()
    example = (torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.long))
    calls = seeded_calls(example, task=task, seeds=5)
    assert len(calls) == 11
    ids = torch.stack([call[0] for call in calls[1:]])
    assert ids.min() >= 10
    assert ids.max() <= 29
    assert len(ids.unique()) > 10
    assert all(set(call[1].unique().tolist()) <= {0, 1} for call in calls)
    held_out = task.data.tensors[0][:5]
    assert torch.equal(torch.cat([call[0] for call in calls[6:]]), held_out)


def test_random_calls_repeat_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second = seeded_calls(EXAMPLE, seeds=3), seeded_calls(EXAMPLE, seeds=3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[1][0], first[2][0])
    assert first[1][0].dtype == torch.float32


def test_floats_have_the_statistics_of_the_example() -> None:
    example = (torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)) * 3 + 7,)
    drawn = seeded_calls(example, seeds=1)[1][0]
    assert drawn.mean() == pytest.approx(7, abs=0.3)
    assert drawn.std() == pytest.approx(3, abs=0.3)
    assert seeded_calls((torch.zeros(1, 4000),), seeds=1)[1][0].std() == pytest.approx(1, abs=0.1)


def test_nested_inputs_keep_their_nesting() -> None:
    example = ({"a": torch.ones(1, 2), "b": [torch.zeros(1, 3, dtype=torch.long), None]}, 2.5)
    call = seeded_calls(example, seeds=1)[1]
    assert set(call[0]) == {"a", "b"}
    assert call[0]["b"][1] is None
    assert call[1] == 2.5
    assert [a.shape for a in arrays(call)] == [(1, 2), (1, 3)]


def test_a_task_with_other_inputs_than_the_example_is_refused() -> None:
    with pytest.raises(UsageError, match="gives 2 inputs where the example has 1"):
        seeded_calls((torch.zeros(1, 6, dtype=torch.long),), task=Words())


def test_rows_of_leaves_what_has_no_batch_extent() -> None:
    cut = rows_of((torch.arange(6).reshape(3, 2), torch.arange(5), "x"), 1, 1)
    assert cut[0].tolist() == [[2, 3]]
    assert cut[1].tolist() == [0, 1, 2, 3, 4]
    assert cut[2] == "x"


def test_calls_without_a_model_follow_the_file() -> None:
    found = contents(
        inputs=("ids", "image"),
        values={"ids": Value("ids", (-1, 5), "int32"), "image": Value("image", (1, 8, 9, 3), "float16")},
    )
    found.metadata["idp_deploy"] = {"inputs": ["image", "ids"], "layouts": {"image": "NHWC"}}  # type: ignore[index]
    image, ids = arrays(calls_from_file(found, seeds=1)[0])
    assert image.shape == (1, 3, 8, 9)
    assert image.dtype == np.float32
    assert ids.shape == (1, 5)
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) <= {0, 1}


@pytest.mark.parametrize("dtype", ["string", "bfloat17", "complex64"])
def test_inputs_that_cannot_be_drawn_are_one_clear_error(dtype: str) -> None:
    found = contents(inputs=("x",), values={"x": Value("x", (1, 2), dtype)})
    with pytest.raises(UsageError, match=f"net.onnx declares {dtype} for its input 'x'"):
        calls_from_file(found)


@pytest.mark.parametrize(
    "manifest", ["text", {"inputs": "x"}, {"weights": ["w"]}, {"inputs": ["y", "z"]}, {"inputs": [3]}]
)
def test_a_manifest_that_is_not_ours_is_ignored(manifest: Any) -> None:
    found = contents(inputs=("x",), values={"x": Value("x", (1, 2), "float32")})
    found.metadata["idp_deploy"] = manifest  # type: ignore[index]
    assert arrays(calls_from_file(found, seeds=1)[0])[0].shape == (1, 2)
