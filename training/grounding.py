"""What the names in a question stand for, learned beside the answers.

"Is the circle left of the star?" can only be answered by a model that has looked up
both places, and a guess is right half the time: from the answer alone a small model
never finds out. So it is also asked, in the middle of its layers and at the end of each
name, whether that thing is there and where. The head is thrown away afterwards.
"""

import torch
from torch import nn
from torch.nn import functional as F

LAYER = 4  # of six: two are left to compare what was looked up
PLACE = 20.0  # weight of the places' loss, which is small in number


class Grounding(nn.Module):
    """A linear probe of the hidden states after `LAYER`: is it there, x, y."""

    def __init__(self, hidden: int):
        super().__init__()
        self.head = nn.Linear(hidden, 3)

    def forward(
        self, states: tuple[torch.Tensor, ...], named: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss where names end, and what to watch: how often "is it there" is right,
        and the mean distance in x and y, in sides of the image. `states` holds
        (B, L, hidden) before the first layer and after each; `named` (B, L, 3) is what
        `Packer.pair_ids` tells of each token."""
        ends = named[..., 0] >= 0
        hidden = states[LAYER][ends]
        normed = F.rms_norm(hidden, hidden.shape[-1:])
        there, place = self.head(normed).split((1, 2), dim=-1)
        wanted, placed = named[ends].split((1, 2), dim=-1)
        loss = F.binary_cross_entropy_with_logits(there, wanted, reduction="sum")
        right = ((there > 0) == (wanted > 0.5)).float().sum()
        once = placed[:, 0] >= 0
        off = place[once] + 0.5 - placed[once]
        near = F.smooth_l1_loss(off, torch.zeros_like(off), beta=0.05, reduction="sum")
        # A batch of captions names nothing: no mean over nothing.
        names, places = max(len(wanted), 1), max(2 * len(off), 1)
        shown = {"there": right / names, "off": off.abs().sum() / places}
        return loss / names + PLACE * near / places, shown
