"""Prompts and rewards. A task is data in a fixed order and a grade for a response."""

from typing import NamedTuple

from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask
from isentropic.tasks.calculator import CalculatorConfig, CalculatorTask
from isentropic.tasks.embedded.sorting import SortingConfig, SortingTask
from isentropic.tasks.figures import FiguresConfig, FiguresTask
from isentropic.tasks.math import MathConfig, MathTask
from isentropic.tasks.own.environment import EnvironmentConfig, EnvironmentTask
from isentropic.tasks.own.task import OwnTask, OwnTaskConfig
from isentropic.tasks.reasoning_gym import ReasoningGymConfig, ReasoningGymTask


class TaskEntry(NamedTuple):
    """A task's config class, and the task that is made of it."""

    config: type
    make: type


TASKS = {
    "arithmetic": TaskEntry(ArithmeticConfig, ArithmeticTask),
    "calculator": TaskEntry(CalculatorConfig, CalculatorTask),
    "environment": TaskEntry(EnvironmentConfig, EnvironmentTask),
    "figures": TaskEntry(FiguresConfig, FiguresTask),
    "math": TaskEntry(MathConfig, MathTask),
    "own": TaskEntry(OwnTaskConfig, OwnTask),
    "reasoning_gym": TaskEntry(ReasoningGymConfig, ReasoningGymTask),
    "sorting": TaskEntry(SortingConfig, SortingTask),
}
