"""MIL's words for operators, by what they do (`formats.operators.CLASSES`)."""

CHANNELS_LAST = False
WORDS: dict[str, str] = {
    "convolution": "conv",
    "transposed": "conv_transpose",
    "product": "linear matmul einsum",
    "attention": "scaled_dot_product_attention",
    "recurrence": "lstm gru rnn",
    "loop": "while_loop cond",
    "table": "gather",
    "view": "reshape squeeze expand_dims flatten2d identity const shape",
    "fused": "relu relu6 clip batch_norm",
    "quantizer": "quantize dequantize",
    "pad": "pad",
    "pool": "max_pool avg_pool l2_pool",
    "reduction": """
        reduce_mean reduce_max reduce_min reduce_sum reduce_prod reduce_l1_norm reduce_l2_norm
        reduce_log_sum_exp reduce_argmax reduce_argmin topk
    """,
    "elementwise": """
        add sub mul real_div floor_div sqrt rsqrt abs square leaky_relu prelu softsign maximum minimum select
        equal not_equal greater greater_equal less less_equal logical_and logical_or logical_not cast layer_norm
        instance_norm l2_norm inverse floor ceil round sign cumsum mod thresholded_relu linear_activation
        range_1d
    """,
    "piecewise": """
        sigmoid_hard
    """,
    "transcendental": """
        pow exp log erf sigmoid tanh gelu silu elu softplus sin cos
    """,
    "normalizing": """
        softmax local_response_norm
    """,
    "memory": """
        concat slice_by_index slice_by_size split transpose gather_along_axis gather_nd tile stack
        upsample_nearest_neighbor upsample_bilinear resize_bilinear resize_nearest_neighbor resize
        depth_to_space space_to_depth pixel_shuffle pixel_unshuffle reverse one_hot fill fill_like scatter
        scatter_nd scatter_along_axis band_part
    """,
}
