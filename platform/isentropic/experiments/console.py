"""The console script: `isentropic train ...` is `python jobs/train.py ...` from any folder."""

import sys
from collections.abc import Sequence
from importlib import import_module

from isentropic.checks import check_choice
from isentropic.experiments.program import BAD_INPUT, DONE, refuse
from isentropic.experiments.settings.options import HELP
from isentropic.experiments.started import COMMAND

COMMANDS = {
    "train": "one run",
    "sweep": "many runs, one report",
    "branch": "steps of a recorded run, trained on with other settings",
    "replay": "one recorded step, trained again",
    "evaluate": "a checkpoint's score on held-out prompts",
    "attribute": "who moved the entropy in recorded steps",
    "show": "rollouts of a recorded step as text",
    "report": "one HTML file about runs, a sweep or branches",
    "results": "the experiments behind docs/results.md, on one command",
    "export": "a checkpoint as a Hugging Face folder",
    "submit": "train, sweep, branch, replay, evaluate, attribute, report, export or doctor on a Ray "
    "cluster, from a checkout of the project",
    "doctor": "what would keep a run from starting here",
    "make_teachers": "teacher responses for OGER, from the embedded task",
    "fetch_smollm2": "downloads SmolLM2-135M-Instruct",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names on the others; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in HELP:
        print(_help())
        return DONE if given else BAD_INPUT
    command = given[0]
    try:
        if command == "completion":
            from isentropic.experiments.completion import completion  # Hydra: not for --help

            print(completion(given[1:], list(COMMANDS)))
            return DONE
        check_choice("command", command, COMMANDS)
    except ValueError as error:
        return refuse(str(error))
    # Hydra and the commands read the rest where a script of their own would find it.
    sys.argv = [f"{COMMAND} {command}", *given[1:]]
    return import_module(f"isentropic.experiments.commands.{command}").main()


def _help() -> str:
    rows = [f"  {name:<15}{what}" for name, what in COMMANDS.items()]
    head = "isentropic <command> key=value ...    (isentropic <command> --help shows its options)"
    foot = 'TAB completes them after: eval "$(isentropic completion bash)" (or zsh)'
    return "\n".join([head, "", *rows, "", foot])


if __name__ == "__main__":
    sys.exit(main())
