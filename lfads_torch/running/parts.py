"""Encoder, decoder, generator and controller of a configuration, which the model makes itself.

The model knows their sizes, so Hydra must not make them before it: each becomes a partial
(``_partial_: true``) of its class, which the model calls with the sizes.
"""

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

DEFAULTS = {
    "encoder": "lfads_torch.modules.encoder.Encoder",
    "encoder.cell": "lfads_torch.modules.recurrent.ClippedGRUCell",
    "decoder": "lfads_torch.modules.decoder.Decoder",
    "decoder.generator": "lfads_torch.modules.recurrent.ClippedGRUCell",
    "decoder.controller": "lfads_torch.modules.recurrent.ClippedGRUCell",
}
"""The parts that the model makes, and the class that each has if ``_target_`` names no other."""


def allow_new_parts(overrides: Sequence[str]) -> list[str]:
    """Let overrides of the encoder and the decoder add keys, which Hydra otherwise refuses.

    A configuration without these parts means the usual ones, so that ``model.encoder._target_=…``
    would have to be written with a ``+``. Misspelt arguments are found once the class is known.
    """
    return [re.sub(r"^(?=model\.(encoder|decoder)[.=])", "++", word) for word in overrides]


def defer_parts(model: DictConfig) -> None:
    """Have the parts in a model's configuration made by the model, in place."""
    for key, default in DEFAULTS.items():
        node = OmegaConf.select(model, key)
        if isinstance(node, DictConfig):
            with open_dict(node):
                node.setdefault("_target_", default)
                node.setdefault("_partial_", True)
