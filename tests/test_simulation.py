"""simulate: numbers that behave, reasons where there are none, and what the data say about sparse weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Contents, GraphOp, Value
from idp_deploy.simulation import simulate
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.targets import list_targets, load_target
from idp_deploy.simulation.workload import workload
from tests.contents import TFLite, latency, mobilenet_v1, on_disk

PIXEL = load_target("pixel-4")


# ── reading work from contents ──────────────────────────────────────────────────────────────────────────────────────


def test_a_file_and_the_published_architecture_are_the_same_work() -> None:
    read, known = workload(mobilenet_v1(zeros=0.0).contents()), architecture("mobilenet_v1_1.0_224")
    assert read.macs == known.macs
    assert read.parameters == known.parameters
    assert [op.op_class for op in read.ops] == [op.op_class for op in known.ops]
    assert not read.unknown


def test_unknown_operators_are_listed_and_too_many_forbid_a_number(tmp_path: Path) -> None:
    net = mobilenet_v1(size=64)
    few = on_disk(net.op("QUANTUM_FFT", (1, 1000)), tmp_path)
    assert workload(few).unknown == ("QUANTUM_FFT",)
    assert latency(simulate(few, PIXEL)).middle > 0
    assert "1 × QUANTUM_FFT: cost unknown" in simulate(few, PIXEL).notes
    many = on_disk(TFLite(64).op("QUANTUM_FFT", (1, 64, 64, 3)).conv(8), tmp_path)
    estimate = simulate(many, PIXEL)
    assert estimate.latency_ms is None
    assert "QUANTUM_FFT" in estimate.reason


def test_onnx_words_open_extents_and_quantize_pairs() -> None:
    values = {
        "x": Value("x", (-1, 3, 8, 8), "float32"), "q": Value("q", (-1, 3, 8, 8), "int8"),
        "d": Value("d", (-1, 3, 8, 8), "float32"), "c": Value("c", (-1, 4, 8, 8), "float32"),
        "r": Value("r", (-1, 4, 8, 8), "float32"), "f": Value("f", (-1, 256), "float32"),
    }  # fmt: skip
    from tests.contents import tensor

    ops = (
        GraphOp("q", "QuantizeLinear", ("x",), ("q",)), GraphOp("d", "DequantizeLinear", ("q",), ("d",)),
        GraphOp("c", "Conv", ("d",), ("c",), {"strides": [1, 1], "kernel_shape": [1, 1]}, {"weight": "w"}),
        GraphOp("r", "Relu", ("c",), ("r",)), GraphOp("f", "Flatten", ("r",), ("f",)),
    )  # fmt: skip
    contents = Contents(
        Path("n.onnx"), "onnx", 1, (tensor("w", (4, 3, 1, 1), dtype="int8"),), ops, values, ("x",), ("f",)
    )
    work = workload(contents)
    assert [op.op_class for op in work.ops] == ["conv1x1"]
    assert work.macs == 4 * 3 * 64
    assert work.dtype == "int8"
    assert work.peak_activation_bytes > 0


def test_recurrent_layers_are_counted_and_not_timed(tmp_path: Path) -> None:
    from tests.contents import tensor

    path = tmp_path / "n.onnx"
    path.write_bytes(b"\0")
    values = {
        "x": Value("x", (20, 1, 32), "float32"), "y": Value("y", (20, 2, 1, 64), "float32"),
        "z": Value("z", (20, 1, 64), "float32"),
    }  # fmt: skip
    weights = {"weight": "w", "recurrence": "r", "bias": "b", "initial_h": "h"}
    tensors = tuple(
        tensor(name, shape)
        for name, shape in (("w", (2, 256, 32)), ("r", (2, 256, 64)), ("b", (2, 512)), ("h", (2, 1, 64)))
    )
    ops = (GraphOp("lstm", "LSTM", ("x",), ("y",), {}, weights), GraphOp("add", "Add", ("y", "y"), ("z",)))
    contents = Contents(path, "onnx", 1, tensors, ops, values, ("x",), ("z",))
    assert workload(contents).macs == 20 * 2 * 256 * (32 + 64)
    estimate = simulate(contents, PIXEL)
    assert estimate.latency_ms is None
    assert "unknown cost" in estimate.reason
    assert "LSTM" in estimate.reason


def test_a_recurrence_that_moves_little_and_computes_much_forbids_a_number(tmp_path: Path) -> None:
    from tests.contents import tensor

    path = tmp_path / "n.onnx"
    path.write_bytes(b"\0")
    names = {"x": (20, 1, 32), "y": (20, 1, 1, 64), "z": (20, 1, 1, 64)}
    values = {name: Value(name, shape, "float32") for name, shape in names.items()}
    values |= {name: Value(name, (400, 640), "float32") for name in "ab"}
    tensors = (tensor("w", (1, 192, 32)), tensor("r", (1, 192, 64)))
    gru = GraphOp("gru", "GRU", ("x",), ("y",), {}, {"weight": "w", "recurrence": "r"})
    ops = (gru, GraphOp("tanh", "Tanh", ("y",), ("z",)), GraphOp("add", "Add", ("a", "a"), ("b",)))
    estimate = simulate(Contents(path, "onnx", 1, tensors, ops, values, ("x", "a"), ("z", "b")), PIXEL)
    assert estimate.latency_ms is None
    said = "operators of unknown cost do 100% of the multiplications: GRU (no publication says what a recurrence takes)"
    assert estimate.reason == said


def test_loops_and_unwritten_shapes_forbid_a_number(tmp_path: Path) -> None:
    looped = on_disk(mobilenet_v1(size=64).op("WHILE", (1, 1000)), tmp_path)
    assert simulate(looped, PIXEL).latency_ms is None
    assert simulate(looped, PIXEL).reason == "how often the inside of WHILE runs is not written in the file"
    known = on_disk(mobilenet_v1(size=64), tmp_path)
    convolution = next(op for op in known.ops if op.kind == "CONV_2D")
    shapeless = {name: replace(v, shape=()) if name in convolution.inputs else v for name, v in known.values.items()}
    estimate = simulate(replace(known, values=shapeless), PIXEL)
    assert estimate.latency_ms is None
    assert estimate.reason == "the file does not say what shapes CONV_2D reads and writes"


def test_peak_activations_follow_liveness() -> None:
    net = TFLite(8, 4).conv(4).conv(4).conv(4)
    plain = workload(net.contents()).peak_activation_bytes
    assert plain == 2 * 8 * 8 * 4 * 4
    held = TFLite(8, 4).conv(4)
    first = held.current
    held.conv(4).conv(4).op("ADD", held.shape, first)
    assert workload(held.contents()).peak_activation_bytes == 3 * 8 * 8 * 4 * 4


# ── the numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.wide
@pytest.mark.parametrize("name", [target.name for target in list_targets() if target.cores])
def test_every_target_answers_or_says_why(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    contents = on_disk(mobilenet_v1(), tmp_path)
    for runtime in target.runtimes:
        estimate = simulate(contents, target, runtime=runtime.name)
        if estimate.latency_ms is None:
            assert "never measured" in estimate.reason
            assert target.core(runtime).kind != "cpu" or target.name == "x86-64-host"
            continue
        found = latency(estimate)
        assert 0 < found.low < found.middle < found.high < 10_000
        assert found.coverage == 0.9
        assert sum(op.latency_ms or 0 for op in estimate.ops) == pytest.approx(found.middle)


@pytest.mark.wide
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_arithmetic_has_an_interval_or_a_reason(dtype: str, threads: int, tmp_path: Path) -> None:
    path = tmp_path / "work.toml"
    path.write_text(f'architecture = "mobilenet_v2_1.0_224"\ndtype = "{dtype}"\n')
    for target in (t for t in list_targets() if t.cores):
        for runtime in target.runtimes:
            for anchor in (None, {"mobilenet_v1_1.0_224": 20.0}):
                estimate = simulate(path, target, runtime=runtime.name, threads=threads, anchor=anchor)
                if estimate.latency_ms is None:
                    assert dtype == "int8" or anchor is None
                    assert "int8" in estimate.reason or "never measured" in estimate.reason
                else:
                    assert 0 < estimate.latency_ms.low < estimate.latency_ms.middle < estimate.latency_ms.high


@pytest.mark.parametrize(
    ("name", "model", "published_ms"),
    [
        ("pixel-2", "mobilenet_v1_1.0_224", 86),
        ("pixel-2", "mobilenet_v2_1.0_224", 53),
        ("pixel", "mobilenet_v3_small", 12),
    ],
)
def test_published_latencies_lie_in_their_intervals(name: str, model: str, published_ms: float, tmp_path: Path) -> None:
    path = tmp_path / "work.toml"
    path.write_text(f'architecture = "{model}"\n')
    found = latency(simulate(path, load_target(name)))
    assert found.low < published_ms < found.high


SPEEDUPS = [
    ("xiaomi-mi-10", "mobilenet_v1_1.0_224", 1.67), ("xiaomi-mi-10", "mobilenet_v2_1.0_224", 1.47),
    ("xiaomi-mi-6", "mobilenet_v1_1.0_224", 1.47), ("xiaomi-mi-6", "mobilenet_v2_1.0_224", 1.39),
    ("redmi-6-pro", "mobilenet_v1_1.0_224", 0.83), ("redmi-6-pro", "mobilenet_v2_1.0_224", 0.90),
]  # fmt: skip


@pytest.mark.parametrize(("device", "model", "published"), SPEEDUPS)
def test_sparse_speedups_match_the_published_ones(device: str, model: str, published: float, tmp_path: Path) -> None:
    times = []
    for sparse in (False, True):
        ops = [
            {
                "class": op.op_class, "macs": op.macs, "weights": op.weights, "biases": op.biases,
                "input_bytes": op.input_bytes, "output_bytes": op.output_bytes, "kernel": list(op.kernel),
                "stride": op.stride, "in_channels": op.in_channels, "out_channels": op.out_channels,
                "zeros": 0.75 if sparse and op.op_class == "conv1x1" else 0.0,
                "sparse": sparse and op.op_class == "conv1x1",
            }
            for op in architecture(model).ops
        ]  # fmt: skip
        path = tmp_path / f"{sparse}.json"
        path.write_text(json.dumps({"ops": ops}))
        times.append(latency(simulate(path, load_target(device), runtime="paddle-lite")).middle)
    assert times[0] / times[1] == pytest.approx(published, rel=0.15)
    assert (times[0] < times[1]) == (published < 1)


def test_zeros_run_sparse_only_where_the_rules_hold(tmp_path: Path) -> None:
    sparse = simulate(on_disk(mobilenet_v1(1.0, 0.9), tmp_path), PIXEL)
    dense = simulate(on_disk(mobilenet_v1(1.0, 0.0), tmp_path), PIXEL)
    assert latency(sparse).middle < 0.7 * latency(dense).middle
    assert sparse.executed_macs < 0.2 * sparse.macs == 0.2 * dense.macs
    blocked = simulate(on_disk(mobilenet_v1(0.75, 0.9), tmp_path), PIXEL)
    assert blocked.executed_macs == blocked.macs
    assert any("fully connected" in note and "runs dense" in note for note in blocked.notes)


def test_sparse_weights_save_traffic_on_the_neural_engine(tmp_path: Path) -> None:
    """Apple publishes 1.04 for a 75 %-sparse MobileNetV2 and 1.19 for ResNet50 on an A16."""
    target, known = load_target("iphone-14-pro"), {"mobilenet_v2_1.0_224": 0.5}
    dense, sparse = (
        latency(
            simulate(on_disk(mobilenet_v1(zeros=z, classifier=z), tmp_path), target, runtime="coreml-ane", anchor=known)
        ).middle
        for z in (0.0, 0.75)
    )
    assert 1.0 < dense / sparse < 1.25


def test_integer_networks_on_a_neural_engine_get_no_number(tmp_path: Path) -> None:
    contents = on_disk(mobilenet_v1(zeros=0.0), tmp_path)
    values = {name: Value(v.name, v.shape, "int8") for name, v in contents.values.items()}
    quantized = replace(contents, values=values)
    estimate = simulate(quantized, load_target("iphone-12"), runtime="coreml-ane")
    assert estimate.latency_ms is None
    assert "int8" in estimate.reason
    on_cpu = simulate(quantized, PIXEL)
    assert latency(on_cpu).middle < latency(simulate(contents, PIXEL)).middle


def test_dot_product_makes_int8_faster(tmp_path: Path) -> None:
    def gain(name: str) -> float:
        times = []
        for dtype in ("float32", "int8"):
            path = tmp_path / "w.toml"
            path.write_text(f'architecture = "mobilenet_v1_1.0_224"\ndtype = "{dtype}"\n')
            times.append(latency(simulate(path, load_target(name), runtime="paddle-lite")).middle)
        return times[0] / times[1]

    assert 1.5 < gain("huawei-mate-20") < 3.0
    assert 1.0 < gain("xiaomi-mi-6") < 1.8


def test_four_threads_are_never_four_times_faster(tmp_path: Path) -> None:
    contents = on_disk(mobilenet_v1(), tmp_path)
    for name in ("raspberry-pi-4", "pixel-4", "rk3588"):
        one, four = (latency(simulate(contents, load_target(name), threads=n)).middle for n in (1, 4))
        assert 1.2 < one / four < 4.0


def test_threads_mean_nothing_to_engines_that_bring_their_own(tmp_path: Path) -> None:
    contents = on_disk(mobilenet_v1(), tmp_path)
    target = load_target("iphone-11-pro")
    for runtime in ("coreml-cpu", "coreml-ane", "coreml-gpu"):
        one, two = (latency(simulate(contents, target, runtime=runtime, threads=n)).middle for n in (1, 2))
        assert one == two


def test_onnxruntime_is_wide_and_says_it_was_never_measured(tmp_path: Path) -> None:
    estimate = simulate(on_disk(mobilenet_v1(), tmp_path), load_target("raspberry-pi-4"), runtime="onnxruntime")
    assert "never measured" in estimate.notes[-1]
    found = latency(estimate)
    assert found.high / found.low > 3


def test_no_runtime_for_a_format(tmp_path: Path) -> None:
    estimate = simulate(replace(on_disk(mobilenet_v1(), tmp_path), format="coreml"), PIXEL)
    assert estimate.latency_ms is None
    assert "runs no coreml files" in estimate.reason


def test_unusable_requests(tmp_path: Path) -> None:
    contents = on_disk(mobilenet_v1(), tmp_path)
    with pytest.raises(UsageError, match="has 8 cores"):
        simulate(contents, PIXEL, threads=9)
    with pytest.raises(UsageError, match="no runtime 'ncn'"):
        simulate(contents, PIXEL, runtime="ncn")
    with pytest.raises(UsageError, match="unknown architecture 'mobilenet_v9'"):
        simulate(contents, PIXEL, anchor={"mobilenet_v9": 10.0})
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="cannot be"):
            simulate(contents, PIXEL, anchor={"mobilenet_v1": bad})
    with pytest.raises(UsageError, match="no arithmetic 'int9'"):
        simulate(contents, PIXEL, anchor={"mobilenet_v1@int9": 3.0})
    with pytest.raises(UsageError, match=r"the anchor gone\.tflite is no file"):
        simulate(contents, PIXEL, anchor={"gone.tflite": 3.0})
    table = tmp_path / "work.csv"
    table.write_text("op,macs\n")
    with pytest.raises(FileError, match=r"neither a model nor a description .*\.tflite, .*\.toml, \.json"):
        simulate(table, PIXEL)
