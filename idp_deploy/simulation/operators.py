"""The formats' words for operators, by what they cost. A new operator is a new word in one of these sets."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text.

    >>> sorted(words("Conv CONV_2D"))
    ['CONV_2D', 'Conv']
    """
    return frozenset(text.split())


CONVOLUTIONS = words("""
    Conv CONV_2D conv ConvInteger QLinearConv FusedConv CONV_3D
""")
DEPTHWISE = words("""
    DEPTHWISE_CONV_2D
""")
TRANSPOSED = words("""
    ConvTranspose TRANSPOSE_CONV conv_transpose
""")
MATMULS = words("""
    Gemm MatMul MatMulInteger QLinearMatMul QGemm FULLY_CONNECTED BATCH_MATMUL linear matmul einsum
""")
# softmax(queries · keys) · values: two products over the same extents
ATTENTION = words("""
    scaled_dot_product_attention
""")
# a matrix product a step: counted, though no published latency says what a step costs
RECURRENT = words("""
    LSTM GRU RNN lstm gru rnn UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_LSTM UNIDIRECTIONAL_SEQUENCE_RNN
""")
# what is inside runs as often as the data say, which the file does not
LOOPS = words("""
    Loop Scan If WHILE IF STABLEHLO_WHILE while_loop cond
""")
# no arithmetic and no copy: the result is the operand seen otherwise, or nothing at inference
VIEWS = words("""
    Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape Constant ConstantOfShape Size RESHAPE SQUEEZE
    EXPAND_DIMS SHAPE reshape squeeze expand_dims flatten2d identity const shape
""")
# done on the way out of the operator before them
FUSED = words("""
    Relu Clip BatchNormalization RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 relu relu6 clip batch_norm
""")
QUANTIZERS = words("""
    QuantizeLinear DequantizeLinear QUANTIZE DEQUANTIZE quantize dequantize
""")
PADS = words("""
    Pad PAD PADV2 pad
""")
POOLS = words("""
    MaxPool AveragePool LpPool MAX_POOL_2D AVERAGE_POOL_2D L2_POOL_2D max_pool avg_pool l2_pool
""")
REDUCTIONS = words("""
    GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1 ReduceL2
    ReduceSumSquare ReduceLogSumExp ArgMax ArgMin MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD ARG_MAX ARG_MIN
    reduce_mean reduce_max reduce_min reduce_sum reduce_prod reduce_l1_norm reduce_l2_norm reduce_log_sum_exp
    reduce_argmax reduce_argmin TopK TOPK_V2 topk
""")
# an exponential, a logarithm or a power for every entry
TRANSCENDENTAL = words("""
    Pow Exp Log Erf Sigmoid Tanh Gelu Elu Selu Celu Mish Softplus Softmax LogSoftmax Sin Cos LRN Swish QuickGelu
    QLinearSigmoid QLinearSoftmax POW EXP LOG LOGISTIC TANH GELU ELU SOFTMAX LOG_SOFTMAX SIN COS
    LOCAL_RESPONSE_NORMALIZATION pow exp log erf sigmoid tanh gelu silu elu softplus softmax sin cos
    local_response_norm
""")
# a few multiplications and clamps for every entry
PIECEWISE = words("""
    HardSwish HardSigmoid HARD_SWISH sigmoid_hard
""")
ELEMENTWISE = words("""
    Add Sub Mul Div Sqrt Neg Abs LeakyRelu PRelu Softsign Max Min Mean Sum Where Equal Greater GreaterOrEqual Less
    LessOrEqual And Or Not Xor Cast LayerNormalization RMSNormalization InstanceNormalization GroupNormalization
    LpNormalization Reciprocal Floor Ceil Round Sign CumSum Mod IsNaN Range ThresholdedRelu Trilu
    DynamicQuantizeLinear QLinearAdd QLinearMul QLinearLeakyRelu ADD SUB MUL DIV SQRT RSQRT NEG ABS SQUARE
    SQUARED_DIFFERENCE LEAKY_RELU PRELU MAXIMUM MINIMUM SELECT SELECT_V2 EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS
    LESS_EQUAL LOGICAL_AND LOGICAL_OR LOGICAL_NOT CAST L2_NORMALIZATION FLOOR CEIL ROUND SIGN CUMSUM FLOOR_MOD
    FLOOR_DIV ADD_N RANGE add sub mul real_div floor_div sqrt rsqrt abs square leaky_relu prelu softsign maximum
    minimum select equal not_equal greater greater_equal less less_equal logical_and logical_or logical_not cast
    layer_norm instance_norm l2_norm inverse floor ceil round sign cumsum mod thresholded_relu linear_activation
    range_1d
""")
MEMORY = words("""
    Concat Slice Split Transpose Resize Upsample Gather GatherElements GatherND Tile Expand DepthToSpace
    SpaceToDepth ScatterElements ScatterND OneHot CONCATENATION SLICE STRIDED_SLICE SPLIT SPLIT_V TRANSPOSE
    RESIZE_BILINEAR PACK UNPACK RESIZE_NEAREST_NEIGHBOR GATHER GATHER_ND TILE BROADCAST_TO DEPTH_TO_SPACE
    SPACE_TO_DEPTH EMBEDDING_LOOKUP MIRROR_PAD REVERSE_V2 ONE_HOT FILL SCATTER_ND BROADCAST_ARGS concat
    slice_by_index slice_by_size split transpose gather gather_along_axis gather_nd tile stack
    upsample_nearest_neighbor upsample_bilinear resize_bilinear resize_nearest_neighbor resize depth_to_space
    space_to_depth pixel_shuffle pixel_unshuffle reverse one_hot fill fill_like scatter scatter_nd
    scatter_along_axis band_part
""")
