"""Runs inside each vLLM worker: vLLM mixes this class into its own (`worker_extension_cls`)."""

import torch
import vllm._custom_ops as custom_ops
from vllm.config import set_current_vllm_config
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform

from isentropic.weights.buckets import Bucket
from isentropic.weights.shared import SharedBucket

if current_platform.is_cpu():
    # vLLM would repack Linear weights into oneDNN handlers; after a sync the handler of a tied
    # output layer keeps its old copy (logprobs wrong by 2-9 nats). Plain weights cost the same.
    # Must be set before the model is built.
    custom_ops._supports_onednn = False


def _pack_experts(model: torch.nn.Module) -> None:
    """Brings experts' weights into the layout of the CPU's kernel, as vLLM does at the start only.

    Without it the kernel reads the new weights as if they were packed: logprobs were wrong by half
    a nat.
    """
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and hasattr(module, "w13_weight"):
            with torch.no_grad():
                kernel.fused_experts.process_weights_after_loading(module)


class WorkerExtension:
    """Loads weights into a worker.

    Called through `collective_rpc` by name; with tensor parallelism once in every worker.
    """

    def isentropic_begin_load(self) -> None:
        self._isentropic_loaded: set[str] = set()
        if not current_platform.is_cpu():
            with set_current_vllm_config(self.vllm_config), torch.no_grad():
                initialize_layerwise_reload(self.model_runner.get_model())

    def isentropic_load(self, bucket: Bucket | SharedBucket) -> None:
        """Copies one bucket into the live model; vLLM merges and shards by Hugging Face name."""
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            self._isentropic_loaded |= (
                self.model_runner.get_model().load_weights(bucket.tensors()) or set()
            )

    def isentropic_end_load(self) -> None:
        """Raises RuntimeError if a parameter of the live model was not written: vLLM would not."""
        model = self.model_runner.get_model()
        if not current_platform.is_cpu():
            with set_current_vllm_config(self.vllm_config), torch.no_grad():
                finalize_layerwise_reload(model, self.model_config)
        else:
            _pack_experts(model)
        left = {name for name, _ in model.named_parameters()} - self._isentropic_loaded
        if left:
            raise RuntimeError(
                f"vLLM left {len(left)} parameters unwritten, such as {sorted(left)[0]}."
            )
