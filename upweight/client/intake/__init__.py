"""What callers have, as a dataset's columns: arrays, frames, torch's datasets and loaders, rows one by one."""

from upweight.client.intake.recognise import Metadata, incoming
from upweight.client.intake.stream import Incoming

__all__ = ["Incoming", "Metadata", "incoming"]
