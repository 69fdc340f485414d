"""What is measured: each case is a model, a number of rows, a method and those who do it.

λ is such that H + λI is positive definite where conjugate gradients need it: the convolutional
model has eigenvalues down to about −0.2, the others to about −0.007. Tolerances are such that what
is left, the true residual, is the same on both sides; it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Method = Literal["direct", "cg", "lissa", "arnoldi"]
Kind = Literal["up", "perturbation"]
Settings = dict[str, float | int | bool | str]


@dataclass(frozen=True)
class Contestant:
    """A library with the settings that it runs a case with; `method` is the case's unless given.

    Of its `calls` in one process the first is cold and the rest are warm; each has other test rows.
    `kept`: what depends on model and training rows alone is kept from call to call, as a warm worker
    keeps it. `once`: in the first round alone, for what is shown beside a peer's best.
    """

    library: Literal["upweight", "pydvl", "dattri", "captum"]
    label: str
    settings: Settings = field(default_factory=dict)
    method: Method | None = None
    calls: int = 4
    kept: bool = False
    once: bool = False


@dataclass(frozen=True)
class Case:
    """One line of the comparison: `n` training rows, `m` test rows, λ = `damping`."""

    name: str
    model: str
    method: Method
    n: int
    m: int
    damping: float
    contestants: tuple[Contestant, ...]
    kind: Kind = "up"
    steps: int = 0  # of lissa
    rank: int = 0  # of arnoldi
    target: str = ""  # what the project asks of ours against the best peer

    def method_of(self, contestant: Contestant) -> Method:
        """How this one does it."""
        return contestant.method or self.method


OURS = Contestant("upweight", "upweight")
PYDVL = Contestant("pydvl", "pydvl")
OURS_CG = Contestant("upweight", "upweight, cg", {"rtol": 1e-5}, "cg")
PYDVL_CG = Contestant("pydvl", "pydvl, cg block", {"rtol": 1e-5, "simultaneous": True}, "cg")
PYDVL_ROW_WISE = Contestant(
    "pydvl", "pydvl, cg default", {"simultaneous": False}, "cg", calls=1, once=True
)
# As its documentation has it: a loader that collates row by row, some 10 ms a pass over the digits.
PYDVL_CG_ROWS = replace(
    PYDVL_CG, label="pydvl, row loader", settings={**PYDVL_CG.settings, "loader": "rows"}, once=True
)
# What depends on model and training rows alone is kept, as a service keeps it; pyDVL keeps a fit: the
# preconditioner, the eigenpairs. For conjugate gradients a Nyström preconditioner is what it offers.
KEPT_CG = replace(OURS_CG, label="upweight, cg, kept", kept=True)
PYDVL_CG_KEPT = replace(
    PYDVL_CG,
    label="pydvl, cg nyström, kept",
    settings={**PYDVL_CG.settings, "nystroem": 64},
    kept=True,
)
PYDVL_CG_TWICE = replace(PYDVL_CG, calls=2)  # where one takes a minute
KEPT = replace(OURS, label="upweight, kept", kept=True)
OURS_DIRECT = Contestant("upweight", "upweight, direct", method="direct")
PYDVL_DIRECT = Contestant("pydvl", "pydvl, direct", method="direct")
OURS_ARNOLDI = Contestant("upweight", "upweight", {"tol": 1e-6})
PYDVL_ARNOLDI = Contestant("pydvl", "pydvl", {"tol": 1e-6})
PYDVL_ARNOLDI_ROWS = replace(
    PYDVL_ARNOLDI, label="pydvl, row loader", settings={"tol": 1e-6, "loader": "rows"}, once=True
)
KEPT_ARNOLDI = replace(OURS_ARNOLDI, label="upweight, kept", kept=True)
PYDVL_ARNOLDI_KEPT = replace(PYDVL_ARNOLDI, label="pydvl, kept", kept=True)
PYDVL_ROWS = Contestant("pydvl", "pydvl, row loader", {"loader": "rows"}, once=True)
DATTRI_CG = Contestant("dattri", "dattri, cg 41 steps", {"steps": 41}, "cg")
DATTRI_DIRECT = Contestant("dattri", "dattri")
CAPTUM_DIRECT = Contestant("captum", "captum", calls=1, once=True)
PYDVL_IF_IT_FITS = Contestant("pydvl", "pydvl", calls=1, once=True)


def _perceptron() -> list[Case]:
    whole = {"model": "small", "n": 1400, "damping": 1e-2}
    direct = (OURS, PYDVL, DATTRI_DIRECT, CAPTUM_DIRECT)
    cg = (OURS_CG, PYDVL_CG, KEPT_CG, PYDVL_CG_KEPT, DATTRI_CG, PYDVL_CG_ROWS, PYDVL_ROW_WISE)
    arnoldi = (OURS_ARNOLDI, PYDVL_ARNOLDI, KEPT_ARNOLDI, PYDVL_ARNOLDI_KEPT)
    both_ways = (OURS_CG, PYDVL_CG, KEPT_CG, PYDVL_CG_KEPT, OURS_DIRECT, PYDVL_DIRECT)
    return [
        Case("mlp-direct", method="direct", m=100, contestants=direct, target="8 ×", **whole),
        Case("mlp-direct-397", method="direct", m=397, contestants=(OURS, PYDVL), **whole),
        Case("mlp-cg", method="cg", m=100, contestants=cg, target="4 × warm", **whole),
        Case("mlp-cg-397", method="cg", m=397, contestants=(OURS_CG, PYDVL_CG), **whole),
        Case(
            "mlp-lissa",
            method="lissa",
            m=100,
            steps=100,
            contestants=(OURS, PYDVL, KEPT, PYDVL_ROWS),
            target="4 ×",
            **whole,
        ),
        Case(
            "mlp-arnoldi",
            method="arnoldi",
            m=100,
            rank=50,
            contestants=(*arnoldi, PYDVL_ARNOLDI_ROWS),
            target="10 ×",
            **whole,
        ),
        Case(
            "mlp-perturbation",
            method="cg",
            kind="perturbation",
            m=10,
            contestants=both_ways,
            target="30 ×",
            **whole,
        ),
    ]


def _wide() -> list[Case]:
    whole = {"model": "wide", "n": 1400, "damping": 1e-2}
    cg = (OURS_CG, PYDVL_CG, KEPT_CG, PYDVL_CG_KEPT)
    return [
        Case("wide-cg", method="cg", m=20, contestants=cg, target="3 × warm", **whole),
        Case(
            "wide-arnoldi",
            method="arnoldi",
            m=20,
            rank=50,
            contestants=(OURS_ARNOLDI, PYDVL_ARNOLDI, KEPT_ARNOLDI, PYDVL_ARNOLDI_KEPT),
            target="2 ×",
            **whole,
        ),
        Case(
            "wide-lissa",
            method="lissa",
            m=20,
            steps=20,
            contestants=(OURS, PYDVL),
            target="2 ×",
            **whole,
        ),
        Case(
            "wide-perturbation",
            method="cg",
            kind="perturbation",
            m=10,
            contestants=(OURS_CG, PYDVL_CG_TWICE, KEPT_CG),
            target="30 ×",
            **whole,
        ),
    ]


def _convolutional() -> list[Case]:
    part = {"model": "convolutional", "n": 350, "m": 50, "damping": 0.3}
    cg = (OURS_CG, PYDVL_CG)
    arnoldi = (OURS_ARNOLDI, PYDVL_ARNOLDI)
    direct = (OURS, PYDVL_IF_IT_FITS)
    return [
        Case("cnn-cg", method="cg", contestants=cg, target="3 × warm", **part),
        Case("cnn-arnoldi", method="arnoldi", rank=50, contestants=arnoldi, target="2 ×", **part),
        Case(
            "cnn-lissa", method="lissa", steps=20, contestants=(OURS, PYDVL), target="2 ×", **part
        ),
        Case(
            "cnn-direct",
            method="direct",
            contestants=direct,
            target="under 20 s, under 1.5 GB",
            **part,
        ),
    ]


def _encoder() -> list[Case]:
    return [
        Case(
            "encoder-cg",
            "encoder",
            "cg",
            n=1400,
            m=20,
            damping=1e-2,
            contestants=(OURS_CG, PYDVL_CG, KEPT_CG, PYDVL_CG_KEPT),
            target="3 × warm",
        )
    ]


CASES = {each.name: each for each in [*_perceptron(), *_wide(), *_convolutional(), *_encoder()]}
