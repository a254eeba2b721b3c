"""Everything that can fill a slot: the class that its `name` in the config stands for."""

from isentropic.methods.advantages import Centred, LeaveOneOut, Normalised, QuantileBaseline
from isentropic.methods.control.controller import NoSteering
from isentropic.methods.control.entrocraft import EntrocraftConfig
from isentropic.methods.control.entropic import EntropicConfig
from isentropic.methods.control.flexec import FlexEcSchedule
from isentropic.methods.control.repo_r import RepoRConfig
from isentropic.methods.control.sign_bound import SignBoundConfig
from isentropic.methods.filters import DropFlat, KeepAll
from isentropic.methods.oger.exploration import ExplorationConfig
from isentropic.methods.papo.polarity import PolarityConfig
from isentropic.methods.reuse import NoReuse
from isentropic.methods.reweight import NoReweight
from isentropic.methods.sampling import OneWave, Refilled
from isentropic.methods.shaping import NoShaping, Overlong
from isentropic.methods.steering import SteeringConfig
from isentropic.methods.uec_rl.keep_rules import KeepRules
from isentropic.methods.uec_rl.queue_replay import QueueReplayConfig
from isentropic.methods.uec_rl.second_wave import SecondWave
from isentropic.objectives import OBJECTIVES
from isentropic.objectives.loss.own import OwnObjectiveConfig
from isentropic.objectives.tokens.mismatch import TOKEN_WEIGHTS
from isentropic.objectives.tokens.reductions import REDUCTIONS
from isentropic.tasks import TASKS

SLOTS: dict[str, dict[str, type]] = {
    "task": {name: task.config for name, task in TASKS.items()},
    "sampling": {"one_wave": OneWave, "refilled": Refilled, "second_wave": SecondWave},
    "shaping": {"none": NoShaping, "overlong": Overlong, "exploration": ExplorationConfig},
    "filter": {"drop_flat": DropFlat, "keep_all": KeepAll, "keep_rules": KeepRules},
    "advantage": {
        "normalised": Normalised,
        "centred": Centred,
        "leave_one_out": LeaveOneOut,
        "quantile": QuantileBaseline,
    },
    "reweight": {"none": NoReweight, "polarity": PolarityConfig},
    "token_weight": TOKEN_WEIGHTS,
    "objective": OBJECTIVES | {"own": OwnObjectiveConfig},
    "steering": {
        "none": NoSteering,
        "steered": SteeringConfig,
        "flexec": FlexEcSchedule,
        "entrocraft": EntrocraftConfig,
        "entropic": EntropicConfig,
        "sign_bound": SignBoundConfig,
        "repo_r": RepoRConfig,
    },
    "reduction": REDUCTIONS,
    "reuse": {"none": NoReuse, "queue_replay": QueueReplayConfig},
}
