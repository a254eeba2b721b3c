"""Prints what a rank was planned to need in an update and what it took, in GiB: rank_memory.py MODEL full|lora"""

import json
import sys
from dataclasses import replace

from ranks import CONFIG, OBJECTIVE, make_samples, model_config, step_batches

from isentropic.config import LoraConfig
from isentropic.learner.estimate import estimate_rank_bytes
from isentropic.learner.learner import Learner
from isentropic.learner.model import read_config

GIB = 1 << 30


def peak():
    """Bytes of this process at their highest."""
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main(folder, kind):
    lora = LoraConfig(rank=8, alpha=16.0, targets=("all",)) if kind == "lora" else None
    config = replace(CONFIG, lora=lora, microbatch_tokens=256, vocab_chunk=16384)
    model = replace(model_config(folder), max_length=64)
    planned = estimate_rank_bytes(read_config(model), config, on_gpu=False).total
    before = peak()
    learner = Learner(
        config=config, model=model, objective=OBJECTIVE, temperature=1.0, total_updates=10
    )
    learner.update(step_batches(make_samples(prompts=8, group=4), 1, 256)[0])
    print(json.dumps({"planned": planned / GIB, "took": (peak() - before) / GIB}))
    learner.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
