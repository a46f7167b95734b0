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
    """The bytes of an object model, which is used up; equal models give equal bytes.

    Raises:
        ConversionError: the weights exceed the 2 GB a flatbuffer can address.
    """
    total = sum(0 if b.data is None else len(b.data) for b in model.buffers)
    if total > _LIMIT - (1 << 24):
        raise ConversionError(
            f"the weights take {total} bytes; a .tflite file holds at most 2 GB",
            way_out="prune further, quantize first, or export to ONNX",
        )
    aligned, shared, once = _packers()
    model.buffers = [aligned(b.data) for b in model.buffers]
    written: dict[Any, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is not None:
                tensor.quantization = shared(tensor.quantization, written)
    builder = once(total + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


@cache
def _packers() -> tuple[type, type, type]:
    """Subclasses that pack better; the generated classes stay as they are for others in this process."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class OnceBuilder(flatbuffers.Builder):  # type: ignore[misc]
        """A builder that writes equal names and equal vectors, such as shapes, once: many may refer to one place."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.written: dict[Any, int] = {}

        def CreateString(self, text: Any, *encoding: str) -> int:  # noqa: N802
            if text not in self.written:
                self.written[text] = int(super().CreateString(text, *encoding))
            return self.written[text]

        def CreateNumpyVector(self, array: np.ndarray) -> int:  # noqa: N802
            key = (array.dtype.str, array.tobytes())
            if key not in self.written:
                self.written[key] = int(super().CreateNumpyVector(array))
            return self.written[key]

    class AlignedBuffer(schema.BufferT):  # type: ignore[misc, name-defined]
        """A buffer with the alignment of the schema."""

        def Pack(self, builder: Any) -> int:  # noqa: N802 — the base class calls it so
            vector = None
            if self.data is not None and len(self.data):
                data = np.ascontiguousarray(self.data, np.uint8).data
                builder.StartVector(1, len(data), ALIGNMENT)
                builder.head -= len(data)
                memoryview(builder.Bytes)[builder.head : builder.head + len(data)] = data
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if vector is not None:
                schema.BufferAddData(builder, vector)
            return int(schema.BufferEnd(builder))

    class SharedQuantization:
        """Quantization parameters of which equal ones are written once.

        One scale and one zero point of 8 bytes a channel, twice for a weight behind a decoder, would otherwise take
        more room than a sparse int8 weight itself. A flatbuffer may refer to one place from many.
        """

        def __init__(self, plain: Any, written: dict[Any, int]) -> None:
            self.plain, self.written = plain, written

        def Pack(self, builder: Any) -> int:  # noqa: N802
            plain = self.plain
            if plain.details is not None:
                return int(plain.Pack(builder))
            vectors = [
                (schema.QuantizationParametersAddMin, plain.min, np.float32),
                (schema.QuantizationParametersAddMax, plain.max, np.float32),
                (schema.QuantizationParametersAddScale, plain.scale, np.float32),
                (schema.QuantizationParametersAddZeroPoint, plain.zeroPoint, np.int64),
            ]
            arrays = [None if values is None else np.asarray(values, dtype) for _, values, dtype in vectors]
            key = (*(None if a is None else a.tobytes() for a in arrays), plain.quantizedDimension)
            if key not in self.written:
                offsets = [None if a is None or not len(a) else builder.CreateNumpyVector(a) for a in arrays]
                schema.QuantizationParametersStart(builder)
                for (add, _, _), offset in zip(vectors, offsets, strict=True):
                    if offset is not None:
                        add(builder, offset)
                schema.QuantizationParametersAddQuantizedDimension(builder, plain.quantizedDimension)
                self.written[key] = int(schema.QuantizationParametersEnd(builder))
            return self.written[key]

    return AlignedBuffer, SharedQuantization, OnceBuilder
