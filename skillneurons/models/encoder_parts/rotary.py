"""Positions that turn queries and keys instead of being added to embeddings, and windows of positions around each.

Source: Su et al. 2021 (RoFormer), as ModernBERT has it: the angle of each pair of dimensions grows with the position,
so that a score depends on the distance; some blocks see near positions only. Costs a few small tensors for each block.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """How one block tells positions apart.

    Args:
        base: Of the angles, `position / base ** (2 i / d_head)` for the pair of dimensions `i` and `i + d_head / 2`.
        window: How far from its own a position may look, on either side; 0 where it may look anywhere.
    """

    base: float
    window: int = 0

    def turn(self, x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """Queries or keys of positions from 0 on, turned. In float32 at least, as the angles are.

        Example:
            >>> x = torch.ones(1, 3, 1, 2)
            >>> Rotary(10.0).turn(x)[0, :, 0]  # by no, one and two radians
            tensor([[ 1.0000,  1.0000],
                    [-0.3012,  1.3818],
                    [-1.3254,  0.4932]])
        """
        half = x.shape[-1] // 2
        steps = torch.arange(0, 2 * half, 2, device=x.device, dtype=torch.float32) / (2 * half)
        where = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angle = rearrange(where[:, None] / self.base**steps, "pos pair -> pos 1 pair")
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        cos, sin = angle.cos().to(wide.dtype), angle.sin().to(wide.dtype)
        first, second = wide[..., :half], wide[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)

    def within(self, mask: Tensor | None, n_queries: int, n_pos: int, device: torch.device) -> Tensor | None:
        """The mask (True: may be read), without the positions outside the window of each query.

        A position may read itself, also where it is padding and sees nothing else.

        Example:
            >>> Rotary(10.0, window=1).within(None, 2, 4, torch.device("cpu")).long()
            tensor([[1, 1, 0, 0],
                    [1, 1, 1, 0]])
        """
        if not self.window or n_pos <= self.window + 1:
            return mask
        where = torch.arange(n_pos, device=device)
        distance = (where[:n_queries, None] - where).abs()
        near = distance <= self.window
        return near if mask is None else (mask & near) | (distance == 0)
