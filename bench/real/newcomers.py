"""More networks of timm, torchvision and transformers, of kinds that the first list lacks."""

from __future__ import annotations

from typing import Any

import torch

from bench.real.strangers import Stranger, _ids, _pictures, timm, torchvision, transformers

_SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BERT = _SMALL | {"intermediate_size": 64, "max_position_embeddings": 32}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 64}


def _words(batch: int) -> tuple[Any, ...]:
    return _ids(60, 16)(batch)[:1]


def _images(batch: int) -> tuple[Any, ...]:
    return (_pictures(batch, 64),)


def _film(batch: int) -> tuple[Any, ...]:
    return (torch.stack([_pictures(batch, 32) for _ in range(8)], 2),)


def _filmed(stranger: Stranger) -> Stranger:
    return Stranger(stranger.library, stranger.build, _film)


def _two(stranger: Stranger) -> Stranger:
    return Stranger(stranger.library, stranger.build, lambda batch: (*_pictured(batch), *_pictured(batch)))


def _pictured(batch: int) -> tuple[Any, ...]:
    return (_pictures(batch, 128),)


NEWCOMERS: dict[str, Stranger] = {
    "hardcorenas": timm("hardcorenas_a"),
    "lcnet": timm("lcnet_050"),
    "semnasnet": timm("semnasnet_075"),
    "convnextv2": timm("convnextv2_atto", depths=(1, 1, 2, 1)),
    "mobilevitv2": timm("mobilevitv2_050"),
    "poolformer": timm("poolformer_s12"),
    "tiny_vit": timm("tiny_vit_5m_224"),
    "sknet": timm("skresnet18"),
    "res2net": timm("res2net50_14w_8s", layers=(1, 1, 1, 1)),
    "dla": timm("dla46_c"),
    "hrnet": timm("hrnet_w18_small"),
    "inception_next": timm("inception_next_atto", depths=(1, 1, 2, 1)),
    "nextvit": timm("nextvit_small", depths=(1, 1, 5, 1)),
    "focalnet": timm("focalnet:FocalNet", embed_dim=32, depths=(1, 1, 1, 1)),
    "deit": timm("deit3_small_patch16_224", img_size=64, depth=2),
    "deit_distilled": timm("deit_tiny_distilled_patch16_224", img_size=64, depth=2),
    "cait": timm("cait_xxs24_224", img_size=64, depth=2),
    "beit": timm("beit_base_patch16_224", img_size=64, depth=2, embed_dim=96, num_heads=4),
    "volo": timm(
        "volo:VOLO", img_size=64, layers=(1, 1, 1, 1), embed_dims=(48, 96, 96, 96), num_heads=(2, 4, 4, 4),
        downsamples=(True, False, False, False), outlook_attention=(True, False, False, False),
    ),
    "gmlp": timm("gmlp_ti16_224", img_size=64),
    "resmlp": timm("resmlp_12_224", img_size=64),
    "rdnet": timm("rdnet_tiny", growth_rates=(16, 16, 16, 16, 16, 16, 16), num_blocks_list=(1, 1, 1, 1, 1, 1, 1)),
    "fasternet": timm("fasternet_t0"),
    "shvit": timm("shvit_s1"),
    "ghostnetv2": timm("ghostnetv2_100"),
    "ghostnetv3": timm("ghostnetv3_050"),
    "mobilenet_edgetpu": timm("mobilenet_edgetpu_v2_xs"),
    "lite0": timm("tf_efficientnet_lite0"),
    "efficientvit_m": timm("efficientvit_m0", img_size=64),
    "swiftformer": timm("swiftformer_xs"),
    "sequencer": timm("sequencer2d_s", img_size=64, layers=(1, 1, 1, 1), embed_dims=(48, 48, 48, 48)),
    "convit": timm("convit_tiny", img_size=64, depth=2, local_up_to_layer=1),
    "twins": timm("twins_svt_small", img_size=64, depths=(1, 1, 1, 1)),
    "visformer": timm("visformer_tiny", img_size=64, depth=(1, 1, 1)),
    "hgnet": timm("hgnetv2_b0"),
    "vovnet": timm("ese_vovnet19b_dw"),
    "nfnet": timm("nf_resnet26"),
    "botnet": timm("botnet26t_256", 256),
    "halonet": timm("halonet26t", 256),
    "lambda": timm("lambda_resnet26t", 64),
    "gcresnet": timm("gcresnext26ts"),
    "cspnet": timm("cspresnet50"),
    "selecsls": timm("selecsls42b"),
    "hiera": timm("hiera_tiny_224", img_size=(64, 64), stages=(1, 1, 1, 1)),
    "davit": timm("davit_tiny", depths=(1, 1, 1, 1)),
    "gcvit": timm("gcvit_xxtiny", 64, img_size=64),
    "eva02": timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    "nest": timm("nest:Nest", img_size=64, depths=(1, 1, 1), embed_dims=(48, 48, 48), num_heads=(2, 2, 2)),
    "pit": timm("pit_ti_224", 64, img_size=64),
    "coatnet": timm("coatnet_nano_rw_224", img_size=64, depths=(1, 1, 1, 1)),
    "mambaout": timm("mambaout_femto", depths=(1, 1, 1, 1)),
    "repghost": timm("repghostnet_050"),
    "efficientformer_l1": timm("efficientformer_l1", 224),
    "rexnet": timm("rexnet_100"),
    "mnv4_hybrid": timm("mobilenetv4_hybrid_medium"),
    "csat": timm("csatv2"),
    "relpos": timm("vit_srelpos_small_patch16_224", img_size=64, depth=2),
    "samvit": timm("samvit_base_patch16", img_size=64, depth=2, embed_dim=96, num_heads=4, global_attn_indexes=(1,)),
    "tnt": timm("tnt_s_legacy_patch16_224", img_size=64, depth=2),
    "convmixer": timm("convmixer:ConvMixer", depth=2, dim=64),
    "vitamin": timm("vitamin_small_224", 64, img_size=64),
    "dinov3": timm("vit_small_patch16_dinov3", 64, img_size=64, depth=2),
    "naflexvit": timm("naflexvit_base_patch16_gap", img_size=64, depth=2, embed_dim=96, num_heads=4),
    "gemma4_vit": timm("gemma4_vit_167m", img_size=64, depth=2, embed_dim=96, num_heads=4),
    "raft": _two(torchvision("raft_small")),
    "r3d": _filmed(torchvision("r3d_18")),
    "r2plus1d": _filmed(torchvision("r2plus1d_18")),
    "swin3d": _filmed(
        torchvision(
            "video.swin_transformer:SwinTransformer3d", 32, patch_size=[2, 4, 4], embed_dim=24, depths=[1, 1],
            num_heads=[2, 4], window_size=[2, 4, 4], num_classes=10,
        )
    ),
    "vit_b": torchvision(
        "vision_transformer:VisionTransformer", image_size=64, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32,
        mlp_dim=64, num_classes=10,
    ),
    "maxvit_tv": torchvision(
        "maxvit:MaxVit", input_size=(64, 64), stem_channels=16, partition_size=2, block_channels=[16, 32],
        block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0, num_classes=10,
    ),
    "mpnet": transformers("MPNetModel", "MPNetConfig", _ids(60, 16), _BERT),
    "deberta": transformers(
        "DebertaV2Model", "DebertaV2Config", _ids(60, 16),
        _BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
                 "norm_rel_ebd": "layer_norm", "share_att_key": True, "conv_kernel_size": 3},
    ),
    "roformer": transformers("RoFormerModel", "RoFormerConfig", _ids(60, 16), _BERT | {"embedding_size": 16}),
    "squeezebert": transformers("SqueezeBertModel", "SqueezeBertConfig", _ids(60, 16), _BERT | {"embedding_size": 32}),
    "funnel": transformers(
        "FunnelBaseModel", "FunnelConfig", _ids(60, 16),
        {"vocab_size": 60, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    ),
    "hubert": transformers(
        "HubertModel", "HubertConfig", lambda batch: (torch.randn(batch, 1600),),
        {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "conv_dim": [16, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3],
         "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "do_stable_layer_norm": True,
         "feat_extract_norm": "layer"},
    ),
    "clip_text": transformers(
        "CLIPTextModelWithProjection", "CLIPTextConfig", _ids(60, 16), _BERT | {"projection_dim": 16, "eos_token_id": 2}
    ),
    "mobilevit_hf": transformers(
        "MobileViTForSemanticSegmentation", "MobileViTConfig", _images,
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40], "image_size": 64,
         "aspp_out_channels": 16, "num_labels": 5},
    ),
    "dinov2": transformers("Dinov2Model", "Dinov2Config", _images, _VIT | {"mlp_ratio": 2, "patch_size": 16}),
    "siglip": transformers("SiglipVisionModel", "SiglipVisionConfig", _images, _VIT | {"patch_size": 16}),
    "depth_anything": transformers(
        "DPTForDepthEstimation", "DPTConfig", _images,
        _VIT | {"patch_size": 16, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 16, 16],
                "fusion_hidden_size": 16, "reassemble_factors": [4, 2, 1, 0.5], "num_hidden_layers": 4,
                "is_hybrid": False},
    ),
    "patchtst": transformers(
        "PatchTSTForPrediction", "PatchTSTConfig", lambda batch: (torch.randn(batch, 32, 2),),
        {"num_input_channels": 2, "context_length": 32, "patch_length": 4, "patch_stride": 4, "d_model": 16,
         "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 32, "prediction_length": 8},
    ),
    "patchtsmixer": transformers(
        "PatchTSMixerForPrediction", "PatchTSMixerConfig", lambda batch: (torch.randn(batch, 32, 2),),
        {"num_input_channels": 2, "context_length": 32, "patch_length": 4, "patch_stride": 4, "d_model": 16,
         "num_layers": 2, "prediction_length": 8},
    ),
    "mamba": transformers(
        "MambaForCausalLM", "MambaConfig", _words,
        {"vocab_size": 60, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "use_cache": False},
    ),
    "qwen3": transformers(
        "Qwen3ForCausalLM", "Qwen3Config", _ids(60, 16),
        _SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "use_cache": False},
    ),
    "gemma3": transformers(
        "Gemma3ForCausalLM", "Gemma3TextConfig", _ids(60, 16),
        _SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "use_cache": False,
                  "sliding_window": 8},
    ),
    "phi3": transformers(
        "Phi3ForCausalLM", "Phi3Config", _ids(60, 16),
        _SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0},
    ),
    "bloom": transformers(
        "BloomForCausalLM", "BloomConfig", _words,
        {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
    ),
    "opt": transformers(
        "OPTForCausalLM", "OPTConfig", _ids(60, 16),
        _BERT | {"ffn_dim": 64, "word_embed_proj_dim": 16, "use_cache": False},
    ),
    "bart_encoder": transformers(
        "BartModel", "BartConfig", _ids(60, 16),
        {"vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 32},
        "encoder",
    ),
    "detr": transformers(
        "DetrForObjectDetection", "DetrConfig", _images,
        {"use_timm_backbone": False, "use_pretrained_backbone": False, "num_queries": 5, "d_model": 32,
         "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_labels": 4,
         "backbone_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 16],
                             "depths": [1, 1, 1, 1], "out_features": ["stage4"]}},
    ),
    "vits_text": transformers(
        "VitsModel", "VitsConfig", lambda batch: (*_words(batch), torch.ones(batch, 16, 1)),
        {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64},
        "text_encoder",
    ),
    "audio_spectrogram": transformers(
        "ASTForAudioClassification", "ASTConfig", lambda batch: (torch.randn(batch, 64, 32),),
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_length": 64, "num_mel_bins": 32},
    ),
    "seanet": transformers(
        "EncodecModel", "EncodecConfig", lambda batch: (torch.randn(batch, 1, 640),),
        {"num_filters": 8, "hidden_size": 16, "codebook_dim": 16, "upsampling_ratios": [4, 2]}, "encoder",
    ),
    "perceiver": transformers(
        "PerceiverForMaskedLM", "PerceiverConfig", _ids(60, 16),
        {"vocab_size": 60, "d_model": 32, "d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2,
         "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "max_position_embeddings": 16,
         "qk_channels": 32, "v_channels": 32},
    ),
    "levit_hf": transformers(
        "LevitForImageClassification", "LevitConfig", _images,
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
         "key_dim": [8, 8, 8]},
    ),
    "rwkv": transformers(
        "RwkvForCausalLM", "RwkvConfig", _words,
        {"vocab_size": 60, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "use_cache": False,
         "context_length": 32},
    ),
}  # fmt: skip
