"""Runs inside each vLLM worker: vLLM mixes this class into its own (`worker_extension_cls`)."""

import torch
import vllm._custom_ops as custom_ops
from vllm.config import get_current_vllm_config, set_current_vllm_config
from vllm.platforms import current_platform

from isentropic.rollout.worker import transfer  # noqa: F401  registers its backend
from isentropic.rollout.worker.reloading import Reload
from isentropic.weights.buckets import Bucket
from isentropic.weights.shared import SharedBucket


class _HalfPrecision:
    """True while vLLM makes the layers of a model in half precision."""

    def __bool__(self) -> bool:
        return get_current_vllm_config().model_config.dtype != torch.float32


if current_platform.is_cpu():
    # vLLM would repack Linear weights into oneDNN handlers. In float32 plain weights cost the same,
    # and new ones are written in their place; in bfloat16 packed ones compute in half the time, and
    # `Reload` packs the new ones too. Must be set before the model is built.
    custom_ops._supports_onednn = _HalfPrecision()


class WorkerExtension:
    """Loads weights into a worker.

    Called through `collective_rpc` by name; with tensor parallelism once in every worker.
    """

    def isentropic_begin_load(self) -> None:
        self._isentropic_reload = Reload(self.model_runner.get_model(), self.model_config)
        with set_current_vllm_config(self.vllm_config):
            self._isentropic_reload.begin()

    def isentropic_load(self, bucket: Bucket | SharedBucket) -> None:
        """Copies one bucket into the live model."""
        with set_current_vllm_config(self.vllm_config):
            self._isentropic_reload.load(bucket.tensors())

    def isentropic_end_load(self) -> None:
        with set_current_vllm_config(self.vllm_config):
            self._isentropic_reload.end()

    def isentropic_receive(self, num_parcels: int) -> dict[str, float]:
        """Takes all parcels of the round that was begun; returns the seconds of its phases."""
        self.start_weight_update()
        for index in range(num_parcels):
            self.update_weights({"index": index})
        self.finish_weight_update()
        return self.weight_transfer_engine.inbox.seconds
