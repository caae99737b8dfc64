"""Finds in single patches which words a picture's caption holds, so that a tower's features come to name things."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import math

import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from models.clip import ClipModel
from schemas.errors import InputError

_WIDTH = 128
#: As SigLIP begins: products count for much, and most words are not there.
_SCALE, _BIAS = 10.0, -4.0


class WordDetector(nn.Module):
    """A detector of each word of a CLIP's vocabulary in each patch of its vision tower's last block.

    It learns from whole captions alone: a word of the caption is to be found in some patch, a word that only other
    captions of the batch hold in none. That is learning from multiple instances (Fang et al. 2015, From Captions to
    Visual Concepts and Back, section 3); where noisy-or stands there, the mean of exponentials stands here, which is a
    soft maximum (Pinheiro and Collobert 2015, From Image-level to Pixel-level Labeling, section 3.2).

    Raises:
        InputError: the tower is not OpenCLIP's own ViT.
    """

    def __init__(self, clip: ClipModel, seed: int = 0) -> None:
        super().__init__()
        visual = clip.model.visual
        if not isinstance(visual, VisionTransformer):
            raise InputError("train: word_loss: the tower is not OpenCLIP's own ViT; set word_loss to 0")
        tokens = getattr(clip.tokenizer, "vocab_size", None) or len(clip.tokenizer.tokenizer)  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patch = nn.Linear(visual.conv1.out_channels, _WIDTH, bias=False)
            self.word = nn.Embedding(tokens, _WIDTH)
            nn.init.normal_(self.word.weight, std=0.02)
        self.scale = nn.Parameter(torch.tensor(math.log(_SCALE)))
        self.bias = nn.Parameter(torch.tensor(_BIAS))
        self.to(clip.device)

    def loss(self, patches: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy, summed over pictures and over all words that some captions of the batch hold.

        Words that all captions hold say nothing: so the begin, the end and the padding are left out.

        Args:
            patches: [B, P, C], what the tower's last block makes of each patch.
            texts: int64 [B, context], the pictures' captions as tokens.

        Returns:
            A float32 scalar.
        """
        words, places = torch.unique(texts, return_inverse=True)
        said = torch.zeros(len(texts), len(words), device=texts.device).scatter_(1, places, 1.0)
        telling = ~said.all(0)
        logits = self(patches, words[telling])
        return functional.binary_cross_entropy_with_logits(logits, said[:, telling], reduction="sum")

    def forward(self, patches: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Logits of each picture's showing each of `words` (int64 [W]): float32 [B, W]."""
        normal = functional.layer_norm(patches, patches.shape[-1:])
        likeness = (self.patch(normal) @ self.word(words).T).float() * self.scale.exp()
        return torch.logsumexp(likeness, 1) - math.log(patches.shape[1]) + self.bias
