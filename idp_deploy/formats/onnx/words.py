"""The words of the ONNX standard and of onnxruntime for operators, by what they do (`formats.operators.CLASSES`)."""

CHANNELS_LAST = False
WORDS: dict[str, str] = {
    "convolution": "Conv ConvInteger QLinearConv FusedConv NhwcFusedConv",
    "transposed": "ConvTranspose",
    "product": """
        Gemm MatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul QGemm FusedGemm FusedMatMul
        Einsum
    """,
    "packed": "MatMulNBits MoE QMoE",
    "recurrence": "LSTM GRU RNN",
    "loop": "Loop Scan If",
    "table": "Gather",
    "view": "Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape Constant ConstantOfShape Size",
    "fused": "Relu Clip BatchNormalization",
    "quantizer": "QuantizeLinear",
    "dequantizer": "DequantizeLinear",
    "pad": "Pad",
    "pool": "MaxPool AveragePool LpPool",
    "reduction": """
        GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1
        ReduceL2 ReduceSumSquare ReduceLogSumExp ArgMax ArgMin TopK QLinearGlobalAveragePool
    """,
    "elementwise": """
        Add Sub Mul Div Sqrt Neg Abs LeakyRelu PRelu Softsign Max Min Mean Sum Where Equal Greater
        GreaterOrEqual Less LessOrEqual And Or Not Xor Cast LayerNormalization RMSNormalization
        InstanceNormalization GroupNormalization LpNormalization Reciprocal Floor Ceil Round Sign CumSum Mod
        IsNaN Range ThresholdedRelu Trilu DynamicQuantizeLinear QLinearAdd QLinearMul QLinearLeakyRelu
    """,
    "piecewise": """
        HardSwish HardSigmoid
    """,
    "transcendental": """
        Pow Exp Log Erf Sigmoid Tanh Gelu Elu Selu Celu Mish Softplus Sin Cos Swish QuickGelu
        QLinearSigmoid
    """,
    "normalizing": """
        Softmax LogSoftmax LRN QLinearSoftmax
    """,
    "memory": """
        Concat Slice Split Transpose Resize Upsample GatherElements GatherND Tile Expand DepthToSpace
        SpaceToDepth ScatterElements ScatterND OneHot
    """,
}
# what `--scheme int8` lets compute with integers, where a layer is among them or reads what they give
INTEGERS = "Conv Gemm MatMul Add AveragePool Clip Concat GlobalAveragePool MaxPool Relu Reshape Transpose"
CHOICES = ("ArgMax", "ArgMin", "TopK")
