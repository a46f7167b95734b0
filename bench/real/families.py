"""Families of transformers that the other lists lack: states, experts, codecs, series, places, long texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.real.newcomers import _BERT, _SMALL, _VIT, _images, _words
from bench.real.strangers import Stranger, _ids, _pictures, transformers

_DECODER = _SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "use_cache": False}
_EXPERTS = _DECODER | {"num_experts_per_tok": 2, "head_dim": 8}
_SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": [16, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 20,
}  # fmt: skip
_BOTH = {
    "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "use_cache": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def _long(batch: int) -> tuple[Any, ...]:
    return _ids(60, 64)(batch)


def _sound(batch: int) -> tuple[Any, ...]:
    return (torch.randn(batch, 1600),)


def _wave(batch: int) -> tuple[Any, ...]:
    return (torch.randn(batch, 1, 640),)


def _film(batch: int) -> tuple[Any, ...]:
    return (torch.stack([_pictures(batch, 32) for _ in range(4)], 1),)


def _both(batch: int) -> tuple[Any, ...]:
    ids, mask = _ids(60, 16)(batch)
    return ids, mask, _words(batch)[0]


class Told(nn.Module):
    """A model called with arguments by their names."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: Any) -> Any:
        return self.model(**dict(zip(self.names, given, strict=True)))


def _told(stranger: Stranger, *names: str) -> Stranger:
    return Stranger(stranger.library, lambda: Told(stranger.build(), names), stranger.inputs)


FAMILIES: dict[str, Stranger] = {
    "mamba2": transformers(
        "Mamba2ForCausalLM", "Mamba2Config", _words,
        {"vocab_size": 60, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "use_cache": False,
         "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "falcon_mamba": transformers(
        "FalconMambaForCausalLM", "FalconMambaConfig", _words,
        {"vocab_size": 60, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "use_cache": False},
    ),
    "recurrent_gemma": transformers(
        "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", _words,
        _SMALL | {"intermediate_size": 64, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8,
                  "num_key_value_heads": 1, "use_cache": False},
    ),
    "xlstm": transformers(
        "xLSTMForCausalLM", "xLSTMConfig", _words,
        {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "use_cache": False,
         "chunk_size": 8},
    ),
    "lfm2": transformers(
        "Lfm2ForCausalLM", "Lfm2Config", _ids(60, 16),
        _DECODER | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "qwen3_next": transformers(
        "Qwen3NextForCausalLM", "Qwen3NextConfig", _ids(60, 16),
        _EXPERTS | {"layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8,
                    "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                    "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    "mixtral": transformers("MixtralForCausalLM", "MixtralConfig", _ids(60, 16), _EXPERTS | {"num_local_experts": 4}),
    "qwen3_moe": transformers(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", _ids(60, 16),
        _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "norm_topk_prob": True},
    ),
    "gpt_oss": transformers(
        "GptOssForCausalLM", "GptOssConfig", _ids(60, 16), _EXPERTS | {"num_local_experts": 4, "sliding_window": 8}
    ),
    "deepseek_v3": transformers(
        "DeepseekV3ForCausalLM", "DeepseekV3Config", _ids(60, 16),
        _DECODER | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
                    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
    ),
    "switch": _told(
        transformers(
            "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig", _both,
            {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
             "num_heads": 4, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
             "use_cache": False, "decoder_start_token_id": 0},
        ),
        "input_ids", "attention_mask", "decoder_input_ids",
    ),
    "encodec": transformers(
        "EncodecModel", "EncodecConfig", _wave,
        {"num_filters": 8, "hidden_size": 16, "codebook_dim": 16, "upsampling_ratios": [4, 2], "codebook_size": 32},
    ),
    "mimi": transformers(
        "MimiModel", "MimiConfig", _wave,
        _SMALL | {"num_filters": 8, "codebook_dim": 16, "upsampling_ratios": [4, 2],
                  "upsample_groups": 32, "codebook_size": 32,
                  "num_quantizers": 4, "num_semantic_quantizers": 1, "intermediate_size": 64, "frame_rate": 1500,
                  "vector_quantization_hidden_dimension": 16, "num_key_value_heads": 4, "head_dim": 8,
                  "sliding_window": 16, "use_cache": False},
    ),
    "dac": transformers(
        "DacModel", "DacConfig", _wave,
        {"encoder_hidden_size": 8, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4],
         "upsampling_ratios": [4, 2], "n_codebooks": 2, "codebook_size": 32, "codebook_dim": 4},
    ),
    "timesfm": _told(
        transformers(
            "TimesFmModelForPrediction", "TimesFmConfig",
            lambda batch: (torch.randn(batch, 32).cumsum(1), torch.zeros(batch, dtype=torch.int64)),
            {"patch_length": 8, "context_length": 32, "horizon_length": 8, "hidden_size": 32, "intermediate_size": 32,
             "head_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 4},
        ),
        "past_values", "freq",
    ),
    "hiera_hf": transformers(
        "HieraForImageClassification", "HieraConfig", _images,
        {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 1], "num_heads": [1, 2, 4], "query_stride": [2, 2],
         "num_query_pool": 2, "masked_unit_size": [4, 4], "num_labels": 4},
    ),
    "siglip2": _told(
        transformers(
            "Siglip2VisionModel", "Siglip2VisionConfig",
            lambda batch: (
                torch.randn(batch, 16, 192), torch.ones(batch, 16, dtype=torch.int64),
                torch.tensor([[4, 4]]).repeat(batch, 1),
            ),
            {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "patch_size": 8, "num_patches": 16},
        ),
        "pixel_values", "pixel_attention_mask", "spatial_shapes",
    ),
    "dinov3_hf": transformers("DINOv3ViTModel", "DINOv3ViTConfig", _images, _VIT | {"patch_size": 16}),
    "rf_detr": transformers(
        "RfDetrForObjectDetection", "RfDetrConfig", _images,
        {"d_model": 32, "num_queries": 5, "decoder_layers": 2, "decoder_self_attention_heads": 4,
         "decoder_cross_attention_heads": 4, "decoder_ffn_dim": 64, "decoder_n_points": 2, "num_labels": 4,
         "group_detr": 1},
    ),
    "vitpose": transformers(
        "VitPoseForPoseEstimation", "VitPoseConfig", lambda batch: (_pictures(batch, 64),),
        {"backbone_config": {"model_type": "vitpose_backbone", "image_size": [64, 64], "patch_size": [16, 16],
                             "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 5,
                             "out_indices": [2]}, "num_labels": 5, "use_simple_decoder": False},
    ),
    "swin2sr": transformers(
        "Swin2SRForImageSuperResolution", "Swin2SRConfig", _images,
        {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "upscale": 2},
    ),
    "videomae": transformers(
        "VideoMAEForVideoClassification", "VideoMAEConfig", _film,
        _VIT | {"image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "num_labels": 4},
    ),
    "timesformer": transformers(
        "TimesformerForVideoClassification", "TimesformerConfig", _film,
        _VIT | {"image_size": 32, "patch_size": 8, "num_frames": 4, "num_labels": 4},
    ),
    "vits": transformers(
        "VitsModel", "VitsConfig", _ids(60, 16),
        {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 64,
         "flow_size": 32, "spectrogram_bins": 16, "upsample_initial_channel": 32,
         "use_stochastic_duration_prediction": False},
    ),
    "univnet": _told(
        transformers(
            "UnivNetModel", "UnivNetConfig", lambda batch: (torch.randn(batch, 8, 16), torch.randn(batch, 8, 8)),
            {"model_in_channels": 8, "model_hidden_channels": 8, "num_mel_bins": 16,
             "kernel_predictor_hidden_channels": 8},
        ),
        "input_features", "noise_sequence",
    ),
    "whisper": _told(
        transformers(
            "WhisperForConditionalGeneration", "WhisperConfig",
            lambda batch: (torch.randn(batch, 16, 64), _words(batch)[0]),
            _BOTH | {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32},
        ),
        "input_features", "decoder_input_ids",
    ),
    "moonshine": _told(
        transformers(
            "MoonshineForConditionalGeneration", "MoonshineConfig",
            lambda batch: (torch.randn(batch, 3200), _words(batch)[0]),
            {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 1,
             "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
             "use_cache": False, "decoder_start_token_id": 1},
        ),
        "input_values", "decoder_input_ids",
    ),
    "wavlm": transformers(
        "WavLMModel", "WavLMConfig", _sound, _SPEECH | {"num_buckets": 32, "max_bucket_distance": 80}
    ),
    "sew_d": transformers(
        "SEWDModel", "SEWDConfig", _sound,
        _SPEECH | {"squeeze_factor": 2, "position_buckets": 8, "max_position_embeddings": 64},
    ),
    "wav2vec2_conformer": transformers(
        "Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", _sound,
        _SPEECH | {"position_embeddings_type": "relative", "conv_depthwise_kernel_size": 7},
    ),
    "parakeet": transformers(
        "ParakeetEncoder", "ParakeetEncoderConfig", lambda batch: (torch.randn(batch, 64, 80),),
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "subsampling_conv_channels": 16, "conv_kernel_size": 9},
    ),
    "t5": _told(
        transformers(
            "T5ForConditionalGeneration", "T5Config", _both,
            {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
             "use_cache": False, "decoder_start_token_id": 0},
        ),
        "input_ids", "attention_mask", "decoder_input_ids",
    ),
    "longt5": transformers(
        "LongT5EncoderModel", "LongT5Config", _long,
        {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "local_radius": 7,
         "encoder_attention_type": "transient-global", "global_block_size": 8},
    ),
    "bart": _told(
        transformers("BartForConditionalGeneration", "BartConfig", _both, _BOTH | {"max_position_embeddings": 32}),
        "input_ids", "attention_mask", "decoder_input_ids",
    ),
    "longformer": transformers(
        "LongformerModel", "LongformerConfig", _long,
        _BERT | {"attention_window": [16, 16], "max_position_embeddings": 70, "pad_token_id": 1},
    ),
    "big_bird": transformers(
        "BigBirdModel", "BigBirdConfig", lambda batch: _ids(60, 96)(batch)[:1],
        _BERT | {"block_size": 8, "num_random_blocks": 2, "max_position_embeddings": 128,
                 "attention_type": "block_sparse"},
    ),
    "reformer": transformers(
        "ReformerModel", "ReformerConfig", lambda batch: (torch.randint(3, 60, (batch, 64)),),
        {"vocab_size": 60, "hidden_size": 32, "attention_head_size": 8, "num_attention_heads": 4,
         "feed_forward_size": 64, "attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 8],
         "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16,
         "num_buckets": 4, "max_position_embeddings": 64, "hash_seed": 1, "use_cache": False},
    ),
    "nystromformer": transformers(
        "NystromformerModel", "NystromformerConfig", _long,
        _BERT | {"num_landmarks": 8, "segment_means_seq_len": 64, "max_position_embeddings": 64, "conv_kernel_size": 9},
    ),
    "fnet": transformers("FNetModel", "FNetConfig", _words, _BERT),
    "canine": transformers(
        "CanineModel", "CanineConfig", _long,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 128, "num_hash_buckets": 64, "local_transformer_stride": 16,
         "downsampling_rate": 4},
    ),
    "xlnet": transformers(
        "XLNetModel", "XLNetConfig", _words,
        {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "use_mems_eval": False},
    ),
    "modernbert": transformers(
        "ModernBertModel", "ModernBertConfig", _ids(60, 16),
        _BERT | {"local_attention": 8, "global_attn_every_n_layers": 2, "pad_token_id": 0,
                 "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "bitnet": transformers("BitNetForCausalLM", "BitNetConfig", _ids(60, 16), _DECODER | {"pad_token_id": 0}),
    "jamba": transformers(
        "JambaForCausalLM", "JambaConfig", _ids(60, 16),
        _DECODER | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
                    "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
                    "mamba_dt_rank": 4},
    ),
    "diffllama": transformers("DiffLlamaForCausalLM", "DiffLlamaConfig", _ids(60, 16), _DECODER),
    "wav2vec2_bert": transformers(
        "Wav2Vec2BertModel", "Wav2Vec2BertConfig", lambda batch: (torch.randn(batch, 24, 160),),
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "conv_depthwise_kernel_size": 7},
    ),
    "convbert": transformers("ConvBertModel", "ConvBertConfig", _ids(60, 16), _BERT | {"embedding_size": 32}),
    "superpoint": transformers(
        "SuperPointForKeypointDetection", "SuperPointConfig", _images,
        {"encoder_hidden_sizes": [16, 16, 32, 32], "decoder_hidden_size": 32, "descriptor_decoder_dim": 32},
    ),
    "yoso": transformers("YosoModel", "YosoConfig", _ids(60, 16), _BERT | {"use_expectation": True}),
}  # fmt: skip
