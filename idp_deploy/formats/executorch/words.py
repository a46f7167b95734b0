"""ExecuTorch's words for operators, those of ATen without overload, by what they do (`formats.operators.CLASSES`)."""

CHANNELS_LAST = False
WORDS: dict[str, str] = {
    "convolution": "aten::convolution",
    "product": "aten::linear aten::mm aten::bmm aten::addmm aten::matmul",
    "table": "aten::embedding",
    "view": "aten::view_copy aten::unsqueeze_copy aten::squeeze_copy executorch_prim::et_view",
    "fused": "aten::relu aten::clamp aten::hardtanh",
    "pool": "aten::max_pool2d_with_indices aten::avg_pool2d",
    "reduction": "aten::mean aten::sum aten::amax aten::argmax",
    "elementwise": "aten::add aten::sub aten::mul aten::div aten::native_layer_norm",
    "transcendental": "aten::sigmoid aten::tanh aten::gelu aten::exp",
    "normalizing": "aten::_softmax",
    "memory": "aten::permute_copy aten::cat aten::slice_copy aten::expand_copy aten::clone aten::select_copy",
}
