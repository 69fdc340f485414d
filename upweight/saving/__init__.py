"""Results into files: the ending chooses the format. Streamed, and put in place all at once."""

from upweight.saving.save import FORMATS, saved_as
from upweight.saving.table import Axis, Labelled, arrow_table, frame

__all__ = ["FORMATS", "Axis", "Labelled", "arrow_table", "frame", "saved_as"]
