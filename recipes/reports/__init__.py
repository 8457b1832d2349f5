"""Tables and figures with their terms, as a page for people and as files for programs."""

from .parts import Report


def write_report(report: Report, folder):
    for c in report.chapters:
        print("##", c.title, c.terms)
        for p in c.parts:
            if hasattr(p, "rows"):
                print(p.title)
                print(p.head)
                for r in p.rows:
                    print([x if isinstance(x, str) else x.text for x in r])
    return []
