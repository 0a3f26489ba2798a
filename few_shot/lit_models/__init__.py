"""Algorithms as LightningModules; one short file each."""

from few_shot.lit_models.lit_maml import LitMAML

__all__ = ["LitMAML"]
