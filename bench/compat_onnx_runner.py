"""Runs .onnx files inside one tool's own environment: python compat_onnx_runner.py TOOL FOLDER LIMIT < case names.

Needs numpy and that tool alone. For each case (NAME.onnx, and NAME.npz with `input_I` in the file's order) it prints a
JSON line when it starts and another when it ends, and leaves the outputs in NAME.TOOL.npz. A case that takes longer
than LIMIT seconds ends the process by SIGALRM, native code or not: the caller starts another one behind it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def onnxruntime(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def onnxslim(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import onnxslim

    slimmed = path.with_suffix(".onnxslim")
    onnxslim.slim(str(path), str(slimmed))
    return onnxruntime(slimmed, inputs, limit)


def openvino(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import openvino

    # else linear layers whose weights are stored as integers round what they are given to 8 bits as well
    exact = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    model = openvino.Core().compile_model(str(path), "CPU", exact)
    found = model(inputs)
    return [np.array(found[output]) for output in model.outputs]


def opencv_new(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import cv2

    return _opencv(path, inputs, cv2.dnn.ENGINE_NEW)


def opencv_classic(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import cv2

    return _opencv(path, inputs, cv2.dnn.ENGINE_CLASSIC)


def _opencv(path: Path, inputs: Arrays, engine: int) -> list[np.ndarray]:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(path), engine)
    for name, array in inputs.items():
        net.setInput(array, name)
    names = _outputs(path)
    found = net.forward(names) if len(names) > 1 else [net.forward()]
    return [np.array(output) for output in found]


def _outputs(path: Path) -> list[str]:
    return list(json.loads(path.with_suffix(".json").read_text())["outputs"])


def mnn(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    from MNN import expr, nn

    converted = path.with_suffix(".mnn")
    # not the command mnnconvert, which would first install its vendor's logging package by pip
    convert = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
    command = [sys.executable, "-c", convert, "-f", "ONNX", "--modelFile", path, "--MNNModel", converted]
    done = subprocess.run(
        [*command, "--bizCode", "x"], stdin=subprocess.DEVNULL, capture_output=True, timeout=limit / 2, check=False
    )
    if not converted.exists():  # the exit code is 0 all the same
        raise RuntimeError("no file: " + (done.stdout + done.stderr).decode(errors="replace").strip()[-200:])
    net = nn.load_module_from_file(str(converted), list(inputs), _outputs(path))
    given = [x if x.dtype == np.float32 else x.astype(np.int32) for x in inputs.values()]
    kinds = {"float32": expr.float, "int32": expr.int}
    found = net.forward([expr.const(x, x.shape, expr.NCHW, kinds[str(x.dtype)]) for x in given])
    outputs = found if isinstance(found, (list, tuple)) else [found]
    return [np.array(expr.convert(output, expr.NCHW).read()) for output in outputs]


def tract(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import tract

    model = tract.onnx().load(str(path))
    kinds = {"float32": "f32", "int64": "i64"}
    for i, array in enumerate(inputs.values()):
        model.set_input_fact(i, ",".join([*map(str, array.shape), kinds[str(array.dtype)]]))
    return [output.to_numpy() for output in model.into_model().into_runnable().run(list(inputs.values()))]


def iree(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    from iree import runtime

    tools, mlir, compiled = Path(sys.executable).parent, path.with_suffix(".mlir"), path.with_suffix(".vmfb")
    target = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu")
    for command in (
        [tools / "iree-import-onnx", path, "-o", mlir],
        [tools / "iree-compile", mlir, *target, "--iree-llvmcpu-target-cpu=generic", "-o", compiled],
    ):
        done = subprocess.run(command, capture_output=True, timeout=limit / 2, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace").strip()[:200])
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    module = runtime.VmModule.mmap(context.instance, str(compiled))
    context.add_vm_module(module)
    found = getattr(context.modules, module.name)["main_graph" if "main_graph" in module.function_names else "model"](
        *inputs.values()
    )
    return [np.asarray(each.to_host()) for each in (found if isinstance(found, (list, tuple)) else [found])]


def reference(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(str(path)).run(None, inputs))


def ncnn(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    import ncnn

    copy = path.parent / "pnnx" / path.name  # the converter writes a dozen files beside its argument
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(path.read_bytes())
    kinds = {"float32": "f32", "int64": "i64"}
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]{kinds[str(x.dtype)]}" for x in inputs.values())
    command = [Path(sys.executable).with_name("pnnx"), copy, f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(command, cwd=copy.parent, capture_output=True, timeout=limit / 2, check=False)
    param = copy.parent / f"{path.stem.replace('-', '_')}.ncnn.param"
    if not param.exists():
        raise RuntimeError("no file: " + (done.stdout + done.stderr).decode(errors="replace").strip()[-200:])
    with ncnn.Net() as net:
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
            raise RuntimeError("the converted file does not load")
        with net.create_extractor() as extractor:
            for name, x in zip(sorted(net.input_names()), inputs.values(), strict=True):
                narrow = x[0] if x.dtype == np.float32 else x[0].astype(np.int32)
                extractor.input(name, ncnn.Mat(np.ascontiguousarray(narrow)).clone())
            found = [extractor.extract(name) for name in sorted(net.output_names())]
            if any(status for status, _ in found):
                raise RuntimeError(f"extract returned {[status for status, _ in found]}")
            return [np.array(mat) for _, mat in found]


_WEB = """
const ort = require('onnxruntime-web'), fs = require('fs');
const task = JSON.parse(fs.readFileSync(0));
const arrays = { float32: Float32Array, int64: BigInt64Array };
ort.env.wasm.numThreads = 1;
ort.InferenceSession.create(task.path, { executionProviders: ['wasm'], logSeverityLevel: 3 }).then(async (session) => {
  const feeds = {};
  for (const [name, x] of Object.entries(task.inputs)) {
    const data = x.type === 'int64' ? x.data.map(BigInt) : x.data;
    feeds[name] = new ort.Tensor(x.type, arrays[x.type].from(data), x.dims);
  }
  const found = await session.run(feeds);
  const outputs = session.outputNames.map((name) => [found[name].dims, [...found[name].data]]);
  fs.writeFileSync(task.out, JSON.stringify(outputs));
}).catch((error) => { console.error(String(error)); process.exit(1); });
"""


def ort_web(path: Path, inputs: Arrays, limit: int) -> list[np.ndarray]:
    out = path.with_suffix(".web.json")
    given = {n: {"type": str(x.dtype), "dims": x.shape, "data": x.reshape(-1).tolist()} for n, x in inputs.items()}
    task = json.dumps({"path": str(path), "out": str(out), "inputs": given})
    command = ["node", "-e", _WEB]
    done = subprocess.run(
        command, input=task, cwd=sys.prefix, capture_output=True, text=True, timeout=limit, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-200:])
    return [np.array(data, np.float32).reshape(dims) for dims, data in json.loads(out.read_text())]


RUNNERS: dict[str, Callable[[Path, Arrays, int], list[np.ndarray]]] = {
    "onnxruntime": onnxruntime, "onnxslim": onnxslim, "openvino": openvino, "opencv-new": opencv_new,
    "opencv-classic": opencv_classic, "mnn": mnn, "tract": tract, "ncnn": ncnn,
    "ort-web": ort_web, "reference": reference, "iree": iree,
}  # fmt: skip


def main(tool: str, folder: Path, limit: int, names: list[str]) -> None:
    versions = {each.metadata["Name"].lower(): each.version for each in metadata.distributions()}
    _say(versions=versions)
    for name in names:
        path = folder / f"{name}.onnx"
        arrays, described = np.load(folder / f"{name}.npz"), json.loads(path.with_suffix(".json").read_text())
        inputs = {key: arrays[f"input_{i}"] for i, key in enumerate(described["inputs"])}
        _say(start=name)
        signal.alarm(limit)
        try:
            outputs = RUNNERS[tool](path, inputs, limit)
        except Exception as error:  # every tool refuses in its own way; each is a result
            said = f"{type(error).__name__}: {error}".partition("Stack backtrace")[0]
            _say(case=name, refused=" ".join(said.split())[-240:])
        else:
            np.savez(folder / f"{name}.{tool}.npz", *outputs)
            slimmed = path.with_suffix(f".{tool}")
            _say(case=name, bytes=slimmed.stat().st_size if slimmed.exists() else None)
        signal.alarm(0)


def _say(**message: object) -> None:
    print("@", json.dumps(message), sep="", flush=True)  # tools write to this stream too


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.stdin.read().split())
