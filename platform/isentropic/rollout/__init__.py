"""Engines, by the name that `rollout.engine` chooses. Nothing but this folder imports vllm."""

from isentropic.rollout.protocol import Engine
from isentropic.rollout.vllm_engine import VllmEngine

ENGINES: dict[str, type[Engine]] = {"vllm": VllmEngine}
