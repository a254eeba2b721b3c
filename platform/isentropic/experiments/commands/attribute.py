"""Says who moved the entropy in recorded steps: python jobs/attribute.py run=<name> steps=10,20-24

Trains the steps again, bit for bit, and keeps the entropy ledger over any share of contexts and any
classes of tokens, whether or not the run kept one. Writes to <run>/attribution/<name>/.
"""

import asyncio
from typing import Any

from isentropic.checks import check_range
from isentropic.config import check_name
from isentropic.experiments.program import program
from isentropic.experiments.run.lock import run_lock
from isentropic.experiments.run.recorded import recorded_run
from isentropic.experiments.settings.options import (
    Option,
    Options,
    choice,
    flag,
    names,
    number,
    text,
)

OPTIONS = Options(
    "attribute",
    __doc__,
    (
        Option(
            "run", "<folder or name>", "a run folder, or a name under runs/", text, required=True
        ),
        Option("steps", "<10,20-24>", "steps to measure, and ranges of them", text, required=True),
        Option(
            "contexts",
            "<share>",
            "of the first wave's rollouts, where the entropy is measured (default: 1)",
            number,
        ),
        Option(
            "by",
            "<way,way>",
            "how tokens are sorted: class, class_s, side, source, position, wave, prompt (default: "
            "class)",
            names,
        ),
        Option(
            "exact",
            "true|false",
            "true: the momentum of every class too, a backward pass and a copy of the weights each; "
            "what the optimizer held at the checkpoint is 'before' (default: false)",
            flag,
        ),
        Option(
            "ranks",
            "run|one",
            "run: as many learner ranks as the run had, which gives its bits (default); one: a "
            "single one in this process",
            choice("run", "one"),
        ),
        Option("name", "<name>", "of the folder that is written (default: from the steps)", text),
    ),
    words="run",
)


def attribute(options: dict[str, Any], overrides: list[str]) -> int:
    """Trains the steps again, writes and prints their books; the exit code.

    It is 1 if a number of a recorded line came out otherwise on the recorded number of ranks, on
    CPUs.
    """
    contexts, exact = options.get("contexts", 1.0), options.get("exact", False)
    check_range("contexts", contexts, above=0, at_most=1, hint="It is a share of the rollouts.")
    by = tuple(dict.fromkeys(options.get("by", ["class"])))
    if "name" in options:
        check_name("name", options["name"])
    run = recorded_run(options["run"])

    # torch: after the cheap checks
    from isentropic.experiments.attribution.attribute import attribute as make
    from isentropic.experiments.attribution.attribute import begin
    from isentropic.experiments.attribution.display import Display
    from isentropic.experiments.attribution.measure import Asked
    from isentropic.experiments.attribution.walk import asked_steps, plan
    from isentropic.experiments.attribution.ways import check_ways
    from isentropic.experiments.run.prepare import prepare

    check_ways(by, exact=exact)
    steps = asked_steps(options["steps"], run)
    stretches = plan(run, steps)
    count = sum(len(stretch.steps) for stretch in stretches)
    out = run.folder / "attribution" / options.get("name", _default_name(steps, exact))
    ranks = options.get("ranks", "run")
    settings = {"run": str(run.folder.resolve().name), "steps": steps, "contexts": contexts}
    settings |= {"by": list(by), "exact": exact, "ranks": ranks}
    prepared = prepare(run.config)
    run.say_changed_data(prepared.data)
    display = Display()
    ways = "; ".join(map(str, stretches))
    asked = Asked(contexts=contexts, by=by, exact=exact)
    run_ranks = ranks == "run"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another name: name=<name>.")
    # A second process would begin the folder again under the first.
    with run_lock(out, then="repeat the command; or choose another name: name=<name>"):
        begin(out, settings)
        display.say(f"{len(steps)} steps to measure, {count} to train again: {ways}\n{out}")
        summary = asyncio.run(
            make(run, prepared, stretches, steps, asked, out, run_ranks=run_ranks, display=display)
        )
    display.say(
        f"{summary['compared'] - summary['differing']} of {summary['compared']} steps equal the "
        f"recorded lines bit for bit\n{out}"
    )
    must_be_equal = run_ranks and not run.config.cluster.gpus_per_rank
    return 1 if summary["differing"] and must_be_equal else 0


def _default_name(steps: list[int], exact: bool) -> str:
    """Returns steps_10-24_6 for six steps between 10 and 24; _6 is left out if they are all."""
    first, last = steps[0], steps[-1]
    name = f"steps_{first}" if first == last else f"steps_{first}-{last}"
    if 1 < len(steps) < last - first + 1:
        name += f"_{len(steps)}"
    return name + ("_exact" if exact else "")


main = program(attribute, OPTIONS, go_on="the same command begins again")
