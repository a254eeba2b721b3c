"""Broadcast weights as a backend of vLLM's weight transfer, in each of an engine's processes.

One class for CPUs and GPUs: only the process group under it differs, gloo or NCCL. vLLM's own
backends have neither checksums nor a way to leave a broadcast whose sender has died.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from isentropic.rollout.worker.reloading import Reload
from isentropic.weights.channel import Round
from isentropic.weights.inbox import Inbox

BACKEND = "isentropic"


@dataclass
class JoinInfo(WeightTransferInitInfo):
    """Which round, and the rank in it of the engine's first process."""

    meeting: Round
    first_rank: int


@dataclass
class ParcelInfo(WeightTransferUpdateInfo):
    """Which parcel comes next; what it holds, the sender says."""

    index: int


class BroadcastEngine(WeightTransferEngine[JoinInfo, ParcelInfo]):
    """Receives parcels and copies them into the live model."""

    init_info_cls = JoinInfo
    update_info_cls = ParcelInfo
    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: Any) -> None:
        super().__init__(config, vllm_config, device, model)
        self.inbox = Inbox(device)
        self._reload = Reload(model, self.model_config)

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        self.inbox.begin(init_info.meeting, init_info.first_rank + self.parallel_config.rank)

    def start_weight_update(self) -> None:
        self._reload.begin()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class waits for an accelerator, which a CPU does not have. On a GPU the checksum
        # of the next parcel waits for this one, and `finish_weight_update` for the last.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ParcelInfo) -> None:
        self.inbox.take(update_info.index, self._reload.load)

    def finish_weight_update(self) -> None:
        self._reload.end()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def shutdown(self) -> None:
        self.inbox.close()


WeightTransferEngineFactory.register_engine(BACKEND, BroadcastEngine)
