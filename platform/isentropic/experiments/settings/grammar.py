"""One argument as Hydra's grammar reads it."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException


def read_override(argument: str) -> Override | None:
    """Return what an argument says, by itself; None if Hydra's grammar does not take it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
