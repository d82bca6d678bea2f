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
from .metric import check_pairs


class PickScore:
    """PickScore (Kirstain et al. 2023): cosine times the CLIP's own scale, about 20 to 23; papers print it / 100."""

    name = "PickScore"

    def __init__(self, clip: Path | Clip, device: torch.device | str = "cpu"):
        self.clip = clip if isinstance(clip, Clip) else Clip(clip, device)

    @property
    def model_id(self) -> str:
        return self.clip.model_id

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Scores (n,); see `Metric`."""
        check_pairs(images, prompts)
        return cosines(self.clip, images, prompts) * self.clip.model.logit_scale.exp().float().cpu()

    def gradient(
        self, pixels: torch.Tensor, prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """The same of pixels (n, 3, H, W) in [0, 1], differentiable."""
        return self.clip.fit(pixels, prompts) * self.clip.model.logit_scale.exp().float()


class HumanPreference:
    """HPSv2 (Wu et al. 2023): the cosine of a CLIP that was fitted to people's rankings, about 0.2 to 0.3."""

    name = "HPSv2"

    def __init__(self, clip: Path | Clip, device: torch.device | str = "cpu"):
        self.clip = clip if isinstance(clip, Clip) else Clip(converted(Path(clip)), device)

    @property
    def model_id(self) -> str:
        return self.clip.model_id

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Cosines (n,) in [-1, 1]; see `Metric`."""
        check_pairs(images, prompts)
        return cosines(self.clip, images, prompts)

    def gradient(
        self, pixels: torch.Tensor, prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """The same of pixels (n, 3, H, W) in [0, 1], differentiable."""
        return self.clip.fit(pixels, prompts)


class ImageReward:
    """ImageReward (Xu et al. 2023): about 0 on average and 1 in deviation over the pictures it was fitted to."""

    name = "ImageReward"

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.opened = ImageRewardModel(folder, device)

    @property
    def model_id(self) -> str:
        return self.opened.model_id

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Rewards (n,); see `Metric`. Prompts are cut after 35 tokens, as the model was trained."""
        check_pairs(images, prompts)
        return self.opened.rewards(images, [prompt.stripped for prompt in prompts])

    def gradient(
        self, pixels: torch.Tensor, prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """The same of pixels (n, 3, H, W) in [0, 1], differentiable."""
        return self.opened.score_batch(pixels, [prompt.stripped for prompt in prompts])


def cosines(clip: Clip, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> torch.Tensor:
    """(n,) of each picture and its prompt without identifiers."""
    return (clip.images(images) * clip.texts([prompt.stripped for prompt in prompts])).sum(-1)
