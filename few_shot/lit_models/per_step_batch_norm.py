"""Batch norm that knows how many inner steps the weights in use have taken (Antoniou et al. 2019, section 4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot.private_parts import BatchNorm


class PerStepBatchNorm(nn.Module):
    """Takes a batch norm layer's place, and has a row of what it learns or keeps for each inner step.

    Row ``s`` serves inner step ``s``, counted from 0: the support samples that give the step its gradient, and the
    query samples after it. Further steps than rows use the last row.

    Args:
        norm: the layer, whose parameters and sizes are taken over.
        rows: how many steps are told apart.
        statistics: whether to keep running statistics, and to use them in evaluation (BNRS). In training the batch's
            own are used, and left in ``batch_statistics``.
        weights: whether scale and shift are learned for each step (BNWB), ``[rows, channels]``.
    """

    running_mean: Tensor
    running_var: Tensor
    collected: Tensor

    def __init__(self, norm: BatchNorm, rows: int, statistics: bool, weights: bool) -> None:
        super().__init__()
        self.rows, self.eps, self.momentum = rows, norm.eps, 0.1 if norm.momentum is None else norm.momentum
        self.statistics, self.per_step_weights = statistics, weights and norm.affine
        self.weight, self.bias = norm.weight, norm.bias
        if self.per_step_weights:
            self.weight, self.bias = (
                nn.Parameter(p.detach().repeat(rows, 1), p.requires_grad) for p in (norm.weight, norm.bias)
            )
        if statistics:
            channels = norm.num_features
            like = torch.empty(0) if norm.weight is None else norm.weight.detach()
            self.register_buffer("running_mean", like.new_zeros(rows, channels))
            self.register_buffer("running_var", like.new_ones(rows, channels))
            # Sums over tasks since the last update of the running statistics: count, mean and variance.
            self.register_buffer("collected", like.new_zeros(rows, 2 * channels + 1), persistent=False)
        self.step = 0
        self.batch_statistics: tuple[Tensor, Tensor] | None = None
        self.uses = 0  # since somebody set it to 0

    @property
    def row(self) -> int:
        """The row of the present step."""
        return min(self.step, self.rows - 1)

    def present_weights(self) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift at the present step, ``[channels]`` each."""
        weight: Any = self.weight
        bias: Any = self.bias
        return (weight[self.row], bias[self.row]) if self.per_step_weights else (weight, bias)

    def present_statistics(self) -> tuple[Tensor, Tensor]:
        """The running mean and variance at the present step, ``[channels]`` each."""
        return self.running_mean[self.row], self.running_var[self.row]

    def forward(self, x: Tensor) -> Tensor:
        self.uses += 1
        weight, bias = self.present_weights()
        if not self.statistics:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        if self.training:
            over = [d for d in range(x.dim()) if d != 1]
            var, mean = torch.var_mean(x, dim=over, correction=0)
            samples = x.numel() // x.shape[1]
            if samples == 1:  # as PyTorch's own says
                raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
            self.batch_statistics = (mean.detach(), var.detach() * samples / max(1, samples - 1))
        else:
            mean, var = self.present_statistics()
        x = (x - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        return x if weight is None or bias is None else x * weight.view(shape) + bias.view(shape)

    def collect(self, mean: Tensor, var: Tensor) -> None:
        """Remember the statistics ``[T, channels]`` of T tasks' batches until the next update."""
        count = mean.new_full((len(mean), 1), 1.0)
        self.collected[self.row] += torch.cat([count, mean, var], dim=1).sum(0)

    def update(self) -> None:
        """Move the running statistics of the steps that were met towards the mean of what was collected."""
        count, mean, var = self.collected.split([1, *self.running_mean.shape[1:], *self.running_var.shape[1:]], dim=1)
        share = torch.where(count > 0, self.momentum, 0.0)
        count = count.clamp(min=1)
        self.running_mean += share * (mean / count - self.running_mean)
        self.running_var += share * (var / count - self.running_var)
        self.forget()

    def forget(self) -> None:
        """Drop what was collected."""
        if self.statistics:
            self.collected.zero_()
