"""Algorithms as LightningModules; one short file each."""

from few_shot.lit_models.lit_anil import LitANIL
from few_shot.lit_models.lit_boil import LitBOIL
from few_shot.lit_models.lit_imaml import LitIMAML
from few_shot.lit_models.lit_joint import LitJoint
from few_shot.lit_models.lit_maml import LitMAML
from few_shot.lit_models.lit_maml_plus_plus import LitMAMLPlusPlus
from few_shot.lit_models.lit_meta_sgd import LitMetaSGD
from few_shot.lit_models.lit_proto_maml import LitProtoMAML
from few_shot.lit_models.lit_proto_net import LitProtoNet
from few_shot.lit_models.lit_random import LitRandom
from few_shot.lit_models.lit_reptile import LitReptile

__all__ = [
    "LitANIL",
    "LitBOIL",
    "LitIMAML",
    "LitJoint",
    "LitMAML",
    "LitMAMLPlusPlus",
    "LitMetaSGD",
    "LitProtoMAML",
    "LitProtoNet",
    "LitRandom",
    "LitReptile",
]
