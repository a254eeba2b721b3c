"""isentropic: a distributed RL experiment platform for the study of policy entropy."""

__version__ = "0.1.0"
