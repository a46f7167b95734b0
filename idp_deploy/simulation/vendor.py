"""What the vendor's own software says of a file on a target: a kind of its own beside estimate and measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Contents, CpuOperator, Estimate, OpEstimate, VendorEstimate
from idp_deploy.simulation.size import estimated_transfer_bytes
from idp_deploy.simulation.targets import Runtime, Target
from idp_deploy.simulation.workload import workload
from idp_deploy.vendors import tflm, vela

Answer = tuple[VendorEstimate | None, str, tuple[OpEstimate, ...]]  # or the reason why there is none
_FLOAT = "Vela puts no operator on the NPU"
_FLOAT_FIX = "the NPU computes integers: quantize --scheme int8, export --to tflite --io int8"


def vendor_estimate(contents: Contents | None, target: Target, runtime: Runtime, *, transfer: bool = True) -> Estimate:
    """The estimate of a file on a target whose vendor's software runs here.

    Raises:
        MissingDependencyError: the software is not installed. FileError: the file is broken.
    """
    if contents is None:
        raise ConversionError(f"{runtime.name} reads model files; a description of the work tells it nothing")
    work = workload(contents)
    found, reason, ops = ESTIMATORS[runtime.family](contents, runtime)
    gzip_bytes, brotli_bytes = estimated_transfer_bytes(contents.path) if transfer else (0, 0)
    return Estimate(
        artifact=contents.path, format=contents.format, target=target.name, runtime=runtime.name, latency_ms=None,
        reason=reason, size_bytes=contents.size_bytes, gzip_bytes=gzip_bytes, brotli_bytes=brotli_bytes,
        resident_weight_bytes=work.resident_bytes, peak_activation_bytes=work.peak_activation_bytes, macs=work.macs,
        executed_macs=work.executed_macs, ops=ops, vendor=found,
    )  # fmt: skip


def _vela(contents: Contents, runtime: Runtime) -> Answer:
    """Time, as Vela counts it, is that of the NPU and of the memory around it; operators on the CPU count as none."""
    assert runtime.compiler is not None
    if any(op.kind == vela.COMPILED for op in contents.ops):
        return None, "it is compiled already: ask about the .tflite that it was made of", ()
    setting = vela.Configuration(**runtime.compiler.model_dump())
    try:
        made = vela.compile_for(contents.parsed, setting, contents.path.name)
    except ConversionError as error:
        return None, str(error), ()
    on_cpu = [row for row in made.rows if not row.on_npu]
    if len(on_cpu) == len(made.rows):
        return None, f"{_FLOAT} ({_why(made, on_cpu)}): {_FLOAT_FIX}", ()
    clock = made.number("core_clock")
    flash = ("on_chip_flash", "off_chip_flash")
    found = VendorEstimate(
        software=vela.name(),
        setting=f"{setting.accelerator}, {setting.system}, {setting.memory}",
        flash_bytes=len(made.content),
        original_weight_bytes=int(made.number("total_original_weights")),
        encoded_weight_bytes=int(made.number("total_npu_encoded_weights")),
        sram_bytes=round(made.number("sram_memory_used") * 1024),
        dram_bytes=round(made.number("dram_memory_used") * 1024),
        flash_traffic_bytes=int(sum(made.number(f"{memory}_total_bytes") for memory in flash)),
        dram_traffic_bytes=int(made.number("dram_total_bytes")),
        sram_traffic_bytes=int(made.number("sram_total_bytes")),
        cycles={
            "npu": int(made.number("cycles_npu")),
            "sram": int(made.number("cycles_sram_access")),
            "dram": int(made.number("cycles_dram_access")),
            "flash": int(sum(made.number(f"cycles_{memory}_access") for memory in flash)),
            "total": int(made.number("cycles_total")),
        },
        latency_ms=made.number("inference_time") * 1e3,
        npu_operators=len(made.rows) - len(on_cpu),
        cpu_operators=tuple(CpuOperator(row.name, row.kind, _reason(made, row)) for row in on_cpu),
    )
    ops = tuple(
        OpEstimate(row.name, row.kind, row.macs, row.macs, 0, 0, row.cycles / clock * 1e3 if clock else None)
        for row in made.rows
    )
    return found, "", ops


def _tflm(contents: Contents, runtime: Runtime) -> Answer:
    """The arena is tried out on this machine; what lies in it is the same on a microcontroller, but for pointers."""
    densified = [tensor.name for tensor in contents.tensors if tensor.encoding in ("csr", "block")]
    if densified:
        reason = f"DENSIFY is not registered in {tflm.RUNTIME}, and {densified[0]} is stored through it"
        return None, f"{reason}: export --to tflite --encoding tflm", ()
    try:
        arena = tflm.least_arena(contents.parsed, contents.path.name)
    except FileError as error:
        return None, str(error), ()
    setting = "the smallest arena on this machine, whose pointers take 8 bytes"
    return VendorEstimate(tflm.name(), setting, contents.size_bytes, arena_bytes=arena), "", ()


def _reason(made: vela.Compiled, row: vela.Row) -> str:
    return made.reasons.get(row.name, "Vela does not say why")


def _why(made: vela.Compiled, rows: list[vela.Row]) -> str:
    return f"{rows[0].kind} {rows[0].name!r}: {_reason(made, rows[0])}" if rows else "it has none"


ESTIMATORS: Mapping[str, Callable[[Contents, Runtime], Answer]] = {"vela": _vela, "tflm": _tflm}
