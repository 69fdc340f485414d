"""Methods to solve (H + λI) x = b; each a frozen dataclass of its parameters, by its name in METHODS.

`direct` builds and factorises H: exact, up to some ten thousand parameters. `cg` multiplies only:
the choice for larger models with a λ that makes H + λI positive. `lissa` takes random batches:
when even passes over the data are dear. `arnoldi` keeps the largest eigenpairs: cheap for many
right-hand sides, and approximate by design. A module here that holds a method is found by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
