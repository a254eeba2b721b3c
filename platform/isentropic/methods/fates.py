"""Fates: what became of each rollout that a step drew, in one word each.

The filter gives a fate to every rollout that shaping left in its group. Cutting to the sampling
plan's `max_groups` and the reuse slot then change the fate of what the filter passed. The last word
wins, so a rollout has exactly one.
"""

from dataclasses import dataclass

from isentropic.records import Rollout, Sample

FATES = {
    "trained": "It was trained on in this step.",
    "queued": "It passed the filter and waits in the queue for a later step.",
    "overflowed": "It passed the filter of this or an earlier step, and fell out of the queue.",
    "surplus": "It passed the filter, but its group is beyond the number of groups of a step.",
    "flat": "The rewards of its wave are all equal: no response is better than another.",
    "single": "It is alone in its wave: there is nothing to compare it with.",
    "below_threshold": "Its advantage is too small: |A| does not exceed the threshold of its wave.",
    "wrong_sign": "Its advantage is negative, and only positive ones of later waves are kept.",
    "against_target": "The step learns from one sign of advantage only, to bring the entropy back.",
    "overlong": "It is rewarded, but it was cut off at the response limit.",
    "no_response": "It has no response token.",
    "replaced": "Shaping took it out of its group for a teacher's response.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of one rollout."""

    name: str  # a key of FATES
    rollout: Rollout  # as shaped, if shaping left it in its group
    sample: Sample | None = None  # as trained on, with the advantages after reweighting
