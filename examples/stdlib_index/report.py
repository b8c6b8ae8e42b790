"""What the program prints at the end."""

from collections.abc import Iterable

from examples.stdlib_index.analyse import TOP, Function, Report, Unparsable
from examples.stdlib_index.proof import Proof
from examples.stdlib_index.sources import short_name


def print_report(outcomes: Iterable[Report | Unparsable]) -> None:
    """Print the totals, the most complex functions, and the files that are not valid Python."""
    outcomes = list(outcomes)
    reports = [outcome for outcome in outcomes if isinstance(outcome, Report)]
    unparsable = [outcome for outcome in outcomes if isinstance(outcome, Unparsable)]
    functions = sum(report.functions for report in reports)
    print_totals(
        {
            "files": f"{len(outcomes):,}",
            "lines": f"{sum(report.lines for report in reports):,}",
            "classes": f"{sum(report.classes for report in reports):,}",
            "functions": f"{functions:,}",
            "mean complexity": f"{sum(report.complexity for report in reports) / max(functions, 1):.2f}",
            "unparsable files": f"{len(unparsable):,}",
        }
    )
    candidates = [function for report in reports for function in report.most_complex]
    print_functions(
        "Most complex functions", sorted(candidates, key=lambda function: -function.complexity)[:TOP]
    )
    longest = [report.longest for report in reports if report.longest is not None]
    print_functions("Longest function", sorted(longest, key=lambda function: -function.lines)[:1])
    if unparsable:
        print("\nUnparsable files")
        for outcome in unparsable:
            # Some reasons quote the file, and not every terminal can print what is in there.
            print(f"  {short_name(outcome.path)}: {ascii(outcome.reason)[1:-1]}")


def print_totals(totals: dict[str, str]) -> None:
    """Print a name and a number a line."""
    print("\nTotals")
    for name, number in totals.items():
        print(f"  {name:<20}{number:>12}")


def print_functions(title: str, functions: Iterable[Function]) -> None:
    """Print a line a function."""
    print(f"\n{title}\n  complexity  lines  function")
    for function in functions:
        place = f"{short_name(function.path)}:{function.line}"
        print(f"  {function.complexity:>10}  {function.lines:>5}  {function.name}  ({place})")


def print_proof(proof: Proof) -> None:
    """Print what holds, what does not, and what the kill has left behind."""
    print("\nProof, read back from the database")
    for check, holds in proof.checks.items():
        print(f"  {'yes' if holds else 'NO '}  {check}")
    print(f"  {proof.started_again:>3}  tasks were started again after the kill")
    print(f"  {proof.refused:>3}  results came too late and were refused")
    for worker, number in proof.finished_by.items():
        print(f"  {number:,} results are from worker {worker}")
