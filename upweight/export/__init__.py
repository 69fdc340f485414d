"""A live `nn.Module` becomes a pt2 program: graph and weights, no source. torch is imported when called, not before."""

from upweight.export.program import (
    ExportFailed,
    export_program,
    exported,
    save_exported,
    save_program,
)

__all__ = ["ExportFailed", "export_program", "exported", "save_exported", "save_program"]
