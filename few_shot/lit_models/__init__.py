"""Algorithms as LightningModules; one short file each."""

from few_shot.lit_models.lit_anil import LitANIL
from few_shot.lit_models.lit_boil import LitBOIL
from few_shot.lit_models.lit_maml import LitMAML
from few_shot.lit_models.lit_meta_sgd import LitMetaSGD

__all__ = ["LitANIL", "LitBOIL", "LitMAML", "LitMetaSGD"]
