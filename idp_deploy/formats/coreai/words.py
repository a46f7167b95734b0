"""Core AI's words for operators, without their dialect, by what they do (`formats.operators.CLASSES`)."""

CHANNELS_LAST = False
WORDS: dict[str, str] = {
    "convolution": "conv2d conv3d",
    "transposed": "conv_transpose2d conv_transpose3d",
    "product": "batch_matmul broadcasting_batch_matmul",
    "loop": "while if scan isolated_group",
    "table": "gather_nd",
    "view": "reshape expand_dims shrink_dims get_shape broadcast_shapes constant output copy_discarding_constraints",
    "fused": "relu",
    "quantizer": "quantize",
    "dequantizer": "dequantize",
    "pad": "pad",
    "pool": "max_pool_2d max_pool_3d sum_pool_2d sum_pool_3d",
    "reduction": """
        reduce_mean reduce_max reduce_min reduce_sum reduce_product reduce_index argmax argsort sort all any
    """,
    "elementwise": """
        add sub mul divide floor_divide modulo maximum minimum abs sqrt rsqrt round not and or xor equal not_equal
        greater where cast range bitwise_and bitwise_or bitwise_xor
        broadcasting_add broadcasting_sub broadcasting_mul broadcasting_divide broadcasting_floor_divide
        broadcasting_modulo broadcasting_maximum broadcasting_minimum broadcasting_where broadcasting_equal
        broadcasting_not_equal broadcasting_greater broadcasting_and broadcasting_or broadcasting_xor
    """,
    "transcendental": """
        exp log erf sigmoid tanh gelu silu sin cos tan sinh cosh asin acos atan asinh acosh atanh pow
        broadcasting_pow
    """,
    "normalizing": """
        softmax
    """,
    "memory": """
        concat split slice slice_update transpose tile broadcast_to broadcast_in_dims gather_along_axis scatter_nd
        scatter_along_axis reverse interpolate interpolate_coordinates non_zero
    """,
}
