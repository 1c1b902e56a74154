"""The most frequent words in the source of Python's standard library, counted by several calls at once.

Run it as it is: without a cluster the calls are processes of this machine, with one they are Kubernetes Jobs.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

from kubefunc import remote

PARTS = 4


@remote
def count_words(texts: list[str]) -> Counter[str]:
    """How often each word occurs; runs elsewhere, so the texts travel there and the counts come back."""
    return Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))


def library_sources() -> list[str]:
    """The text of every module that stands directly in the standard library's folder."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.py"))]


def main() -> None:
    texts = library_sources()
    calls = [count_words.remote(texts[part::PARTS]) for part in range(PARTS)]
    total = sum((call.result() for call in calls), Counter[str]())
    print(f"{total.total():,} words in {len(texts)} files, counted by {len(calls)} calls")
    for word, times in total.most_common(10):
        print(f"{times:8,}  {word}")


if __name__ == "__main__":
    main()
