"""The parts of the TFLite schema that a reader needs: names of operators and types, fields of operator options.

Numbers are those of tensorflow/compiler/mlir/lite/schema/schema.fbs (TFL3); fields keep their names in snake case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from idp_deploy.formats.flatbuffer import Table

_OPERATORS = (
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR "
    "FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC "
    "LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH "
    "SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER "
    "BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE "
    "BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM "
    "ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE "
    "TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK "
    "LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL "
    "FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL "
    "REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND "
    "HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM "
    "BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS "
    "HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE "
    "ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU "
    "DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 "
    "UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE "
    "STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE "
    "STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE "
    "STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG "
    "STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT "
    "STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT "
    "STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL "
    "STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE "
    "STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE"
)
OPERATORS = tuple(_OPERATORS.split())

# type number → (our name, numpy type of the stored bytes, bits an entry)
TYPES: dict[int, tuple[str, str, int]] = {
    0: ("float32", "f4", 32), 1: ("float16", "f2", 16), 2: ("int32", "i4", 32), 3: ("uint8", "u1", 8),
    4: ("int64", "i8", 64), 6: ("bool", "?", 8), 7: ("int16", "i2", 16), 8: ("complex64", "c8", 64),
    9: ("int8", "i1", 8), 10: ("float64", "f8", 64), 11: ("complex128", "c16", 128), 12: ("uint64", "u8", 64),
    15: ("uint32", "u4", 32), 16: ("uint16", "u2", 16), 17: ("int4", "u1", 4), 18: ("bfloat16", "u2", 16),
    19: ("int2", "u1", 2), 20: ("uint4", "u1", 4),
}  # fmt: skip
OTHER_TYPES = {5: "string", 13: "resource", 14: "variant", 21: "float8_e4m3fn", 22: "float8_e5m2"}

_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
_PADDINGS = ("SAME", "VALID")


def _word(words: tuple[str, ...]) -> Callable[[Table, int], Any]:
    def read(table: Table, field: int) -> Any:
        code = table.number(field, "b")
        return words[code] if 0 <= code < len(words) else code

    return read


def _scalar(code: str, default: Any = 0) -> Callable[[Table, int], Any]:
    return lambda table, field: table.number(field, code, default)


_padding, _activation = _word(_PADDINGS), _word(_ACTIVATIONS)
_int, _one, _flag, _float, _byte = _scalar("i"), _scalar("i", 1), _scalar("?", False), _scalar("f", 0.0), _scalar("b")
_ACTIVATED = {"fused_activation_function": (0, _activation)}
_KEEP_DIMS = {"keep_dims": (0, _flag)}
_POOL = {
    "padding": (0, _padding), "stride_w": (1, _int), "stride_h": (2, _int), "filter_width": (3, _int),
    "filter_height": (4, _int), "fused_activation_function": (5, _activation),
}  # fmt: skip

# operator → attribute → (field number in its options table, how to read it)
OPTIONS: dict[str, dict[str, tuple[int, Callable[[Table, int], Any]]]] = {
    "CONV_2D": {
        "padding": (0, _padding), "stride_w": (1, _int), "stride_h": (2, _int),
        "fused_activation_function": (3, _activation), "dilation_w_factor": (4, _one), "dilation_h_factor": (5, _one),
    },
    "DEPTHWISE_CONV_2D": {
        "padding": (0, _padding), "stride_w": (1, _int), "stride_h": (2, _int), "depth_multiplier": (3, _int),
        "fused_activation_function": (4, _activation), "dilation_w_factor": (5, _one), "dilation_h_factor": (6, _one),
    },
    "TRANSPOSE_CONV": {
        "padding": (0, _padding), "stride_w": (1, _int), "stride_h": (2, _int),
        "fused_activation_function": (3, _activation),
    },
    "CONV_3D": {
        "padding": (0, _padding), "stride_d": (1, _int), "stride_w": (2, _int), "stride_h": (3, _int),
        "fused_activation_function": (4, _activation), "dilation_d_factor": (5, _one), "dilation_w_factor": (6, _one),
        "dilation_h_factor": (7, _one),
    },
    "FULLY_CONNECTED": _ACTIVATED | {"weights_format": (1, _byte), "keep_num_dims": (2, _flag)},
    "BATCH_MATMUL": {"adj_x": (0, _flag), "adj_y": (1, _flag)},
    **dict.fromkeys(["AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"], _POOL),
    **dict.fromkeys(
        ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"], _KEEP_DIMS
    ),
    **dict.fromkeys(["ADD", "MUL", "SUB", "DIV", "L2_NORMALIZATION"], _ACTIVATED),
    "CONCATENATION": {"axis": (0, _int), "fused_activation_function": (1, _activation)},
    "SOFTMAX": {"beta": (0, _float)},
    "LEAKY_RELU": {"alpha": (0, _float)},
    "GELU": {"approximate": (0, _flag)},
    "GATHER": {"axis": (0, _int), "batch_dims": (1, _int)},
    "RESIZE_BILINEAR": {"align_corners": (2, _flag), "half_pixel_centers": (3, _flag)},
    "RESIZE_NEAREST_NEIGHBOR": {"align_corners": (0, _flag), "half_pixel_centers": (1, _flag)},
    "SPLIT": {"num_splits": (0, _int)},
    "PACK": {"values_count": (0, _int), "axis": (1, _int)},
    "UNPACK": {"num": (0, _int), "axis": (1, _int)},
    "DEPTH_TO_SPACE": {"block_size": (0, _int)},
    "SPACE_TO_DEPTH": {"block_size": (0, _int)},
    "STRIDED_SLICE": {
        "begin_mask": (0, _int), "end_mask": (1, _int), "ellipsis_mask": (2, _int), "new_axis_mask": (3, _int),
        "shrink_axis_mask": (4, _int),
    },
    "WHILE": {"cond_subgraph_index": (0, _int), "body_subgraph_index": (1, _int)},
    "IF": {"then_subgraph_index": (0, _int), "else_subgraph_index": (1, _int)},
    "CALL": {"subgraph": (0, _int)},
    "STABLEHLO_COMPOSITE": {
        "name": (0, lambda table, field: table.text(field)), "decomposition_subgraph_index": (1, _int),
    },
}  # fmt: skip
SUBGRAPHS = (
    "cond_subgraph_index", "body_subgraph_index", "then_subgraph_index", "else_subgraph_index", "subgraph",
    "decomposition_subgraph_index",
)  # fmt: skip
IN_SECOND_OPTIONS = {"STABLEHLO_COMPOSITE"}  # their options lie in `builtin_options_2`

_WEIGHT_BIAS = {1: "weight", 2: "bias"}
# what a constant in an input position means; positions without a word keep their number
ROLES: dict[str, dict[int, str]] = {
    "CONV_2D": _WEIGHT_BIAS, "DEPTHWISE_CONV_2D": _WEIGHT_BIAS, "FULLY_CONNECTED": _WEIGHT_BIAS,
    "CONV_3D": _WEIGHT_BIAS, "TRANSPOSE_CONV": {1: "weight", 3: "bias"}, "BATCH_MATMUL": {0: "weight", 1: "weight"},
    "GATHER": {0: "weight"}, "EMBEDDING_LOOKUP": {1: "weight"}, "PRELU": {1: "weight"},
}  # fmt: skip
# what a small integer constant means
_AXES, _PADS, _SIZE = {1: "axes"}, {1: "paddings"}, {1: "size"}
ARGUMENTS: dict[str, dict[int, str]] = {
    "MEAN": _AXES, "SUM": _AXES, "REDUCE_MAX": _AXES, "REDUCE_MIN": _AXES, "REDUCE_PROD": _AXES, "REDUCE_ANY": _AXES,
    "REDUCE_ALL": _AXES, "ARG_MAX": _AXES, "ARG_MIN": _AXES, "PAD": _PADS, "PADV2": _PADS, "MIRROR_PAD": _PADS,
    "RESIZE_BILINEAR": _SIZE, "RESIZE_NEAREST_NEIGHBOR": _SIZE, "TRANSPOSE": {1: "perm"}, "RESHAPE": {1: "shape"},
    "TRANSPOSE_CONV": {0: "output_shape"}, "SPLIT": {0: "axis"},
}  # fmt: skip
