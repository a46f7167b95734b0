"""What a runtime sees of the processor: the files under /proc and /sys that tell it which kernels to choose.

XNNPACK and onnxruntime choose microkernels by the core's part number (through pytorch/cpuinfo) and by the
instructions it has. In emulation the first comes from these files and the second from the emulated processor, so the
two must agree: a Cortex-A53 with dot products is a machine that does not exist. A profile has a single core, as a
thread pinned to that core of the device would find it.

Sources: Arm Cortex technical reference manuals (MIDR_EL1) and pytorch/cpuinfo src/arm/uarch.c (part numbers); the
architecture version and the optional instructions of each core from the same manuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from idp_deploy.errors import UsageError

_ARMV8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2 = f"{_ARMV8_0} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_ARMV9_0 = f"{_ARMV8_2} jscvt fcma sha3 sha512 asimdfhm dit uscat ilrcpc flagm i8mm bf16"
_WITHOUT_VECTORS_OF_ANY_LENGTH = (
    "max,sve=off,sme=off,pauth=off"  # no runtime here uses them, and SVE2 is not in QEMU 7.2
)


@dataclass(frozen=True)
class Identity:
    """How a core names itself, and which emulated processor has its instructions."""

    implementer: int
    part: int
    cpu: str  # of qemu -cpu
    features: str


_ARM, _QUALCOMM = 0x41, 0x51
IDENTITIES = {
    "a53": Identity(_ARM, 0xD03, "cortex-a53", _ARMV8_0),
    "a55": Identity(_ARM, 0xD05, "cortex-a76", _ARMV8_2),
    "a55-bare": Identity(_ARM, 0xD05, "cortex-a76", _ARMV8_2),
    "a57": Identity(_ARM, 0xD07, "cortex-a57", _ARMV8_0),
    "a72": Identity(_ARM, 0xD08, "cortex-a72", _ARMV8_0),
    "a73": Identity(_ARM, 0xD09, "cortex-a72", _ARMV8_0),
    "a75": Identity(_ARM, 0xD0A, "cortex-a76", _ARMV8_2),
    "a76": Identity(_ARM, 0xD0B, "cortex-a76", _ARMV8_2),
    "a77": Identity(_ARM, 0xD0D, "cortex-a76", _ARMV8_2),
    "a78": Identity(_ARM, 0xD41, "cortex-a76", _ARMV8_2),
    "x1": Identity(_ARM, 0xD44, "cortex-a76", _ARMV8_2),
    "a715": Identity(_ARM, 0xD4D, _WITHOUT_VECTORS_OF_ANY_LENGTH, _ARMV9_0),
    "x3": Identity(_ARM, 0xD4E, _WITHOUT_VECTORS_OF_ANY_LENGTH, _ARMV9_0),
    "a720": Identity(_ARM, 0xD81, _WITHOUT_VECTORS_OF_ANY_LENGTH, _ARMV9_0),
    "x4": Identity(_ARM, 0xD82, _WITHOUT_VECTORS_OF_ANY_LENGTH, _ARMV9_0),
    "kryo": Identity(_QUALCOMM, 0x205, "cortex-a57", _ARMV8_0),
}


def identity(core: str, target: str) -> Identity:
    """The identity of a core of cores.toml.

    Raises:
        UsageError: a core that cannot be emulated: Apple's, 32-bit ones, GPUs and neural engines.

    >>> hex(identity("a73", "pixel-2").part)
    '0xd09'
    """
    if core not in IDENTITIES:
        raise UsageError(
            f"'{target}' runs it on {repr(core) if core else 'no core'}, which the emulator does not know",
            way_out=f"it knows the Arm cores {', '.join(IDENTITIES)}; simulate without --emulate elsewhere",
        )
    return IDENTITIES[core]


def profile(core: Identity, ghz: float) -> dict[str, str]:
    """The files of one core, by path below the root.

    >>> files = profile(IDENTITIES["a53"], 1.4)
    >>> files["proc/cpuinfo"].splitlines()[5].split()
    ['CPU', 'part', ':', '0xd03']
    """
    khz, cpu = f"{round(ghz * 1e6)}\n", "sys/devices/system/cpu"
    about = {
        "processor": "0",
        "BogoMIPS": "38.40",
        "Features": core.features,
        "CPU implementer": f"{core.implementer:#04x}",
        "CPU architecture": "8",
        "CPU part": f"{core.part:#05x}",
        "CPU variant": "0x0",
        "CPU revision": "0",
    }
    one = {f"{cpu}/{name}": "0\n" for name in ("possible", "present", "online")}
    clock = {f"{cpu}/cpu0/cpufreq/{name}": khz for name in ("cpuinfo_max_freq", "cpuinfo_min_freq", "scaling_max_freq")}
    ids = {f"{cpu}/cpu0/topology/{name}": "0\n" for name in ("physical_package_id", "core_id", "core_siblings_list")}
    masks = {f"{cpu}/cpu0/topology/{name}": "1\n" for name in ("core_siblings", "thread_siblings")}
    text = "".join(f"{name}\t: {value}\n" for name, value in about.items()) + "\n"
    return {"proc/cpuinfo": text} | one | clock | ids | masks


def write_root(folder: Path, guest: Path, files: dict[str, str]) -> None:
    """A root for qemu -L in `folder`: the directories of `guest` by link, and the profile's own files."""
    for directory in guest.iterdir():
        (folder / directory.name).symlink_to(directory.resolve())
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
