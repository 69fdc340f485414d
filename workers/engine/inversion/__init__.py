"""Ways to solve (H + λI) x = b; each a frozen dataclass of its parameters with one `solve`.

`direct` builds and factorises H: exact, up to some ten thousand parameters. `cg` multiplies only:
the choice for larger models with a λ that makes H + λI positive. `lissa` takes random batches:
when even passes over the data are dear. `arnoldi` keeps the largest eigenpairs: cheap for many
right-hand sides, and approximate by design.
"""
