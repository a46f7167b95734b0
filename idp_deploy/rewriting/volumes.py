"""volumes: convolutions of films in groups or of one channel, which TFLite has no operator for, as those of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_DEFAULTS = (None, [1, 1, 1], [0, 0, 0], [1, 1, 1], 1)


def in_groups(x: Tensor, weight: Tensor, *others: Any) -> Tensor | None:
    """Each frame with those that its kernel meets beside it as channels: (N, C, D, H, W) → (N·D, C·k, H, W).

    The weight stays one: (out, C/groups, k, h, w) as (out, C/groups·k, h, w). None of one group, which converters hold,
    but for a film of one channel read in steps: litert-converter 0.5 takes it for one channel a group, and ends there.
    """
    given: tuple[Any, ...] = (*others, *_DEFAULTS[len(others) :])
    bias, stride, padding, dilation, groups = given
    stride, padding, dilation = ([*each] * (3 // len(each)) for each in (stride, padding, dilation))
    if x.dim() != 5 or (groups == 1 and (x.shape[1] > 1 or max(stride) == 1)):
        return None
    reach = weight.shape[2]
    x = F.pad(x, (0, 0, 0, 0, padding[0], padding[0])) if padding[0] else x
    batch, channels, depth, height, width = x.shape
    count = (depth - dilation[0] * (reach - 1) - 1) // stride[0] + 1
    frames = x.transpose(1, 2)
    beside = [
        frames[:, start : start + (count - 1) * stride[0] + 1 : stride[0]].reshape(batch * count, channels, 1, -1)
        for start in range(0, reach * dilation[0], dilation[0])
    ]
    images = torch.cat(beside, 2) if reach > 1 else beside[0]
    images = images.reshape(batch * count, channels * reach, height, width)
    flat = F.conv2d(images, weight.flatten(1, 2), bias, stride[1:], padding[1:], dilation[1:], groups)
    return flat.reshape(batch, count, *flat.shape[1:]).transpose(1, 2)


def norm_in_groups(x: Tensor, groups: int, *others: Any) -> Tensor | None:
    """The norm of an image as high as all planes: coremltools gives the groups of a volume six axes."""
    return F.group_norm(x.flatten(2, -2), groups, *others[:3]).reshape(x.shape) if x.dim() == 5 else None


VOLUMES: dict[Any, Row] = {aten.conv3d.default: in_groups}
