"""Prints a table of the paper with the rows of scored folders."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import options

HELP = "print a table of the paper beside scored folders"
FORMATS = ("markdown", "latex", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("table", help="1, 2, A.1, A.2, A.3 or A.4")
    parser.add_argument("folder", nargs="*", type=options.path, help="scored folders")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="of the table")
    parser.add_argument(
        "--any-count",
        action="store_true",
        help="show folders of other numbers of pictures than the paper's",
    )


def run(args: argparse.Namespace) -> None:
    """Print a table."""
    from fastvar_lab.experiments import paper_tables, printed_tables
    from fastvar_lab.plotting.tables import latex, markdown

    table = printed_tables.find(args.table)
    frame = paper_tables.rows(table, args.folder, args.any_count)
    if args.format == "csv":
        print(frame.to_csv(index=False), end="")
        return
    shown = paper_tables.wide(table, frame)
    print(latex(shown) if args.format == "latex" else markdown(shown))
    if args.format == "markdown":
        print(f"\nTable {table.name}: {table.title}.")
        for remark in table.remarks:
            print(f"- {remark}.")
