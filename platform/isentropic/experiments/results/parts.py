"""The parts of `make results`: which runs each needs, and which statements it decides.

Recipes are fixed before their runs: a change of one is listed in docs/results.md.
"""

from dataclasses import dataclass

from isentropic.checks import check_choice

# For every run of the demo's size: books of every second step (T11 asks for 40 measured steps), a
# held-out score often enough for the law of entropy and reward, which asks for 8 points, and one
# rank, because two runs at once then take 0.7 of the time.
DESK = (
    "accounting.ledger.every=2",
    "evaluation.every=10",
    "evaluation.prompts=256",
    "learner.num_ranks=1",
)


@dataclass(frozen=True, kw_only=True)
class Branching:
    """Branches of a part's runs, for T3.

    Attributes:
        sweep: preset of conf/sweep with the settings; the first is the base of the differences.
        points: branch points per run; None: as many as the pilot's variance asks for.
        most: branch points of a run that are worth their time: they have the run in common, and more
            runs tell more than more points of each.
    """

    sweep: str
    points: int | None
    most: int = 20


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: a sweep, what is judged on it, and what is said of it.

    Attributes:
        sweep: preset of conf/sweep, or a YAML file.
        overrides: of every run, over the preset's.
        statements: ids of docs/statements.md that the part decides, the first word of an id.
        again: ids that it judges once more, elsewhere than they are decided.
        base: label of the setting that the others' differences are taken to; "": none.
        order: labels along which a paper has the entropy fall: how numbers change along it is told.
        refusals: methods that are tried in pairs, base and addition, to say which compose.
        branching: the part's branches; None: it has none.
    """

    name: str
    title: str
    sweep: str
    overrides: tuple[str, ...] = DESK
    statements: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    base: str = ""
    order: tuple[str, ...] = ()
    refusals: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    branching: Branching | None = None


PARTS = (
    Part(
        name="baselines",
        title="The baselines of CE-GPPO's tables",
        sweep="baselines",
        statements=("T2", "T4", "T5", "T6", "T9", "T10"),
        base="GRPO",
    ),
    Part(
        name="fig3",
        title="The beta grid (figure 3)",
        sweep="ce_gppo_fig3",
        again=("T2", "T4"),
        base="DAPO",
        order=("(0, 1)", "(0.25, 1)", "(0.5, 1)", "(0.75, 1)", "(1, 1)", "(1, 0.75)", "(1, 0.5)"),
    ),
    Part(
        name="fig5",
        title="A fixed entropy bonus (figure 5)",
        sweep="ce_gppo_fig5",
        statements=("T8",),
        base="GRPO",
    ),
    Part(
        name="fig6",
        title="A switch of beta half way (figure 6)",
        sweep="ce_gppo_fig6",
        statements=("T7",),
        base="(0, 1)",
    ),
    Part(
        name="steered",
        title="CE-GPPO steered by its books",
        sweep="ce_gppo_steered",
        statements=("T11", "T12"),
        base="(0.5, 1)",
    ),
    Part(
        name="t3_pilot",
        title="The pilot of T3",
        sweep="results_t3_pilot",
        overrides=(),
        branching=Branching(sweep="ce_gppo_t3", points=14),
    ),
    Part(
        name="t3",
        title="Branches of one state (T3)",
        sweep="results_t3",
        overrides=(),
        statements=("T3",),
        branching=Branching(sweep="ce_gppo_t3", points=None),
    ),
    Part(
        name="methods",
        title="The table of methods",
        sweep="results_methods",
        again=("T2", "T4", "T11", "T12"),
        base="GRPO",
    ),
    Part(
        name="compositions",
        title="PAPO, OGER and UEC-RL over three bases",
        sweep="results_compositions",
        base="GRPO",
        refusals=(("grpo", "ce_gppo", "ce_gppo_steered"), ("papo", "oger", "uec_rl")),
    ),
    Part(
        name="environment",
        title="PAPO over several turns",
        sweep="results_environment",
        base="DAPO",
    ),
    Part(
        name="second_task",
        title="The comparison on a second task",
        sweep="results_second_task",
        again=("T2", "T4", "T5", "T6", "T11"),
        base="GRPO",
    ),
    Part(
        name="smollm2",
        title="The comparison on SmolLM2-135M, shortened",
        sweep="results_smollm2",
        overrides=("accounting.ledger.every=0", "evaluation.every=2"),
        base="GRPO",
    ),
)


def parts_of(names: list[str] | None) -> list[Part]:
    """Return the parts of these names in their own order, or all.

    Raises:
        ValueError: a name that no part has.
    """
    known = {part.name: part for part in PARTS}
    for name in names or ():
        check_choice("part", name, known)
    return [part for part in PARTS if not names or part.name in names]
