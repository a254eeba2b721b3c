"""Grades the gold answers of data files, and near misses of them: what is right is paid, else nothing.

python tests/tasks/golds.py FOLDER      of JSON lines with `answer`; exit code 1 if one is graded wrongly
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "platform"))

from isentropic.tasks.answers.equal import gold_text, is_right  # noqa: E402

NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def near_misses(gold: str) -> list[str]:
    """Wrong answers that look like `gold`: its last number one more and ten times, the sign turned.

    Of a gold answer without a number: a word more, a letter less, nothing.
    """
    numbers = list(NUMBER.finditer(gold))
    if not numbers:
        return [f"not {gold}", gold[:-1], ""]
    start, end = numbers[-1].span()
    whole, point, places = numbers[-1].group().replace(",", "").partition(".")
    one_more = f"{int(whole) + 1}{point}{places}"
    tenfold = f"{whole}0{point}{places}" if int(whole) else f"1{whole}{point}{places}"
    turned = gold[1:] if gold.startswith("-") else f"-{gold}"
    misses = [gold[:start] + one_more + gold[end:], gold[:start] + tenfold + gold[end:], turned]
    # Nothing is the opposite of zero.
    return misses if any(int(digit) for digit in re.findall(r"\d", gold)) else [*misses[:2], "1/0"]


def answers(file: Path) -> list[str]:
    """The gold answers of a file, without the reasoning in front of them."""
    with file.open(encoding="utf-8") as lines:
        return [gold_text(str(json.loads(line)["answer"])) for line in lines]


def main() -> int:
    """Prints the counts of each file and every answer that was graded wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    wrong = 0
    for file in sorted(parser.parse_args().folder.glob("*.jsonl")):
        golds = answers(file)
        refused = [gold for gold in golds if not is_right(f"So it is \\boxed{{{gold}}}.", gold)]
        paid = [
            (gold, miss)
            for gold in golds
            for miss in near_misses(gold)
            if is_right(f"So it is \\boxed{{{miss}}}.", gold)
        ]
        print(
            f"{file.name}: {len(golds)} golds, {len(refused)} not paid; near misses paid: {len(paid)}"
        )
        for case in [*refused, *paid]:
            print(f"    {case!r}")
        wrong += len(refused) + len(paid)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
