"""isentropic: a distributed RL experiment platform for the study of policy entropy.

    import isentropic

    run = isentropic.train(["experiment=ce_gppo_tiny", "run.name=first"])
    run.metrics["entropy/mean"].plot()

docs/api.md has the rest. What is listed in `__all__` is imported when it is first used: neither torch
nor Ray is loaded by `import isentropic`.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


_ASKS = "transformers.generation.candidate_generator"


class _WithoutScikitLearn:
    """Keeps transformers from importing scikit-learn, where that is installed.

    It does so with every model class, for a way of generating that nothing here uses, and scikit-learn
    brings pandas and more of scipy: a fifth of what a learner's process imports, by its time.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Finds nothing: to the one module that asks in vain it says no, before that is imported."""
        if name != _ASKS:
            return
        utils = sys.modules["transformers.utils"]
        answer = utils.is_sklearn_available
        utils.is_sklearn_available = lambda: (
            sys._getframe(1).f_globals.get("__name__") != _ASKS and answer()
        )


if _WithoutScikitLearn not in sys.meta_path:
    sys.meta_path.insert(0, _WithoutScikitLearn)

# name -> the module that it lives in
_API = {
    "Branches": "isentropic.experiments.api.branches",
    "Comparison": "isentropic.experiments.api.comparison",
    "Run": "isentropic.experiments.api.run",
    "branch": "isentropic.experiments.api.branches",
    "compare": "isentropic.experiments.api.comparison",
    "compose": "isentropic.experiments.api.training",
    "load_run": "isentropic.experiments.api.run",
    "train": "isentropic.experiments.api.training",
}
__all__ = [*sorted(_API), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'isentropic' has no attribute {name!r}")
    value = getattr(import_module(_API[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
