"""Networks of libraries, made to fit by config alone."""

from typing import Any

from torch import Tensor, nn

from cbseg.errors import ArgumentError


class LibraryNetwork(nn.Module):
    """Give the logits of a network that another library makes, whatever it returns around them.

    Args:
        network: From images (B, 3, H, W); it is told the number of classes by a name of its own.
        output: Where the logits are in what it returns: a key, an attribute or a position; null if it returns them.
        num_classes: Of the whole model, for the config; ``network`` must agree.

    Raises:
        ArgumentError: At the first image, if there is no such output; the message tells what the network gives.

    Shape:
        - image: :math:`(B, 3, H, W)`; output: what the network gives, :math:`(B, C, H, W)`.
    """

    def __init__(self, network: nn.Module, output: str | int | None = None, num_classes: int = 2) -> None:
        super().__init__()
        self.network, self.output, self.num_classes = network, output, num_classes

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        given: Any = self.network(image)
        if self.output is None:
            return given
        try:
            by_name = isinstance(self.output, str) and not isinstance(given, dict)
            return getattr(given, str(self.output)) if by_name else given[self.output]
        except (AttributeError, LookupError, TypeError) as error:
            there = (
                f"a dict of {', '.join(map(str, given))}" if isinstance(given, dict) else f"a {type(given).__name__}"
            )
            raise ArgumentError(f"output={self.output}: is not there; the network gives {there}") from error
