"""Tiny models of transformers with delta-rule layers: tokens in, logits out."""

import torch

WIDTH, VOCABULARY = 16, 48
KEYS, VALUES = 8, 6  # dimensions of a head
_DENSE = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
_GATED = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": KEYS,
    "linear_value_head_dim": VALUES,
    "linear_conv_kernel_dim": 3,
    "head_dim": 8,
}
_EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}

# Name of the configuration and of the model, what a configuration calls the key size, options.
FAMILIES = {
    "Qwen3Next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        "linear_key_head_dim",
        _DENSE | _GATED | _EXPERTS,
    ),
    "Qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", "linear_key_head_dim", _DENSE | _GATED),
    "OlmoHybrid": (
        "OlmoHybridConfig",
        "OlmoHybridForCausalLM",
        "linear_key_head_dim",
        _DENSE | _GATED,
    ),
    "LaraMini": (
        "LaraMiniConfig",
        "LaraMiniForCausalLM",
        "linear_key_head_dim",
        _DENSE | _GATED | _EXPERTS,
    ),
    "KimiLinear": (
        "KimiLinearConfig",
        "KimiLinearForCausalLM",
        "linear_head_dim",
        {"linear_num_heads": 2, "linear_head_dim": KEYS, "linear_conv_kernel_dim": 3}
        | {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2},
    ),
    "MiniMax": (
        "MiniMaxConfig",
        "MiniMaxForCausalLM",
        "head_dim",
        _DENSE | {"num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 7},
    ),
}


def xlstm(keys=KEYS, layers=1, heads=2, hidden=WIDTH, **more):
    """A causal language model of matrix memories, with gates of a size that matters."""
    import transformers
    from transformers.initialization import no_init_weights

    torch.manual_seed(0)
    given = {"vocab_size": VOCABULARY, "hidden_size": hidden, "num_hidden_layers": layers}
    given |= {"num_heads": heads, "chunk_size": 5, "autocast_kernel_dtype": "float32"}
    given |= {"qk_dim_factor": heads * keys / hidden, "pad_token_id": 0, "bos_token_id": 1}
    # Its cache rounds up, so without a fitting size there is none.
    given |= {"eos_token_id": 2, "use_cache": hidden % 64 == 0}
    config = transformers.xLSTMConfig(**given | more)
    with no_init_weights():  # which fails for fused weights
        model = transformers.xLSTMForCausalLM(config)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.3)
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.5)
    return model


def language_model(family, keys=KEYS, layers=2, **more):
    """A causal language model with fresh weights and so many layers of the family's kind."""
    import transformers

    config, model, size, options = FAMILIES[family]
    # `generate` counts the steps in the cache of a layer of the other kind.
    kinds = ["linear_attention"] * layers + ["full_attention"]
    given = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    made = getattr(transformers, config)(**{**given, **options, size: keys, **more})
    built = getattr(transformers, model)(made)
    if "rms_norm_eps" in more:  # OlmoHybrid has a number of its own for the norm of a head
        for module in built.modules():
            if hasattr(module, "o_norm"):
                module.o_norm.variance_epsilon = more["rms_norm_eps"]
    return built
