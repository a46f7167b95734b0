"""An .mlpackage directory with the same bytes for the same model: no dates, no random identifiers, nothing extra.

    model.mlpackage/
      Manifest.json                                  which items there are, by identifier
      Data/com.apple.CoreML/model.mlmodel            the program (protobuf)
      Data/com.apple.CoreML/weights/weight.bin       the weights' blob

coremltools would name the items by random UUIDs, record the day, and add a debugging file beside the manifest.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from idp_deploy.errors import FileError

_AUTHOR = "com.apple.CoreML"
_DATE = "com.github.apple.coremltools.conversion_date"


def write(directory: Path, spec: Any, weights: bytes, metadata: dict[str, str]) -> None:
    """Create the package.

    Args:
        directory: does not exist yet.
        spec: the Model message of coremltools; its metadata are completed in place.
        weights: the content of weight.bin; none is written where it is empty.
        metadata: user-defined entries to add.
    """
    user_defined = spec.description.metadata.userDefined
    user_defined.pop(_DATE, None)
    user_defined.update(metadata)
    data = directory / "Data" / _AUTHOR
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(spec.SerializeToString(deterministic=True))
    items = {"model.mlmodel": "CoreML Model Specification"}
    if weights:
        (data / "weights").mkdir()
        (data / "weights" / "weight.bin").write_bytes(weights)
        items["weights"] = "CoreML Model Weights"
    identifiers = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_AUTHOR}/{name}")) for name in items}
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[name]: {
                "author": _AUTHOR,
                "description": description,
                "name": name,
                "path": f"{_AUTHOR}/{name}",
            }
            for name, description in items.items()
        },
        "rootModelIdentifier": identifiers["model.mlmodel"],
    }
    # as coremltools writes it, which it does whenever it reads a package: the seal outlives that
    (directory / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def open_with_coremltools(path: Path) -> None:
    """Let Apple's own reader take the package, which is left as it is. FileError: it does not."""
    from coremltools.models.utils import load_spec

    try:
        with tempfile.TemporaryDirectory(prefix="idp-deploy-") as folder:
            # it writes Manifest.json anew as it reads: not in a file of the user's, nor in one that cannot be written
            lent = Path(folder) / path.name
            lent.mkdir()
            for member in path.iterdir():
                if member.name == "Manifest.json":
                    shutil.copyfile(member, lent / member.name)
                else:
                    (lent / member.name).symlink_to(member.resolve())
            spec = load_spec(str(lent))
    except Exception as error:  # its C++ side raises RuntimeError, protobuf a type of its own
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(f"coremltools cannot open {path}: {first}", way_out="export it again") from error
    if not spec.WhichOneof("Type"):
        raise FileError(f"coremltools finds no model in {path}", way_out="export it again")
