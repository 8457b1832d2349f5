"""A small GPT: what predicts each next token of a text from those before it (Radford et al. 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightning_gap.functional._validation import whole_number


class GPT(nn.Module):
    """Blocks of causal attention and two dense layers, LayerNorm before each; no dropout.

    Scores are laid out as `torch.nn.functional.cross_entropy` takes those of sequences: classes before positions.
    Weights begin at N(0, 0.02^2), those that write into the residual stream at 0.02 / sqrt(2 depth), as GPT-2's.

    Args:
        tokens: Different tokens; 256 of bytes.
        length: Most tokens of a sequence.
        width: Units of the residual stream.
        depth: Blocks.
        heads: Attention heads; they share ``width`` equally.

    Raises:
        ValueError: If a count is not a whole number of at least 1, or ``heads`` does not divide ``width``.
    """

    def __init__(
        self, tokens: int = 256, *, length: int = 128, width: int = 128, depth: int = 6, heads: int = 4
    ) -> None:
        super().__init__()
        counts = {"tokens": tokens, "length": length, "width": width, "depth": depth, "heads": heads}
        for name, value in counts.items():
            whole_number(name, value)
        if width % heads:
            raise ValueError(f"width={width} cannot be shared by heads={heads}; use a multiple of {heads}")
        self.tokens = nn.Embedding(tokens, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, tokens, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith((".join.weight", ".narrow.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth) if into_residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token at each position, (N, classes, T), of tokens (N, T)."""
        stream = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        scores: Tensor = self.scores(self.norm(self.blocks(stream)))
        return scores.transpose(1, 2)


class Block(nn.Module):
    """Attention over what came before, then two dense layers, each added to the stream.

    Args:
        width: Units of the stream.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.norm_dense = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """The stream (N, T, width) with what both parts add."""
        stream = stream + self._attention(self.norm_attention(stream))
        added: Tensor = self.narrow(nn.functional.gelu(self.widen(self.norm_dense(stream))))
        return stream + added

    def _attention(self, stream: Tensor) -> Tensor:
        samples, length, width = stream.shape
        by_head = self.queries_keys_values(stream).view(samples, length, 3, self.heads, width // self.heads)
        queries, keys, values = by_head.permute(2, 0, 3, 1, 4)  # (N, heads, T, width / heads) each
        seen = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        joined: Tensor = self.join(seen.transpose(1, 2).reshape(samples, length, width))
        return joined
