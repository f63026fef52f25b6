"""Prepares the encoder, decoder, generator and controller of a configuration for the model.

Only the model knows the sizes of these parts, so Hydra must not make them: each becomes a partial
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
"""The parts that the model makes, and the class of each if there is no ``_target_``."""


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """Write overrides of parts as Hydra understands them.

    A configuration need not contain an encoder or a decoder, so overrides may add keys of these:
    ``model.encoder._target_=…`` becomes ``++model.encoder._target_=…``. Misspelt arguments are
    found once the class is known. ``model/encoder=null`` removes the choice: ``~model/encoder``.
    """
    added = [re.sub(r"^(?=model\.(encoder|decoder)[.=])", "++", word) for word in overrides]
    return [
        re.sub(r"^(model/(encoder|generator|controller))=null$", r"~\1", word) for word in added
    ]


def defer_parts(model: DictConfig) -> None:
    """Change a model's configuration, in place, so that the model makes its parts."""
    for key, default in DEFAULTS.items():
        node = OmegaConf.select(model, key)
        if isinstance(node, DictConfig):
            with open_dict(node):
                node.setdefault("_target_", default)
                node["_partial_"] = True  # also where it says false: sizes would be missing
