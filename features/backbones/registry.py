"""Networks by name."""

from __future__ import annotations

from features.backbones.base import Backbone
from features.backbones.keras_applications import APPLICATIONS
from features.backbones.vgg16 import ENTRY
from features.errors import UserError

DEFAULT = ENTRY.name
BACKBONES: dict[str, Backbone] = {entry.name: entry for entry in (ENTRY, *APPLICATIONS)}


def backbone(name: str) -> Backbone:
    """The network of this name.

    Raises
    ------
    UserError
        There is no such network.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone={name}: expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def marked(name: str) -> str:
    """The name of a network for labels: empty for the default one."""
    return "" if name == DEFAULT else name


def having(layers: str) -> Backbone:
    """The first network that has all the layers in a list; the default network if none has."""
    taps = {text.partition("@")[0].strip() for text in layers.split(",")}
    return next((entry for entry in BACKBONES.values() if taps <= set(entry.taps)), ENTRY)
