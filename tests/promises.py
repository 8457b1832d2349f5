"""What holds when something fails and how exact numbers are, and which tests show it: `@pytest.mark.promise("killed")`.

A run of the tests prints how many of each were tried and kept; a test that tries many cases in one says how many with
`record_property("cases", n)`, and a measured figure with `record_property("figure", "3 s until all had ended")`.
"""

from __future__ import annotations

from collections import Counter, defaultdict

# By key: the fault, and what is promised.
FAULTS = {
    "killed": (
        "stopped or killed at any step",
        "resumed from the last checkpoint the run ends bit for bit as an unbroken one",
    ),
    "killed saving": ("killed or failing while it saves", "what was saved before is whole"),
    "damaged": ("a checkpoint cut short, empty or foreign", "one error that names the file; nothing is half loaded"),
    "flipped": ("a flipped bit in weights, results or data", "found before they are used"),
    "changed": ("resumed with other settings or processes", "refused with both values, or told"),
    "nan": ("NaN or infinity in the loss or the gradient", "with StopOnNaN the run ends before that step"),
    "nan measured": ("NaN inside a measurement", "logged as missing with the reason; training bit for bit as without"),
    "memory": (
        "memory runs out in a measurement",
        "chunks are halved three times, then it is left out; training goes on",
    ),
    "slow": ("a measurement that takes long", "made less often, within its share of the time"),
    "trace": ("a monitor in the run", "weights, buffers, gradients, random numbers and modes bit for bit as without"),
    "exception": ("an exception inside a measurement", "everything put back"),
    "rank dies": ("one of several processes dies", "the others end, with an exit status that is not 0"),
    "ranks disagree": ("processes that were given different settings", "refused before the first step, on all of them"),
    "interrupt": ("Ctrl-C or SIGTERM while weights are moved", "put back, at whatever instant it comes"),
    "disk": ("a full disk", "nothing that is finished is lost; one line says what to do"),
    "no data": ("a data set that is missing or damaged", "one error: which file, where it goes, what to use instead"),
    "arguments": (
        "an argument that is NaN, infinite, huge, a bool, a text, an array, empty or of another kind",
        "refused by its name, or it means something that tests/odd_arguments.py allows",
    ),
    "ghost size": ("a ghost size that cannot work", "refused before the first step"),
    "schedule": ("a schedule that the data or the run do not allow", "refused before the first step, or told"),
    "loggers": ("no logger, or several", "every documented value arrives"),
}
# By key: the number, and how exact it is.
NUMBERS = {
    "ghost formula": ("ghost batch norm against a loop over its slices", "1e-12 in float64, gradients too"),
    "ghost swap": ("a swapped model, saved, loaded without this package, turned back", "equal to the bit"),
    "sharp quadratic": ("sharpness of quadratics whose maximum is known", "1e-6 relative, in box, ball and subspace"),
    "sharp scipy": (
        "sharpness against ten iterations of SciPy's L-BFGS-B",
        "corner ascent at least 0.98 of it on four small networks; where it is less, method='best' is not below",
    ),
    "sharp sign": ("sharpness of flat, falling, growing boxes", "0 where flat, never below, no less in a larger box"),
    "eigenvalue": ("largest eigenvalue against the dense Hessian's", "1e-4 relative"),
    "chunks": ("the loss in chunks against the whole batch", "1e-10 in float64"),
    "landscape": ("points of a landscape together against a loop", "1e-6"),
    "rates": ("the learning rate at each step, under torch's schedulers", "rule and warmup exactly"),
    "rules": ("rules for Adam's hyperparameters against loops in float64", "to the bit, or first order as derived"),
    "samples": ("samples of an epoch, over processes and workers", "each once, in batches of the sizes planned"),
    "accumulation": ("micro-batches against the whole batch", "1e-12 in float64"),
    "processes": ("the same batch on 1, 2 and 4 processes", "weights within 1e-12 in float64"),
    "ghosts processes": ("ghosts on one process against BatchNorm on several", "weights within 1e-12 in float64"),
    "measured processes": ("sharpness, noise and distance on several processes", "1e-8 relative to one"),
}
PROMISES = FAULTS | NUMBERS


def table(reports) -> list[str]:
    """Lines of Markdown: of each promise, cases tried and kept, and figures.

    Args:
        reports: Of the calls of tests, as pytest has them.
    """
    tried, kept, figures = Counter[str](), Counter[str](), defaultdict[str, list[str]](list)
    refused = Counter[str]()
    for report in reports:
        told = defaultdict[str, list[object]](list)
        for name, value in report.user_properties:
            told[name].append(value)
        cases = sum(int(str(n)) for n in told["cases"]) or 1
        for key in told["promise"]:
            tried[str(key)] += cases
            kept[str(key)] += cases * report.passed
            figures[str(key)] += [str(figure) for figure in told["figure"]]
            refused[str(key)] += sum(int(str(n)) for n in told["refused"])
    for key, count in refused.items():
        figures[key] += [f"{count:,} refused, {tried[key] - count:,} taken"] * bool(count)
    lines = list[str]()
    for heading, rows in (("fault", FAULTS), ("number", NUMBERS)):
        lines += ["", f"| {heading} | promise | kept | |", "|---|---|---|---|"]
        lines += [
            f"| {what} | {promise} | {kept[key]:,} of {tried[key]:,} | {'; '.join(dict.fromkeys(figures[key]))} |"
            for key, (what, promise) in rows.items()
            if tried[key]
        ]
    return lines
