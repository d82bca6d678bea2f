"""Human preference, learned from people's choices: PickScore and HPSv2, which are CLIPs, and ImageReward, a BLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ...core.values import Prompt
from ...vision.embedders.clip import Clip
from ...vision.preference.hpsv2 import converted
from ...vision.preference.image_reward import ImageRewardModel
from .clip import PromptFit
from .metric import ModelMetric, check_pairs


class PickScore(PromptFit):
    """PickScore (Kirstain et al. 2023): cosine times the CLIP's own scale, about 20 to 23; papers print it / 100."""

    name = "PickScore"

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Scores (n,); see `Metric`."""
        return super().scores(images, prompts) * self.model.model.logit_scale.exp().float().cpu()

    def gradient(
        self, pixels: torch.Tensor, prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """The same of pixels (n, 3, H, W) in [0, 1], differentiable."""
        return super().gradient(pixels, prompts) * self.model.model.logit_scale.exp().float()


class HumanPreference(PromptFit):
    """HPSv2 (Wu et al. 2023): the cosine of a CLIP that was fitted to people's rankings, about 0.2 to 0.3."""

    name = "HPSv2"

    def __init__(self, clip: Path | Clip, device: torch.device | str = "cpu"):
        super().__init__(clip if isinstance(clip, Clip) else converted(Path(clip)), device)


class ImageReward(ModelMetric):
    """ImageReward (Xu et al. 2023): about 0 on average and 1 in deviation over the pictures it was fitted to."""

    name = "ImageReward"

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.model = ImageRewardModel(folder, device)

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Rewards (n,); see `Metric`. Prompts are cut after 35 tokens, as the model was trained."""
        check_pairs(images, prompts)
        return self.model.rewards(images, [prompt.words for prompt in prompts])

    def gradient(
        self, pixels: torch.Tensor, prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """The same of pixels (n, 3, H, W) in [0, 1], differentiable."""
        return self.model.score_batch(pixels, [prompt.words for prompt in prompts])
