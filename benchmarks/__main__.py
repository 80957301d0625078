"""Answer every question and compare with the targets: ``python -m benchmarks [--quick] [--question NAME ...]``."""

from __future__ import annotations

from benchmarks import import_time, lazy_memory, round_trip, start_up, tiny_items, uneven_items
from benchmarks._command import answer, describe_machine, make_parser
from benchmarks._report import format_summary

QUESTIONS = {
    "round_trip": round_trip.EXPERIMENTS,
    "tiny_items": tiny_items.EXPERIMENTS,
    "uneven_items": uneven_items.EXPERIMENTS,
    "start_up": start_up.EXPERIMENTS,
    "lazy_memory": lazy_memory.EXPERIMENTS,
    "import_time": import_time.EXPERIMENTS,
}


def main() -> None:
    """Run the questions asked for, and print one table of all targets."""
    parser = make_parser(__doc__)
    parser.add_argument("--question", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="only these questions")
    options = parser.parse_args()
    print(describe_machine())
    results = [result for name in options.question for result in answer(name, QUESTIONS[name], options)]
    if options.quick:
        print("Quick: sizes this small tell whether everything works, not how fast it is.")
    print(format_summary(results))


if __name__ == "__main__":
    main()
