"""Which config class a slot's `name` stands for: the hand-written dicts of the slots, in one place."""

from typing import Any

from isentropic.methods.advantages import ADVANTAGES
from isentropic.methods.filters import FILTERS
from isentropic.methods.papo.polarity import REWEIGHTS
from isentropic.methods.reuse import REUSES
from isentropic.methods.sampling import SAMPLINGS
from isentropic.methods.shaping import SHAPINGS
from isentropic.objectives import OBJECTIVES
from isentropic.objectives.tokens.mismatch import TOKEN_WEIGHTS
from isentropic.objectives.tokens.reductions import REDUCTIONS
from isentropic.tasks import TASKS


def _config_of(entry: Any) -> type:
    """An entry is a config class, or has one as `config` beside its function."""
    return entry if isinstance(entry, type) else entry.config


SLOTS: dict[str, dict[str, type]] = {
    slot: {name: _config_of(entry) for name, entry in entries.items()}
    for slot, entries in {
        "task": TASKS,
        "sampling": SAMPLINGS,
        "shaping": SHAPINGS,
        "filter": FILTERS,
        "advantage": ADVANTAGES,
        "reweight": REWEIGHTS,
        "token_weight": TOKEN_WEIGHTS,
        "objective": OBJECTIVES,
        "reduction": REDUCTIONS,
        "reuse": REUSES,
    }.items()
}
