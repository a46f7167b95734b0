"""Published architectures as work, and files as work."""

from __future__ import annotations

import numpy as np
import pytest

from idp_deploy.errors import UsageError
from idp_deploy.simulation.architectures import ALIASES, ARCHITECTURES, architecture, described, known
from idp_deploy.simulation.cost_model import INDEX, at_peak, effects_of, load_coefficients, quantities
from idp_deploy.simulation.layers import Net
from idp_deploy.simulation.targets import folder, load_cores
from idp_deploy.simulation.work import Workload, WorkOp, as_dtype, with_zeros
from idp_deploy.simulation.workload import workload
from tests.contents import TFLite

# millions of multiply-accumulates and of parameters: the papers, torchvision's and Keras' model tables
PUBLISHED = {
    "mobilenet_v1_1.0_224": (569, 4.23),
    "mobilenet_v1_0.5_224": (149, 1.33),
    "mobilenet_v2_1.0_224": (300.8, 3.50),
    "mobilenet_v2_1.4_224": (582, 6.11),
    "mobilenet_v3_large": (216.6, 5.48),
    "mobilenet_v3_small": (56.5, 2.54),
    "mnasnet_1.0_224": (314.4, 4.38),
    "mnasnet_0.5_224": (104.5, 2.22),
    "efficientnet_b0": (385.8, 5.29),
    "efficientnet_lite0": (385, 4.65),
    "shufflenet_v2_1.0": (145, 2.28),
    "shufflenet_v2_0.5": (40.5, 1.37),
    "ghostnet_1.0": (141, 5.18),
    "squeezenet_1.0": (819, 1.248),
    "squeezenet_1.1": (349, 1.235),
    "alexnet": (714, 61.10),
    "vgg11": (7609, 132.86),
    "vgg16": (15470, 138.36),
    "vgg19": (19632, 143.67),
    "googlenet": (1498, 6.62),
    "inception_v3": (5713, 23.83),
    "inception_v4": (12270, 42.68),
    "resnet18": (1814, 11.69),
    "resnet34": (3664, 21.80),
    "resnet50": (4089, 25.56),
    "resnet101": (7801, 44.55),
    "resnet152": (11514, 60.19),
    "densenet121": (2834, 7.98),
    "densenet201": (4291, 20.01),
    "vit_b16": (17564, 86.57),
}


@pytest.mark.wide
@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_match_the_published_ones_within_one_percent(name: str) -> None:
    macs, parameters = PUBLISHED[name]
    work = architecture(name)
    assert work.macs / 1e6 == pytest.approx(macs, rel=0.01)
    assert work.parameters / 1e6 == pytest.approx(parameters, rel=0.01)


@pytest.mark.wide
@pytest.mark.parametrize("name", [*ARCHITECTURES, *ALIASES, *described()])
def test_every_name_can_be_built(name: str) -> None:
    work = architecture(name)
    assert known(name)
    assert work.name == name
    assert work.macs > 0
    assert work.peak_activation_bytes > 0


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown architecture 'mobilnet_v2' — nearest: mobilenet_v2"):
        architecture("mobilnet_v2")


def test_int8_needs_a_quarter_of_the_bytes() -> None:
    work = architecture("mobilenet_v2_1.0_224")
    small = as_dtype(work, "int8")
    assert small.macs == work.macs
    assert small.resident_bytes == pytest.approx(work.resident_bytes / 4, rel=0.01)
    assert small.peak_activation_bytes == work.peak_activation_bytes // 4
    assert small.dtype == "int8"


def test_zeros_shrink_what_is_executed() -> None:
    work = with_zeros(architecture("mobilenet_v1_1.0_224"), 0.9)
    pointwise = sum(op.macs for op in work.ops if op.op_class == "conv1x1")
    assert work.executed_macs == pytest.approx(work.macs - 0.9 * pointwise, rel=1e-3)


def test_shapes_follow_strides_and_padding() -> None:
    assert Net("n", 9).conv(4, 3, 2).shape == (5, 5, 4)
    assert Net("n", 9).conv(4, 3, 2, padding="valid").shape == (4, 4, 4)
    assert Net("n", 109).pool(3, 2, padding="ceil").shape == (54, 54, 3)
    assert Net("n", 4).branches(lambda n: n.conv(8), lambda n: n.conv(2)).shape == (4, 4, 10)


def test_networks_as_a_benchmark_measured_them_are_architectures_of_their_own() -> None:
    assert len(described()) == 27
    assert architecture("ncnn_mobilenet").macs == architecture("mobilenet_v1_1.0_224").macs
    assert architecture("ncnn_googlenet").macs != architecture("googlenet").macs
    assert architecture("ncnn_resnet50").macs == pytest.approx(3858e6, rel=0.001)
    assert "transcendental" in {op.op_class for op in architecture("ncnn_efficientnet_b0").ops}
    assert "piecewise" in {op.op_class for op in architecture("ncnn_mobilenet_v3").ops}
    assert max(op.groups for op in architecture("ncnn_regnety_400m").ops) == 55


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("LOGISTIC", "transcendental"), ("TANH", "transcendental"), ("SOFTMAX", "normalizing"),
        ("GELU", "transcendental"), ("LOCAL_RESPONSE_NORMALIZATION", "normalizing"), ("HARD_SWISH", "piecewise"),
        ("ADD", "elementwise"), ("CONCATENATION", "memory"),
    ],
)  # fmt: skip
def test_elementwise_work_is_told_apart_by_what_an_entry_costs(kind: str, wanted: str) -> None:
    net = TFLite(8, 4).conv(4)
    assert workload(net.op(kind, net.shape).contents()).ops[-1].op_class == wanted


def test_an_exponential_costs_more_than_an_addition_and_a_wide_depthwise_has_a_term_of_its_own() -> None:
    core = load_cores()["a76"]
    add, swish = (WorkOp("x", c, input_bytes=4000, output_bytes=4000) for c in ("elementwise", "transcendental"))
    model = load_coefficients(folder() / "coefficients.json")
    for family in ("ncnn", "xnnpack", "tflite-builtin"):
        cost = np.exp(model.log_cost(effects_of("single", family, core, "", "", "float32", 1)))
        times = [float(at_peak(Workload("w", (op,)), family, core).sum(0) @ cost) for op in (add, swish)]
        assert times[1] > 1.3 * times[0]
    three, five = (WorkOp("d", "depthwise", macs=100, weights=9, kernel=k) for k in ((3, 3), (5, 5)))
    assert quantities(three, "ncnn")[INDEX["depthwise5"]] == 0 < quantities(five, "ncnn")[INDEX["depthwise5"]]


def test_a_depthwise_kernel_beyond_5x5_costs_more_an_entry() -> None:
    def macs_told(kernel: tuple[int, int]) -> float:
        op = WorkOp("d", "depthwise", macs=100, weights=9, kernel=kernel)
        return float(quantities(op, "ncnn")[[INDEX["depthwise"], INDEX["depthwise5"]]].sum())

    assert macs_told((3, 3)) == macs_told((5, 5)) == macs_told((1, 9)) == 100 < macs_told((7, 7))
