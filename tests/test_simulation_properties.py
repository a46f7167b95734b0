"""What must hold of any estimate: more zeros, channels or threads, and fewer bits, move it the right way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idp_deploy.flow import Contents, Estimate, Interval
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import list_targets, load_target
from tests.contents import TFLite, mobilenet_v1


def latency(estimate: Estimate) -> Interval:
    assert estimate.latency_ms is not None, estimate.reason
    return estimate.latency_ms


def _fixed(net: TFLite) -> Contents:
    return net.contents(path=Path(__file__))


DEVICES = st.sampled_from(["pixel-4", "pixel-2", "raspberry-pi-4", "raspberry-pi-3b-plus", "iphone-12", "custom"])


@settings(max_examples=25)
@given(device=DEVICES, shares=st.tuples(st.floats(0.7, 1.0), st.floats(0.7, 1.0)))
def test_more_zeros_are_never_slower_where_they_run_sparse(device: str, shares: tuple[float, float]) -> None:
    fewer, more = sorted(shares)
    times = [
        latency(simulate(_fixed(mobilenet_v1(0.5, z, 0.9, 32)), load_target(device))).middle for z in (fewer, more)
    ]
    assert times[1] <= times[0] * (1 + 1e-9)


@settings(max_examples=15)
@given(device=DEVICES, zeros=st.floats(0.0, 0.99))
def test_zeros_change_nothing_where_they_run_dense(device: str, zeros: float) -> None:
    target = load_target(device)
    dense, sparse = (
        latency(simulate(_fixed(mobilenet_v1(0.5, z, size=32)), target, runtime="ncnn")).middle for z in (0.0, zeros)
    )
    assert sparse == pytest.approx(dense, rel=1e-9)


@settings(max_examples=25)
@given(
    device=DEVICES,
    widths=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    runtime=st.sampled_from(["litert-xnnpack", "ncnn", "onnxruntime", "tflite-builtin"]),
    threads=st.sampled_from([1, 2]),
)
def test_fewer_channels_are_never_slower(device: str, widths: tuple[int, int], runtime: str, threads: int) -> None:
    small, large = sorted(widths)
    found = [
        latency(
            simulate(_fixed(mobilenet_v1(w / 32, 0.0, 0.0, 32)), load_target(device), runtime=runtime, threads=threads)
        )
        for w in (small, large)
    ]
    assert found[0].middle <= found[1].middle * (1 + 1e-9)
    assert all(0 < i.low <= i.middle <= i.high for i in found)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The file that describes a published architecture in some arithmetic."""
    directory = tmp_path_factory.mktemp("described")

    def path(model: str, dtype: str) -> Path:
        found = directory / f"{model}-{dtype}.toml"
        found.write_text(f'architecture = "{model}"\ndtype = "{dtype}"\n')
        return found

    return path


WORKS = ["mobilenet_v1_1.0_224", "mobilenet_v2_0.35_96", "mobilenet_v3_small", "squeezenet_1.1", "resnet50"]


@settings(max_examples=40)
@given(
    device=st.sampled_from([target.name for target in [t for t in list_targets() if t.cores]]),
    model=st.sampled_from(WORKS),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    pick=st.integers(0, 9),
    threads=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_more_threads_are_never_slower(
    described: Callable[[str, str], Path], device: str, model: str, dtype: str, pick: int, threads: tuple[int, int]
) -> None:
    """As in all 189 published pairs of thread counts."""
    target = load_target(device)
    runtime = target.runtimes[pick % len(target.runtimes)].name
    most = sum(group.count for group in target.cores)
    fewer, more = (
        simulate(described(model, dtype), target, runtime=runtime, threads=min(n, most)) for n in sorted(threads)
    )
    if fewer.latency_ms is None:
        assert "int8" in fewer.reason or "never measured" in fewer.reason
        assert more.latency_ms is None
    else:
        assert latency(more).middle <= latency(fewer).middle * (1 + 1e-9)


DOT = [(target.name, r.name) for target in list_targets() if target.cores for r in target.runtimes
       if target.core(r).dot and r.family != "coreml-cpu"]  # fmt: skip


@settings(max_examples=40)
@given(where=st.sampled_from(DOT), model=st.sampled_from(WORKS), threads=st.sampled_from([1, 2, 4]))
def test_int8_is_never_slower_than_float_where_there_are_dot_products(
    described: Callable[[str, str], Path], where: tuple[str, str], model: str, threads: int
) -> None:
    target = load_target(where[0])
    threads = min(threads, sum(group.count for group in target.cores))
    small, large = (
        latency(simulate(described(model, dtype), target, runtime=where[1], threads=threads)).middle
        for dtype in ("int8", "float32")
    )
    assert small <= large * (1 + 1e-9)
