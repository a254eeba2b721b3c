"""What an engine is: all that the platform asks of the software that draws tokens."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from isentropic.config import RolloutConfig
from isentropic.records import Completion, Request, Usage
from isentropic.weights.buckets import Bucket


class Engine(Protocol):
    """Draws tokens from one copy of the model, in a process of its own.

    `actors.rollout_actor.RolloutActor` calls it from several threads: up to eight `generate` at
    once, and the counters at any time. `load_weights` and `sleep` come only while no request runs.

    Another engine is a class that has these members, and a line in `rollout.ENGINES`.
    """

    policy_version: int  # of the weights it holds; 0 as it starts
    steps: int  # grows while it works: an engine that stands still is taken to hang, and is killed
    tokens: int  # drawn since it started
    num_running: int  # requests not answered yet

    def __init__(
        self,
        model_path: str,
        config: RolloutConfig,
        *,
        max_length: int,
        device: str,
        seed: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
        sleep_mode: bool = False,
        image_pixels: tuple[int, int] | None = None,
    ) -> None:
        """Loads the model folder `model_path` as policy version 0.

        Args:
            max_length: tokens of the window, prompt and response together.
            device: "cpu" or "cuda".
            seed: of whatever is random outside requests; a request brings its own.
            sleep_mode: `sleep` will be called: the GPU is shared with a learner.
            image_pixels: as in `ModelConfig`.
        """
        ...

    def generate(
        self, requests: Iterable[Request], *, cancelled: Callable[[], bool] = ...
    ) -> Iterator[list[Completion]]:
        """Yields one completion per request as they finish, in any order.

        Tokens depend only on the request and the weights, never on what else runs. `logprob` is in
        nats, at the request's temperature, after top-p and top-k. A response that ends with the
        last token it may have is finished by `stop`, not by `length`. A request that does not fit
        raises ValueError before any is started. A caller that stops reading, an error, or
        `cancelled()` leaves no request of this call behind.
        """
        ...

    def load_weights(
        self, policy_version: int, buckets: Iterable[Bucket]
    ) -> dict[str, float] | None:
        """Takes all weights, drops what was cached under the old ones, sets `policy_version`.

        `buckets` may be read more than once. Weights that do not fit raise ValueError and change
        nothing (`weights.buckets.check_buckets`). An engine that sleeps wakes.

        Returns seconds of its phases (`check_s`, `load_s`), or None if it does not measure them.
        """
        ...

    # An engine that has this too can be used with `weights.transport=broadcast`:
    #
    #   def receive_weights(self, meeting: weights.channel.Round, first_rank: int) -> dict[str, float]
    #
    # It takes part in a round with one process per device, `first_rank` and the ranks after it
    # (`weights.inbox`), and does what `load_weights` does. Weights that do not fit raise ValueError
    # and change nothing. A round that ends in the middle raises RoundBroken, and leaves the engine
    # with a `policy_version` of -1: with parts of two sets of weights it must answer nobody.

    def sleep(self) -> None:
        """Gives up the GPU's memory; does nothing on a CPU.

        `load_weights` takes it back: no request comes in between.
        """
        ...

    def take_usage(self) -> Usage:
        """Returns how full it was since the last call; an empty `Usage` if it does not know."""
        ...

    def close(self) -> None:
        """Ends the processes that it started."""
        ...

    @staticmethod
    def environment(device: str) -> dict[str, str]:
        """Variables that its process must be started with."""
        ...

    @staticmethod
    def missing(device: str, *, images: bool) -> str:
        """Says why it could not start on this machine, and what to do; "" if it could.

        Args:
            images: the model reads images.
        """
        ...

    @staticmethod
    def unsupported(head_size: int | None, device: str) -> str:
        """Says why it could not run the model on `device`, and what to do; "" if it could.

        Args:
            head_size: dimensions of an attention head; None if the model has none.
        """
        ...
