"""Makes the results of docs/results.md: trains what is missing, judges, writes the numbers.

python jobs/results.py [part ...]        without a part: all of them
python jobs/results.py list=true         parts: done, kept (recorded=true makes them) or to do, and about how long

A run that several parts need is trained once. A stopped command goes on when it is given again.
The numbers of a part's runs, step by step, and of its branches are kept in docs/results/steps: recorded=true makes
tables and figures from them, and trains the parts of which not all are there.
"""

from typing import Any

from isentropic.experiments.program import DONE, program
from isentropic.experiments.results.parts import PARTS, parts_of
from isentropic.experiments.settings.options import Option, Options, count, flag, names, path
from isentropic.folders import PROJECT, runs_folder

OPTIONS = Options(
    "results",
    __doc__,
    (
        Option(
            "part",
            "<name>,...",
            f"which parts: {', '.join(part.name for part in PARTS)}; `part=` may be left out",
            names,
        ),
        Option(
            "list",
            "true|false",
            "true: show the parts and their state (done, kept, to do), start nothing",
            flag,
        ),
        Option("parallel", "<count>", "runs at once (default: what the resources hold)", count),
        Option(
            "processes",
            "<count>",
            "branch points made at once (default: what the CPUs hold)",
            count,
        ),
        Option(
            "recorded",
            "true|false",
            "true: parts whose runs are in docs/results/steps are made from these, not trained",
            flag,
        ),
        Option(
            "out",
            "<folder>",
            "where the numbers go (default: docs/results of the checkout, else runs/results/numbers)",
            path,
            writes=True,
        ),
    ),
    words="part",
    old={"--list": "list=true"},
)


def results(options: dict[str, Any], overrides: list[str]) -> int:
    """List or make the parts. Returns 0 done, 1 a run failed, 75 stopped."""
    from isentropic.experiments.results.plan import FOLDER
    from isentropic.experiments.results.run import Places, make_results, planned_parts, states

    parts = parts_of(options.get("part"))
    runs = runs_folder() / FOLDER
    docs = PROJECT / "docs"
    default = docs / "results" if docs.is_dir() else runs / "numbers"
    places = Places(runs=runs, results=options.get("out") or default, kept=default)
    if options.get("list"):
        for line in states(planned_parts(parts, places), places, options.get("parallel")):
            print(line, flush=True)
        return DONE
    return make_results(
        parts,
        places,
        parallel=options.get("parallel"),
        processes=options.get("processes"),
        recorded=bool(options.get("recorded")),
        say=lambda text: print(text, flush=True),
    )


_main = program(results, OPTIONS, go_on="the same command goes on")


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Without arguments it makes all parts."""
    import sys

    given = list(sys.argv[1:] if arguments is None else arguments)
    return _main(given or [f"part={','.join(part.name for part in PARTS)}"])
