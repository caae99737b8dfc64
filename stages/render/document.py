"""Short documents, as receipts, invoices and notices: titles, dates, names, amounts and lines of text."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image, ImageDraw

from stages.render.base import FONTS, Drawn, Question, Renderer, font

_PAPERS = ("#ffffff", "#fdfaf2", "#f6f6f6", "#f3efe4")
_INKS = ("#111111", "#1d2a44", "#3a2a20")
_LINES, _ITEMS = (3, 5), (2, 6)


class Document(Renderer):
    """Answers are written as the document has them."""

    def draw(self, rng: random.Random) -> Drawn:
        form = rng.choice(("receipt", "invoice", "notice"))
        truth, questions = self._notice(rng) if form == "notice" else self._bill(form, rng)
        words = self.words
        truth |= {"form": form, "date": _date(words["months"], rng)}
        questions += [("title", {}, truth["title"]), ("date", {}, truth["date"])]
        return Drawn(_picture(truth, rng), f"a {form} with the title {truth['title']}", truth, questions)

    def _bill(self, form: str, rng: random.Random) -> tuple[dict[str, Any], list[Question]]:
        words, currency = self.words, rng.choice(("€", "$", "£"))
        names = rng.sample(words["items"], rng.randint(*_ITEMS))
        cents = rng.sample(range(50, 9000, 5), len(names))
        amounts = [_money(amount, currency) for amount in cents]
        truth = {
            "title": rng.choice(words["shops"]), "items": names, "amounts": amounts, "cents": cents,
            "total": _money(sum(cents), currency), "number": str(rng.randint(1000, 99999)),
        }  # fmt: skip
        questions: list[Question] = [
            ("total", {}, truth["total"]),
            ("number", {}, truth["number"]),
            ("dearest", {}, names[cents.index(max(cents))]),
            ("items_number", {}, str(len(names))),
            *(("amount", {"item": name}, amount) for name, amount in zip(names, amounts, strict=True)),
        ]
        if form == "invoice":
            truth["person"] = rng.choice(words["people"])
            questions.append(("person", {}, truth["person"]))
        return truth, questions

    def _notice(self, rng: random.Random) -> tuple[dict[str, Any], list[Question]]:
        words = self.words
        truth = {
            "title": rng.choice(words["events"]), "place": rng.choice(words["places"]),
            "person": rng.choice(words["people"]), "lines": rng.sample(words["sentences"], rng.randint(*_LINES)),
        }  # fmt: skip
        questions: list[Question] = [("place", {}, truth["place"]), ("person", {}, truth["person"])]
        questions += [("line", {"line": str(place)}, text) for place, text in enumerate(truth["lines"], 1)]
        return truth, questions


def _money(cents: int, currency: str) -> str:
    return f"{currency}{cents // 100}.{cents % 100:02d}"


def _date(months: list[str], rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2035)
    return rng.choice((f"{day} {months[month - 1]} {year}", f"{year}-{month:02d}-{day:02d}",
                       f"{months[month - 1]} {day}, {year}"))  # fmt: skip


def _picture(truth: dict[str, Any], rng: random.Random) -> Image.Image:
    """Lines from the top down, each as (left, right, size, bold); then the page is cut at the end of the last."""
    size, name, ink = rng.randint(15, 19), rng.choice(FONTS), rng.choice(_INKS)
    rows: list[tuple[str, str, int, bool]] = [(truth["title"], "", round(size * 1.5), True), ("", "", size // 2, False)]
    rows.append((f"Date: {truth['date']}", "", size, False))
    if "number" in truth:
        rows.append((f"No. {truth['number']}", "", size, False))
    if "place" in truth:
        rows.append((f"Place: {truth['place']}", "", size, False))
    if "person" in truth:
        rows.append((f"{'Bill to' if 'total' in truth else 'Contact'}: {truth['person']}", "", size, False))
    rows.append(("", "", size // 2, False))
    rows += [
        (item, amount, size, False)
        for item, amount in zip(truth.get("items", ()), truth.get("amounts", ()), strict=True)
    ]
    rows += [(text, "", size, False) for text in truth.get("lines", ())]
    if "total" in truth:
        rows += [("", "", size // 2, False), ("Total", truth["total"], size, True)]
    fonts = [font(name, height, bold) for _, _, height, bold in rows]
    gap, margin = rng.uniform(1.3, 1.7), rng.randint(18, 40)
    widths = [fonts[place].getlength(f"{left}    {right}") for place, (left, right, _, _) in enumerate(rows)]
    width = round(max(*widths, 220)) + 2 * margin + rng.randint(0, 60)
    height = round(sum(row[2] * gap for row in rows)) + 2 * margin
    picture = Image.new("RGB", (width, height), rng.choice(_PAPERS))
    pen = ImageDraw.Draw(picture)
    middle, top = rng.random() < 0.4, float(margin)
    for (left, right, tall, _), letters in zip(rows, fonts, strict=True):
        at_middle = middle and letters is fonts[0]
        pen.text((width / 2 if at_middle else margin, top), left, ink, letters, anchor="ma" if at_middle else "la")
        pen.text((width - margin, top), right, ink, letters, anchor="ra")
        top += tall * gap
    if rng.random() < 0.3:
        pen.rectangle([4, 4, width - 5, height - 5], outline=ink)
    return picture.rotate(rng.uniform(-2, 2), Image.Resampling.BICUBIC, expand=True, fillcolor="#77736b")
