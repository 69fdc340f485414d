"""What rows look like: as pixels, or in words; and the rows that influenced others most."""

from upweight.results.pictures.examples import Example, Panel, panels
from upweight.results.pictures.features import FeaturePanel, feature_panels
from upweight.results.pictures.png import png

__all__ = ["Example", "FeaturePanel", "Panel", "feature_panels", "panels", "png"]
