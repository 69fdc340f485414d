"""Hugging Face models of next to no parameters, with random weights: the same for the same sizes."""

from __future__ import annotations

from typing import Any

import torch


def classifier(*, vocabulary: int, width: int, inner: int, positions: int) -> Any:
    """A BERT of one layer with three classes."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=inner, max_position_embeddings=positions, num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def language_model(*, vocabulary: int, width: int, positions: int) -> Any:
    """A GPT-2 of one layer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=width, n_layer=1, n_head=2, n_positions=positions, bos_token_id=0,
        eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()
