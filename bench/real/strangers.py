"""Networks of timm, torchvision and transformers as those build them, small: what a stranger brings.

`python -m bench.real --nets` takes them through every format and scheme. The three libraries are not needed for
anything else: pip install timm torchvision transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.masks import whole_copy
from idp_deploy.pruning import one_shot

_CALLS = 4  # batches that batch norms learn from


@dataclass(frozen=True)
class Stranger:
    """One network: how its library builds it, and one call's arguments with a batch of the size asked for."""

    library: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]


def timm(name: str, size: int = 64, **options: Any) -> Stranger:
    """A network of timm, or "file:Class", with 10 classes on images of `size` × `size`."""

    def build() -> nn.Module:
        _know_torchvision_operators()
        from timm import create_model

        file, _, kind = name.partition(":")
        make = getattr(import_module(f"timm.models.{file}"), kind) if kind else partial(create_model, name)
        module: nn.Module = make(num_classes=10, **options)
        return module

    return Stranger("timm", build, lambda batch: (_pictures(batch, size),))


def torchvision(path: str, size: int = 64, **options: Any) -> Stranger:
    """A network of torchvision.models by its name, or by "file:Class", with weights drawn by it."""

    def build() -> nn.Module:
        _know_torchvision_operators()
        import torchvision.models as library

        file, _, kind = path.partition(":")
        if kind:
            module: nn.Module = getattr(import_module(f"torchvision.models.{file}"), kind)(**options)
        else:
            module = library.get_model(path, weights=None, **options)
        return module

    return Stranger("torchvision", build, lambda batch: (_pictures(batch, size),))


def transformers(
    model: str, config: str, inputs: Callable[[int], tuple[Any, ...]], options: dict[str, Any], part: str = ""
) -> Stranger:
    """A class of transformers, or a part of its modules, with a configuration of few and narrow layers."""

    def build() -> nn.Module:
        _know_torchvision_operators()
        import transformers as library

        module: nn.Module = getattr(library, model)(getattr(library, config)(**options))
        return module.get_submodule(part)

    return Stranger("transformers", build, inputs)


def alive(stranger: Stranger, sparsity: float, *, scaled: bool, seed: int = 0) -> CompressedModel:
    """The network with `sparsity` of every matrix zero; `scaled` so that its outputs depend on its inputs.

    As drawn, many networks hardly look at their input: class tokens of 1e-6, factors of 1e-5 behind every block, last
    layers of zeros. Scaled, every pruned weight has the energy that it had before or of a usual initialization, vectors
    are drawn, and batch norms learn their statistics.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = whole_copy(stranger.build().eval())
        if scaled:
            _draw(module)
        model = one_shot(Model(module), Recipe(sparsity, allocation="uniform"))
        if scaled:
            for name in model.masks:
                weight = model.module.get_parameter(name)
                weight.mul_(module.get_parameter(name).norm() / weight.norm().clamp_min(1e-12))
            _learn_statistics(model.module, stranger)
    model.module.eval()
    return model


def _draw(module: nn.Module) -> None:
    """Every parameter anew where its library draws it so small that nothing is left of it after the next sum."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            usual = 1 / math.sqrt(max(1, math.prod(parameter.shape[1:])))
            if float(parameter.std()) < usual / 2:
                nn.init.normal_(parameter, std=usual)
        elif "bias" in name:
            nn.init.normal_(parameter, std=0.1)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)


def _learn_statistics(module: nn.Module, stranger: Stranger) -> None:
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.5
    for _ in range(_CALLS if norms else 0):
        module(*stranger.inputs(4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _pictures(batch: int, size: int) -> Tensor:
    """Coarse patches, a tint and a little grain: pure noise would average out and leave every output alike."""
    patches = torch.randn(batch, 3, 4, 4).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
    return patches + torch.randn(batch, 3, 1, 1) + 0.3 * torch.randn(batch, 3, size, size)


def _ids(words: int, length: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda batch: (torch.randint(3, words, (batch, length)), torch.ones(batch, length, dtype=torch.int64))


def _know_torchvision_operators() -> None:
    """torchvision of a build for another kind of torch has no compiled operators, and then stops at their names."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with suppress(RuntimeError):  # it has them
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as the library that defined it

_SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BERT = _SMALL | {"intermediate_size": 64, "max_position_embeddings": 32}

STRANGERS: dict[str, Stranger] = {
    "fastvit_t8": timm("fastvit_t8"),
    "vit_tiny": timm("vit_tiny_patch16_224", img_size=64, depth=4),
    "vit_small": timm("vit_small_patch16_224", img_size=64, depth=2),
    "efficientvit_b0": timm("efficientvit_b0"),
    "ghostnet_100": timm("ghostnet_100"),
    "mnasnet0_5": torchvision("mnasnet0_5"),
    "convnext": timm("convnext_atto", depths=(1, 1, 2, 1)),
    "mobilevit": timm("mobilevit_xxs"),
    "mobileone": timm("mobileone_s0"),
    "repvgg": timm("repvgg_a0", 64),
    "swin": timm(
        "swin_tiny_patch4_window7_224", 64, img_size=64, window_size=4, depths=(1, 2), num_heads=(2, 4), embed_dim=24
    ),
    "swinv2": timm(
        "swinv2_tiny_window8_256", 64, img_size=64, window_size=4, depths=(1, 2), num_heads=(2, 4), embed_dim=24
    ),
    "efficientformer": timm("efficientformerv2_s0", 64, img_size=64),
    "edgenext": timm("edgenext_xx_small"),
    "regnet": timm("regnety_002"),
    "mobilenetv4": timm("mobilenetv4_conv_small"),
    "levit": timm("levit_128s", 64, img_size=64),
    "mixer": timm("mixer_s32_224", 64, img_size=64),
    "maxvit": timm("maxvit_pico_rw_256", 64, img_size=64, depths=(1, 1), embed_dim=(32, 64)),
    "coat": timm("coat_lite_tiny", 64, img_size=64),
    "repvit": timm("repvit_m0_9"),
    "pvt": timm("pvt_v2_b0", depths=(1, 1, 1, 1)),
    "starnet": timm("starnet_s1"),
    "tinynet": timm("tinynet_e"),
    "mixnet": timm("mixnet_s"),
    "resnest": timm("resnest14d"),
    "xcit": timm("xcit_nano_12_p16_224", 64, img_size=64, depth=2),
    "mobilenet_v2": torchvision("mobilenet_v2"),
    "mobilenet_v3": torchvision("mobilenet_v3_small"),
    "shufflenet": torchvision("shufflenet_v2_x0_5"),
    "squeezenet": torchvision("squeezenet1_1"),
    "googlenet": torchvision("googlenet", init_weights=False),
    "inception": torchvision("inception_v3", 96, init_weights=False),
    "densenet": torchvision("densenet:DenseNet", block_config=(2, 2, 2, 2), num_classes=10),
    "efficientnet": torchvision("efficientnet_b0"),
    "efficientnet_v2": timm("tf_efficientnetv2_b0"),
    "lraspp": torchvision("lraspp_mobilenet_v3_large", weights_backbone=None),
    "deeplab": torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None),
    "bert": transformers("BertForSequenceClassification", "BertConfig", _ids(60, 16), _BERT),
    "albert": transformers("AlbertModel", "AlbertConfig", _ids(60, 16), _BERT | {"embedding_size": 16}),
    "distilbert": transformers(
        "DistilBertForTokenClassification", "DistilBertConfig", _ids(60, 16),
        {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 32},
    ),
    "mobilebert": transformers(
        "MobileBertModel", "MobileBertConfig", _ids(60, 16),
        _SMALL | {"intermediate_size": 32, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "electra": transformers(
        "ElectraForQuestionAnswering", "ElectraConfig", _ids(60, 16), _BERT | {"embedding_size": 16}
    ),
    "t5_encoder": transformers(
        "T5EncoderModel", "T5Config", _ids(60, 16),
        {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
    "gpt2": transformers(
        "GPT2LMHeadModel", "GPT2Config", lambda batch: _ids(60, 16)(batch)[:1],
        {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "use_cache": False},
    ),
    "llama": transformers(
        "LlamaForCausalLM", "LlamaConfig", _ids(60, 16),
        _SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "use_cache": False},
    ),
    "segformer": transformers(
        "SegformerForSemanticSegmentation", "SegformerConfig", lambda batch: (_pictures(batch, 64),),
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32, "num_labels": 5},
    ),
    "yolos": transformers(
        "YolosForObjectDetection", "YolosConfig", lambda batch: (_pictures(batch, 64),),
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "image_size": [64, 64], "num_detection_tokens": 5, "num_labels": 4},
    ),
    "whisper_encoder": transformers(
        "WhisperModel", "WhisperConfig", lambda batch: (torch.randn(batch, 16, 64),),
        {"vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 16,
         "max_source_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 1},
        "encoder",
    ),
    "wav2vec2": transformers(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", lambda batch: (torch.randn(batch, 1600),),
        {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "conv_dim": [16, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3],
         "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    ),
    "clip_vision": transformers(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", lambda batch: (_pictures(batch, 64),),
        {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 16, "num_hidden_layers": 2,
         "num_attention_heads": 4, "image_size": 64, "patch_size": 16},
    ),
}  # fmt: skip
