"""What else lies in files of weights: objects that are passed over, objects that are refused with the way out.

`torch.load(weights_only=True)` refuses every class that it does not know. Many training loops put settings and scores
beside their weights. For those kinds a stand-in is built, which keeps nothing and runs nothing, whatever the file says;
every other class stays refused.
"""

from __future__ import annotations

from collections import OrderedDict
from fnmatch import fnmatchcase
from typing import Any

SAVE_WEIGHTS = "save weights instead: torch.save(model.state_dict(), 'model.pt')"


class Ignored:
    """In place of an object that is no weight: takes any arguments and any state, and keeps none."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class NumpyValue(Ignored):
    """In place of an array or a number of numpy."""


class IgnoredDict:
    """In place of a kind of dict: a plain one."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class IgnoredList:
    """In place of a kind of list: a plain one."""

    def __new__(cls, *_: Any) -> Any:
        return []


# qualified name (a glob) → what stands in for it
STAND_INS: dict[str, type] = {
    "argparse.Namespace": Ignored,
    "types.SimpleNamespace": Ignored,
    **dict.fromkeys(("pathlib.*Path", "pathlib._local.*Path"), Ignored),
    **dict.fromkeys(("datetime.date*", "datetime.time*", "decimal.Decimal", "fractions.Fraction"), Ignored),
    **dict.fromkeys(("numpy*.multiarray.scalar", "numpy*.multiarray._reconstruct"), NumpyValue),
    **dict.fromkeys(("numpy.dtype", "numpy.ndarray", "numpy.dtypes.*DType"), NumpyValue),
    **dict.fromkeys(("omegaconf.*", "typing.Any", "mmengine.logging.*.HistoryBuffer"), Ignored),
    "torch.torch_version.TorchVersion": Ignored,  # Asteroid says torch.__version__ beside its weights
    "pytorch_lightning.callbacks.*": Ignored,  # classes as keys of a dict, before they were strings
    **dict.fromkeys(("collections.defaultdict", "easydict.EasyDict", "yacs.config.CfgNode"), IgnoredDict),
    **dict.fromkeys(("*lightning*.AttributeDict", "addict*.Dict", "mm*.config*.ConfigDict"), IgnoredDict),
    "collections.deque": IgnoredList,
    "fastcore.*.L": Ignored,  # of the settings that fastai keeps beside an optimizer's state
    # what a defaultdict makes, and what settings name as a type
    **dict.fromkeys((f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")), Ignored),
}

# part of the refused name, or of torch's message → the way out
GATHER = (
    "every process saved its own part: gather first, with torch.distributed.checkpoint.state_dict."
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))"
)
WAYS_OUT: dict[str, str] = {
    "DTensor": GATHER,
    "ShardedTensor": GATHER,
    "torchao": "save the weights before they are quantized; idp-deploy quantizes by itself",
    "bitsandbytes": "save the weights before they are quantized; idp-deploy quantizes by itself",
    "ultralytics": "save weights instead: torch.save(model.model.state_dict(), 'model.pt')",
    "numpy": "save tensors instead: torch.save({k: torch.as_tensor(v) for k, v in weights.items()}, 'model.pt')",
}

# first bytes of what is no PyTorch file at all → what it is, and the way out
MAGICS: dict[bytes, tuple[str, str]] = {
    b"GGUF": ("a GGUF file of quantized weights", "take the model's safetensors files"),
    b"\x89HDF": ("an HDF5 file, as Keras writes them", "load it with its own tools and save a torch state dict"),
    **{
        magic: (f"compressed with {tool}", "unpack it first")
        for tool, magic in (
            ("xz", b"\xfd7zXZ\0"),
            ("zstd", b"\x28\xb5\x2f\xfd"),
            ("7-Zip", b"7z\xbc\xaf\x27\x1c"),
            ("RAR", b"Rar!\x1a"),
            ("bzip2", b"BZh"),
            ("lz4", b"\x04\x22\x4d\x18"),
        )
    },
    b"\x93NUMPY": ("one numpy array", "save a state dict: torch.save({name: torch.as_tensor(array)}, 'model.pt')"),
}
_OTHER_TOOLS = "load it with its own tools, put the weights into a PyTorch model, and save model.state_dict()"
_MODEL_FILE = (
    "give the weights that it was made from; what the file itself holds is told by idp-deploy inspect, and what "
    "another file of it holds otherwise by idp-deploy diff"
)
# ending of a name → what such a file is, where its bytes are no PyTorch file's
ENDINGS: dict[str, tuple[str, str]] = {
    ".onnx": ("an ONNX model, not weights of a PyTorch model", _MODEL_FILE),
    ".tflite": ("a TFLite model, not weights of a PyTorch model", _MODEL_FILE),
    ".index": ("a checkpoint of TensorFlow", _OTHER_TOOLS),
    ".pb": ("a graph of TensorFlow", _OTHER_TOOLS),
    ".keras": ("a model of Keras", _OTHER_TOOLS),
    ".msgpack": ("weights of Flax", _OTHER_TOOLS),
    ".pdparams": ("weights of PaddlePaddle", _OTHER_TOOLS),
    ".params": ("weights of MXNet", _OTHER_TOOLS),
    ".caffemodel": ("weights of Caffe", _OTHER_TOOLS),
    ".gguf": ("a GGUF file of quantized weights", "take the model's safetensors files"),
    ".weights.h5": ("weights of Keras", _OTHER_TOOLS),
    ".nemo": (
        "an archive of NeMo, with settings beside the weights",
        "unpack it (tar -xf FILE.nemo), and give the model_weights.ckpt that it holds",
    ),
    ".distcp": (
        "one process's part of a checkpoint of torch.distributed.checkpoint",
        "name its folder, in which .metadata says where every weight lies; a copy of dir/* leaves that file behind",
    ),
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"), ("a tar archive", "unpack it first")),
    **dict.fromkeys((".zip", ".mar"), ("a zip archive", "unpack it first")),
    ".json": ("a document, and no weights", "name the file of weights beside it"),
}
_WITH_DEEPSPEED = (
    "load it with the DeepSpeed that wrote it, gather the weights, and save the whole model's state_dict()"
)
# what lies in a folder beside a first file of weights → how the others hold the rest of the model
APART: dict[str, tuple[str, str]] = {
    "zero": (
        "is a universal checkpoint of DeepSpeed, with a folder for every weight below zero/",
        "convert the checkpoint that it was made from with the zero_to_fp32.py beside it, and give that",
    ),
    "layer_*-model_*-model_states.pt": ("holds a pipeline of DeepSpeed, a file a layer, as {}", _WITH_DEEPSPEED),
    "*expert_*_model_states.pt": ("holds experts of DeepSpeed in files of their own, as {}", _WITH_DEEPSPEED),
    "*mp_rank_01_model_states.pt": ("holds a model in parts, as {}", "merge them first with the tool that wrote them"),
}
# what lies in a folder without weights of ours → what the folder is
FOLDERS: dict[str, tuple[str, str]] = {
    "saved_model.pb": ("a SavedModel of TensorFlow", _OTHER_TOOLS),
    "*.ckpt.index": ("a folder of TensorFlow checkpoints", _OTHER_TOOLS),
    "ckpt-*.index": ("a folder of TensorFlow checkpoints", _OTHER_TOOLS),
    "flax_model*.msgpack": ("a folder of Flax weights", _OTHER_TOOLS),
    "_CHECKPOINT_METADATA": ("a checkpoint of Orbax (JAX)", _OTHER_TOOLS),
    "manifest.ocdbt": ("a checkpoint of Orbax (JAX)", _OTHER_TOOLS),
    "latest_checkpointed_iteration.txt": (
        "a run of Megatron, whose checkpoints lie in folders of their own",
        "convert one to a whole model with Megatron's own tools; of one process, name its model_optim_rng.pt",
    ),
    "Manifest.json": ("a Core ML package, not weights of a PyTorch model", _MODEL_FILE),
}


def ending(name: str) -> tuple[str, str] | None:
    """What a file of this name is, and the way out, if it is a known tool's.

    >>> ending("runs/model.ckpt.index")[0], ending("model.pt")
    ('a checkpoint of TensorFlow', None)
    """
    return next((said for end, said in ENDINGS.items() if name.lower().endswith(end)), None)


def stand_in(name: str) -> type | None:
    """What is built in place of the class or function `name`; None where it stays refused.

    >>> stand_in("argparse.Namespace").__name__, stand_in("os.system"), stand_in("pathlib.Path.touch")
    ('Ignored', None, None)
    """
    return next((kind for glob, kind in STAND_INS.items() if fnmatchcase(name, glob)), None)


def kind_of(value: Any) -> str:
    """What a value that is no tensor is called.

    >>> kind_of(3), kind_of(NumpyValue()), kind_of(Ignored())
    ('int', 'a numpy array or number', 'an object of another program')
    """
    foreign = {NumpyValue: "a numpy array or number", Ignored: "an object of another program"}
    return "a nested tensor" if getattr(value, "is_nested", False) else foreign.get(type(value), type(value).__name__)


def way_out(refused: str) -> str:
    """How the weights come out of a file with `refused` in it."""
    return next((way for part, way in WAYS_OUT.items() if part in refused), SAVE_WEIGHTS)
