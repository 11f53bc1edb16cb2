"""How training samples are varied."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from bigmodel.config.base import Config

Kind = Literal["image", "sequence", "tabular", "tokens"]

TRANSFORMS: Final[dict[Kind, dict[str, tuple[float, float]]]] = {
    "image": {
        "flip_horizontal": (0.5, 1.0),
        "flip_vertical": (0.5, 1.0),
        "rotation": (0.04, 1.0),
        "zoom": (0.1, 0.9),
        "translation": (0.1, 1.0),
        "brightness": (0.1, 1.0),
        "contrast": (0.2, 1.0),
        "noise": (0.05, 1.0),
        "cutout": (0.1, 1.0),
        "randaugment": (0.2, 1.0),
        "mixup": (0.2, 1.0),
        "cutmix": (1.0, 1.0),
    },
    "sequence": {
        "jitter": (0.05, 10.0),
        "scaling": (0.1, 0.9),
        "time_warp": (0.1, 0.9),
        "window_slice": (0.1, 0.9),
        "time_masking": (0.1, 0.9),
        "mixup": (0.2, 1.0),
    },
    "tabular": {"noise": (0.05, 10.0), "feature_masking": (0.1, 0.9), "mixup": (0.2, 1.0)},
    "tokens": {"token_deletion": (0.1, 0.9), "token_masking": (0.1, 0.9), "token_swap": (0.1, 0.9)},
}
"""For each kind of data its transforms, in the order in which they are applied: magnitude, and the highest one."""

NAMES: Final[tuple[str, ...]] = tuple(dict.fromkeys(name for row in TRANSFORMS.values() for name in row))


@dataclasses.dataclass(frozen=True)
class AugmentConfig(Config):
    """How training samples are varied, anew in each epoch, outside the model.

    - image, `flip_horizontal`, `flip_vertical`: share of the images that are flipped
    - image, `rotation`: largest angle, in full turns
    - image, `zoom`, `translation`: largest change, as a share of the side
    - image, `brightness`: largest shift, as a share of the value range
    - image, `contrast`: largest relative change of the distance from the mean
    - image, `noise`: standard deviation, as a share of the value range
    - image, `cutout`: largest share of the area that is erased
    - image, `randaugment`: `factor` of Keras' RandAugment, two operations for each batch
    - image, `mixup`, `cutmix`: alpha: the mixing weight is drawn from Beta(alpha, alpha)
    - sequence, `jitter`: standard deviation, in standard deviations of the channel
    - sequence, `scaling`: standard deviation of the factor around 1
    - sequence, `time_warp`: largest local change of speed
    - sequence, `window_slice`: largest share of the steps that is cut off before the rest is stretched
    - sequence, `time_masking`: largest share of the steps that is set to the channel's mean
    - sequence, `mixup`: as of images
    - tabular, `noise`: standard deviation, in standard deviations of the feature
    - tabular, `feature_masking`: probability that a feature is set to its mean
    - tabular, `mixup`: as of images
    - tokens, `token_deletion`, `token_masking`, `token_swap`: probability for each token

    Args:
        transforms: "auto": those that fit the kind of the data; names, each at its default magnitude; or a mapping
            from names to magnitudes.
        strength: Factor on the default magnitudes, from 0 to 3; each is cut at its own limit.

    Raises:
        ArgumentError: A name is unknown, or a value is out of range.

    Example:
        >>> AugmentConfig(["rotation", "mixup"], strength=0.5).magnitudes("image")
        {'rotation': 0.02, 'mixup': 0.1}
    """

    transforms: Literal["auto"] | tuple[str, ...] | Mapping[str, float] = "auto"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.transforms, list):
            object.__setattr__(self, "transforms", tuple(self.transforms))
        self._check_number("strength", 0, 3)
        expected = "'auto', or some of " + ", ".join(NAMES)
        named = isinstance(self.transforms, (tuple, Mapping))
        self._check(
            self.transforms == "auto" or (named and all(name in NAMES for name in self.transforms)),
            "transforms",
            expected,
        )
        if isinstance(self.transforms, Mapping):
            limits = {name: row[name][1] for row in TRANSFORMS.values() for name in row}
            for name, value in self.transforms.items():
                self._check(_is_magnitude(value, limits[name]), "transforms", f"{name} from 0 to {limits[name]}")

    def magnitudes(self, kind: Kind, names: tuple[str, ...] = ()) -> dict[str, float]:
        """Returns the magnitude of each transform that applies to a kind of data, in the order of application.

        Args:
            kind: "image", "sequence", "tabular" or "tokens".
            names: The transforms that "auto" stands for.
        """
        if isinstance(self.transforms, Mapping):
            return {name: float(self.transforms[name]) for name in TRANSFORMS[kind] if name in self.transforms}
        chosen = names if self.transforms == "auto" else self.transforms
        row = TRANSFORMS[kind].items()
        return {name: min(self.strength * value, limit) for name, (value, limit) in row if name in chosen}


def _is_magnitude(value: Any, limit: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= limit
