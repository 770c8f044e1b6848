"""What a saved model's card says of the method."""

from __future__ import annotations

import textwrap

__all__ = ["PAPER"]

PAPER = {
    "title": "MallowsPO: Fine-Tune Your LLM with Preference Dispersions",
    "id": "2405.14953",
    "citation": textwrap.dedent("""\
        @inproceedings{chen2025mallowspo,
            title        = {{MallowsPO: Fine-Tune Your LLM with Preference Dispersions}},
            author       = {Haoxian Chen and Hanyang Zhao and Henry Lam and David Yao and Wenpin Tang},
            year         = 2025,
            booktitle    = {International Conference on Learning Representations},
            eprint       = {2405.14953},
            archivePrefix= {arXiv},
        }"""),
}
