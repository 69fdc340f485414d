"""The outcome as tables to read."""

from __future__ import annotations

from statistics import median

from benchmarks.peers.cases import Case, Contestant
from benchmarks.peers.flops import least_flops
from benchmarks.peers.outcome import Measured, Outcome

HEADER = (
    f"{'':22} {'cold s':>16} {'warm s':>18} {'peak MiB':>8} {'error':>8} {'worst row':>9} "
    f"{'residual':>8} {'products':>8} {'of GEMM':>7}"
)


def table(outcome: Outcome, gemm: float) -> str:
    """A line a contestant, then the ratios of neighbouring runs. `gemm` in GFLOP/s."""
    case = outcome.case
    lines = [f"\n{title(case)}", HEADER]
    for contestant in case.contestants:
        measured = list(outcome.measured[contestant.label].values())
        lines.append(_line(case, contestant, measured, gemm))
    return "\n".join(lines + _ratios(outcome))


def title(case: Case) -> str:
    """The case in words."""
    extent = f"{case.n} training rows, {case.m} test rows, λ = {case.damping:g}"
    method = {"lissa": f"lissa, {case.steps} steps", "arnoldi": f"arnoldi, rank {case.rank}"}
    how = method.get(case.method, case.method)
    kind = "" if case.kind == "up" else f" {case.kind},"
    aim = f"; target {case.target}" if case.target else ""
    return f"{case.name}: {case.model},{kind} {how}, {extent}{aim}"


def _line(case: Case, contestant: Contestant, measured: list[Measured], gemm: float) -> str:
    label = f"  {contestant.label:20}"
    failures = [each.failure for each in measured if each.failure]
    done = [each for each in measured if not each.failure]
    if not done:
        return f"{label} {failures[0] if failures else 'not run'}"
    last = done[-1]
    assert last.accuracy is not None
    warm = [second for each in done for second in each.seconds[1:]]
    worst = max(each.accuracy.worst_row for each in done if each.accuracy)
    residual = last.accuracy.residual
    share = _share(case, contestant, last, median(warm), gemm) if warm else ""
    texts = (
        f"{_range([each.seconds[0] for each in done]):>16}",
        f"{_range(warm):>18}",
        f"{max(each.peak_bytes for each in done) / 2**20:8.0f}",
        f"{last.accuracy.norm:8.1e}",
        f"{worst:9.1e}",
        f"{'' if residual is None else format(residual, '8.1e'):>8}",
        f"{last.products or '':>8}",
        f"{share:>7}",
    )
    notes = "; ".join(dict.fromkeys([each.notes for each in done if each.notes] + failures))
    return f"{label} {' '.join(texts)}  {notes}".rstrip()


def _share(
    case: Case, contestant: Contestant, measured: Measured, seconds: float, gemm: float
) -> str:
    flops = least_flops(case, contestant, measured.products)
    return "" if flops is None else f"{flops / seconds / 1e9 / gemm:.0%}"


def _range(seconds: list[float]) -> str:
    if not seconds:
        return ""
    middle = _brief(median(seconds))
    if len(seconds) == 1:
        return middle
    return f"{middle} ({_brief(min(seconds))}–{_brief(max(seconds))})"


def _brief(seconds: float) -> str:
    return (
        f"{seconds:.3f}" if seconds < 1 else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"
    )


def _ratios(outcome: Outcome) -> list[str]:
    """Peer over ours, pair by pair: of the same round, warm medians and cold calls."""
    lines = []
    contestants = outcome.case.contestants
    for ours in (each for each in contestants if each.library == "upweight"):
        for peer in (each for each in contestants if each.library != "upweight"):
            if peer.kept and not ours.kept:
                continue
            text = _pairs(outcome.measured[ours.label], outcome.measured[peer.label])
            if text:
                lines.append(f"  {ours.label} is faster than {peer.label} by {text}")
    return lines


def _pairs(ours: dict[int, Measured], peer: dict[int, Measured]) -> str:
    cut = next((each.at_least for each in peer.values() if each.at_least), None)
    mine = [each for each in ours.values() if not each.failure]
    if cut and mine:
        seconds = median(mine[0].seconds[1:] or mine[0].seconds)
        return f"more than {cut / seconds:.2g} ×: not one call was done"
    both = [(ours[each], peer[each]) for each in sorted(ours.keys() & peer.keys())]
    pairs = [(a, b) for a, b in both if not (a.failure or b.failure)]
    warm = [
        median(b.seconds[1:]) / median(a.seconds[1:])
        for a, b in pairs
        if len(a.seconds) > 1 and len(b.seconds) > 1
    ]
    cold = [b.seconds[0] / a.seconds[0] for a, b in pairs]
    memory = [b.peak_bytes / max(a.peak_bytes, 1) for a, b in pairs]
    parts = [("warm", warm), ("cold", cold), ("in memory", memory)]
    return "; ".join(
        f"{', '.join(f'{each:.2g}' for each in values)} × {name}"
        for name, values in parts
        if values
    )
