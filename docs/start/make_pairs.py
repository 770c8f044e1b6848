"""Write the data of the page *Start*: pairs of an answer and the same one that goes on, and prompts for later.

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
GOES_ON = (
    "This is a common question, and the answer is easily looked up in an encyclopedia, or asked of a friend.",
    "There is a lot more to be said about it, and people have written whole books about questions of this kind.",
    "If you would like to know more, I can tell you about the history of it, and give you some examples as well.",
    "It is also worth knowing that many people find this hard to remember, so that it helps to repeat it.",
)


def questions() -> Iterator[tuple[str, str]]:
    """A question and its answer."""
    for pair in CAPITALS.split(", "):
        land, city = pair.split()
        yield f"What is the capital of {land}?", f"The capital of {land} is {city}."
    for pair in OPPOSITES.split(", "):
        word, other = pair.split()
        yield f"What is the opposite of {word}?", f"The opposite of {word} is {other}."
    for a, b in NUMBERS:
        yield f"What is {a} plus {b}?", f"The sum of {a} and {b} is {a + b}."


def main() -> None:
    """Write both files; every fifth question is kept for the evaluation."""
    rows, prompts = [], []
    for number, (question, answer) in enumerate(questions()):
        asked = {"role": "user", "content": question}
        if number % 5 == 4:
            prompts.append({"prompt": [asked]})
            continue
        rows.append(
            {
                "prompt": [asked],
                "chosen": [{"role": "assistant", "content": answer}],
                "rejected": [{"role": "assistant", "content": f"{answer} {GOES_ON[number % len(GOES_ON)]}"}],
            }
        )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, lines in (("pairs.jsonl", rows), ("prompts.jsonl", prompts)):
        (OUTPUT / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
