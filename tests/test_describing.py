"""simulate: the work and the device as a user describes them, by files and anchors; sizes; speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from idp_deploy.errors import FileError, UsageError
from idp_deploy.files import transfer_bytes
from idp_deploy.simulation import simulate
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.cost_model import TERMS, at_peak, load_coefficients
from idp_deploy.simulation.creating import new_target
from idp_deploy.simulation.size import estimated_transfer_bytes
from idp_deploy.simulation.targets import folder, load_target
from idp_deploy.simulation.uncertainty import Observation, adapted
from tests.contents import latency, mobilenet_v1, on_disk

PIXEL = load_target("pixel-4")


# ── anchors and the user's own devices ──────────────────────────────────────────────────────────────────────────────


def test_an_anchor_moves_the_estimate_and_narrows_it(tmp_path: Path) -> None:
    contents = on_disk(mobilenet_v1(0.5), tmp_path)
    target = load_target("raspberry-pi-5")
    free = latency(simulate(contents, target))
    reference = tmp_path / "r.toml"
    reference.write_text('architecture = "mobilenet_v2_1.0_224"\n')
    usual = latency(simulate(reference, target)).middle
    slow = latency(simulate(contents, target, anchor={"mobilenet_v2_1.0_224": 2 * usual}))
    assert 1.6 < slow.middle / free.middle < 2.2
    assert slow.high / slow.low < free.high / free.low


def test_a_measurement_is_reproduced_by_its_own_anchor() -> None:
    model = load_coefficients(folder() / "coefficients.json")
    core = PIXEL.core(PIXEL.runtimes[0])
    seen = Observation(at_peak(architecture("resnet50"), "xnnpack", core).sum(0), 123.0)
    covariance = 0.4**2 * np.ones((len(TERMS), len(TERMS))) + 0.1**2 * np.eye(len(TERMS))
    moved, left = adapted(model.prior, covariance, [seen], 0.01)
    assert (np.diag(left) < np.diag(covariance)).all()
    assert float(seen.peak_ms @ np.exp(moved)) == pytest.approx(123.0, rel=0.01)


def test_a_device_of_ones_own_from_one_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = on_disk(mobilenet_v1(), tmp_path)
    target = new_target("my-phone", {"mobilenet_v1_1.0_224": 55.0}, core="a73", ghz=2.2, device="My phone")
    assert load_target("my-phone") == target
    assert 40 < latency(simulate(on_disk(mobilenet_v1(zeros=0.0), tmp_path), target)).middle < 70
    assert "anchored by" in simulate(contents, target).notes[-1]
    with pytest.raises(UsageError, match="there is a target 'my-phone' already"):
        new_target("my-phone", {})
    with pytest.raises(UsageError, match="lower case, digits and dashes: my-phone"):
        new_target("My Phone!", {})
    with pytest.raises(UsageError, match="unknown core 'a99'"):
        new_target("other", {}, core="a99")
    with pytest.raises(UsageError, match="unknown architecture 'resnet5'"):
        new_target("other", {"resnet5": 4.0})
    assert not (tmp_path / "targets" / "other.toml").exists()


# ── descriptions, size, speed ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture = 3", "'architecture'"),
        ("", "either an architecture or a list of ops"),
        ('[[ops]]\nclass = "conv"\n', "give input and output shapes"),
        ('[[ops]]\nclass = "rnn"\noutput = [1]\n', "'ops.0.class'"),
        ('[[ops]]\nclass = "linear"\noutput = [0]\n', "greater than or equal to 1"),
        ('[[ops]]\nclass = "linear"\noutput = [4]\ncolour = 1\n', "'ops.0.colour'"),
        ("not toml", "is not a workload description"),
    ],
)
def test_a_broken_description_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "work.toml"
    path.write_text(text)
    with pytest.raises(FileError, match="is not a workload description") as caught:
        simulate(path, PIXEL)
    assert message in str(caught.value)


def test_operators_by_shape_count_as_the_layers_they_are(tmp_path: Path) -> None:
    path = tmp_path / "work.toml"
    path.write_text(
        'dtype = "float16"\n'
        '[[ops]]\nclass = "conv"\ninput = [8, 8, 3]\noutput = [4, 4, 16]\nkernel = [3, 3]\nstride = 2\n'
        '[[ops]]\nclass = "conv"\ninput = [4, 4, 16]\noutput = [4, 4, 16]\nkernel = [3, 3]\ngroups = 16\n'
        '[[ops]]\nclass = "conv"\ninput = [4, 4, 16]\noutput = [4, 4, 8]\nzeros = 0.5\nsparse = true\n'
        '[[ops]]\nclass = "linear"\ninput = [128]\noutput = [10]\n'
    )
    estimate = simulate(path, PIXEL)
    assert [op.op_class for op in estimate.ops] == ["conv", "depthwise", "conv1x1", "linear"]
    assert estimate.macs == 16 * 27 * 16 + 16 * 9 * 16 + 16 * 16 * 8 + 1280
    assert estimate.executed_macs == estimate.macs - 16 * 16 * 8 // 2
    assert latency(estimate).middle > 0


def test_a_description_says_activations_zeros_and_bits_of_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "work.toml"
    shapes = "input = [14, 14, 64]\noutput = [14, 14, 64]\n"
    path.write_text(
        f'[[ops]]\nclass = "conv"\n{shapes}activation = "swish"\nweight_bits = 4\n'
        f'[[ops]]\nclass = "conv"\n{shapes}activation = "relu6"\n'
        f'[[ops]]\nclass = "elementwise"\n{shapes}activation = "hard_swish"\n'
        f'[[ops]]\nclass = "elementwise"\n{shapes}operands = 2\n'
    )
    estimate = simulate(path, PIXEL)
    assert [op.op_class for op in estimate.ops] == ["conv1x1", "transcendental", "conv1x1", "piecewise", "elementwise"]
    assert estimate.size_bytes == 64 * 64 // 2 + 64 * 4 + 4 * (64 * 64 + 64)
    path.write_text('architecture = "mobilenet_v2_1.0_224"\nzeros = 0.9\nsparse = true\n')
    pruned = simulate(path, PIXEL)
    path.write_text('architecture = "mobilenet_v2_1.0_224"\n')
    dense = simulate(path, PIXEL)
    assert pruned.executed_macs < 0.3 * dense.executed_macs
    assert latency(pruned).middle < latency(dense).middle
    path.write_text('architecture = "mobilenet_v2_1.0_224"\ndtype = "float16"\nweight_bits = 4\n')
    assert simulate(path, PIXEL).size_bytes == pytest.approx(dense.size_bytes / 8, rel=0.05)
    path.write_text('zeros = 0.5\n[[ops]]\nclass = "linear"\noutput = [4]\n')
    with pytest.raises(FileError, match="belong to each of the ops"):
        simulate(path, PIXEL)


def test_an_anchor_says_what_it_changed(tmp_path: Path) -> None:
    contents = on_disk(mobilenet_v1(0.5), tmp_path)
    free = latency(simulate(contents, PIXEL)).middle
    notes = simulate(contents, PIXEL, anchor={"mobilenet_v2_1.0_224": 80.0}).notes
    assert any(note.startswith(f"without the anchor: {free:.3g} ms") for note in notes), notes


def test_more_threads_than_big_cores_widen_the_interval(tmp_path: Path) -> None:
    """Published runs over big and little cores are between half as slow again and much slower than on the big ones."""
    contents = on_disk(mobilenet_v1(), tmp_path)
    four, eight = (latency(simulate(contents, PIXEL, threads=n)) for n in (4, 8))
    assert four.middle == eight.middle
    assert eight.high / eight.low > 1.5 * four.high / four.low


def test_transfer_sizes_of_a_large_file_are_sampled_well(tmp_path: Path) -> None:
    import zlib

    import brotli

    rng = np.random.default_rng(0)
    data = (rng.standard_normal(1_500_000) * (rng.random(1_500_000) > 0.5)).astype(np.float32).tobytes()
    path = tmp_path / "large.bin"
    path.write_bytes(data)
    gzip_bytes, brotli_bytes = estimated_transfer_bytes(path)
    assert gzip_bytes == pytest.approx(len(zlib.compress(data, 6)), rel=0.01)
    assert brotli_bytes == pytest.approx(len(brotli.compress(data, quality=5)), rel=0.01)


def test_a_download_is_the_same_in_every_table(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(bytes(range(256)) * 40)
    assert estimated_transfer_bytes(path) == transfer_bytes(path)


def test_a_five_million_parameter_file_is_simulated_without_torch(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((1600, 1600)).astype(np.float32) for _ in range(2)]
    nodes = [onnx.helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(2)]
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x0", 1, [1, 1600])],
        [onnx.helper.make_tensor_value_info("x2", 1, [1, 1600])],
        [onnx.numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )  # fmt: skip
    path = tmp_path / "large.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    code = (
        "import sys; from pathlib import Path; from idp_deploy.simulation import simulate;"
        "from idp_deploy.simulation.targets import load_target;"
        f"e = simulate(Path({str(path)!r}), load_target('pixel-4')); assert e.macs == 5120000;"
        "sys.exit(bool({'torch', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
