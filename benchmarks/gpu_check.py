"""What only a GPU can show: every part is the product's own code, on one GPU, and prints what it measured.

    make gpu-check                                        # all parts, under an hour on one 80 GB GPU
    python benchmarks/gpu_check.py --parts head,learner   # some
    python benchmarks/gpu_check.py --again                # also those that a result stands for already

Results are written to runs/gpu-check/results.json after each part, and a part that is there is not run again, so that
an interrupted check goes on. Exit code 0, 1 if a part failed, 2 without a GPU. `--small` runs every part with tiny
sizes on CPUs, which shows that the code works and nothing else.

Parts: install (doctor and versions), head (token statistics: time, memory, error), attention (flash kernels 2 and 3),
learner (MFU at 1.5 B, with gradient checkpointing and compiled too), repeats (the same updates twice: the same bits?),
park (the learner's state to the host and back; a checkpoint), shared and apart (three steps of training with a rank
and an engine on one GPU, in turns and by halves), books (what a step with the entropy ledger costs), experts (a mixture
of experts), resume (a run that was killed, against one that was not), sync (200 syncs: time, engine against learner in
bfloat16).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
sys.path[0] = str(ROOT / "platform")

import torch  # noqa: E402
from torch.nn import attention as torch_attention  # noqa: E402
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM  # noqa: E402

from isentropic.config import ModelConfig  # noqa: E402
from isentropic.learner.attention import packed_attention  # noqa: E402
from isentropic.learner.learner import Learner  # noqa: E402
from isentropic.metrics.sinks.jsonl import read_lines  # noqa: E402
from isentropic.models import tiny  # noqa: E402


def _benchmark(name: str) -> ModuleType:
    """Load another benchmark's file."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


head_benchmark = _benchmark("head")
learner_benchmark = _benchmark("learner")
Row = dict[str, Any]
TINY = tiny.TinySizes(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, window=256,
)  # fmt: skip
# Shapes of Qwen2.5, but for the vocabulary, which is the embedded tokenizer's: that part is `head`'s.
HALF_B = tiny.TinySizes(
    hidden_size=896, intermediate_size=4864, num_layers=24, num_heads=14, num_kv_heads=2, head_dim=64, window=32768,
)  # fmt: skip
ONE_AND_A_HALF_B = tiny.TinySizes(
    hidden_size=1536, intermediate_size=8960, num_layers=28, num_heads=12, num_kv_heads=2, head_dim=128, window=32768,
)  # fmt: skip


def install(small: bool) -> list[Row]:
    """Run the doctor, and name what is installed."""
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / "doctor.py"], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"jobs/doctor.py ended with {done.returncode}:\n{done.stdout}")
    names = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        names |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return [names]


def head(small: bool) -> list[Row]:
    """Measure the token statistics by every head that can run here."""
    sizes = {"tokens": 16384, "vocabulary": 152064, "hidden": 3584, "chunk": 16384}
    heads = head_benchmark.HEADS
    if small:
        sizes, heads = head_benchmark.SMALL, ("torch",)
    measured = head_benchmark.measure(heads, sizes)
    return [{"head": name} | numbers for name, numbers in measured.items()]


def attention(small: bool) -> list[Row]:
    """Time packed attention, forward and backward, by flash attention 2, and by 3 if it is there."""
    rows = [{"kernel": "2"} | _time_attention(small)]
    if not small:
        try:
            torch_attention.activate_flash_attention_impl("FA3")
        except (ImportError, RuntimeError, ValueError) as error:
            return [*rows, {"kernel": "3", "not_run": repr(error)}]
        try:
            rows.append({"kernel": "3"} | _time_attention(small))
        finally:
            torch_attention.restore_flash_attention_impl()
    return rows


def _time_attention(small: bool) -> Row:
    length, heads, shared, size = (64, 2, 1, 16) if small else (16384, 28, 4, 128)
    device, dtype = ("cpu", torch.float32) if small else ("cuda", torch.bfloat16)
    query, key, value = (
        torch.randn(1, count, length, size, device=device, dtype=dtype, requires_grad=True)
        for count in (heads, shared, shared)
    )
    bounds = torch.tensor([0, length // 4, length], dtype=torch.int32, device=device)

    def once() -> None:
        out, _ = packed_attention(
            torch.nn.Module(), query, key, value, None, scaling=size**-0.5,
            cu_seq_lens_q=bounds, max_length_q=length - length // 4,
        )  # fmt: skip
        out.sum().backward()

    return {"tokens": length, "ms": 1000 * _best_seconds(once)}


def learner(small: bool) -> list[Row]:
    """Measure the share of the GPU's peak that updates reach, at 1.5 B and 16k tokens."""
    rows = []
    for checkpointing, compiled in ((False, False), (True, False), (False, True)):
        sizes = TINY if small else ONE_AND_A_HALF_B
        with _Rank(small, sizes, checkpointing=checkpointing, compile=compiled) as (rank, batch):
            tokens = sum(len(packed.token_ids) for part in batch.updates for packed in part)
            _reset_peak()
            results = [rank.update(batch) for _ in range(4)][1:]  # the first compiles
            best = min(result.updates[0].seconds for result in results)
            rows.append(
                {
                    "gradient_checkpointing": checkpointing,
                    "compiled": compiled,
                    "tokens_per_s": tokens / best,
                    "mfu": max((result.mfu for result in results if result.mfu), default=None),
                    "peak_gib": _peak_gib(),
                }
            )
    return rows


def repeats(small: bool) -> list[Row]:
    """Make the same updates from the same weights twice; say whether the bits are the same."""
    rows = []
    for deterministic in (False, True):
        digests, seconds = [], []
        for _ in range(2):
            with _Rank(small, TINY if small else HALF_B, deterministic=deterministic) as (
                rank,
                batch,
            ):
                results = [rank.update(batch) for _ in range(4)]
                digests.append(_digest(rank))
                seconds.append(min(result.updates[0].seconds for result in results))
        rows.append(
            {
                "deterministic": deterministic,
                "same_bits": digests[0] == digests[1],
                "update_s": min(seconds),
            }
        )
    return rows


def _digest(rank: Learner) -> str:
    """One hash over all weights, in float32."""
    found = hashlib.sha256()
    for name, weight in rank.named_weights():
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def park(small: bool) -> list[Row]:
    """Time the learner's way to the host and back, and a checkpoint; say what it leaves behind."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _Rank(small, TINY if small else ONE_AND_A_HALF_B) as (rank, batch),
    ):
        rank.update(batch)  # the moments
        row: Row = {"save_s": _seconds(lambda: rank.save(Path(folder)))}
        row["checkpoint_gib"] = (
            sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 2**30
        )
        for turn in ("first", "again"):  # the first pins memory
            row[f"offload_{turn}_s"] = _seconds(rank.offload)
            row["left_gib"] = torch.cuda.memory_reserved() / 2**30 if not small else 0.0
            row[f"restore_{turn}_s"] = _seconds(rank.restore)
    return [row]


class _Rank:
    """One rank with random weights of these sizes, and a batch of about 16k tokens."""

    def __init__(self, small: bool, sizes: tiny.TinySizes, **options: bool) -> None:
        self._small = small
        self._sizes = sizes
        self._options = {"compile": False, "checkpointing": False, "deterministic": False} | options

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        path = _save_model(self._sizes, Path(self._folder.name))
        options = SimpleNamespace(
            sequences=4, response=48 if self._small else 4096, budget=256 if self._small else 16384,
            dtype="float32" if self._small else "bfloat16", vocab_chunk=16384, **self._options,
        )  # fmt: skip
        model = ModelConfig(
            name="check", path=str(path), revision=None, max_length=self._sizes.window,
            trust_remote_code=False, warm_start=None, image_pixels=None,
        )  # fmt: skip
        self._rank = Learner(
            config=learner_benchmark.learner_config(options), model=model,
            objective=learner_benchmark.OBJECTIVE, temperature=1.0, total_updates=100,
        )  # fmt: skip
        return self._rank, learner_benchmark.make_batch(options, 64)

    def __exit__(self, *_) -> None:
        self._rank.close()
        self._folder.cleanup()


def shared(small: bool) -> list[Row]:
    """Train three steps with a rank and an engine that take turns on one GPU; weights are lent."""
    lent = "weights.transport=broadcast"
    return [_train("shared", small, "run.steps=3", "cluster=shared_gpu", lent)]


def apart(small: bool) -> list[Row]:
    """Train three steps with a rank and an engine on halves of one GPU."""
    halves = ("cluster=gpu", "cluster.gpus_per_engine=0.5", "cluster.gpus_per_rank=0.5")
    return [_train("apart", small, "run.steps=3", *halves)]


def books(small: bool) -> list[Row]:
    """Train with the entropy ledger in every second step; compare the time of the updates."""
    lines = _metrics(
        "books", small, "run.steps=6", "cluster=shared_gpu", "accounting.ledger.every=2"
    )
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for line in lines[2:]:  # the start, and a step in which kernels are compiled
        taken["with" if "ledger/measured" in line else "without"].append(line["time/update_s"])
    row: Row = {f"update_{name}_books_s": min(seconds) for name, seconds in taken.items()}
    last = [line for line in lines if "ledger/measured" in line][-1]
    return [row | {key: last[key] for key in ("ledger/measured", "ledger/now", "ledger/tokens")}]


def experts(small: bool) -> list[Row]:
    """Train a mixture of experts for three steps."""
    lines = _metrics("experts", small, "run.steps=3", "cluster=shared_gpu", save=_save_experts)
    return [
        _summary(lines) | {key: lines[-1][key] for key in ("router/entropy", "router/load_max")}
    ]


def resume(small: bool) -> list[Row]:
    """Kill a run in the middle and go on; compare with one that nobody touched.

    Both with kernels that round alike in every batch and add in a fixed order.
    """
    settings = (
        "run.steps=6", "cluster=shared_gpu", "checkpoint.every=1", "learner.deterministic=true",
        "resume=auto",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        model = _save_half_b(small, Path(folder) / "model")
        commands = [_command("resume", small, model, run, settings) for run in (whole, killed)]
        # On a CPU vLLM has no such kernels, and needs none.
        environment = os.environ | ({} if small else {"VLLM_BATCH_INVARIANT": "1"})
        _run_to_end(commands[0], environment)
        process = subprocess.Popen(
            commands[1], env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not (killed / "checkpoints" / "step_000003").exists():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        at = max((line["step"] for line in read_lines(killed / "metrics.jsonl")[0]), default=0)
        _run_to_end(commands[1], environment)
        runs = [read_lines(run / "metrics.jsonl")[0] for run in (killed, whole)]
        return [{"killed_after_step": at} | _differences(*runs)]


def _differences(one: list[Row], other: list[Row]) -> Row:
    """Where two runs differ first, but for their times, and by how much their entropies do."""
    times = ("time/", "throughput/", "sync/", "mismatch/")
    row: Row = {"steps": other[-1]["step"], "equal_to_the_bit": len(one) == len(other)}
    for line, wanted in zip(one, other, strict=False):
        keys = [key for key in wanted if not key.startswith(times)]
        found = [key for key in keys if repr(line.get(key)) != repr(wanted[key])]
        if found:
            row |= {"equal_to_the_bit": False, "first_at_step": wanted["step"], "keys": found[:6]}
            break
    pairs = [
        (a.get("entropy/mean"), b.get("entropy/mean")) for a, b in zip(one, other, strict=False)
    ]
    row["entropy_differs_by"] = max((abs(a - b) for a, b in pairs if a and b), default=0.0)
    return row


def sync(small: bool) -> list[Row]:
    """Sync 200 times, after short steps; compare engine and learner after each."""
    steps = 2 if small else 200
    short = ("rollout.prompts_per_step=8", "learner.updates_per_rollout=1", f"run.steps={steps}")
    return [_train("sync", small, *short, "cluster=shared_gpu")]


def _train(name: str, small: bool, *settings: str) -> Row:
    """Run jobs/train.py on a random model and sum its metrics up."""
    return _summary(_metrics(name, small, *settings))


def _metrics(
    name: str, small: bool, *settings: str, save: Callable[[bool, Path], Path] | None = None
) -> list[Row]:
    """The lines of metrics.jsonl of a run of jobs/train.py on a random model."""
    with tempfile.TemporaryDirectory() as folder:
        model = (save or _save_half_b)(small, Path(folder) / "model")
        run = Path(folder) / "run"
        _run_to_end(_command(name, small, model, run, settings))
        lines = read_lines(run / "metrics.jsonl")[0]
        if idle := [each["step"] for each in lines if each["step"] and not each["update/count"]]:
            raise RuntimeError(f"nothing was learned in steps {idle}: times and syncs mean nothing")
        return lines


def _command(name: str, small: bool, model: Path, run: Path, settings: Sequence[str]) -> list[str]:
    """The command line of a run of this part."""
    common = [
        "experiment=ce_gppo_tiny", "model=path", f"model.path={model}", "model.max_length=128",
        "rollout.max_prompt_tokens=32", "rollout.max_response_tokens=48", "rollout.kv_cache_gib=0.5",
        "learner.num_ranks=1", "evaluation.every=0", "checkpoint.every=0", "tracking.wandb=disabled",
        f"run.name=gpu-check-{name}", f"run.dir={run}",
        # A random model answers all wrong; its lengths differ, so that there is something to learn.
        "shaping=overlong", "shaping.buffer_share=1.0", "filter=keep_all",
    ]  # fmt: skip
    half = ["rollout.dtype=bfloat16", "learner.dtype=bfloat16", "rollout.probe_tolerance=0.3"]
    chosen = [*common, *(_on_cpus(settings) if small else [*settings, *half])]
    once = {each.partition("=")[0]: each for each in chosen}  # a part's own settings come last
    return [sys.executable, str(ROOT / "jobs" / "train.py"), *once.values()]


def _run_to_end(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Raises RuntimeError, with the last lines, if the command fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"jobs/train.py ended with {done.returncode}:\n{last}")


def _on_cpus(settings: Sequence[str]) -> list[str]:
    """The same without GPUs: what takes turns on one takes turns on the machine's CPUs."""
    turns = ["cluster.placement=shared"] if "cluster=shared_gpu" in settings else []
    return turns + [each for each in settings if not each.startswith("cluster")]


def _summary(lines: list[Row]) -> Row:
    """Median of each time and the spread of the probes, over the steps of a run."""
    row: Row = {"steps": max(line["step"] for line in lines)}
    keys = sorted({key for line in lines for key in line})
    for key in keys:
        values = [line[key] for line in lines if isinstance(line.get(key), int | float)]
        if key.startswith(("time/", "throughput/")) and values:
            row[key] = statistics.median(values)
        elif key.startswith("sync/") and values:
            row |= {f"{key} median": statistics.median(values), f"{key} max": max(values)}
    return row


PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "install": install,
    "head": head,
    "attention": attention,
    "learner": learner,
    "repeats": repeats,
    "park": park,
    "shared": shared,
    "apart": apart,
    "books": books,
    "experts": experts,
    "resume": resume,
    "sync": sync,
}


def _save_model(sizes: tiny.TinySizes, folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    tiny.save(folder, tiny.build_model(sizes, tokenizer), tokenizer)
    return folder


def _save_half_b(small: bool, folder: Path) -> Path:
    return _save_model(TINY if small else HALF_B, folder)


def _save_experts(small: bool, folder: Path) -> Path:
    """A random mixture of experts; 0.3 B parameters, of which an answer's token meets an eighth."""
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    width, layers, count = (64, 2, 8) if small else (768, 8, 32)
    config = Qwen3MoeConfig(
        vocab_size=128, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32,
        num_key_value_heads=1, head_dim=64, num_experts=count, num_experts_per_tok=count // 8,
        norm_topk_prob=True, moe_intermediate_size=width // 2, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    tiny.save(folder, model, tokenizer)
    return folder


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _best_seconds(work: Callable[[], Any], rounds: int = 5) -> float:
    return min(_seconds(work) for _ in range(rounds + 1))


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def run_part(name: str, small: bool) -> Row:
    """Run one part in this process; an error is its result, and the next parts go on."""
    start = time.perf_counter()
    try:
        result: Row = {"rows": PARTS[name](small)}
    except Exception:
        result = {"error": traceback.format_exc()}
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def table(name: str, result: Row) -> str:
    """One line per number that the part measured."""
    lines = [f"{name} ({result['seconds']} s)" + (": FAILED" if "error" in result else "")]
    for row in result.get("rows", []):
        lines += [f"  {key:<44} {_short(value)}" for key, value in row.items()]
    return "\n".join(lines + [f"  | {line}" for line in result.get("error", "").splitlines()])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check(names: list[str], path: Path, *, small: bool, again: bool) -> int:
    """Run the parts that have no result yet, each in a process of its own; return the exit code.

    A process of its own gives the GPU's memory back, whatever a part leaves behind.
    """
    results = json.loads(path.read_text()) if path.exists() and not again else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        if "rows" not in results.get(name, {}):
            command = [sys.executable, __file__, "--one", name, *(["--small"] if small else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            results[name] = _answer(done)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(results, indent=2))
            os.replace(partial, path)
        print(table(name, results[name]), flush=True)
    print(f"written to {path}")
    return 1 if any("error" in results[name] for name in names) else 0


def _answer(done: subprocess.CompletedProcess) -> Row:
    """What a part's process printed last; that it died, if it did not come to that."""
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": f"the process ended with {done.returncode}", "seconds": 0.0}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas between them")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on CPUs")
    parser.add_argument("--again", action="store_true", help="run parts that have a result too")
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "gpu-check" / "results.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts names {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not given.small and not torch.cuda.is_available():
        print(
            "make gpu-check needs a GPU, and torch sees none here. On a machine with one: make venv "
            "DEVICE=cuda. To try the script itself on CPUs: benchmarks/gpu_check.py --small",
            file=sys.stderr,
        )
        return 2
    if given.one:
        print(json.dumps(run_part(given.one, given.small)))
        return 0
    return check(names, given.json, small=given.small, again=given.again)


if __name__ == "__main__":
    sys.exit(main())
