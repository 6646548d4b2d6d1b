"""What the text of cells means: numbers as people write them, and sets. A notation is one of a whole column."""

import ast
import csv
import json
import math
import re
from collections.abc import Collection, Iterable

# Words for money; every currency sign counts as well.
MONEY = "USD EUR GBP CHF JPY CNY RMB INR AUD CAD NZD SEK NOK DKK ISK PLN CZK HUF RON BGN TRY BRL MXN ZAR KRW RUB"
WORDS = "|".join((*MONEY.split(), r"(?:US|R|A|C|S|HK)\$", r"(?:Rs|Fr|kr)\.?", "zł", "Kč", "Ft", "lei"))
UNIT = rf"(?:{WORDS}|[$€£¥₹₩₽₺₴₦₫₪฿₱₡₸₼₾¢])"
WRITTEN = re.compile(
    rf"(?P<open>\()?\s*(?P<sign>[-+−])?\s*(?P<before>{UNIT})?\s*(?P<inner>[-+−])?"
    rf"(?P<digits>\d[\d.,'’\u00a0\u202f ]*|[.,]\d+)\s*(?P<after>{UNIT}|%)?(?P<close>\))?"
)
GROUPS = r"[1-9]\d{{0,2}}(?:{0}\d{{2,3}})*{0}\d{{3}}"  # 1,299,000, and 12,99,000 as in India
SAMPLE = 1_000  # if none of so many texts is a number, the column is not one of numbers
SPACES = re.compile(r"(?<=\d)[ '’\u00a0\u202f](?=\d{3}(?!\d))")


def number_text(value: float) -> str:
    """One spelling per number: 2012 for 2012.0 and 2.012e3."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def plain_number(text: str) -> float | None:
    """The number of a text as Python writes it; None for another text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def read_numbers(texts: Iterable[str]) -> tuple[dict[str, float], str]:
    """({text: number} of those texts of a column that are numbers, a note on how they are written).

    Beside plain numbers: money of one currency, percent, decimal commas, thousands with commas, dots, spaces or
    apostrophes. Which mark is the decimal one follows from the whole column: of two marks in one text the last; a lone
    comma, unless three digits follow it everywhere.
    """
    texts = list(texts)
    plain = {text: number for text in texts if (number := plain_number(text)) is not None}
    if len(plain) == len(texts):
        return plain, ""
    if not plain and not any(map(WRITTEN.fullmatch, texts[:SAMPLE])):
        return {}, ""
    matches = {text: match for text in texts if (match := WRITTEN.fullmatch(text))}
    units = {match["before"] or match["after"] for match in matches.values()} - {None}
    if len(units) > 1:
        return plain, f"the values mix {' and '.join(sorted(units)[:3])}, so they are not compared as numbers"
    if "%" in units and any(not match["after"] for match in matches.values()):
        return plain, "some values have a % and some have not, so they are not compared as numbers"
    digits = {text: SPACES.sub("", match["digits"].strip()) for text, match in matches.items()}
    mark = _decimal_mark(list(digits.values()))
    written = {text: number for text, number in plain.items() if text not in matches}  # 1e3
    for text, match in matches.items():
        other = re.escape(",."[mark == ","])
        whole, _, rest = digits[text].partition(mark)
        if re.fullmatch(rf"\d*|{GROUPS.format(other)}", whole) and re.fullmatch(r"\d*", rest) and whole + rest:
            number = float(f"{re.sub(other, '', whole) or 0}.{rest or 0}")
            minus = match["open"] and match["close"] or (match["sign"] or match["inner"]) in ("-", "−")
            written[text] = -number if minus else number
    if len(written) < len(plain):
        return plain, ""
    example = next((text for text in written if text not in plain or plain[text] != written[text]), None)
    return written, f"{example!r} is read as {number_text(written[example])}" if example else ""


def _decimal_mark(digits: list[str]) -> str:
    """`,` or `.`, from the digits and marks of all numbers of a column."""
    both = [text for text in digits if "," in text and "." in text]
    if both:
        return max(",.", key=both[0].rfind)
    commas, dots = ([text for text in digits if mark in text] for mark in ",.")
    if commas:
        return "." if all(re.fullmatch(GROUPS.format(","), text) for text in commas) else ","
    return "," if any(text.count(".") > 1 for text in dots) else "."


def stripped(name: str, cells: list[str], notes: list[str]) -> list[str]:
    """The cells of a column without outer spaces, and a note if this makes one value of two."""
    texts = [*map(str.strip, cells)]
    if texts != cells and (merged := {cell.strip() for cell in cells if cell != cell.strip()} & set(cells)):
        notes.append(f"{name}: outer spaces are removed, so {min(merged)!r} with and without them is one value")
    return texts


def set_text(members: Iterable[str]) -> str:
    """One spelling per set: its members stripped and sorted, with `;` between them."""
    return ";".join(sorted({member.strip() for member in members} - {""}))


def listed_members(text: str) -> list[str] | None:
    """The members of a list, tuple or set of texts and whole numbers, as JSON, Python or NumPy write it; None for
    another text."""
    if text[:1] + text[-1:] not in ("[]", "()", "{}") or len(text) > 10_000:
        return None
    members: object = None
    if re.fullmatch(r"\[\s*'[^']*'(?:\s+'[^']*')+\s*\]", text):  # NumPy writes no commas; Python would join the words
        members = re.findall(r"'([^']*)'", text)
    for read in (json.loads, ast.literal_eval) if members is None else ():
        try:
            members = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        break
    if members is None and re.fullmatch(r"\{[^{}:]+\}", text):  # PostgreSQL
        members = next(csv.reader([text[1:-1]], skipinitialspace=True))
    if not isinstance(members, list | tuple | set | frozenset):
        return [] if text == "{}" else None
    good = all(member is None or isinstance(member, str | int) for member in members)
    return ["" if member is None else str(member).replace(";", ",") for member in members] if good else None


def sets_of(known: Collection[str]) -> tuple[dict[str, list[str]] | None, str]:
    """({text: members}, how they are written) if the texts of a column are sets; (None, "") otherwise.

    They are sets if every text is a list; or if one has a `;`, or a `|` without spaces around it. They also are if
    ` | ` or a comma (none between two digits) divides them into no more different members than there are different
    texts, and some member stands at different places: `red, blue` and `blue` are sets, `Paris, France` is not.
    """
    if known and all(text[0] in "[({" for text in known):
        lists = {text: members for text in known if (members := listed_members(text)) is not None}
        if len(lists) == len(known):
            return lists, "lists in the notation of JSON or Python"
    if any(";" in text for text in known):
        return {text: [member.strip() for member in text.split(";")] for text in known}, "a ; in some values"
    for mark in "|,":
        if not any(mark in text for text in known):
            continue
        tight = mark == "|" and not any(" |" in text or "| " in text for text in known)
        if tight or _divides(known, mark):
            return {text: [*map(str.strip, text.split(mark))] for text in known}, f"a {mark} in some values"
    return None, ""


def _divides(known: Collection[str], mark: str) -> bool:
    """Whether a mark stands between members rather than inside of texts, by the rule of `sets_of`."""
    if mark == "," and re.search(r"\d,\d", "\n".join(known)):
        return False
    members, places = set(), set()
    for text in known:
        members.update(map(str.strip, text.split(mark)))
        if len(members) > len(known):
            return False
    for text in known:
        places.update((member.strip(), place) for place, member in enumerate(text.split(mark)))
        if len(places) > len(members):
            return True
    return False
