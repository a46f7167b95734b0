"""serialize: a TFLite object model ↔ bytes, with aligned buffers and nothing dropped.

Two things the schema's generated Python gets wrong are put right here: it writes buffer data without the 16-byte
alignment that the schema demands (`data:[ubyte] (force_align: 16)`), and it knows nothing of data that lies behind
the flatbuffer at `Buffer.offset`, `Buffer.size`. Schema: https://github.com/tensorflow/tensorflow/blob/master/
tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError

ALIGNMENT = 16
IDENTIFIER = b"TFL3"
_LIMIT = 2**31 - 1  # flatbuffer offsets are signed 32 bit


def parse(content: bytes) -> Any:
    """The object model (`schema_py_generated.ModelT`) with data behind the flatbuffer taken inside."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return model


def serialize(model: Any) -> bytes:
    """The bytes of an object model; equal models give equal bytes.

    Raises:
        ConversionError: the weights exceed the 2 GB a flatbuffer can address.
    """
    import flatbuffers

    total = sum(0 if b.data is None else len(b.data) for b in model.buffers)
    if total > _LIMIT - (1 << 24):
        raise ConversionError(
            f"the weights take {total} bytes; a .tflite file holds at most 2 GB",
            way_out="prune further, quantize first, or export to ONNX",
        )
    plain, model.buffers = model.buffers, [_aligned()(b.data) for b in model.buffers]
    try:
        builder = flatbuffers.Builder(total + (1 << 16))
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    finally:
        model.buffers = plain
    return bytes(builder.Output())


@cache
def _aligned() -> type:
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuffer(schema.BufferT):  # type: ignore[misc, name-defined]
        """A buffer that packs itself with the alignment of the schema; the generated class stays as it is."""

        def Pack(self, builder: Any) -> int:  # noqa: N802 — the base class calls it so
            data = None if self.data is None else np.asarray(self.data, np.uint8).tobytes()
            vector = None
            if data:
                builder.StartVector(1, len(data), ALIGNMENT)
                builder.head -= len(data)
                builder.Bytes[builder.head : builder.head + len(data)] = data
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if vector is not None:
                schema.BufferAddData(builder, vector)
            return int(schema.BufferEnd(builder))

    return AlignedBuffer
