"""Files of models that other tools keep to themselves: what each is, and how a file that can be read comes of it."""

from __future__ import annotations

from pathlib import Path

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


def model_of(path: Path) -> tuple[str, str] | None:
    """What a file or folder is by its name, and the way out; None where nobody's suffix is known.

    >>> model_of(Path("net.engine"))
    ('an engine of TensorRT, built for one GPU', 'give the .onnx that it was made from')
    """
    if (path / "saved_model.pb").is_file():
        return "a SavedModel of TensorFlow", _TENSORFLOW
    return MODELS.get(path.suffix.lower())
