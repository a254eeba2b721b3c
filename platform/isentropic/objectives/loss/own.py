"""An objective of a user's own: a function from a file, or one that a package offers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from isentropic.checks import nearest
from isentropic.objectives.loss.objective import TOKEN_FIELDS, ObjectiveConfig
from isentropic.objectives.loss.schedule import check_coefficient, resolve
from isentropic.objectives.loss.token_loss import TokenLoss
from isentropic.own.code import OwnCode, named, place
from isentropic.own.packages import load_offered, version

GIVEN = (*TOKEN_FIELDS, "seed")
DTYPES = {"sequence_id": torch.int64, "is_teacher": torch.bool}  # of the fields that are no floats


@dataclass(frozen=True, kw_only=True)
class OwnObjectiveConfig(ObjectiveConfig):
    """A function like those of `objectives`: log ratio and advantage in, `TokenLoss` out.

    Its other keywords are token fields, `seed`, or coefficients, whose values stand in `settings`.
    """

    file: str | None  # a .py file; a copy goes into the run folder; null: a package offers it
    function_name: str  # in the file, or among the entry points `isentropic.objectives`
    settings: dict[str, Any]  # its coefficients, numbers or schedules; left out: its defaults

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise ValueError(
                f"objective.function_name={self.function_name}: in {self.where} it is "
                f"{type(self.function).__name__}, not a function."
            )
        names = self.coefficients
        for name in self.settings:
            if name not in names:
                raise ValueError(
                    f"objective.settings.{name} is no coefficient of {self.function_name} "
                    f"({self.where}).{nearest(name, names)} It has: {', '.join(names) or 'none'}."
                )
        for name in names:
            if (value := self._value(name)) is inspect.Parameter.empty:
                raise ValueError(
                    f"{self.where}: {self.function_name} needs a value of {name}: "
                    f"++objective.settings.{name}=..."
                )
            check_coefficient(f"objective.settings.{name}", value, optional=True)
        self._try()

    @cached_property
    def code(self) -> OwnCode | None:
        """The file as it is now; it travels with the config to every rank."""
        return None if self.file is None else OwnCode.read("objective.file", self.file)

    @property
    def package(self) -> str | None:
        """Name and version of the package that offers the function; None: it is from a file."""
        return version("objective", self.function_name) if self.file is None else None

    @property
    def function(self) -> Callable[..., TokenLoss]:
        """The user's function."""
        if self.code is not None:
            return self.code.get("objective.function_name", self.function_name)
        return load_offered("objective.function_name", "objective", self.function_name)

    @property
    def needs_minibatch(self) -> bool:
        """Whether it takes statistics over a whole minibatch: its attribute of this name says so."""
        return bool(getattr(self.function, "needs_minibatch", False))

    @property
    def where(self) -> str:
        """Where the function begins, as file:line, or which package has it."""
        return self.code.line(self.function) if self.code is not None else str(self.package)

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of its keywords that are no token fields and hold a number."""
        parameters = inspect.signature(self.function).parameters
        return tuple(
            name
            for name, parameter in list(parameters.items())[2:]
            if name not in GIVEN
            and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and (
                parameter.default in (None, parameter.empty)
                or isinstance(parameter.default, int | float)
            )
        )

    def at(self, step: int) -> dict[str, float | None]:
        """The coefficients at `step` (from 1), schedules resolved."""
        return {name: resolve(self._value(name), step) for name in self.coefficients}

    def _value(self, name: str) -> Any:
        parameter = inspect.signature(self.function).parameters[name]
        return self.settings.get(name, parameter.default)

    def _try(self) -> None:
        """Calls it on two tokens. Raises ValueError if it fails, or gives another shape."""
        fields = {
            name: torch.zeros(2, dtype=DTYPES.get(name, torch.float64)) for name in TOKEN_FIELDS
        }
        fields["logprob"].requires_grad_()
        log_ratio = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        advantage = torch.tensor([1.0, -1.0], dtype=torch.float64)
        try:
            loss, metrics = self.function(
                log_ratio, advantage, **self.inputs(self.at(1), fields, seed=0)
            )
            shapes = {"loss": loss.shape, **{name: value.shape for name, value in metrics.items()}}
        except Exception as error:  # of the user's own code: it may raise what it likes
            raise ValueError(
                f"{place(error) or self.where}: {self.function_name} fails on two tokens: "
                f"{named(error)}. It gets log_ratio and advantage, [N] each, and returns "
                "TokenLoss(loss, metrics)."
            ) from error
        if wrong := [f"{name} {list(shape)}" for name, shape in shapes.items() if shape != (2,)]:
            raise ValueError(
                f"{self.where}: {self.function_name} gives {', '.join(wrong)} for two tokens. Loss "
                "and metrics must be [N], unreduced: the learner weighs each token itself."
            )
        if not loss.requires_grad:
            raise ValueError(
                f"{self.where}: {self.function_name} gives a loss without a gradient: nothing would "
                "be learned. Make it of log_ratio (or the field logprob), not detached."
            )
