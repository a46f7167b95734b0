"""The reference interpreter's rows against their definitions in MIL's reference, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.errors import ConversionError
from idp_deploy.flow import Value
from idp_deploy.formats.coreml.interpreter.call import Call
from idp_deploy.formats.coreml.interpreter.machine import OPS, Interpreter
from idp_deploy.formats.coreml.interpreter.states import new_states
from idp_deploy.formats.coreml.read.program import Operation, load
from idp_deploy.verification import run_file, verify
from tests import coreml_files as by_hand


def run(kind: str, **arguments: Any) -> Any:
    """One row on plain values: numbers and lists become tensors."""
    given = {k: v if isinstance(v, (Tensor, str)) or k == "values" else torch.tensor(v) for k, v in arguments.items()}
    operation = Operation(kind, kind, {}, (Value("y", (), ""),), {})  # no shape declared
    return OPS[kind](Call(operation, given, None))  # type: ignore[arg-type]


def close(value: Tensor, expected: Any) -> None:
    torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-5, atol=1e-6, check_dtype=False)


X = torch.linspace(-3, 3, 2 * 4 * 6 * 5).reshape(2, 4, 6, 5)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("leaky_relu", {"alpha": 0.1}, F.leaky_relu(X, 0.1)),
        ("elu", {"alpha": 0.5}, F.elu(X, 0.5)),
        ("gelu", {}, F.gelu(X)),
        ("gelu", {"mode": "TANH_APPROXIMATION"}, F.gelu(X, approximate="tanh")),
        ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, X * torch.sigmoid(1.702 * X)),
        ("sigmoid_hard", {"alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid(X)),
        ("prelu", {"alpha": [0.1, 0.2, 0.3, 0.4]}, F.prelu(X, torch.tensor([0.1, 0.2, 0.3, 0.4]))),
        ("clip", {"alpha": -1.0, "beta": 2.0}, X.clamp(-1, 2)),
        ("clamped_relu", {"alpha": 0.5, "beta": 1.0}, torch.where(X >= 0, X, 0.5 * X).clamp(max=1)),
        ("thresholded_relu", {"alpha": 1.0}, torch.where(X >= 1, X, 0.0)),
        ("threshold", {"alpha": 1.0}, X.clamp(min=1)),
        ("scaled_tanh", {"alpha": 2.0, "beta": 0.5}, 2 * torch.tanh(0.5 * X)),
        ("softplus_parametric", {"alpha": 2.0, "beta": 0.5}, 2 * torch.log1p(torch.exp(0.5 * X))),
        ("softmax", {"axis": 1}, torch.softmax(X, 1)),
        ("rsqrt", {"epsilon": 10.0}, torch.rsqrt(X + 10)),
        ("inverse", {"epsilon": 5.0}, 1 / (X + 5)),
        ("reduce_mean", {"axes": [-1, 2], "keep_dims": True}, X.mean((2, 3), keepdim=True)),
        ("reduce_l2_norm", {"axes": [1]}, X.norm(dim=1)),
        ("reduce_prod", {"axes": [1, 3]}, X.prod(3).prod(1)),
        ("reduce_log_sum_exp", {}, X.flatten().logsumexp(0)),
        ("reduce_argmax", {"axis": 1}, X.argmax(1)),
        ("cumsum", {"axis": 2, "reverse": True, "exclusive": True}, X.flip(2).cumsum(2).flip(2) - X),
        ("layer_norm", {"axes": [2, 3]}, F.layer_norm(X, (6, 5))),
        ("instance_norm", {}, F.instance_norm(X)),
        ("l2_norm", {}, X / (X.square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt()),
        ("local_response_norm", {"size": 3}, F.local_response_norm(X, 3)),
        ("pixel_shuffle", {"upscale_factor": 2}, F.pixel_shuffle(X, 2)),
        ("reshape", {"shape": [0, -1]}, X.reshape(2, -1)),
        ("reverse", {"axes": [1]}, X.flip(1)),
        ("tile", {"reps": [1, 2, 1, 1]}, X.repeat(1, 2, 1, 1)),
        ("band_part", {"lower": 1, "upper": 0}, X.tril(0).triu(-1)),
        ("slice_by_size", {"begin": [0, 1, 2, -1], "size": [-1, 2, 3, 1]}, X[:, 1:3, 2:5, -1:]),
        ("crop", {"crop_height": [1, 2], "crop_width": [0, 1]}, X[:, :, 1:4, :4]),
        ("sliding_windows", {"axis": 2, "size": 3, "stride": 2}, X.unfold(2, 3, 2).movedim(-1, 3)),
        ("pad", {"pad": [1, 2, 0, 1], "mode": "reflect"}, F.pad(X, (0, 1, 1, 2), mode="reflect")),
        ("pad", {"pad": [1, 2, 0, 1], "mode": "replicate"}, F.pad(X, (0, 1, 1, 2), mode="replicate")),
        ("pad", {"pad": [1, 2, 0, 1], "constant_val": 7.0}, F.pad(X, (0, 1, 1, 2), value=7)),
        ("space_to_depth", {"block_size": 1}, X),
    ],
)
def test_a_row_computes_its_definition(kind: str, arguments: dict[str, Any], expected: Tensor) -> None:
    close(run(kind, x=X, **arguments), expected)


def test_slicing_honours_every_mask() -> None:
    masks = {"begin_mask": [True, False, False, False], "end_mask": [False, True, False, False]}
    got = run(
        "slice_by_index",
        x=X,
        begin=[9, 1, -1, 3],
        end=[1, 0, 0, 0],
        stride=[1, 2, -2, 1],
        squeeze_mask=[False, False, False, True],
        **masks,
    )
    close(got, X[:1, 1::2, [5, 3, 1], 3])


def test_numbers_are_joined_to_a_shape() -> None:
    close(run("concat", values=[torch.tensor(4), torch.tensor(2)], axis=0), [4, 2])


def test_space_to_depth_undoes_depth_to_space() -> None:
    close(run("space_to_depth", x=run("depth_to_space", x=X, block_size=2), block_size=2), X)


@pytest.mark.parametrize("kind", ["same", "same_lower"])
@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "dilation"), [(7, 3, 2, 1), (8, 3, 2, 1), (8, 4, 3, 2), (5, 2, 1, 1)]
)
def test_same_padding_keeps_a_position_a_stride(
    kind: str, extent: int, kernel: int, stride: int, dilation: int
) -> None:
    x, w = torch.randn(1, 1, extent), torch.randn(1, 1, kernel)
    got = run("conv", x=x, weight=w, strides=[stride], dilations=[dilation], pad_type=kind)
    total = max((-(-extent // stride) - 1) * stride + (kernel - 1) * dilation + 1 - extent, 0)
    before = total // 2 if kind == "same" else total - total // 2
    close(got, F.conv1d(F.pad(x, (before, total - before)), w, stride=stride, dilation=dilation))
    assert got.shape[-1] == -(-extent // stride)


def test_transposed_convolution_with_groups_padding_and_output_shape() -> None:
    x, w, b = torch.randn(1, 4, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(6)
    got = run(
        "conv_transpose", x=x, weight=w, bias=b, strides=[2, 2], pad_type="custom", pad=[1] * 4, groups=2,
        output_shape=[1, 6, 10, 10],
    )  # fmt: skip
    close(got, F.conv_transpose2d(x, w, b, 2, 1, output_padding=1, groups=2))


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
def test_pooling_counts_padding_as_it_is_told(ceil: bool, exclude: bool) -> None:
    x = torch.randn(1, 2, 8, 8)
    pads = {"pad_type": "custom", "pad": [1] * 4, "kernel_sizes": [3, 3], "strides": [2, 2], "ceil_mode": ceil}
    got = run("avg_pool", x=x, exclude_padding_from_average=exclude, **pads)
    close(got, F.avg_pool2d(x, 3, 2, 1, ceil_mode=ceil, count_include_pad=not exclude))
    close(run("max_pool", x=x, **pads), F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil))


@pytest.mark.parametrize("size", [(12, 10), (9, 7), (3, 2)])
def test_resizing_follows_its_sampling_mode(size: tuple[int, int]) -> None:
    target = {"target_size_height": size[0], "target_size_width": size[1]}
    half = F.interpolate(X, size, mode="bilinear", align_corners=False)
    edge = F.interpolate(X, size, mode="bilinear", align_corners=True)
    close(run("resize_bilinear", x=X, sampling_mode="UNALIGN_CORNERS", **target), half)
    close(run("resize_bilinear", x=X, sampling_mode="STRICT_ALIGN_CORNERS", **target), edge)
    close(run("resize", x=X, shape=[*size], resized_dims=2, sampling_mode="UNALIGN_CORNERS"), half)
    close(run("resize_nearest_neighbor", x=X, **target), F.interpolate(X, size, mode="nearest"))


def test_resizing_samples_as_the_reference_tabulates() -> None:
    line = torch.tensor([[[0.0, 1.0]]])
    for mode, expected in (
        ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
        ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    ):
        got = run("resize_bilinear", x=line, target_size_height=1, target_size_width=5, sampling_mode=mode)
        close(got[0, 0], expected)


def test_upsampling_by_factors() -> None:
    factors = {"scale_factor_height": 2.0, "scale_factor_width": 3.0}
    close(run("upsample_nearest_neighbor", x=X, **factors), F.interpolate(X, scale_factor=(2, 3), mode="nearest"))
    half = F.interpolate(X, (12, 15), mode="bilinear", align_corners=False)
    close(run("upsample_bilinear", x=X, align_corners=False, **factors), half)


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_in_mil_gate_order(reverse: bool) -> None:
    lstm = nn.LSTM(3, 4)
    x, h, c = torch.randn(5, 2, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4)

    def reorder(t: Tensor) -> Tensor:  # torch: input, forget, cell, output
        i, f, g, o = t.detach().chunk(4)
        return torch.cat([i, f, o, g])

    got = run(
        "lstm",
        x=x,
        initial_h=h[0],
        initial_c=c[0],
        weight_ih=reorder(lstm.weight_ih_l0),
        weight_hh=reorder(lstm.weight_hh_l0),
        bias=reorder(lstm.bias_ih_l0 + lstm.bias_hh_l0),
        output_sequence=True,
        direction="reverse" if reverse else "forward",
    )
    with torch.no_grad():
        y, (hn, cn) = lstm(x.flip(0) if reverse else x, (h, c))
    close(got[0], y.flip(0) if reverse else y)
    close(got[1], hn[0])
    close(got[2], cn[0])


def test_gru_in_mil_gate_order() -> None:
    gru = nn.GRU(3, 4)
    assert gru.bias_hh_l0 is not None
    nn.init.zeros_(gru.bias_hh_l0)  # MIL has one bias, outside the reset gate

    def reorder(t: Tensor) -> Tensor:  # torch: reset, update, new
        r, z, n = t.detach().chunk(3)
        return torch.cat([r, n, z])

    x, h = torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    weights = {"weight_ih": reorder(gru.weight_ih_l0), "weight_hh": reorder(gru.weight_hh_l0)}
    got = run("gru", x=x, initial_h=h[0], bias=reorder(gru.bias_ih_l0), output_sequence=True, **weights)
    with torch.no_grad():
        close(got[0], gru(x, h)[0])


def test_gathering_and_scattering() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    close(run("gather", x=x, indices=[2, -1], axis=1), x[:, [2, 2]])
    close(run("gather", x=x, indices=[[1], [0]], axis=1, batch_dims=1), torch.stack([x[0, [1]], x[1, [0]]]))
    close(run("gather_along_axis", x=x, indices=torch.zeros(2, 1, 4, dtype=torch.int32), axis=1), x[:, :1])
    close(run("gather_nd", x=x, indices=[[1, 2], [0, 0]]), torch.stack([x[1, 2], x[0, 0]]))
    data, updates = torch.zeros(3, 2), torch.ones(2, 2)
    close(run("scatter", data=data, indices=[2, 0], updates=updates, mode="update"), [[1, 1], [0, 0], [1, 1]])
    close(run("scatter_nd", data=data, indices=[[1], [1]], updates=updates, mode="add"), [[0, 0], [2, 2], [0, 0]])
    with pytest.raises(IndexError):
        run("gather", x=x, indices=[3], axis=1)


def test_attention_and_its_masks() -> None:
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    got = run("scaled_dot_product_attention", query=q, key=k, value=v, attn_mask=mask)
    close(got, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def test_integer_division_goes_towards_zero() -> None:
    assert run("real_div", x=[-7, 7], y=[2, 2]).tolist() == [-3, 3]
    assert run("floor_div", x=[-7, 7], y=[2, 2]).tolist() == [-4, 3]
    assert run("topk", x=[1.0, 3.0, 3.0], k=2)[1].tolist() == [1, 2]


# ── whole files ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_runs_with_float16_rounding(tmp_path: Path) -> None:
    path = by_hand.linear_package(tmp_path / "m.mlpackage")
    x = np.array([[1.0002, 1, 1, 1]], np.float32)
    results = run_file(path, [(x,)])
    assert list(results) == ["coreml-interpreter-float16"]
    assert results["coreml-interpreter-float16"][0][0].tolist() == [[3.0, 0.0, -2.5]]
    assert results["coreml-interpreter-float16"][0][0].dtype == np.float32


@pytest.mark.parametrize("classes", [["no", "yes", "日"], [7, 3, 5]])
def test_a_classifier_answers_with_the_name_of_the_likeliest_class(classes: list[Any], tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder

    @Builder.program(input_specs=[Builder.TensorSpec((1, 3))], opset_version=ct.target.iOS16)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        return Builder.softmax(x=x, axis=-1)

    model = ct.convert(
        program, classifier_config=ct.ClassifierConfig(classes), minimum_deployment_target=ct.target.iOS16
    )
    model.save(str(tmp_path / "m.mlpackage"))
    call = np.array([[0.0, 1.0, 3.0]], np.float32)
    ((label, scores),) = next(iter(run_file(tmp_path / "m.mlpackage", [(call,)]).values()))
    assert label.item() == classes[2]
    np.testing.assert_allclose(scores, torch.softmax(torch.tensor(call), -1), atol=1e-3)
    assert verify(tmp_path / "m.mlpackage").passed


def test_a_larger_batch_runs_as_several_calls(tmp_path: Path) -> None:
    path = by_hand.linear_package(tmp_path / "m.mlpackage")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    ((whole,),) = run_file(path, [(x,)])["coreml-interpreter-float16"]
    parts = run_file(path, [(x[i : i + 1],) for i in range(3)])["coreml-interpreter-float16"]
    np.testing.assert_array_equal(whole, np.concatenate([p[0] for p in parts]))


def test_an_unknown_operator_is_a_named_failure(tmp_path: Path) -> None:
    op = by_hand.operation("warp_drive", "engage", {"x": "x"}, outputs=[("y", "float32", (1, 4))])
    with pytest.raises(ConversionError, match=r"no operator 'warp_drive' \(first at 'engage'\)"):
        run_file(by_hand.package(tmp_path / "m.mlpackage", [op]), [])


@pytest.mark.parametrize(("shape", "reason"), [((1, 3), "declares"), ((1, 4, 1), "declares"), ((2, 2), "declares")])
def test_a_result_of_another_shape_than_declared_is_refused(
    tmp_path: Path, shape: tuple[int, ...], reason: str
) -> None:
    op = by_hand.operation("relu", "r", {"x": "x"}, outputs=[("y", "float32", shape)])
    path = by_hand.package(tmp_path / "m.mlpackage", [op])
    with pytest.raises(ConversionError, match=reason):
        run_file(path, [(np.zeros((1, 4), np.float32),)])


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    path = by_hand.linear_package(tmp_path / "m.mlpackage")
    with pytest.raises(ConversionError, match="takes 1 inputs"):
        run_file(path, [()])
    with pytest.raises(ConversionError, match="declares"):
        run_file(path, [(np.zeros((1, 5), np.float32),)])


def test_missing_parameters_are_named(tmp_path: Path) -> None:
    op = by_hand.operation("clip", "c", {"x": "x"}, outputs=[("y", "float32", (1, 4))])
    path = by_hand.package(tmp_path / "m.mlpackage", [op])
    with pytest.raises(ConversionError, match="lacks its parameter 'alpha'"):
        run_file(path, [(np.zeros((1, 4), np.float32),)])


def test_precision_is_read_from_the_file(tmp_path: Path) -> None:
    op = by_hand.operation("relu", "r", {"x": "x"}, outputs=[("y", "float32", (1, 4))])
    assert Interpreter(load(by_hand.package(tmp_path / "m.mlpackage", [op]))).precision == "float32"
    assert isinstance(Interpreter(load(by_hand.linear_package(tmp_path / "n.mlpackage"))), Interpreter)


def test_a_state_begins_with_zeros_and_is_read_as_it_was_written() -> None:
    """Another reader sees what was written in between; so does one around a branch that writes."""
    like = (Value("r", (2,), "float16"),)
    reading = Operation("read_state", "r", {"input": ("acc",)}, like, {})
    cells = new_states([reading])
    assert set(cells) == {"acc"}

    def step(kind: str, **data: Tensor) -> Any:
        environment = dict(cells)  # as a branch has it
        given = {"input": environment["acc"], **data}
        return OPS[kind](Call(Operation(kind, kind, {"input": ("acc",)}, like, {}), given, None))  # type: ignore[arg-type]

    close(step("read_state"), [0.0, 0.0])
    assert step("write_state", data=torch.tensor([1.0, 2.0])) == ()
    close(step("read_state"), [1.0, 2.0])
    close(new_states([reading])["acc"].value, [0.0, 0.0])
    with pytest.raises(ConversionError, match="the state 'acc' cannot have the shape"):
        new_states([Operation("read_state", "r", {"input": ("acc",)}, (Value("r", (-1, 2), "float16"),), {})])
