"""What scripts/bench shows of its samples: verdicts, Markdown tables, a plot, and their places in the documents."""
import contextlib
import html
import io
import math
import sys

import measure
import rows

# Of the whole, what a user cares for.
TEN = ("provision", "mount", "disk", "warm walk", "warm small", "cold python", "warm python", "create", "dpkg -i", "run")
TEN_COLUMNS = ("fuse", "backend", "overlay", "fuse-overlayfs", "umoci", "podman")
PEERS = [name for name in rows.SUBJECTS if name not in rows.OURS and name != rows.REFERENCE]
SHORT = {"fuse": "lazyroot", "read-only": "read-only", "browse": "browse", "backend": "overlay backend", "overlay": "kernel overlayfs",
         "copy": "cp -a", "umoci": "umoci unpack", "erofs": "erofs", "squashfs": "squashfs", "zstd": "lazyroot, zstd layers",
         "plain": "lazyroot, plain layers", "inflate": "bare inflate", "sha256": "sha256sum, packed"}
HELD, NEAR, MISSED = "✓", "≈", "✗"


def short(name):
    return SHORT.get(name, name)


def figure(value):
    """Three digits that count."""
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return "%.*f" % (min(digits, 3), value)


def ratios(samples, ours, against):
    """Of each repetition, the two having been measured next to each other."""
    if ours not in samples or against not in samples:
        return []
    return [a / b for a, b in zip(samples[ours], samples[against]) if b]


def verdict(samples, ours, against, limit):
    """(figure that counts, mark) of a limit, or None where it was not measured."""
    if against is None:
        found = samples.get(ours, [])
    else:
        found = ratios(samples, ours, against)
    if not found:
        return None
    middle = measure.median(found)
    return middle, HELD if middle <= limit else NEAR if min(found) <= limit else MISSED


def cell(samples, name, limit=None):
    """Median, and as a multiple of the reference with its spread and verdict."""
    if name not in samples:
        return ""
    text = figure(measure.median(samples[name]))
    if name == rows.REFERENCE:
        return text
    many = ratios(samples, name, rows.REFERENCE)
    if many:
        text += " (%s" % figure(measure.median(many))
        if len(many) > 1:
            text += " ±%s" % figure((max(many) - min(many)) / 2)
        text += ")"
    if limit:
        text += " " + limit[1]
    return text


def title(row, quick=False):
    """The row's own words, with the number that it has in them."""
    return row.title % (5 if quick else 50) if "%d" in row.title else row.title


def named(row, quick=False):
    """The same, where the heading of its group is not above it."""
    return title(row, quick) + (", " + row.group if row.group in ("cold", "warm") else "")


def ours_line(row, samples, quick):
    own = {subject: (against, limit) for subject, against, limit in row.limits if against in (None, rows.REFERENCE)}
    cells = [cell(samples, rows.REFERENCE)]
    for name in rows.OURS:
        cells.append(cell(samples, name, name in own and verdict(samples, name, *own[name])))
    limits = []
    for subject, (against, limit) in own.items():
        # The two that look share a limit.
        if subject != "browse":
            limits.append("%s %g%s" % ("writable" if subject == "fuse" else short(subject), limit, "" if against else " " + row.unit))
    others = []
    for subject, against, limit in row.limits:
        found = against not in (None, rows.REFERENCE) and verdict(samples, subject, against, limit)
        if found:
            others.append("%s × %s ≤ %g %s" % (figure(found[0]), short(against), limit, found[1]))
    return [title(row, quick), row.unit, *cells, "; ".join(limits), "; ".join(others)]


def reasons(absent, keys):
    """Lines on what is not in a table, and why; those of one reason together."""
    together = {}
    for key in keys:
        for subject, reason in absent.get(key, {}).items():
            together.setdefault((subject, reason), []).append(key)
    lines = []
    for (subject, reason), where in together.items():
        what = "" if set(where) <= set(rows.GROUPS) | {"all"} else "%s, " % ", ".join("`%s`" % key for key in where)
        who = {"*": "nobody", "all": "everybody"}.get(subject) or short(subject)
        lines.append("* %s%s: %s" % (what, who, reason[:300]))
    return lines


def table(head, lines):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        measure.table(head, lines)
    return text.getvalue()


def image_tables(found):
    samples, quick, out = found["samples"], found["quick"], []
    absent = found["absent"]
    general = reasons(absent, ("all",))
    if general:
        out += [*general, ""]
    for group, heading in rows.GROUPS.items():
        chosen = [row for row in rows.ALL.values() if row.group == group and row.key in samples]
        keys = [group, *(row.key for row in rows.ALL.values() if row.group == group)]
        notes = reasons(absent, [key for key in keys if key != "together"])
        if chosen or notes:
            out += ["### %s" % heading, ""]
        if chosen:
            out.append(table(["median (× kernel overlayfs ± half the spread)", "unit", *map(short, (rows.REFERENCE, *rows.OURS)),
                              "limits", "other limits"], [ours_line(row, samples[row.key], quick) for row in chosen]))
            peers = [name for name in PEERS if any(name in samples[row.key] for row in chosen)]
            if peers:
                lines = [[title(row, quick), row.unit, *(cell(samples[row.key], name) for name in peers)] for row in chosen]
                out.append(table(["peers", "unit", *map(short, peers)], lines))
        if notes:
            out += ["Not measured:", "", *notes, ""]
    return "\n".join(out)


def verdicts(result):
    """(image, row, subject, against, limit, figure, mark) of every limit that was measured."""
    for image, found in result["images"].items():
        for row in rows.ALL.values():
            for subject, against, limit in row.limits:
                judged = verdict(found["samples"].get(row.key, {}), subject, against, limit)
                if judged:
                    yield image, row, subject, against, limit, *judged


def count_table(judged, images):
    """How many limits each image holds."""
    lines = []
    for image in images:
        marks = [one[-1] for one in judged if one[0] == image]
        lines.append([image, len(marks), *(marks.count(mark) for mark in (HELD, NEAR, MISSED))])
    if len(lines) > 1:
        lines.append(["all", *(sum(line[column] for line in lines) for column in range(1, 5))])
    return table(["limits", "measured", "held " + HELD, "only by the best repetition " + NEAR, "missed " + MISSED], lines)


def lost_table(judged, images):
    """What is missed in any image, and how the others do there."""
    cells = {}
    for image, row, subject, against, limit, value, mark in judged:
        what = (row.key, subject, against, limit)
        cells.setdefault(what, {})[image] = "%s %s" % (figure(value), mark)
    lines = []
    for (key, subject, against, limit), found in cells.items():
        if not all(cell.endswith(HELD) for cell in found.values()):
            row = rows.ALL[key]
            lines.append([named(row), short(subject), "≤ %g %s" % (limit, "× " + short(against) if against else row.unit),
                          *(found.get(image, "") for image in images)])
    return table(["missed somewhere", "ours", "limit", *images], lines) if lines else ""


def side_by_side(result, subject):
    """A subject's multiples of kernel overlayfs in all images."""
    lines = []
    for row in rows.ALL.values():
        many = [ratios(found["samples"].get(row.key, {}), subject, rows.REFERENCE) for found in result["images"].values()]
        if any(many):
            lines.append([named(row), *(figure(measure.median(one)) if one else "" for one in many)])
    return table([short(subject) + ", × kernel overlayfs", *result["images"]], lines)


def summary(result):
    """What the document shows: where limits are missed, and each row of all images beside one another."""
    # In the order of rows, whatever the image.
    order = {key: place for place, key in enumerate(rows.ALL)}
    judged, images = sorted(verdicts(result), key=lambda one: order[one[1].key]), list(result["images"])
    return "\n".join([*abouts(result), "", count_table(judged, images), lost_table(judged, images),
                      *(side_by_side(result, name) for name in ("fuse", "backend"))]).rstrip() + "\n"


def headline(found):
    return "%d layers, %.0f MiB packed, %d names; the 16 largest files have %.0f MiB, the largest %.1f" % (
        found["layers"], found["packed"] / 2 ** 20, found["entries"], found["large"] / 2 ** 20, found["largest"] / 2 ** 20)


def abouts(result):
    """A line for each image, and one for what was the same for all of them."""
    out, same = [], {}
    for image, found in result["images"].items():
        same.setdefault("%s. %s" % (found["machine"], ", ".join(found["versions"])), []).append(image)
        out.append("* %s: %s. %s, %d min, %d repetition%s of what is slow, load %.1f before and %.1f after" % (
            image, headline(found), found["date"], max(1, found["seconds"] // 60), found["reps"], "s"[:found["reps"] > 1],
            found["load"], found["load after"]))
    commands = list(dict.fromkeys(found["command"] for found in result["images"].values()))
    return [*out, "", *("%s%s" % (where, "" if len(same) == 1 else " (%s)" % ", ".join(images)) for where, images in same.items()), "",
            "%s: %s." % ("Command" if len(commands) == 1 else "Commands", "; ".join("`%s`" % command for command in commands))]


def tables(result):
    """All figures."""
    out = []
    for image, found in result["images"].items():
        only = " Rows that were chosen: %s." % ", ".join(found["rows"]) if found["rows"] else ""
        out += ["## %s" % image, "", "%s. `%s`.%s" % (headline(found), found["command"], only), "", image_tables(found)]
    return "\n".join(out).rstrip() + "\n"


def ten(result):
    """The rows that README shows, of the image that programs can be started in."""
    image = "debian-python3" if "debian-python3" in result["images"] else next(iter(result["images"]))
    found = result["images"][image]
    samples, lines = found["samples"], []
    for row in (rows.ALL[key] for key in TEN):
        if row.key in samples:
            cells = (samples[row.key].get(name) for name in TEN_COLUMNS)
            lines.append(["%s, %s" % (named(row, found["quick"]), row.unit),
                          *(figure(measure.median(many)) if many else "" for many in cells)])
    return "%s\n\nMedians of `%s`; %s, load %.1f.\n" % (
        table([image, *map(short, TEN_COLUMNS)], lines).rstrip(), found["command"], found["machine"], found["load"])


# --- the plot -------------------------------------------------------------------

# Middle tones, to be seen on white and on black.
COLOURS = {"fuse": "#e4572e", "read-only": "#2a9d8f", "browse": "#76b041", "backend": "#4c86e0", "fuse-overlayfs": "#a26bc0",
           "podman": "#8c8c8c", "umoci": "#b8860b", "copy": "#c2a25a", "erofs": "#6b8e9e",
           "squashfs": "#9a7b6b", "squashfuse": "#c17ba0"}
LEFT, RIGHT, LINE, TOP = 330, 30, 19, 92
LEAST, MOST = 0.02, 50
WIDTH = 1000


def across(value):
    part = math.log(min(max(value, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def dot(name, x, y):
    colour, said = COLOURS[name], html.escape(short(name))
    if name in rows.OURS:
        return '<circle cx="%.1f" cy="%.1f" r="5" fill="%s"><title>%s</title></circle>' % (x, y, colour, said)
    return '<rect x="%.1f" y="%.1f" width="7" height="7" fill="none" stroke="%s" stroke-width="1.8"><title>%s</title></rect>' % (
        x - 3.5, y - 3.5, colour, said)


def plot(result):
    image = "debian-python3" if "debian-python3" in result["images"] else next(iter(result["images"]))
    samples, quick = result["images"][image]["samples"], result["images"][image]["quick"]
    shown, y, body = [row for row in rows.ALL.values() if rows.REFERENCE in samples.get(row.key, {})], TOP, []
    group = None
    for row in shown:
        if row.group != group:
            group = row.group
            y += LINE
            body.append('<text class="t" x="10" y="%d" font-weight="bold">%s</text>' % (y + 4, html.escape(rows.GROUPS[group])))
            y += LINE
        body.append('<text class="t" x="%d" y="%d" text-anchor="end">%s</text>' % (LEFT - 12, y + 4, html.escape(title(row, quick))))
        body.append('<line class="g" x1="%d" x2="%d" y1="%d" y2="%d"/>' % (LEFT, WIDTH - RIGHT, y, y))
        for subject, against, limit in row.limits:
            if against == rows.REFERENCE and subject != "browse":
                x = across(limit)
                body.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s" stroke-width="2"/>' % (
                    x, x, y - 7, y + 7, COLOURS[subject]))
        for name in [*PEERS, *reversed(rows.OURS)]:
            many = ratios(samples[row.key], name, rows.REFERENCE)
            if many and name in COLOURS and measure.median(many) > 0:
                body.append(dot(name, across(measure.median(many)), y))
        y += LINE
    grid = []
    for tick in (0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 10, 20, 50):
        x = across(tick)
        grid.append('<line class="%s" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>' % ("one" if tick == 1 else "g", x, x, TOP, y))
        grid.append('<text class="t" x="%.1f" y="%d" text-anchor="middle">%g</text>' % (x, TOP - 6, tick))
    legend = []
    for number, name in enumerate(COLOURS):
        x, line = 14 + number % 6 * 163, 38 + number // 6 * 18
        legend += [dot(name, x, line), '<text class="t" x="%d" y="%d">%s</text>' % (x + 10, line + 4, html.escape(
            {"fuse": "lazyroot, writable"}.get(name, short(name))))]
    head = "%s, multiples of kernel overlayfs over unpacked layers: left is better; strokes are limits" % image
    return '\n'.join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">' % (WIDTH, y + 16),
        '<style>.t{fill:#6e7781}.g{stroke:#8884;stroke-width:1}.one{stroke:#6e7781;stroke-width:1.5}'
        '@media(prefers-color-scheme:dark){.t{fill:#a8b1bb}.one{stroke:#a8b1bb}}</style>',
        '<text class="t" x="10" y="18" font-size="14">%s</text>' % html.escape(head), *legend, *grid, *body, '</svg>', ''])


# --- where it goes ----------------------------------------------------------------

def write(result, place):
    (place / "tables.md").write_text("%s\n%s" % (summary(result), tables(result)))
    (place / "performance.svg").write_text(plot(result))


def between(path, name, text, script="bench"):
    """Replace what stands between two marks of a document."""
    begin, end = "<!-- %s: made by scripts/%s -->\n" % (name, script), "<!-- %s: end -->\n" % name
    whole = path.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        sys.exit("bench: %s has not one pair of marks `%s`" % (path, begin.strip()))
    before, rest = whole.split(begin)
    path.write_text(before + begin + text + end + rest.split(end)[1])


def show(text, script, top):
    """Print what a script of its own found, and put it into the document too if `top` is given."""
    print(text)
    if top:
        between(top / "docs/performance.md", script.removeprefix("bench-"), text, script)


def publish(result, top):
    between(top / "docs/performance.md", "tables", summary(result))
    between(top / "docs/performance-tables.md", "tables", tables(result))
    (top / "docs/performance.svg").write_text(plot(result))
    between(top / "README.md", "ten rows", ten(result))
