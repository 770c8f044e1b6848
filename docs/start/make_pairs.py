"""Write the data of the page *Start*: pairs of a short and a wordy answer, and prompts to be asked afterwards.

python docs/start/make_pairs.py      # writes output/start/pairs.jsonl (128 pairs) and prompts.jsonl (32 prompts)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

OUTPUT = Path("output/start")
CAPITALS = (
    "Austria Vienna, Belgium Brussels, Canada Ottawa, Chile Santiago, China Beijing, Cuba Havana, Denmark Copenhagen, "
    "Egypt Cairo, England London, Finland Helsinki, France Paris, Germany Berlin, Ghana Accra, Greece Athens, "
    "Hungary Budapest, Iceland Reykjavik, India Delhi, Iran Tehran, Iraq Baghdad, Ireland Dublin, Italy Rome, "
    "Jamaica Kingston, Japan Tokyo, Kenya Nairobi, Lebanon Beirut, Malta Valletta, Nepal Kathmandu, Norway Oslo, "
    "Peru Lima, Poland Warsaw, Portugal Lisbon, Romania Bucharest, Russia Moscow, Serbia Belgrade, Spain Madrid, "
    "Sweden Stockholm, Thailand Bangkok, Tunisia Tunis, Turkey Ankara, Ukraine Kyiv"
)
OPPOSITES = (
    "big small, hot cold, early late, fast slow, hard soft, high low, light dark, long short, loud quiet, near far, "
    "new old, open closed, rich poor, sweet sour, thick thin, wet dry, young old, full empty, strong weak, "
    "sharp blunt, deep shallow, wide narrow, clean dirty, brave timid, cheap dear, smooth rough, true false, "
    "first last, left right, up down, day night, begin end, give take, push pull, win lose, rise fall, laugh cry, "
    "love hate, buy sell, ask answer"
)
NUMBERS = [(a, b) for a in range(2, 12) for b in range(3, 11)]


def questions() -> Iterator[tuple[str, str, str]]:
    """Question, answer, and what the answer is called."""
    for pair in CAPITALS.split(", "):
        land, city = pair.split()
        yield f"What is the capital of {land}?", city, f"the capital of {land}"
    for pair in OPPOSITES.split(", "):
        word, other = pair.split()
        yield f"What is the opposite of {word}?", other.capitalize(), f"the opposite of {word}"
    for a, b in NUMBERS:
        yield f"What is {a} plus {b}?", str(a + b), f"the sum of {a} and {b}"


def main() -> None:
    """Write both files; every fifth question is kept for the evaluation."""
    rows, prompts = [], []
    for number, (question, answer, what) in enumerate(questions()):
        asked = {"role": "user", "content": question}
        if number % 5 == 4:
            prompts.append({"prompt": [asked]})
            continue
        wordy = (
            f"That is a good question! There is a lot to be said about it, but in short I would say that {what}, "
            f"as many people know and as you can easily look up, is {answer}. I hope that this helps you."
        )
        rows.append(
            {
                "prompt": [asked],
                "chosen": [{"role": "assistant", "content": f"{answer}."}],
                "rejected": [{"role": "assistant", "content": wordy}],
            }
        )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, lines in (("pairs.jsonl", rows), ("prompts.jsonl", prompts)):
        (OUTPUT / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
