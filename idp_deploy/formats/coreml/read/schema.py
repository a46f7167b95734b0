"""What is read of Core ML's public protobuf schema (coremltools, `mlmodel/format/Model.proto` and `MIL.proto`)."""

from __future__ import annotations

from idp_deploy.formats.coreml.read.wire import Field, Table

SCHEMA: dict[str, Table] = {
    "Model": {
        1: Field("version", "int"),
        2: Field("description", "Description"),
        **dict.fromkeys((200, 201, 202), Field("pipeline", "Empty")),
        **dict.fromkeys((303, 403, 500), Field("network", "Empty")),
        502: Field("program", "Program"),
    },
    "Description": {
        1: Field("inputs", "Feature", many=True),
        10: Field("outputs", "Feature", many=True),
        21: Field("default", "string"),
        100: Field("metadata", "Metadata"),
    },
    "Metadata": {100: Field("user", "string", keyed=True)},
    "Feature": {1: Field("name", "string"), 3: Field("type", "FeatureType")},
    "FeatureType": {4: Field("image", "Empty"), 5: Field("array", "ArrayType")},
    "ArrayType": {1: Field("shape", "ints"), 2: Field("dtype", "int")},
    "Empty": {},
    "Program": {1: Field("version", "int"), 2: Field("functions", "Function", keyed=True)},
    "Function": {
        1: Field("inputs", "NamedType", many=True),
        2: Field("opset", "string"),
        3: Field("blocks", "Block", keyed=True),
    },
    "Block": {
        1: Field("inputs", "NamedType", many=True),
        2: Field("outputs", "string", many=True),
        3: Field("operations", "Operation", many=True),
    },
    "Operation": {
        1: Field("kind", "string"),
        2: Field("inputs", "Argument", keyed=True),
        3: Field("outputs", "NamedType", many=True),
        4: Field("blocks", "Block", many=True),
        5: Field("attributes", "Value", keyed=True),
    },
    "Argument": {1: Field("bindings", "Binding", many=True)},
    "Binding": {1: Field("name", "string"), 2: Field("value", "Value")},
    "NamedType": {1: Field("name", "string"), 2: Field("type", "Type")},
    "Type": {1: Field("tensor", "TensorType"), 2: Field("list", "ListType")},
    "ListType": {1: Field("type", "Type")},
    "TensorType": {
        1: Field("dtype", "int"),
        2: Field("rank", "int"),
        3: Field("dimensions", "Dimension", many=True),
    },
    "Dimension": {1: Field("constant", "Constant"), 2: Field("unknown", "Empty")},
    "Constant": {1: Field("size", "int")},
    "Value": {2: Field("type", "Type"), 3: Field("immediate", "Immediate"), 5: Field("blob", "BlobFile")},
    "Immediate": {1: Field("tensor", "Tensor"), 3: Field("list", "List")},
    "List": {1: Field("values", "Value", many=True)},
    "BlobFile": {1: Field("file", "string"), 2: Field("offset", "int")},
    "Tensor": {
        1: Field("floats", "Floats"),
        2: Field("ints", "Ints"),
        3: Field("bools", "Bools"),
        4: Field("strings", "Strings"),
        5: Field("longs", "Ints"),
        6: Field("doubles", "Doubles"),
        7: Field("bytes", "Bytes"),
    },
    "Floats": {1: Field("values", "floats")},
    "Doubles": {1: Field("values", "doubles")},
    "Ints": {1: Field("values", "ints")},
    "Bools": {1: Field("values", "bools")},
    "Strings": {1: Field("values", "string", many=True)},
    "Bytes": {1: Field("values", "bytes")},
}

# MIL.proto's DataType → our word for it; the part before the digits tells how to read it
DATA_TYPES = {
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
# FeatureTypes.proto's ArrayDataType
ARRAY_TYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8"}
