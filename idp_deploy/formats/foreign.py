"""Files of models that other tools keep to themselves: what each is, and how a file that can be read comes of it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from idp_deploy import documents

_KERAS = "convert it first: tf.lite.TFLiteConverter.from_keras_model(model).convert() gives the bytes of a .tflite"
_TENSORFLOW = (
    "convert it first: tf.lite.TFLiteConverter.from_saved_model(folder).convert() gives the bytes of a .tflite"
)
_ONNX = "give the .onnx that it was made from"
_TORCH = "load it with torch, and torch.save(model.state_dict(), 'model.pt'): idp-deploy export makes a file of that"
_ARRAYS = "make weights of it: torch.save({k: torch.as_tensor(v) for k, v in numpy.load(FILE).items()}, 'model.pt')"

# suffix → what such a file is, and the way out
MODELS: dict[str, tuple[str, str]] = {
    ".ort": ("a model in onnxruntime's own form", _ONNX),
    ".mlmodel": ("a Core ML model of the older kind", "convert the model anew, which makes an .mlpackage"),
    ".mlmodelc": ("a compiled Core ML model", "give the .mlpackage that it was compiled from"),
    **dict.fromkeys((".engine", ".plan", ".trt"), ("an engine of TensorRT, built for one GPU", _ONNX)),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), ("a file of Keras", _KERAS)),
    ".pb": ("a graph of TensorFlow", _TENSORFLOW),
    **dict.fromkeys((".npz", ".npy"), ("a file of numpy arrays", _ARRAYS)),
    ".gguf": ("a GGUF file of quantized weights", "take the model's safetensors files"),
    ".msgpack": ("a file of Flax", "convert the model to PyTorch, ONNX or TFLite first"),
    ".param": ("a network of ncnn", _ONNX),
    ".mnn": ("a model of MNN", _ONNX),
    ".xml": ("a model of OpenVINO, if it is one", _ONNX),
    ".pdmodel": ("a model of PaddlePaddle", "convert it first: paddle2onnx gives an .onnx"),
    ".circle": ("a model of ONE", "give the .tflite that it was made from"),
    **dict.fromkeys((".dlc", ".rknn", ".om", ".hef", ".blob", ".nb"), ("a file compiled for one accelerator", _ONNX)),
    **dict.fromkeys((".ptl", ".torchscript", ".jit"), ("a TorchScript archive, which holds code", _TORCH)),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z"), ("an archive", "unpack it first")),
}


_HEAD_BYTES, _MOST_PARTS = 512, 100
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin")
# (where, bytes there) → what a file is whatever its name says, the suffixes of such files, and the way out
_SIGNS: dict[tuple[int, bytes], tuple[str, tuple[str, ...], str]] = {
    (4, b"TFL3"): ("a TFLite model by its content", (".tflite",), "give it the suffix .tflite"),
    (4, b"ET12"): ("an ExecuTorch program by its content", (".pte",), "give it the suffix .pte"),
    (4, b"ORTM"): (MODELS[".ort"][0], (".ort",), _ONNX),
    (0, b"PK\3\4"): (
        "a zip archive, or what PyTorch saved", (".zip", *_WEIGHTS), "unpack it first, or export the weights",
    ),
    (0, b"\x80"): ("a pickle, such as weights of PyTorch", _WEIGHTS, "idp-deploy export makes a file of weights"),
    (0, b"\x89HDF"): (MODELS[".h5"][0], (".h5",), _KERAS),
}  # fmt: skip


def instead_of_model(path: Path, *, folder: bool = False) -> tuple[str, str] | None:
    """What lies at a path whose reader cannot read it, and the way out, by its content; None where that is not known.

    It was never fetched, is empty, or is of another kind than its name says; of a package a file in it was not fetched.

    Args:
        folder: models of its name are folders, as their reader says of any file.
    """
    if path.is_dir():
        parts = (one for one in islice(path.rglob("*"), _MOST_PARTS) if one.suffix != ".json")
        for part in parts:
            if known := documents.instead(_head(part)):
                return f"no whole package: '{part.name}' is {known[0]}", known[1]
        return None
    head = _head(path)
    if folder:
        return documents.instead(head)
    if path.is_file() and not head:
        return "empty", "fetch or write it again"
    for (place, sign), (what, usual, way_out) in _SIGNS.items():
        if head[place : place + len(sign)] == sign and path.suffix.lower() not in usual:
            return what, way_out
    return documents.instead(head)


def _head(path: Path) -> bytes:
    try:
        return documents.read_head(path, _HEAD_BYTES)
    except OSError:
        return b""


def model_of(path: Path) -> tuple[str, str] | None:
    """What a file or folder is by its name, and the way out; None where nobody's suffix is known.

    >>> model_of(Path("net.engine"))
    ('an engine of TensorRT, built for one GPU', 'give the .onnx that it was made from')
    """
    if (path / "saved_model.pb").is_file():
        return "a SavedModel of TensorFlow", _TENSORFLOW
    return MODELS.get(path.suffix.lower())
