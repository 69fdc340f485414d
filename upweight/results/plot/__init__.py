"""Results as pictures, with matplotlib: figures of their own, which touch no state of pyplot's."""

from upweight.results.plot.draw import KINDS, drawn

__all__ = ["KINDS", "drawn"]
