"""A tiny random base of every architecture for which transformers has a head for classification."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

KINDS = {kind.model_type: kind for kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING}
LABELS = 3
MOST = 3_000_000  # parameters that a tiny base may have

# Small values for the sizes in a configuration, under every name that some architecture uses.
_NAMES = {
    128: "vocab_size",
    64: "intermediate_size ffn_dim d_ff d_inner hidden_dim n_inner dff moe_intermediate_size encoder_ffn_dim "
    "decoder_ffn_dim max_position_embeddings n_positions max_seq_len max_2d_position_embeddings seq_length",
    32: "hidden_size d_model n_embd dim emb_dim embedding_size word_embed_proj_dim embed_dim "
    "shared_expert_intermediate_size "
    "input_embedding_size output_embedding_size projection_dim true_hidden_size intra_bottleneck_size",
    16: "linear_key_head_dim linear_value_head_dim entity_emb_size",
    8: "head_dim d_kv d_head kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim index_head_dim "
    "index_topk qk_head_dim rotary_dim",
    4: "num_attention_heads num_heads n_head n_heads encoder_attention_heads decoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts",
    2: "num_hidden_layers num_layers n_layer n_layers num_decoder_layers decoder_layers encoder_layers "
    "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk index_n_heads linear_num_value_heads "
    "linear_num_key_heads",
    1: "n_group topk_group num_memory_blocks n_shared_experts",
    0: "pad_token_id",
    3: "eos_token_id",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()} | {"bos_token_id": 2}
VISION = {"image_size": 28, "patch_size": 14}

# Settings of single architectures.
OWN: dict[str, dict[str, Any]] = {
    "canine": {"num_hash_buckets": 64, "num_hash_functions": 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        "layer_types": ["full_attention", "full_attention"],
    },
    "esmc": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "luke": {"entity_vocab_size": 16},
    "markuplm": {"max_xpath_tag_unit_embeddings": 16, "tag_pad_id": 15, "max_xpath_subs_unit_embeddings": 16}
    | {"subs_pad_id": 15},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 1}
    | {"num_self_attention_heads": 4, "num_cross_attention_heads": 4},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {"axial_pos_embds": False, "attention_head_size": 8, "feed_forward_size": 64},
    "roc_bert": {"pronunciation_vocab_size": 16, "pronunciation_embed_dim": 8, "shape_vocab_size": 16}
    | {"shape_embed_dim": 8},
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4, "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 2, "mamba_d_state": 16, "adapter_rank": 8},
}
UNBUILT = {"layoutlmv2": "needs the library detectron2"}


def tiny_config(kind: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """A configuration in which every size is small."""
    return kind(**_settings(kind) | changes, num_labels=LABELS)


def _settings(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    default = kind()
    known = {name for name in vars(default) if not name.startswith("_")}
    settings = {name: size for name, size in SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has no grouped heads
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    for name, part in kind.sub_configs.items():
        inner = type(getattr(default, name)) if part is AutoConfig else part
        settings[name] = _settings(inner) | (VISION if name == "vision_config" else {})
    return settings | OWN.get(kind.model_type, {})


def tiny_base(kind: type[PreTrainedConfig], **changes: Any) -> Any:
    """The frozen model; its weights are the same each time.

    Raises:
        MemoryError: the model has more than `MOST` parameters.
    """
    config = tiny_config(kind, **changes)
    with torch.device("meta"):
        skeleton = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    if (size := sum(parameter.numel() for parameter in skeleton.parameters())) > MOST:
        raise MemoryError(f"{size:,} parameters")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    model.config.use_cache = False
    model.config.problem_type = "single_label_classification"
    return model.requires_grad_(False).eval()
